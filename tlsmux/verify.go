package tlsmux

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

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

// policy is what a peer's certificate is held against: a validation context,
// merged, with what is made from it once. It is immutable but for its cache.
type policy struct {
	*certs.Validation
	// rootsName, rootsFrom and rootsUpdated tell where the roots came from.
	rootsName, rootsFrom string
	rootsUpdated         time.Time

	pool    *x509.CertPool
	bundles *x509bundle.Set // nil without TrustDomains
	cache   chainCache
}

// question is a chain to be judged.
type question struct {
	chain []*x509.Certificate // leaf first, never empty
	side  Side
	now   time.Time
	// sans, if not nil, replace the policy's.
	sans []certs.SANMatcher
	// suite is the cipher suite; 0 is any in which the leaf's key signs.
	suite uint16
}

// newPolicy makes the policy of v, which may be nil: that one verifies nothing.
// from is the secret that was merged into it; nil if there was none.
func newPolicy(v *certs.Validation, from *certs.Secret) *policy {
	if v == nil {
		v = &certs.Validation{}
	}
	p := &policy{Validation: v, rootsFrom: "the configuration"}
	if from != nil && from.Validation != nil && (len(from.Validation.Roots) > 0 || from.Validation.TrustDomains != nil) {
		p.rootsName, p.rootsFrom, p.rootsUpdated = from.Name, from.From, from.Updated
	}
	p.pool = poolOf(p.atAnyTime(v.Roots))
	if v.TrustDomains != nil {
		p.bundles = x509bundle.NewSet()
		for td, roots := range v.TrustDomains {
			p.bundles.Add(x509bundle.FromX509Authorities(td, p.atAnyTime(roots)))
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
	if len(chain) == 0 {
		return &HandshakeError{Side: side, Reason: ReasonNoCert}
	}
	return newPolicy(v, nil).judge(question{chain: chain, side: side, now: now})
}

// judge is verify with what the context says about those that do not verify. A
// client verifies nothing if it has nothing to verify with, as Envoy's; a
// server that asked for a certificate does not take one on trust.
func (p *policy) judge(q question) error {
	f := keyUsageFailure(q)
	if f == nil && p.AcceptsAny() {
		return nil
	}
	if f == nil {
		f = p.verify(q)
	}
	if f == nil && q.side == Downstream && !p.Verifies() {
		f = &HandshakeError{Reason: ReasonUnknownRoot, What: "cannot be verified: the context has neither roots nor hashes"}
	}
	if f == nil {
		return nil
	}
	p.describe(f, q)
	return f
}

// verify is nil if the chain is good, or if there is nothing to hold it
// against. The order is Envoy's: chain, names, hashes.
func (p *policy) verify(q question) *HandshakeError {
	leaf := q.chain[0]
	if _, f := p.chain(q); f != nil {
		return f
	}
	sans := q.sans
	if sans == nil {
		sans = p.SANs
	}
	if len(sans) > 0 && len(p.Roots) == 0 && p.bundles == nil {
		// Envoy refuses such a context where it is merged.
		return &HandshakeError{Reason: ReasonUnknownRoot, What: "cannot be verified: the context matches names, but has no roots"}
	}
	names := altNames(leaf)
	if p.TrustDomains != nil { // only the URI is bound to the trust domain
		names = slices.DeleteFunc(names, func(n altName) bool { return n.kind != certs.SANURI })
	}
	if f := sansFailure(sans, names); f != nil {
		return f
	}
	return p.pins(leaf)
}

// describe adds who was judged, and by what, to f.
func (p *policy) describe(f *HandshakeError, q question) {
	f.Side, f.Peer = q.side, factsOf(q.chain[0])
	f.Roots = p.describeRoots(peerID(q.chain[0]).TrustDomain())
}

// pins holds the leaf against the hashes: one of either kind is enough.
func (p *policy) pins(leaf *x509.Certificate) *HandshakeError {
	der, key := sha256.Sum256(leaf.Raw), sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	if len(p.SPKIHashes)+len(p.CertHashes) == 0 || slices.Contains(p.CertHashes, der) || slices.Contains(p.SPKIHashes, key) {
		return nil
	}
	f := &HandshakeError{
		Reason: ReasonHash, envoy: "cert hash and spki",
		What: fmt.Sprintf("is not pinned: its SHA-256 is %x, its key's is %x", der, key),
	}
	for _, h := range p.CertHashes {
		f.Expected = append(f.Expected, fmt.Sprintf("certificate %x", h))
	}
	for _, h := range p.SPKIHashes {
		f.Expected = append(f.Expected, fmt.Sprintf("key %x", h))
	}
	return f
}

// keyUsageFailure: a leaf that says what its key is for must say signing, or
// encipherment where RSA key exchange was negotiated (RFC 5246, section 7.4.2;
// BoringSSL refuses it apart from the chain).
func keyUsageFailure(q question) *HandshakeError {
	usage := q.chain[0].KeyUsage
	wanted, name := x509.KeyUsageDigitalSignature, "digitalSignature"
	if q.side == Upstream && rsaKeyExchange(q.suite) {
		wanted, name = x509.KeyUsageKeyEncipherment, "keyEncipherment"
	}
	if usage == 0 || usage&wanted != 0 {
		return nil
	}
	return &HandshakeError{Reason: ReasonKeyUsage, What: "may not be used for this: its key usage is without " + name}
}

func rsaKeyExchange(suite uint16) bool {
	switch suite {
	case tls.TLS_RSA_WITH_RC4_128_SHA, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA, tls.TLS_RSA_WITH_AES_128_CBC_SHA,
		tls.TLS_RSA_WITH_AES_256_CBC_SHA, tls.TLS_RSA_WITH_AES_128_CBC_SHA256,
		tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_256_GCM_SHA384:
		return true
	}
	return false
}

// fingerprint is a digest of everything that decides about a certificate. A
// session that was established under another is not resumed (Envoy:
// updateDigestForSessionId).
func (p *policy) fingerprint(required bool) [sha256.Size]byte {
	h := sha256.New()
	part := func(kind byte, b []byte) {
		h.Write(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(b))))
		h.Write(b)
	}
	for _, c := range p.Roots {
		part('r', c.Raw)
	}
	for _, td := range p.trustDomains() {
		part('t', []byte(td.Name()))
		for _, c := range p.TrustDomains[td] {
			part('b', c.Raw)
		}
	}
	for _, crl := range p.CRLs {
		part('c', crl.Raw)
	}
	for _, m := range p.SANs {
		part('s', fmt.Appendf(nil, "%d %d %t %s", m.Type, m.Match.Kind, m.Match.IgnoreCase, m.Match.Pattern))
	}
	for _, x := range p.CertHashes {
		part('h', x[:])
	}
	for _, x := range p.SPKIHashes {
		part('k', x[:])
	}
	depth := -1
	if p.MaxVerifyDepth != nil {
		depth = int(*p.MaxVerifyDepth)
	}
	part('f', fmt.Appendf(nil, "%t %t %t %t %d", required, p.OnlyLeafCRL, p.AcceptUntrusted, p.AllowExpired, depth))
	return [sha256.Size]byte(h.Sum(nil))
}

func (p *policy) trustDomains() []spiffeid.TrustDomain {
	var out []spiffeid.TrustDomain
	for td := range p.TrustDomains {
		out = append(out, td)
	}
	slices.SortFunc(out, spiffeid.TrustDomain.Compare)
	return out
}
