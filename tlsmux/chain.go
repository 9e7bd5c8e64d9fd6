package tlsmux

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// defaultVerifyDepth is OpenSSL's (max_verify_depth of
// CertificateValidationContext).
const defaultVerifyDepth = 100

// chain verifies the signatures up to a root, the times, what the keys may be
// used for, and the revocation lists. Without roots it is nil. Of several good
// ways to a root, what it returns is of the one that is good for longest.
func (p *policy) chain(q question) (vetted, *HandshakeError) {
	if len(p.Roots) == 0 && p.bundles == nil {
		return vetted{}, nil
	}
	key := chainKey(q.chain, q.side)
	if v, ok := p.cache.get(key, q.now); ok {
		return v, nil
	}
	chains, err := p.build(q)
	if err != nil {
		return vetted{}, p.chainFailure(err, q)
	}
	var best vetted
	var last *HandshakeError
	for _, one := range chains {
		if f := p.acceptable(one, q); f != nil {
			last = f
		} else if v := p.vettedOf(one); best.root == nil || v.to.After(best.to) {
			best = v
		}
	}
	if best.root == nil {
		return vetted{}, last
	}
	best.peer, best.id = q.chain, peerID(q.chain[0])
	p.cache.put(key, best)
	return best, nil
}

// build finds the ways from the leaf to an anchor. An intermediate among the
// roots is one (X509_V_FLAG_PARTIAL_CHAIN).
func (p *policy) build(q question) ([][]*x509.Certificate, error) {
	chain := p.atAnyTime(q.chain)
	if p.bundles != nil {
		_, chains, err := x509svid.Verify(chain, p.bundles, x509svid.WithTime(q.now))
		return chains, err
	}
	return chain[0].Verify(x509.VerifyOptions{
		Roots: p.pool, Intermediates: poolOf(chain[1:]), CurrentTime: q.now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // purpose is stricter
	})
}

// atAnyTime are the certificates with their dates taken away, if the context
// says allow_expired_certificate.
func (p *policy) atAnyTime(all []*x509.Certificate) []*x509.Certificate {
	if !p.AllowExpired {
		return all
	}
	out := make([]*x509.Certificate, len(all))
	for i, c := range all {
		timeless := *c
		timeless.NotBefore, timeless.NotAfter = time.Time{}, time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
		out[i] = &timeless
	}
	return out
}

// acceptable checks what crypto/x509 does not, or not as OpenSSL: purpose,
// depth, and the revocation lists.
func (p *policy) acceptable(chain []*x509.Certificate, q question) *HandshakeError {
	if p.bundles == nil { // an X.509-SVID's extended key usage is not looked at
		if f := purposeFailure(chain, q.side); f != nil {
			return f
		}
	}
	if f := p.depthFailure(chain); f != nil {
		return f
	}
	if len(p.CRLs) == 0 {
		return nil
	}
	for i, cert := range chain {
		if f := p.revoked(cert, issuerAt(chain, i), q.now); f != nil {
			f.depth = i
			return f
		}
		if p.OnlyLeafCRL {
			break
		}
	}
	return nil
}

// purposeFailure: every certificate that has an extended key usage must name
// ours; "any" does not (OpenSSL: ssl_client, ssl_server).
func purposeFailure(chain []*x509.Certificate, side Side) *HandshakeError {
	wanted, name := x509.ExtKeyUsageServerAuth, "serverAuth"
	if side == Downstream {
		wanted, name = x509.ExtKeyUsageClientAuth, "clientAuth"
	}
	for i, c := range chain {
		if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 || slices.Contains(c.ExtKeyUsage, wanted) {
			continue
		}
		f := &HandshakeError{Reason: ReasonEKU, depth: i, envoy: "unsupported certificate purpose"}
		f.What = "may not be used for this: its extended key usage is without " + name
		if i > 0 {
			f.What = fmt.Sprintf("may not be used for this: the extended key usage of %q in its chain is without %s", c.Subject, name)
		}
		return f
	}
	return nil
}

