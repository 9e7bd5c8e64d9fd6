package tlsmux

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
)

// world is a small PKI at a fixed time.
type world struct {
	now                                  time.Time
	root, other, inter, inter2           *node
	good, igood, i2good, stranger, multi *node
}

func newWorld(t testing.TB) *world {
	w := &world{now: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)}
	era := between(w.now.Add(-1000*time.Hour), w.now.Add(1000*time.Hour))
	w.root, w.other = root(t, "root", era), root(t, "other", era)
	w.inter = w.root.issue(t, "inter", isCA, era)
	w.inter2 = w.inter.issue(t, "inter2", isCA, era)
	id := uri("spiffe://prod/a")
	w.good = w.root.issue(t, "good", era, id)
	w.igood = w.inter.issue(t, "igood", era, id)
	w.i2good = w.inter2.issue(t, "i2good", era, id)
	w.stranger = w.other.issue(t, "stranger", era, id)
	w.multi = w.root.issue(t, "multi", era, id, dns("a.example", "b.example"), func(c *x509.Certificate) {
		c.EmailAddresses = []string{"x@y.z"}
		c.IPAddresses = []net.IP{net.ParseIP("10.0.0.1").To4(), net.ParseIP("fd00::1")}
	})
	return w
}

func (w *world) era() shape { return between(w.now.Add(-1000*time.Hour), w.now.Add(1000*time.Hour)) }

func (w *world) crl(t testing.TB, n *node, revoked ...*node) *x509.RevocationList {
	return n.crl(t, w.now.Add(-time.Hour), w.now.Add(time.Hour), revoked...)
}

func u32(n uint32) *uint32 { return &n }

// verdict is what a case comes to: the reason ("" if the chain is good),
// Envoy's text, its counter.
type verdict struct {
	reason  Reason
	envoy   string
	counter string
}

const failed = "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: "

func atDepth(n string, text string) string {
	return failed + "X509_verify_cert: certificate verification error at depth " + n + ": " + text + ":TLS_error_end"
}

