package csr

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"outrider/certs"
	"outrider/certs/identity"
)

// wanted is what an answer must hold.
type wanted struct {
	key         crypto.Signer
	id          spiffeid.ID          // zero: any one in trustDomain
	trustDomain spiffeid.TrustDomain // zero: any
	known       []*x509.Certificate  // roots that are trusted already
	skew        time.Duration
	now         time.Time
	exchange    exchange
	clock       identity.Clock // by the date header; zero if there was none
}

// answer is a certificate chain by its parts.
type answer struct {
	leaf *x509.Certificate
	// intermediates are served with the leaf: no roots, nothing twice.
	intermediates []*x509.Certificate
	// roots is the bundle that came last.
	roots []*x509.Certificate
}

// maxChain bounds the certificates below the roots. Chains have one to three;
// each costs signature checks.
const maxChain = 20

// check reads an answer, whose elements are PEM: the leaf, what leads to the
// root, and the roots as the last one. Everything must hold: the answer of a
// confused authority would otherwise take a working certificate's place.
func (w wanted) check(chain []string) (*identity.Issued, error) {
	a, err := parse(chain)
	if err != nil {
		return nil, err
	}
	if w.clock.From == "" {
		w.clock = clockOfNotBefore(w.exchange, a.leaf.NotBefore)
	}
	for _, check := range []func(*answer) error{w.checkKey, w.checkKind, w.checkStrength, w.checkUsage} {
		if err := check(a); err != nil {
			return nil, err
		}
	}
	id, err := w.idOf(a.leaf)
	if err != nil {
		return nil, err
	}
	if err := w.checkChain(a); err != nil {
		return nil, err
	}
	return &identity.Issued{KeyPair: a.pair(w.key, id), Roots: a.roots, Clock: w.clock}, nil
}

// parse sorts the certificates of an answer by what they are.
func parse(chain []string) (*answer, error) {
	if len(chain) < 2 {
		return nil, &ShortError{Elements: len(chain)}
	}
	last := len(chain) - 1
	var all []*x509.Certificate
	for i, text := range chain[:last] {
		some, err := certs.ParseRoots([]byte(text))
		if err != nil {
			return nil, &PEMError{Element: i + 1, Elements: len(chain), Err: err}
		}
		all = append(all, some...)
	}
	roots, err := certs.ParseRoots([]byte(chain[last]))
	if err != nil {
		return nil, &PEMError{Element: last + 1, Elements: len(chain), Err: err}
	}
	a := &answer{leaf: all[0], roots: distinct(roots)}
	// An intermediate among the roots is an anchor for us, but peers may know
	// only what is above it.
	for _, c := range distinct(slices.Concat(all[1:], a.roots)) {
		if !selfSigned(c) && !c.Equal(a.leaf) {
			a.intermediates = append(a.intermediates, c)
		}
	}
	if len(a.intermediates) > maxChain {
		return nil, &ChainError{Leaf: a.leaf, Err: fmt.Errorf("it has %d intermediates, more than %d", len(a.intermediates), maxChain)}
	}
	return a, nil
}

func distinct(all []*x509.Certificate) []*x509.Certificate {
	var out []*x509.Certificate
	seen := map[string]bool{}
	for _, c := range all {
		if !seen[string(c.Raw)] {
			seen[string(c.Raw)] = true
			out = append(out, c)
		}
	}
	return out
}

// selfSigned says that c is its own issuer. A root's new key certified by its
// old one has the same names, but other key identifiers; without those the
// signature tells, unless it is of a kind that nobody checks any more.
func selfSigned(c *x509.Certificate) bool {
	if !bytes.Equal(c.RawIssuer, c.RawSubject) {
		return false
	}
	if len(c.AuthorityKeyId) > 0 {
		return bytes.Equal(c.AuthorityKeyId, c.SubjectKeyId)
	}
	err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
	return err == nil || errors.As(err, new(x509.InsecureAlgorithmError))
}

func (w wanted) checkKey(a *answer) error {
	ours, ok := w.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !ours.Equal(a.leaf.PublicKey) {
		return &KeyError{Leaf: a.leaf, Want: kindOf(w.key.Public()), Got: kindOf(a.leaf.PublicKey)}
	}
	return nil
}

// checkKind demands that the leaf is none that signs others, and that all
// others are.
func (w wanted) checkKind(a *answer) error {
	switch {
	case a.leaf.IsCA:
		return &CAError{Cert: a.leaf, Reason: "our certificate is one of an authority"}
	case a.leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0: // SPIFFE X509-SVID, section 4.3
		return &CAError{Cert: a.leaf, Reason: "our certificate may sign others"}
	}
	for _, c := range slices.Concat(a.intermediates, a.roots) {
		if !c.BasicConstraintsValid || !c.IsCA {
			return &CAError{Cert: c, Reason: "it stands for an authority and is none"}
		}
	}
	return nil
}

