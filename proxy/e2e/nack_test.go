//go:build envoy

package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"outrider/certs"
	"outrider/certs/ca"
)

// withKey is a root of its own, and a certificate for id with a key of the
// test's choice.
func withKey(t *testing.T, id string, key crypto.Signer) (root *ca.CA, pair *certs.KeyPair) {
	t.Helper()
	top, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	rootTemplate := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root of an odd key"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leafTemplate := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: to, URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	sign := func(template, parent *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, top)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	issuer := sign(rootTemplate, rootTemplate, top.Public())
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pair, err = certs.ParseKeyPair(
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: sign(leafTemplate, issuer, key.Public()).Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return &ca.CA{Cert: issuer}, pair
}

// besideEnvoy is an Envoy server whose agent is w's, and a client that calls it.
func besideEnvoy(t *testing.T) (w *world, a *workload, s, c *running) {
	t.Helper()
	sdir, cdir, w := t.TempDir(), t.TempDir(), newWorld(t)
	a = beside(t, sdir, ucID)
	a.trust(w.root)
	a.serve(w.root)
	s = start(t, envoy, sdir, permissive(echo(t))).ready()
	w.agent(cdir, webID)
	c = start(t, outrider, cdir, outbound(s.addr("in"), "[istio]", ucID)).ready()
	return w, a, s, c
}

// serveOdd serves a certificate that the keeper has no objection to.
func (w *workload) serveOdd(root *ca.CA, key crypto.Signer) {
	w.t.Helper()
	odd, pair := withKey(w.t, w.id.String(), key)
	w.trust(root, odd)
	if err := w.keeper.Serve(w.t.Context(), "test", time.Time{}, pair); err != nil {
		w.t.Fatal(err)
	}
	w.settle("default")
}

func TestAKeyThatEnvoyRefusesIsToldInItsWordsAndTheOldOneServes(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	w, a, s, c := besideEnvoy(t)
	first := a.keeper.Pair().TLS.Leaf
	l, stop := startLoad(t, c.addr("out"), 2)
	a.serveOdd(w.root, small)
	const said = "only RSA certificates with 2048-bit or larger keys are supported"
	if got := a.secret("default").Refused; !strings.Contains(got, said) {
		t.Errorf("Envoy says %q, want %q in it", got, said)
	}
	l.round()
	s.uses(first)
	s.uses(a.serve(w.root))
	l.round()
	stop()
	if n := strings.Count(a.log.String(), "client refuses a secret"); n != 1 || !strings.Contains(a.log.String(), said) {
		t.Errorf("the refusal is logged %d times, want once, with Envoy's words:\n%s", n, a.log)
	}
}

// Envoy acknowledges an Ed25519 key and can use none: only the agent can say so.
func TestAKeyThatEnvoyTakesAndCannotUseIsWarnedOf(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w, a, s, c := besideEnvoy(t)
	a.serveOdd(w.root, key)
	if got := a.secret("default"); got.Refused != "" {
		t.Errorf("Envoy refuses it by now, so that no warning is needed: %q", got.Refused)
	}
	s.uses(a.keeper.Pair().TLS.Leaf)
	if got, err := call(c.addr("out"), "x"); got == "x" {
		t.Errorf("Envoy can use it by now (%v), so that no warning is needed", err)
	}
	if log := a.log.String(); strings.Count(log, "secret may be of no use to the client") != 1 || !strings.Contains(log, "Ed25519") {
		t.Errorf("there is no warning:\n%s", log)
	}
	s.uses(a.serve(w.root))
	if got, err := call(c.addr("out"), "x"); got != "x" {
		t.Errorf("with the next certificate: %q %v", got, err)
	}
}