// Each verdict was seen of Envoy 1.40 with the same certificates, but for
// those marked as ours.
func TestEachChainIsJudgedAsEnvoyDoes(t *testing.T) {
	w := newWorld(t)
	ok := verdict{}
	chainErr := func(r Reason, depth, text string) verdict {
		return verdict{r, atDepth(depth, text), "fail_verify_error"}
	}
	crlErr := func(depth, text string) verdict { return chainErr(ReasonCRL, depth, crlPhrase+text) }
	noIssuer := func(depth string) verdict {
		return chainErr(ReasonUnknownRoot, depth, "unable to get local issuer certificate")
	}
	tooDeep := func(depth string) verdict {
		return chainErr(ReasonChain, depth, "unable to get local issuer certificate")
	}
	purpose := func(depth string) verdict { return chainErr(ReasonEKU, depth, "unsupported certificate purpose") }
	old := w.root.crl(t, w.now.Add(-3*time.Hour), w.now.Add(-time.Hour))
	oldRevoking := w.root.crl(t, w.now.Add(-3*time.Hour), w.now.Add(-time.Hour), w.good)
	self := (*node)(nil).issue(t, "self", w.era(), uri("spiffe://prod/a"))
	expired := w.root.issue(t, "expired", between(w.now.Add(-10*time.Hour), w.now.Add(-time.Hour)))
	serverOnlyCA := w.root.issue(t, "serverOnlyCA", isCA, w.era(), eku(x509.ExtKeyUsageServerAuth))
	oldRoot := root(t, "old root", between(w.now.Add(-10*time.Hour), w.now.Add(-time.Hour)))
	oldInter := w.root.issue(t, "old inter", isCA, between(w.now.Add(-10*time.Hour), w.now.Add(-time.Hour)))
	forged := w.other.issue(t, "forged", w.era())
	forged.cert.RawIssuer = w.root.cert.RawSubject
	hash := sha256.Sum256(w.other.cert.Raw)
	san := []certs.SANMatcher{exactURI("spiffe://prod/b")}
	anchors := roots(w.root)

	cases := map[string]struct {
		v     certs.Validation
		chain []*x509.Certificate
		want  verdict
	}{
		"good":                             {certs.Validation{Roots: anchors}, w.good.chain(), ok},
		"through an intermediate":          {certs.Validation{Roots: anchors}, w.igood.chain(), ok},
		"unknown root":                     {certs.Validation{Roots: anchors}, w.stranger.chain(), noIssuer("0")},
		"self-signed":                      {certs.Validation{Roots: anchors}, self.chain(), noIssuer("0")},
		"self-signed and trusted":          {certs.Validation{Roots: roots(self)}, self.chain(), ok},
		"a leaf as anchor":                 {certs.Validation{Roots: roots(w.good)}, w.good.chain(), ok},
		"an intermediate as anchor":        {certs.Validation{Roots: roots(w.inter)}, w.igood.chain(), ok},
		"a missing intermediate":           {certs.Validation{Roots: anchors}, w.igood.chain()[:1], noIssuer("0")},
		"a missing upper intermediate":     {certs.Validation{Roots: anchors}, w.i2good.chain()[:2], noIssuer("1")},
		"expired":                          {certs.Validation{Roots: anchors}, expired.chain(), chainErr(ReasonExpired, "0", "certificate has expired")},
		"expired, which is allowed":        {certs.Validation{Roots: anchors, AllowExpired: true}, expired.chain(), ok},
		"expired root":                     {certs.Validation{Roots: roots(oldRoot)}, oldRoot.issue(t, "x", w.era()).chain(), chainErr(ReasonExpired, "1", "certificate has expired")},
		"expired intermediate":             {certs.Validation{Roots: anchors}, oldInter.issue(t, "x", w.era()).chain(), chainErr(ReasonExpired, "1", "certificate has expired")},
		"no common time, which is allowed": {certs.Validation{Roots: anchors, AllowExpired: true}, oldInter.issue(t, "x", between(w.now.Add(time.Hour), w.now.Add(2*time.Hour))).chain(), ok},
		"not yet valid":                    {certs.Validation{Roots: anchors}, w.root.issue(t, "x", between(w.now.Add(time.Minute), w.now.Add(time.Hour))).chain(), chainErr(ReasonNotYetValid, "0", "certificate is not yet valid")},
		"for servers only":                 {certs.Validation{Roots: anchors}, w.root.issue(t, "x", w.era(), eku(x509.ExtKeyUsageServerAuth)).chain(), purpose("0")},
		"for anything":                     {certs.Validation{Roots: anchors}, w.root.issue(t, "x", w.era(), eku(x509.ExtKeyUsageAny)).chain(), purpose("0")},
		"without extended key usage":       {certs.Validation{Roots: anchors}, w.root.issue(t, "x", w.era(), eku()).chain(), ok},
		"by a CA for servers only":         {certs.Validation{Roots: anchors}, serverOnlyCA.issue(t, "x", w.era()).chain(), purpose("1")},
		"without digitalSignature": {
			certs.Validation{Roots: anchors},
			w.root.issue(t, "x", w.era(), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }).chain(),
			verdict{ReasonKeyUsage, "TLS_error:|268435758:SSL routines:OPENSSL_internal:KEY_USAGE_BIT_INCORRECT:TLS_error_end", "connection_error"},
		},
		"by a leaf": {certs.Validation{Roots: anchors}, w.good.issue(t, "x", w.era()).chain(), verdict{ReasonChain, "", "fail_verify_error"}}, // ours

		"depth 0 is as 1":                  {certs.Validation{Roots: anchors, MaxVerifyDepth: u32(0)}, w.good.chain(), ok},
		"depth 1 allows the root":          {certs.Validation{Roots: anchors, MaxVerifyDepth: u32(1)}, w.good.chain(), ok},
		"depth 1 allows no intermediate":   {certs.Validation{Roots: anchors, MaxVerifyDepth: u32(1)}, w.igood.chain(), tooDeep("1")},
		"depth 2 allows one intermediate":  {certs.Validation{Roots: anchors, MaxVerifyDepth: u32(2)}, w.igood.chain(), ok},
		"depth 2 allows no two":            {certs.Validation{Roots: anchors, MaxVerifyDepth: u32(2)}, w.i2good.chain(), tooDeep("2")},
		"revoked":                          {certs.Validation{Roots: anchors, CRLs: []*x509.RevocationList{w.crl(t, w.root, w.good)}}, w.good.chain(), crlErr("0", "certificate revoked")},
		"another was revoked":              {certs.Validation{Roots: anchors, CRLs: []*x509.RevocationList{w.crl(t, w.root, w.multi)}}, w.good.chain(), ok},
		"an intermediate was revoked":      {certs.Validation{Roots: anchors, CRLs: []*x509.RevocationList{w.crl(t, w.root, w.inter), w.crl(t, w.inter)}}, w.igood.chain(), crlErr("1", "certificate revoked")},
		"a list for one CA of two":         {certs.Validation{Roots: anchors, CRLs: []*x509.RevocationList{w.crl(t, w.root)}}, w.igood.chain(), crlErr("0", "unable to get certificate CRL")},
		"a list of the leaf's CA alone":    {certs.Validation{Roots: anchors, CRLs: []*x509.RevocationList{w.crl(t, w.inter)}}, w.igood.chain(), crlErr("1", "unable to get certificate CRL")},
		"the same, for the leaf only":      {certs.Validation{Roots: anchors, CRLs: []*x509.RevocationList{w.crl(t, w.inter)}, OnlyLeafCRL: true}, w.igood.chain(), ok},
		"no list of the leaf's CA":         {certs.Validation{Roots: anchors, CRLs: []*x509.RevocationList{w.crl(t, w.root)}, OnlyLeafCRL: true}, w.igood.chain(), crlErr("0", "unable to get certificate CRL")},
		"lists of both CAs":                {certs.Validation{Roots: anchors, CRLs: []*x509.RevocationList{w.crl(t, w.root), w.crl(t, w.inter)}}, w.igood.chain(), ok},
		"a list that ended":                {certs.Validation{Roots: anchors, CRLs: []*x509.RevocationList{old}}, w.good.chain(), crlErr("0", "CRL has expired")},
		"a list that ended, a newer one":   {certs.Validation{Roots: anchors, CRLs: []*x509.RevocationList{oldRevoking, w.crl(t, w.root)}}, w.good.chain(), ok},
		"a list that ended, which may":     {certs.Validation{Roots: anchors, CRLs: []*x509.RevocationList{old}, AllowExpired: true}, w.good.chain(), ok},
		"a list that has not begun":        {certs.Validation{Roots: anchors, CRLs: []*x509.RevocationList{w.root.crl(t, w.now.Add(time.Minute), w.now.Add(time.Hour))}}, w.good.chain(), crlErr("0", "CRL is not yet valid")},
		"a list and a partial chain":       {certs.Validation{Roots: roots(w.inter), CRLs: []*x509.RevocationList{w.crl(t, w.inter), w.crl(t, w.root)}}, w.igood.chain(), crlErr("1", "unable to get certificate CRL")},
		"a partial chain, for the leaf":    {certs.Validation{Roots: roots(w.inter), CRLs: []*x509.RevocationList{w.crl(t, w.inter)}, OnlyLeafCRL: true}, w.igood.chain(), ok},
		"another's list, self-signed":      {certs.Validation{Roots: roots(self), CRLs: []*x509.RevocationList{w.crl(t, w.root)}}, self.chain(), crlErr("0", "unable to get certificate CRL")},
		"a list signed by somebody else":   {certs.Validation{Roots: anchors, CRLs: []*x509.RevocationList{w.crl(t, renamed(t, w.root))}}, w.good.chain(), crlErr("0", "unable to get certificate CRL")},
		"another name":                     {certs.Validation{Roots: anchors, SANs: san}, w.good.chain(), verdict{ReasonSAN, failed + "SAN matcher, certificate SANs are [spiffe://prod/a]:TLS_error_end", "fail_verify_san"}},
		"another among many names":         {certs.Validation{Roots: anchors, SANs: san}, w.multi.chain(), verdict{ReasonSAN, failed + "SAN matcher, certificate SANs are [a.example, b.example, x@y.z, 10.0.0.1, fd00::1, spiffe://prod/a]:TLS_error_end", "fail_verify_san"}},
		"no name":                          {certs.Validation{Roots: anchors, SANs: san}, w.root.issue(t, "x", w.era()).chain(), verdict{ReasonSAN, failed + "SAN matcher, certificate SANs are []:TLS_error_end", "fail_verify_san"}},
		"a matching name":                  {certs.Validation{Roots: anchors, SANs: append(san, exactURI("spiffe://prod/a"))}, w.good.chain(), ok},
		"a good name, an unknown root":     {certs.Validation{Roots: anchors, SANs: []certs.SANMatcher{exactURI("spiffe://prod/a")}}, w.stranger.chain(), noIssuer("0")},
		"another hash":                     {certs.Validation{Roots: anchors, CertHashes: [][32]byte{hash}}, w.good.chain(), verdict{ReasonHash, failed + "cert hash and spki:TLS_error_end", "fail_verify_cert_hash"}},
		"another hash and another name":    {certs.Validation{Roots: anchors, SANs: san, CertHashes: [][32]byte{hash}}, w.good.chain(), verdict{ReasonSAN, failed + "SAN matcher, certificate SANs are [spiffe://prod/a]:TLS_error_end", "fail_verify_san"}},
		"another hash, but the key's":      {certs.Validation{Roots: anchors, CertHashes: [][32]byte{hash}, SPKIHashes: [][32]byte{sha256.Sum256(w.good.cert.RawSubjectPublicKeyInfo)}}, w.good.chain(), ok},
		"a pinned hash without roots":      {certs.Validation{CertHashes: [][32]byte{sha256.Sum256(w.good.cert.Raw)}}, w.good.chain(), ok},
		"a pinned hash, an unknown root":   {certs.Validation{Roots: anchors, CertHashes: [][32]byte{sha256.Sum256(w.stranger.cert.Raw)}}, w.stranger.chain(), noIssuer("0")},
		"untrusted, which is accepted":     {certs.Validation{Roots: anchors, AcceptUntrusted: true}, w.stranger.chain(), ok},
		"untrusted with another name, too": {certs.Validation{Roots: anchors, SANs: san, AcceptUntrusted: true}, w.good.chain(), ok},
		"names without roots":              {certs.Validation{SANs: san, CertHashes: [][32]byte{hash}}, w.good.chain(), verdict{ReasonUnknownRoot, "", "fail_verify_error"}}, // ours: Envoy refuses the context
		"nothing to verify with":           {certs.Validation{}, w.good.chain(), verdict{ReasonUnknownRoot, "", "fail_verify_error"}},                                        // ours: Envoy asks for none
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			checkVerdict(t, Verify(&c.v, c.chain, Downstream, w.now), c.want)
		})
	}
}

