package sdsserver

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"

	"outrider/certs"
)

// A self-signed certificate is enough: nobody verifies it here.
func ed25519Pair(t *testing.T) *certs.KeyPair {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &certs.KeyPair{TLS: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}
}

func TestAKeyThatEnvoyCannotUseIsSentWithAWarningOnce(t *testing.T) {
	a := start(t)
	a.publish(&certs.Secret{Name: "odd", Version: "1", KeyPair: ed25519Pair(t)})
	s := a.sotw()
	s.ask("", "", "", "odd")
	first := s.hear()
	if got := names(t, first); got != "odd" {
		t.Errorf("%q is sent", got)
	}
	s.ask(first.GetNonce(), first.GetVersionInfo(), "", "odd")
	a.publish(&certs.Secret{Name: "odd", Version: "2", KeyPair: a.issue(a.root)})
	s.hear()
	if n := strings.Count(a.log.String(), "secret may be of no use to the client"); n != 1 || !strings.Contains(a.log.String(), "Ed25519") {
		t.Errorf("it is warned of %d times:\n%s", n, a.log)
	}
}

func TestOnlyEd25519IsDoubted(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*certs.Secret{
		"roots":            {Validation: &certs.Validation{}},
		"ECDSA":            {KeyPair: &certs.KeyPair{TLS: tls.Certificate{Leaf: &x509.Certificate{PublicKey: key.Public()}}}},
		"one with no leaf": {KeyPair: &certs.KeyPair{}},
	} {
		if d := doubt(s); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}