// depthFailure: max_verify_depth counts the anchor and not the leaf, and as
// Envoy computes it, 0 is as 1.
func (p *policy) depthFailure(chain []*x509.Certificate) *HandshakeError {
	limit := uint32(defaultVerifyDepth)
	if p.MaxVerifyDepth != nil {
		limit = max(*p.MaxVerifyDepth, 1)
	}
	depth := len(chain) - 1
	if depth <= 0 || uint32(min(depth, math.MaxInt32)) <= limit {
		return nil
	}
	return &HandshakeError{
		Reason: ReasonChain, What: fmt.Sprintf("has a chain of depth %d, max_verify_depth is %d", depth, limit),
		depth: int(limit), envoy: "unable to get local issuer certificate",
	}
}

// issuerAt is who issued chain[i]: the next, and for the last one itself, if it
// is self-issued; nil if its issuer is not known.
func issuerAt(chain []*x509.Certificate, i int) *x509.Certificate {
	switch last := chain[len(chain)-1]; {
	case i+1 < len(chain):
		return chain[i+1]
	case bytes.Equal(last.RawIssuer, last.RawSubject):
		return last
	}
	return nil
}

// revoked looks cert up in its issuer's list. A list that is missing, not
// signed by the issuer, or out of its time says nothing good. allow_expired
// covers lists too (X509_V_FLAG_NO_CHECK_TIME).
func (p *policy) revoked(cert, issuer *x509.Certificate, now time.Time) *HandshakeError {
	fail := func(openssl, format string, args ...any) *HandshakeError {
		return &HandshakeError{Reason: ReasonCRL, envoy: crlPhrase + openssl, What: fmt.Sprintf(format, args...)}
	}
	if issuer == nil {
		return fail("unable to get certificate CRL", "cannot be checked for revocation: %q is an anchor that it did not issue itself, and its issuer is not known; only_verify_leaf_cert_crl would check the leaf alone", cert.Subject)
	}
	crl := p.crlOf(cert, issuer, now)
	switch {
	case crl == nil:
		return fail("unable to get certificate CRL", "cannot be checked for revocation: there is no revocation list of %q", issuer.Subject)
	case !p.AllowExpired && now.Before(crl.ThisUpdate):
		return fail("CRL is not yet valid", "cannot be checked for revocation: the list of %q begins at %s", issuer.Subject, stamp(crl.ThisUpdate))
	case !p.AllowExpired && crlEnded(crl, now):
		return fail("CRL has expired", "cannot be checked for revocation: the list of %q ended %s ago, at %s", issuer.Subject, now.Sub(crl.NextUpdate).Round(time.Second), stamp(crl.NextUpdate))
	}
	for _, e := range crl.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(cert.SerialNumber) == 0 && e.ReasonCode != removeFromCRL {
			return fail(revokedPhrase, "was revoked: %q, serial %x, is on the list of %q since %s", cert.Subject, cert.SerialNumber, issuer.Subject, stamp(e.RevocationTime))
		}
	}
	return nil
}

// removeFromCRL takes an entry back (RFC 5280, section 5.3.1).
const removeFromCRL = 8

// crlPhrase is what BoringSSL's text and ours begin with, revokedPhrase how it
// goes on where the certificate is on a list.
const (
	crlPhrase     = "certificate revocation check against provided CRLs failed: "
	revokedPhrase = "certificate revoked"
)

func crlEnded(crl *x509.RevocationList, now time.Time) bool {
	return !crl.NextUpdate.IsZero() && now.After(crl.NextUpdate)
}

// crlOf is the issuer's list: one that is in its time before one that is not,
// else the newest; nil if there is none.
func (p *policy) crlOf(cert, issuer *x509.Certificate, now time.Time) *x509.RevocationList {
	var best *x509.RevocationList
	current := func(c *x509.RevocationList) bool { return !now.Before(c.ThisUpdate) && !crlEnded(c, now) }
	for _, c := range p.CRLs {
		if !bytes.Equal(c.RawIssuer, cert.RawIssuer) || c.CheckSignatureFrom(issuer) != nil {
			continue
		}
		switch {
		case best == nil, current(c) && !current(best),
			current(c) == current(best) && c.ThisUpdate.After(best.ThisUpdate):
			best = c
		}
	}
	return best
}

