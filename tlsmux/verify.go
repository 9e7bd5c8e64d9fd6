package tlsmux

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"outrider/certs"
)

// Side says whose certificate it is that we look at.
type Side int

const (
	// Downstream is a client's, for which we are the server.
	Downstream Side = iota
	// Upstream is a server's, for which we are the client.
	Upstream
)

func (s Side) String() string { return [...]string{"downstream", "upstream"}[s] }

// defaultVerifyDepth is OpenSSL's (max_verify_depth of
// CertificateValidationContext).
const defaultVerifyDepth = 100

// policy is what a peer's certificate is held against: a validation context,
// merged, with what is made from it once. It is immutable but for its cache.
type policy struct {
	*certs.Validation
	// rootsName, rootsFrom and rootsUpdated tell where the roots came from.
	rootsName, rootsFrom string
	rootsUpdated         time.Time

	pool    *x509.CertPool
	domains map[spiffeid.TrustDomain]*x509.CertPool
	cache   chainCache
}

func newPolicy(v *certs.Validation, from *certs.Secret) *policy {
	if v == nil {
		return nil
	}
	p := &policy{Validation: v, rootsFrom: "the configuration"}
	if from != nil {
		p.rootsName, p.rootsFrom, p.rootsUpdated = from.Name, from.From, from.Updated
	}
	p.pool = poolOf(v.Roots)
	if v.TrustDomains != nil {
		p.domains = map[spiffeid.TrustDomain]*x509.CertPool{}
		for td, roots := range v.TrustDomains {
			p.domains[td] = poolOf(roots)
		}
	}
	return p
}

func poolOf(roots []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range roots {
		pool.AddCert(c)
	}
	return pool
}

// Verify holds a chain (leaf first) against v, as a handshake does, and returns
// why it fails: a *HandshakeError, or nil. Source: Envoy's
// default_validator.cc, and for TrustDomains its SPIFFE validator.
func Verify(v *certs.Validation, chain []*x509.Certificate, side Side, now time.Time) error {
	if f := newPolicy(v, nil).verify(chain, side, now); f != nil {
		return f
	}
	return nil
}

// verify is nil if chain is good. An empty chain is the caller's matter.
func (p *policy) verify(chain []*x509.Certificate, side Side, now time.Time) *HandshakeError {
	if p == nil || len(chain) == 0 {
		return nil
	}
	leaf := chain[0]
	pool, f := p.rootsFor(leaf)
	if f == nil && pool != nil {
		f = p.chain(chain, pool, side, now)
	}
	if f == nil {
		f = p.pins(leaf)
	}
	if f == nil {
		f = p.sans(leaf)
	}
	if f != nil {
		f.Side, f.Presented = side, describeCert(leaf)
		f.Roots = p.describeRoots(leaf)
	}
	return f
}

// rootsFor are the anchors for leaf: nil if no chain is demanded.
func (p *policy) rootsFor(leaf *x509.Certificate) (*x509.CertPool, *HandshakeError) {
	if p.domains == nil {
		if len(p.Roots) == 0 {
			return nil, nil
		}
		return p.pool, nil
	}
	id, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return nil, &HandshakeError{Reason: ReasonSAN, What: "is no X.509-SVID", Err: err}
	}
	pool := p.domains[id.TrustDomain()]
	if pool == nil {
		return nil, &HandshakeError{Reason: ReasonUnknownRoot, What: fmt.Sprintf("is of trust domain %q, for which there is no bundle", id.TrustDomain())}
	}
	return pool, nil
}

// chain verifies the signatures up to a root, the times, the key usage and
// the revocation lists.
func (p *policy) chain(chain []*x509.Certificate, pool *x509.CertPool, side Side, now time.Time) *HandshakeError {
	key := chainKey(chain, side)
	if p.cache.holds(key, now) {
		return nil
	}
	opts := x509.VerifyOptions{Roots: pool, Intermediates: poolOf(chain[1:]), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage(side)}}
	chains, err := chain[0].Verify(opts)
	if p.AllowExpired && expired(err) {
		opts.CurrentTime = chain[0].NotAfter
		chains, err = chain[0].Verify(opts)
	}
	if err != nil {
		return chainFailure(err, chain, now)
	}
	var f *HandshakeError
	for _, good := range chains {
		if f = p.acceptable(good, now); f == nil {
			p.cache.put(key, good, p.CRLs, p.AllowExpired)
			return nil
		}
	}
	return f
}

func usage(side Side) x509.ExtKeyUsage {
	if side == Downstream {
		return x509.ExtKeyUsageClientAuth
	}
	return x509.ExtKeyUsageServerAuth
}

func expired(err error) bool {
	var invalid x509.CertificateInvalidError
	return errors.As(err, &invalid) && invalid.Reason == x509.Expired
}