// renamed is another authority of the same name.
func renamed(t testing.TB, n *node) *node {
	return root(t, n.cert.Subject.CommonName, between(n.cert.NotBefore, n.cert.NotAfter))
}

func checkVerdict(t *testing.T, err error, want verdict) {
	t.Helper()
	var f *HandshakeError
	if errors.As(err, &f) != (want.reason != "") {
		t.Fatalf("got %v, want reason %q", err, want.reason)
	}
	if f == nil {
		return
	}
	got := verdict{f.Reason, f.EnvoyText(), f.SSLCounter()}
	if want.envoy == "" {
		got.envoy = "" // ours, it is our own sentence
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v\n%v", got, want, err)
	}
}

func TestAServersCertificateIsHeldToServerAuth(t *testing.T) {
	w := newWorld(t)
	v := &certs.Validation{Roots: roots(w.root)}
	clientOnly := w.root.issue(t, "x", w.era(), eku(x509.ExtKeyUsageClientAuth))
	checkVerdict(t, Verify(v, clientOnly.chain(), Upstream, w.now), verdict{ReasonEKU, atDepth("0", "unsupported certificate purpose"), "fail_verify_error"})
	checkVerdict(t, Verify(v, clientOnly.chain(), Downstream, w.now), verdict{})
	if err := Verify(&certs.Validation{}, w.stranger.chain(), Upstream, w.now); err != nil {
		t.Errorf("got %v, want nil: a client without a context verifies nothing", err)
	}
}

