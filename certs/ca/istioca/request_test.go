package istioca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func mustID(t testing.TB, id string) spiffeid.ID {
	t.Helper()
	out, err := spiffeid.FromString(id)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func requestOf(t testing.TB, key crypto.Signer, template x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func uris(t testing.TB, list ...string) []*url.URL {
	t.Helper()
	var out []*url.URL
	for _, s := range list {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

// istioRequest has the shape of pilot-agent's: RSA 2048, one URI, and a
// subject with an empty organization.
func istioRequest(t testing.TB) string {
	return requestOf(t, rsaKey(t, 2048), x509.CertificateRequest{
		Subject: pkix.Name{Organization: []string{""}}, URIs: uris(t, webID.String()),
	})
}

func TestRequestIsAccepted(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		asks spiffeid.ID
	}{
		"pilot-agent's":   {istioRequest(t), webID},
		"P-256, no name":  {requestOf(t, testKey(t), x509.CertificateRequest{}), spiffeid.ID{}},
		"with a subject":  {requestOf(t, testKey(t), x509.CertificateRequest{Subject: pkix.Name{CommonName: "web"}}), spiffeid.ID{}},
		"of old programs": {strings.ReplaceAll(requestOf(t, testKey(t), x509.CertificateRequest{}), "CERTIFICATE REQ", "NEW CERTIFICATE REQ"), spiffeid.ID{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseRequest(c.text)
			if err != nil || got.asks != c.asks {
				t.Errorf("got %+v, %v, want %s", got, err, c.asks)
			}
		})
	}
}

// sha1Request says that it is signed with SHA-1. Nothing here can sign so, and
// the signature is not what it is refused for.
func sha1Request(t *testing.T) string {
	block, _ := pem.Decode([]byte(istioRequest(t)))
	sha256, sha1 := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11}, []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5}
	block.Bytes = bytes.ReplaceAll(block.Bytes, sha256, sha1)
	return string(pem.EncodeToMemory(block))
}

func TestRequestIsRefused(t *testing.T) {
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := testKey(t)
	with := func(c x509.CertificateRequest) string { return requestOf(t, key, c) }
	good := with(x509.CertificateRequest{})
	block, _ := pem.Decode([]byte(good))
	forged := append([]byte(nil), block.Bytes...)
	forged[len(forged)-1] ^= 1
	asCA := []pkix.Extension{{Id: oidBasicConstraints, Value: []byte{0x30, 3, 1, 1, 0xff}}}
	for name, c := range map[string]struct{ text, want string }{
		"empty":            {"", "it is not PEM"},
		"a certificate":    {strings.ReplaceAll(good, " REQUEST", ""), `type "CERTIFICATE"`},
		"two":              {good + good, "something after the PEM block"},
		"garbage":          {"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "asn1"},
		"another's key":    {string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: forged})), "does not prove that the key is the caller's"},
		"RSA 1024":         {requestOf(t, rsaKey(t, 1024), x509.CertificateRequest{}), "an RSA key of 1024 bits is refused"},
		"P-224":            {requestOf(t, p224, x509.CertificateRequest{}), "an ECDSA key on P-224 is refused"},
		"SHA-1":            {sha1Request(t), "it is signed with SHA1-RSA, which is too weak"},
		"a DNS name":       {with(x509.CertificateRequest{DNSNames: []string{"istiod"}}), `the DNS name "istiod"`},
		"an IP address":    {with(x509.CertificateRequest{IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}), "the IP address 10.0.0.1"},
		"a mail address":   {with(x509.CertificateRequest{EmailAddresses: []string{"a@b.c"}}), `the mail address "a@b.c"`},
		"two identities":   {with(x509.CertificateRequest{URIs: uris(t, webID.String(), "spiffe://cluster.local/b")}), "asks for 2 identities"},
		"no SPIFFE ID":     {with(x509.CertificateRequest{URIs: uris(t, "https://example.com/")}), "asks for \"https://example.com/\""},
		"to be authority":  {with(x509.CertificateRequest{ExtraExtensions: asCA}), "the certificate of an authority"},
		"half constraints": {with(x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: oidBasicConstraints, Value: []byte{1}}}}), "the certificate of an authority"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseRequest(c.text)
			if err == nil {
				t.Fatalf("got %+v, want an error with %q", got, c.want)
			}
			wantText(t, err, c.want)
		})
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(istioRequest(f))
	f.Add(requestOf(f, rsaKey(f, 2048), x509.CertificateRequest{DNSNames: []string{"a"}}))
	// Promise: no panic, and what is accepted has a key and names one workload
	// or none.
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseRequest(text)
		if (err == nil) != (got != nil && got.public != nil) {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}