// checkUsage demands that the leaf can be used on both sides of a connection.
// One without extended key usages can be used for everything (RFC 5280,
// section 4.2.1.12).
func (w wanted) checkUsage(a *answer) error {
	if a.leaf.KeyUsage != 0 && a.leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 { // SPIFFE X509-SVID, section 4.3
		return &UsageError{Leaf: a.leaf, Missing: "digitalSignature"}
	}
	if len(a.leaf.ExtKeyUsage)+len(a.leaf.UnknownExtKeyUsage) == 0 || slices.Contains(a.leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return nil
	}
	var missing []string
	for _, u := range []struct {
		usage x509.ExtKeyUsage
		name  string
	}{{x509.ExtKeyUsageClientAuth, "clientAuth"}, {x509.ExtKeyUsageServerAuth, "serverAuth"}} {
		if !slices.Contains(a.leaf.ExtKeyUsage, u.usage) {
			missing = append(missing, u.name)
		}
	}
	if missing != nil {
		return &UsageError{Leaf: a.leaf, Missing: strings.Join(missing, " and ")}
	}
	return nil
}

// idOf is the one SPIFFE ID of the leaf, if it is the one that is wanted.
func (w wanted) idOf(leaf *x509.Certificate) (spiffeid.ID, error) {
	refuse := func(err error) (spiffeid.ID, error) {
		e := &IDError{Want: w.id, TrustDomain: w.trustDomain, Err: err}
		for _, u := range leaf.URIs {
			e.Got = append(e.Got, u.String())
		}
		return spiffeid.ID{}, e
	}
	id, err := x509svid.IDFromCert(leaf)
	switch {
	case err != nil:
		return refuse(err)
	case id.Path() == "":
		return refuse(errors.New("it is a trust domain, not a workload"))
	case !w.id.IsZero() && id != w.id:
		return refuse(errors.New("it is another's"))
	case !w.trustDomain.IsZero() && !id.MemberOf(w.trustDomain):
		return refuse(errors.New("it is of another trust domain"))
	}
	return id, nil
}

// checkChain demands that the leaf leads to one of the roots that came with it,
// or to one that is trusted already, which is then added to them. Roots that
// are new are taken: the connection has proved the authority.
func (w wanted) checkChain(a *answer) error {
	if _, err := w.verify(a, a.roots); err == nil {
		return nil
	} else if anchor, knownErr := w.verify(a, w.known); knownErr == nil {
		a.roots = append(a.roots, anchor)
		return nil
	} else {
		return w.whyNot(a, err)
	}
}

// verify finds a way from the leaf to one of roots for both usages, and is
// the root that it leads to.
func (w wanted) verify(a *answer, roots []*x509.Certificate) (*x509.Certificate, error) {
	opts := x509.VerifyOptions{Roots: pool(roots), Intermediates: pool(a.intermediates), CurrentTime: w.moment(a)}
	var anchor *x509.Certificate
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		opts.KeyUsages = []x509.ExtKeyUsage{usage}
		chains, err := a.leaf.Verify(opts)
		if err != nil {
			return nil, err
		}
		anchor = chains[0][len(chains[0])-1]
	}
	return anchor, nil
}

func pool(all []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range all {
		p.AddCert(c)
	}
	return p
}

// moment is when the chain must be valid: now, or as much later as skew allows
// for a certificate that is not valid yet.
func (w wanted) moment(a *answer) time.Time {
	at := w.now
	for _, c := range a.all() {
		if c.NotBefore.After(at) && !c.NotBefore.After(w.now.Add(w.skew)) {
			at = c.NotBefore
		}
	}
	return at
}

// all are the certificates of the answer, the leaf first.
func (a *answer) all() []*x509.Certificate {
	return slices.Concat([]*x509.Certificate{a.leaf}, a.intermediates, a.roots)
}

// whyNot says why a chain is refused: if it would hold at another time, then
// which certificate is out of its own.
func (w wanted) whyNot(a *answer, err error) error {
	roots := slices.Concat(a.roots, w.known)
	if identity.VerifyChain(a.pair(w.key, spiffeid.ID{}), roots) == nil {
		for _, c := range slices.Concat(a.all(), w.known) {
			if c.NotBefore.After(w.now.Add(w.skew)) || w.now.After(c.NotAfter) {
				return &TimeError{Cert: c, IsLeaf: c == a.leaf, Now: w.now, Clock: w.clock}
			}
		}
	}
	return &ChainError{Leaf: a.leaf, Roots: roots, Err: err}
}

// pair is what is served: the leaf and what leads to the root, not the root.
func (a *answer) pair(key crypto.Signer, id spiffeid.ID) *certs.KeyPair {
	p := &certs.KeyPair{TLS: tls.Certificate{PrivateKey: key, Leaf: a.leaf, Certificate: [][]byte{a.leaf.Raw}}, ID: id, CertPath: "<inline>"}
	for _, c := range a.intermediates {
		p.TLS.Certificate = append(p.TLS.Certificate, c.Raw)
	}
	return p
}