func TestTheSPIFFEValidatorBindsAPeerToItsOwnDomainsBundle(t *testing.T) {
	w := newWorld(t)
	prod, dev := spiffeid.RequireTrustDomainFromString("prod"), spiffeid.RequireTrustDomainFromString("dev")
	v := &certs.Validation{TrustDomains: map[spiffeid.TrustDomain][]*x509.Certificate{prod: roots(w.root), dev: roots(w.other)}}
	inDev := w.root.issue(t, "x", w.era(), uri("spiffe://dev/a")) // by prod's authority
	ca := w.root.issue(t, "x", isCA, w.era(), uri("spiffe://prod/ca"), func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageDigitalSignature })
	expired := w.root.issue(t, "x", between(w.now.Add(-2*time.Hour), w.now.Add(-time.Hour)), uri("spiffe://prod/a"))
	svid := verdict{ReasonSVID, failed + "no trust bundle store:TLS_error_end", "fail_verify_error"}
	cases := map[string]struct {
		leaf *node
		sans []certs.SANMatcher
		want verdict
	}{
		"its own":               {w.good, nil, verdict{}},
		"another's":             {inDev, nil, verdict{ReasonUnknownRoot, atDepth("0", "unable to get local issuer certificate"), "fail_verify_error"}},
		"a foreign domain":      {w.root.issue(t, "x", w.era(), uri("spiffe://test/a")), nil, verdict{ReasonUnknownRoot, failed + "no trust bundle store:TLS_error_end", "fail_verify_error"}},
		"no ID":                 {w.root.issue(t, "x", w.era(), dns("a")), nil, svid},
		"two IDs":               {w.root.issue(t, "x", w.era(), uri("spiffe://prod/a"), uri("spiffe://dev/b")), nil, svid},
		"a CA":                  {ca, nil, verdict{ReasonSVID, failed + "cert precheck:TLS_error_end", "fail_verify_error"}},
		"expired":               {expired, nil, verdict{ReasonExpired, atDepth("0", "certificate has expired"), "fail_verify_error"}},
		"any purpose":           {w.root.issue(t, "x", w.era(), uri("spiffe://prod/a"), eku(x509.ExtKeyUsageServerAuth)), nil, verdict{}},
		"another ID":            {w.good, []certs.SANMatcher{exactURI("spiffe://prod/b")}, verdict{ReasonSAN, failed + "SAN matcher, certificate SANs are [spiffe://prod/a]:TLS_error_end", "fail_verify_san"}},
		"a DNS name, not asked": {w.multi, []certs.SANMatcher{{Type: certs.SANAny, Match: certs.StringMatcher{Pattern: "a.example"}}}, verdict{ReasonSAN, failed + "SAN matcher, certificate SANs are [spiffe://prod/a]:TLS_error_end", "fail_verify_san"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			with := *v
			with.SANs = c.sans
			with.AcceptUntrusted = true // has no effect here
			checkVerdict(t, Verify(&with, c.leaf.chain(), Downstream, w.now), c.want)
		})
	}
}