// acceptable checks what crypto/x509 does not: the depth, and the revocation
// lists.
func (p *policy) acceptable(chain []*x509.Certificate, now time.Time) *HandshakeError {
	depth := uint32(defaultVerifyDepth)
	if p.MaxVerifyDepth != nil {
		depth = *p.MaxVerifyDepth
	}
	if between := len(chain) - 2; between > 0 && uint32(between) > depth {
		return &HandshakeError{Reason: ReasonChain, What: fmt.Sprintf("has %d intermediates, max_verify_depth is %d", between, depth)}
	}
	if len(p.CRLs) == 0 {
		return nil
	}
	for i := 0; i+1 < len(chain); i++ {
		if f := p.revoked(chain[i], chain[i+1], now); f != nil {
			return f
		}
		if p.OnlyLeafCRL {
			break
		}
	}
	return nil
}

// revoked looks cert up in its issuer's list. A list that is missing, not
// signed by the issuer, or over its time says nothing good.
func (p *policy) revoked(cert, issuer *x509.Certificate, now time.Time) *HandshakeError {
	fail := func(format string, args ...any) *HandshakeError {
		return &HandshakeError{Reason: ReasonCRL, What: fmt.Sprintf(format, args...)}
	}
	found := false
	for _, crl := range p.CRLs {
		if !bytes.Equal(crl.RawIssuer, cert.RawIssuer) || crl.CheckSignatureFrom(issuer) != nil {
			continue
		}
		found = true
		if !crl.NextUpdate.IsZero() && now.After(crl.NextUpdate) {
			return fail("cannot be checked: the revocation list of %q ended at %s", issuer.Subject, stamp(crl.NextUpdate))
		}
		for _, e := range crl.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(cert.SerialNumber) == 0 {
				return fail("was revoked at %s (serial %x)", stamp(e.RevocationTime), cert.SerialNumber)
			}
		}
	}
	if !found {
		return fail("cannot be checked: there is no revocation list of %q", issuer.Subject)
	}
	return nil
}

// pins holds the leaf against the hashes: one of either kind is enough.
func (p *policy) pins(leaf *x509.Certificate) *HandshakeError {
	if len(p.SPKIHashes)+len(p.CertHashes) == 0 ||
		slices.Contains(p.CertHashes, sha256.Sum256(leaf.Raw)) ||
		slices.Contains(p.SPKIHashes, sha256.Sum256(leaf.RawSubjectPublicKeyInfo)) {
		return nil
	}
	return &HandshakeError{Reason: ReasonHash, What: fmt.Sprintf("has the SHA-256 %x, which is not pinned", sha256.Sum256(leaf.Raw))}
}

// sans: one matcher that matches one name is enough.
func (p *policy) sans(leaf *x509.Certificate) *HandshakeError {
	if len(p.SANs) == 0 {
		return nil
	}
	for _, m := range p.SANs {
		if _, ok := matchSAN(m, leaf); ok {
			return nil
		}
	}
	return &HandshakeError{Reason: ReasonSAN, What: "is somebody else", Expected: describeMatchers(p.SANs)}
}

// matchSAN is the name of leaf that m matches. Source: Envoy's
// san_matcher.cc: a DNS name with an exact matcher follows the rules of DNS,
// everything else is text.
func matchSAN(m certs.SANMatcher, leaf *x509.Certificate) (string, bool) {
	if m.Type == certs.SANDNS || m.Type == certs.SANAny {
		for _, name := range leaf.DNSNames {
			if m.Match.Kind == certs.MatchExact && dnsMatch(m.Match.Pattern, name) || m.Match.Match(name) {
				return name, true
			}
		}
	}
	for _, name := range textSANs(m.Type, leaf) {
		if m.Match.Match(name) {
			return name, true
		}
	}
	return "", false
}

// textSANs are the names of a type other than DNS, as text.
func textSANs(kind certs.SANType, leaf *x509.Certificate) []string {
	var out []string
	if kind == certs.SANURI || kind == certs.SANAny {
		out = append(out, uriTexts(leaf.URIs)...)
	}
	if kind == certs.SANEmail || kind == certs.SANAny {
		out = append(out, leaf.EmailAddresses...)
	}
	if kind == certs.SANIP || kind == certs.SANAny {
		for _, ip := range leaf.IPAddresses {
			out = append(out, canonicalIP(ip))
		}
	}
	return out
}

func uriTexts(uris []*url.URL) []string {
	var out []string
	for _, u := range uris {
		out = append(out, u.String())
	}
	return out
}

func canonicalIP(ip net.IP) string { return ip.String() }

// dnsMatch is RFC 6125, section 6.4.3, as Envoy does it: ignoring case, a
// certificate's leftmost "*" stands for one label.
func dnsMatch(want, presented string) bool {
	want, presented = strings.ToLower(want), strings.ToLower(presented)
	if want == presented {
		return true
	}
	suffix, wild := strings.CutPrefix(presented, "*")
	if !wild || !strings.HasPrefix(suffix, ".") || strings.Count(suffix, ".") < 2 {
		return false
	}
	label, rest, found := strings.Cut(want, ".")
	return found && label != "" && "."+rest == suffix
}

// peerID is the SPIFFE ID of a leaf; the zero ID if it has none.
func peerID(leaf *x509.Certificate) spiffeid.ID {
	id, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return spiffeid.ID{}
	}
	return id
}
