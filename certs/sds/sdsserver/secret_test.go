package sdsserver

import (
	"crypto"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/proxy/config/decode"
)

func authority(t *testing.T, name string) *ca.CA {
	t.Helper()
	c, err := ca.New(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func revocation(t *testing.T, c *ca.CA) []*x509.RevocationList {
	t.Helper()
	text, err := c.CRL(time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	lists, err := certs.ParseCRLs(text)
	if err != nil {
		t.Fatal(err)
	}
	return lists
}

func pairBelow(t *testing.T, c *ca.CA, useRSA bool) *certs.KeyPair {
	t.Helper()
	issued, err := c.Issue(ca.Leaf{ID: "spiffe://td/x", RSA: useRSA})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := certs.ParseKeyPair(issued.ChainPEM, issued.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	pair.CertPath = "<inline>"
	return pair
}

// What goes out is what our own decoder, which is as strict as Envoy, reads.
func TestSecretsAreReadAsTheyWere(t *testing.T) {
	root, other := authority(t, "root"), authority(t, "other")
	middle, err := root.Intermediate("middle")
	if err != nil {
		t.Fatal(err)
	}
	depth := uint32(3)
	regex, err := certs.CompileRegex("a+")
	if err != nil {
		t.Fatal(err)
	}
	san := func(kind certs.SANType, m certs.StringMatcher) certs.SANMatcher {
		return certs.SANMatcher{Type: kind, Match: m}
	}
	roots := []*x509.Certificate{root.Cert, other.Cert}
	secrets := map[string]*certs.Secret{
		"ECDSA key, chain of two": {KeyPair: pairBelow(t, middle, false)},
		"RSA key":                 {KeyPair: pairBelow(t, root, true)},
		"roots":                   {Validation: &certs.Validation{Roots: roots}},
		"revocation lists": {Validation: &certs.Validation{
			Roots: roots, CRLs: append(revocation(t, root), revocation(t, other)...), OnlyLeafCRL: true,
		}},
		"all that is demanded of a leaf": {Validation: &certs.Validation{
			Roots: roots, SPKIHashes: [][32]byte{{1}, {2}}, CertHashes: [][32]byte{{3}},
			AllowExpired: true, AcceptUntrusted: true, MaxVerifyDepth: &depth,
			SANs: []certs.SANMatcher{
				san(certs.SANURI, certs.StringMatcher{Kind: certs.MatchPrefix, Pattern: "spiffe://td/"}),
				san(certs.SANDNS, certs.StringMatcher{Kind: certs.MatchSuffix, Pattern: ".example", IgnoreCase: true}),
				san(certs.SANEmail, certs.StringMatcher{Kind: certs.MatchContains, Pattern: "@"}),
				san(certs.SANIP, certs.StringMatcher{Kind: certs.MatchExact, Pattern: "10.0.0.1"}),
				san(certs.SANURI, certs.StringMatcher{Kind: certs.MatchRegex, Pattern: "a+", Regex: regex}),
			},
		}},
		"hashes alone": {Validation: &certs.Validation{CertHashes: [][32]byte{{3}}}},
		"trust domains": {Validation: &certs.Validation{
			TrustDomains: map[spiffeid.TrustDomain][]*x509.Certificate{
				spiffeid.RequireTrustDomainFromString("td"):    roots,
				spiffeid.RequireTrustDomainFromString("other"): {other.Cert},
			},
			SANs: []certs.SANMatcher{san(certs.SANURI, certs.StringMatcher{Kind: certs.MatchPrefix, Pattern: "spiffe://td/"})},
		}},
	}
	for name, want := range secrets {
		t.Run(name, func(t *testing.T) {
			want.Name = "s"
			if want.Validation != nil && len(want.Validation.Roots) > 0 {
				want.Validation.RootsPath = "<inline>"
			}
			m, err := Secret(want)
			if err != nil {
				t.Fatal(err)
			}
			got, err := decode.Secret(m, "", "", decode.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(certs.Secret{}, "Version", "Updated", "Source"), cmpopts.EquateEmpty(),
				cmp.Comparer(func(a, b *x509.Certificate) bool { return a.Equal(b) }),
				cmp.Comparer(func(a, b *x509.RevocationList) bool { return string(a.Raw) == string(b.Raw) }),
				cmp.Comparer(func(a, b certs.StringMatcher) bool { return a.String() == b.String() }),
				cmp.Comparer(func(a, b *certs.KeyPair) bool { return samePair(a, b) }),
			); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func samePair(a, b *certs.KeyPair) bool {
	if a == nil || b == nil {
		return a == b
	}
	key, ok := a.TLS.PrivateKey.(interface{ Equal(crypto.PrivateKey) bool })
	return ok && key.Equal(b.TLS.PrivateKey) && a.ID == b.ID && a.CertPath == b.CertPath && cmp.Equal(a.TLS.Certificate, b.TLS.Certificate)
}

// Envoy looks at matchers without a type in no place that has typed ones.
func TestAMatcherOfAnyTypeIsOneOfEach(t *testing.T) {
	m := certs.SANMatcher{Match: certs.StringMatcher{Kind: certs.MatchPrefix, Pattern: "x"}}
	s, err := Secret(&certs.Secret{Name: "s", Validation: &certs.Validation{Roots: []*x509.Certificate{authority(t, "root").Cert}, SANs: []certs.SANMatcher{m}}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := decode.Secret(s, "", "", decode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var types []certs.SANType
	for _, san := range got.Validation.SANs {
		types = append(types, san.Type)
		if san.Match != m.Match {
			t.Errorf("%s, want %s", san.Match, m.Match)
		}
	}
	if want := []certs.SANType{certs.SANEmail, certs.SANDNS, certs.SANURI, certs.SANIP}; !cmp.Equal(types, want) {
		t.Errorf("types %v, want %v", types, want)
	}
}

// Envoy refuses an answer with another name than it asked for.
func TestASecretGoesOutUnderTheNameThatWasAskedFor(t *testing.T) {
	packed, err := pack("asked", &certs.Secret{Name: "own", KeyPair: pairBelow(t, authority(t, "root"), false)})
	if err != nil {
		t.Fatal(err)
	}
	m := &tlsv3.Secret{}
	if err := packed.UnmarshalTo(m); err != nil || m.GetName() != "asked" {
		t.Errorf("name %q, %v", m.GetName(), err)
	}
}

func TestWhatWouldAcceptAnyoneOrCannotBeSaidIsRefused(t *testing.T) {
	root := authority(t, "root")
	td := spiffeid.RequireTrustDomainFromString("td")
	domains := map[spiffeid.TrustDomain][]*x509.Certificate{td: {root.Cert}}
	hidden := pairBelow(t, root, false)
	hidden.TLS.PrivateKey = struct{ crypto.Signer }{hidden.TLS.PrivateKey.(crypto.Signer)}
	for want, s := range map[string]*certs.Secret{
		"neither":            {TicketKeys: [][32]byte{{}}},
		"private key":        {KeyPair: hidden},
		"nothing to verify":  {Validation: &certs.Validation{}},
		"no trust domain":    {Validation: &certs.Validation{TrustDomains: map[spiffeid.TrustDomain][]*x509.Certificate{}}},
		`"td" has no roots`:  {Validation: &certs.Validation{TrustDomains: map[spiffeid.TrustDomain][]*x509.Certificate{td: nil}}},
		"revocation list":    {Validation: &certs.Validation{TrustDomains: domains, CRLs: revocation(t, root)}},
		"ACCEPT_UNTRUSTED, ": {Validation: &certs.Validation{TrustDomains: domains, AcceptUntrusted: true}},
	} {
		if _, err := Secret(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
}