func TestACachedChainIsStillHeldToTimeAndLists(t *testing.T) {
	w := newWorld(t)
	end := w.now.Add(time.Minute)
	leaf := w.root.issue(t, "x", between(w.now.Add(-time.Minute), end))
	for name, p := range map[string]*policy{
		"certificate": newPolicy(&certs.Validation{Roots: roots(w.root)}, nil),
		"list":        newPolicy(&certs.Validation{Roots: roots(w.root), CRLs: []*x509.RevocationList{w.root.crl(t, w.now.Add(-time.Hour), end)}}, nil),
	} {
		chain := leaf.chain()
		if name == "list" {
			chain = w.good.chain()
		}
		for range 2 {
			if err := p.judge(question{chain: chain, side: Downstream, now: w.now}); err != nil {
				t.Fatal(err)
			}
		}
		if _, ok := p.cache.get(chainKey(chain, Downstream), w.now); !ok {
			t.Errorf("%s: the chain is not cached", name)
		}
		if _, ok := p.cache.get(chainKey(chain, Upstream), w.now); ok {
			t.Errorf("%s: a client's chain is good for a server", name)
		}
		if err := p.judge(question{chain: chain, side: Downstream, now: end.Add(time.Second)}); err == nil {
			t.Errorf("%s: accepted after its end", name)
		}
	}
}

