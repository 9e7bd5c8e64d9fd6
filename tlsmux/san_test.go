package tlsmux

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"

	"outrider/certs"
)

func TestNamesAreMatchedAsEnvoyDoes(t *testing.T) {
	w := newWorld(t)
	leaf := w.root.issue(t, "x", w.era(), uri("spiffe://prod/a"), dns("*.shop.example", "api.Example", "w*.part.example", "xn--*.idn.example", "*.*.two.example"), func(c *x509.Certificate) {
		c.EmailAddresses = []string{"ops@example"}
		c.IPAddresses = w.multi.cert.IPAddresses
	})
	names := altNames(leaf.cert)
	regex, err := certs.CompileRegex("spiffe://prod/[a-z]")
	if err != nil {
		t.Fatal(err)
	}
	m := func(kind certs.SANType, how certs.StringMatchKind, pattern string) certs.SANMatcher {
		return certs.SANMatcher{Type: kind, Match: certs.StringMatcher{Kind: how, Pattern: pattern, Regex: regex}}
	}
	cases := []struct {
		m    certs.SANMatcher
		want string // "" for no match
	}{
		{m(certs.SANURI, certs.MatchExact, "spiffe://prod/a"), "URI spiffe://prod/a"},
		{m(certs.SANURI, certs.MatchExact, "spiffe://PROD/a"), ""},
		{m(certs.SANURI, certs.MatchPrefix, "spiffe://prod/"), "URI spiffe://prod/a"},
		{m(certs.SANURI, certs.MatchSuffix, "/a"), "URI spiffe://prod/a"},
		{m(certs.SANURI, certs.MatchContains, "prod"), "URI spiffe://prod/a"},
		{m(certs.SANURI, certs.MatchRegex, ""), "URI spiffe://prod/a"},
		{m(certs.SANDNS, certs.MatchExact, "spiffe://prod/a"), ""},
		{m(certs.SANAny, certs.MatchExact, "spiffe://prod/a"), "URI spiffe://prod/a"},
		{m(certs.SANDNS, certs.MatchExact, "API.example"), "DNS api.Example"},
		{m(certs.SANDNS, certs.MatchExact, "www.shop.example"), "DNS *.shop.example"},
		{m(certs.SANAny, certs.MatchExact, "WWW.shop.example"), "DNS *.shop.example"},
		{m(certs.SANDNS, certs.MatchExact, "a.b.shop.example"), ""},
		{m(certs.SANDNS, certs.MatchExact, "shop.example"), ""},
		{m(certs.SANDNS, certs.MatchExact, ".shop.example"), ""},
		{m(certs.SANDNS, certs.MatchExact, "*.shop.example"), "DNS *.shop.example"},
		{m(certs.SANDNS, certs.MatchExact, "web.part.example"), "DNS w*.part.example"},
		{m(certs.SANDNS, certs.MatchExact, "eb.part.example"), ""},
		{m(certs.SANDNS, certs.MatchExact, "xn--a.idn.example"), ""},
		{m(certs.SANDNS, certs.MatchExact, "a.b.two.example"), ""},
		{m(certs.SANDNS, certs.MatchSuffix, ".shop.example"), "DNS *.shop.example"}, // text: the star stands for itself
		{m(certs.SANDNS, certs.MatchPrefix, "www."), ""},
		{m(certs.SANEmail, certs.MatchExact, "ops@example"), "email ops@example"},
		{m(certs.SANIP, certs.MatchExact, "10.0.0.1"), "IP 10.0.0.1"},
		{m(certs.SANIP, certs.MatchExact, "fd00::1"), "IP fd00::1"},
		{m(certs.SANIP, certs.MatchExact, "fd00:0:0::1"), ""},
	}
	for _, c := range cases {
		n, ok := matchSAN(c.m, names)
		if got := n.String(); ok != (c.want != "") || ok && got != c.want {
			t.Errorf("%s%s: got %q %t, want %q", sanTypeNames[c.m.Type], c.m.Match, got, ok, c.want)
		}
	}
}

// rawSAN is a certificate with those GeneralNames.
func rawSAN(t testing.TB, names ...asn1.RawValue) *x509.Certificate {
	t.Helper()
	var all []byte
	for _, n := range names {
		n.Class = asn1.ClassContextSpecific
		b, err := asn1.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	b, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: all})
	if err != nil {
		t.Fatal(err)
	}
	return &x509.Certificate{Extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: b}}}
}

func TestAURIIsComparedAsItWasSigned(t *testing.T) {
	c := rawSAN(t, asn1.RawValue{Tag: 6, Bytes: []byte("SPIFFE://prod/%61")})
	for pattern, want := range map[string]bool{"SPIFFE://prod/%61": true, "spiffe://prod/%61": false, "spiffe://prod/a": false} {
		if _, got := matchSAN(exactURI(pattern), altNames(c)); got != want {
			t.Errorf("%s: got %t, want %t", pattern, got, want)
		}
	}
}

func TestANameWithANULIsNone(t *testing.T) {
	c := rawSAN(t, asn1.RawValue{Tag: 2, Bytes: []byte("good.example\x00.evil")}, asn1.RawValue{Tag: 7, Bytes: []byte{1, 2, 3}}, asn1.RawValue{Tag: 8, Bytes: []byte{1}})
	if got := altNames(c); len(got) != 0 {
		t.Errorf("got %v, want none", got)
	}
}

// FuzzAltNames: whatever the extension is, there is no panic, and no name has a
// NUL or no type.
func FuzzAltNames(f *testing.F) {
	w := newWorld(f)
	for _, e := range w.multi.cert.Extensions {
		f.Add(e.Value)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		names := altNames(&x509.Certificate{Extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}}})
		for _, n := range names {
			if strings.ContainsRune(n.text, 0) || n.kind == certs.SANAny {
				t.Fatalf("name %q of type %d", n.text, n.kind)
			}
		}
	})
}