// chainFailure is the refusal of crypto/x509 or go-spiffe in our words.
func (p *policy) chainFailure(err error, q question) *HandshakeError {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	leaf := q.chain[0]
	if p.bundles != nil {
		id, iderr := x509svid.IDFromCert(leaf)
		if iderr != nil {
			return &HandshakeError{Reason: ReasonSVID, What: "is no X.509-SVID", Err: iderr, envoy: "no trust bundle store"}
		}
		if !p.bundles.Has(id.TrustDomain()) {
			return &HandshakeError{
				Reason: ReasonUnknownRoot, envoy: "no trust bundle store",
				What: fmt.Sprintf("is of trust domain %q, for which there is no bundle", id.TrustDomain().Name()),
			}
		}
		if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
			return &HandshakeError{Reason: ReasonSVID, What: "is a CA's, and no X.509-SVID of a workload", envoy: "cert precheck"}
		}
	}
	switch {
	case errors.As(err, &unknown):
		return p.unknownRoot(q)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return timeFailure(invalid.Cert, q)
	}
	return &HandshakeError{Reason: ReasonChain, What: "has no valid chain", Err: err}
}

// unknownRoot climbs as far as the presented chain goes, to say whose issuer is
// missing, and whether only its key is.
func (p *policy) unknownRoot(q question) *HandshakeError {
	last, depth := q.chain[0], 0
	for _, c := range q.chain[1:] {
		switch {
		case !bytes.Equal(last.RawIssuer, c.RawSubject):
		case !c.IsCA:
			return &HandshakeError{Reason: ReasonChain, What: fmt.Sprintf("is issued by %q, which is not a CA", c.Subject)}
		case last.CheckSignatureFrom(c) == nil:
			last, depth = c, depth+1
		}
	}
	f := &HandshakeError{Reason: ReasonUnknownRoot, What: "is not signed by any of the roots", depth: depth, envoy: "unable to get local issuer certificate"}
	for _, r := range p.roots(peerID(q.chain[0]).TrustDomain()) {
		if bytes.Equal(r.RawSubject, last.RawIssuer) {
			f.What += fmt.Sprintf(", though one of them is called %q too: it has another key, as after a root rotation", r.Subject)
			break
		}
	}
	return f
}

// clockSlack is how far off a certificate may be for the clock to be the
// likely cause: clocks are wrong by minutes, rotations fail for hours.
const clockSlack = 10 * time.Minute

// timeFailure says which certificate is out of its time, and by how much.
func timeFailure(c *x509.Certificate, q question) *HandshakeError {
	whose := "its certificate"
	depth := slices.IndexFunc(q.chain, c.Equal)
	switch {
	case depth < 0:
		whose, depth = fmt.Sprintf("its root %q", c.Subject), len(q.chain)
	case depth > 0:
		whose = fmt.Sprintf("its intermediate %q", c.Subject)
	}
	if q.now.Before(c.NotBefore) {
		early := c.NotBefore.Sub(q.now).Round(time.Second)
		f := &HandshakeError{
			Reason: ReasonNotYetValid, depth: depth, envoy: "certificate is not yet valid",
			What: fmt.Sprintf("is refused: %s becomes valid in %s, at %s", whose, early, stamp(c.NotBefore)),
		}
		f.Clock = "a clock is the likely cause, ours or its CA's: ours says " + stamp(q.now)
		if early < clockSlack {
			f.Clock = "our clock is probably behind: it says " + stamp(q.now)
		}
		return f
	}
	late := q.now.Sub(c.NotAfter).Round(time.Second)
	f := &HandshakeError{
		Reason: ReasonExpired, depth: depth, envoy: "certificate has expired",
		What: fmt.Sprintf("is refused: %s expired %s ago, at %s", whose, late, stamp(c.NotAfter)),
	}
	if late < clockSlack {
		f.Clock = "our clock may be ahead: it says " + stamp(q.now)
	}
	return f
}