func TestTheChainCacheIsBounded(t *testing.T) {
	var c chainCache
	for i := range 2*maxChains + 10 {
		c.put([32]byte{byte(i), byte(i >> 8)}, vetted{})
	}
	if n := len(c.entries); n > maxChains {
		t.Errorf("%d chains, want at most %d", n, maxChains)
	}
}

func TestEveryPartOfThePolicyIsInItsFingerprint(t *testing.T) {
	w := newWorld(t)
	td := spiffeid.RequireTrustDomainFromString("prod")
	all := []certs.Validation{
		{}, {Roots: roots(w.root)}, {Roots: roots(w.root, w.other)}, {Roots: roots(w.other)}, {OnlyLeafCRL: true}, {AcceptUntrusted: true}, {AllowExpired: true},
		{MaxVerifyDepth: u32(0)}, {MaxVerifyDepth: u32(1)}, {CRLs: []*x509.RevocationList{w.crl(t, w.root)}},
		{SANs: []certs.SANMatcher{exactURI("a")}}, {SANs: []certs.SANMatcher{exactURI("b")}}, {SANs: []certs.SANMatcher{exactURI("a"), exactURI("b")}},
		{SANs: []certs.SANMatcher{{Type: certs.SANDNS, Match: certs.StringMatcher{Pattern: "a"}}}},
		{SANs: []certs.SANMatcher{{Type: certs.SANURI, Match: certs.StringMatcher{Pattern: "a", IgnoreCase: true}}}},
		{SANs: []certs.SANMatcher{{Type: certs.SANURI, Match: certs.StringMatcher{Pattern: "a", Kind: certs.MatchPrefix}}}},
		{CertHashes: make([][32]byte, 1)}, {SPKIHashes: make([][32]byte, 1)},
		{TrustDomains: map[spiffeid.TrustDomain][]*x509.Certificate{td: roots(w.root)}}, {TrustDomains: map[spiffeid.TrustDomain][]*x509.Certificate{td: roots(w.other)}},
	}
	var seen [][32]byte
	for _, v := range all {
		for _, required := range []bool{false, true} {
			f := newPolicy(&v, nil).fingerprint(required)
			if slices.Contains(seen, f) {
				t.Errorf("%+v, required %t, has the fingerprint of another", v, required)
			}
			if f != newPolicy(&v, nil).fingerprint(required) {
				t.Errorf("%+v has two fingerprints", v)
			}
			seen = append(seen, f)
		}
	}
}

func TestConnectionsOfOnePeerShareWhatIsKnownOfIt(t *testing.T) {
	m := newMesh(t)
	s, c := NewServer(m.serverConfig(), noFeeds()), NewClient(m.clientConfig(), noFeeds())
	var peers [2]*State
	for i := range peers {
		near, far := tcpPair(t)
		done := make(chan *Conn, 1)
		go func() {
			conn, err := s.Handshake(context.Background(), far)
			if err != nil {
				t.Error(err)
			}
			done <- conn
		}()
		if _, err := c.Handshake(context.Background(), near, ClientOptions{}); err != nil {
			t.Fatal(err)
		}
		peers[i] = (<-done).State()
	}
	if peers[0].Peer[0] != peers[1].Peer[0] || peers[0].PeerID != peers[1].PeerID || peers[1].PeerID.IsZero() {
		t.Errorf("%p is %v, %p is %v", peers[0].Peer[0], peers[0].PeerID, peers[1].Peer[0], peers[1].PeerID)
	}
}
