package istioca

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"outrider/certs"
)

// Given is an authority from outside: a root, or an intermediate.
type Given struct {
	Key crypto.Signer
	// Chain is the certificate that signs and the intermediates above it.
	Chain []*x509.Certificate
	// Roots are what peers are to trust. The chain ends at one of them.
	Roots []*x509.Certificate
}

// GivenFiles are an authority's files under the names of Istio's cacerts:
// ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem.
type GivenFiles struct {
	CACert, CAKey, RootCert string
	// CertChain has CACert and the intermediates above it, or the latter only;
	// "" is none.
	CertChain string
}

// Load reads the files, and checks that they fit each other.
func (f GivenFiles) Load() (*Given, error) {
	if f.CACert == "" || f.CAKey == "" || f.RootCert == "" {
		return nil, errors.New("a given authority needs its certificate, its key and its root, three files")
	}
	certPEM, err := os.ReadFile(f.CACert)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(f.CAKey)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	pair, err := certs.ParseKeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", f.CACert, f.CAKey, err)
	}
	key, ok := pair.TLS.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a key of type %T cannot sign", f.CAKey, pair.TLS.PrivateKey)
	}
	g := &Given{Key: key, Chain: []*x509.Certificate{pair.TLS.Leaf}}
	if f.CertChain != "" {
		above, err := certificatesIn(f.CertChain)
		if err != nil {
			return nil, err
		}
		g.Chain = union(g.Chain, above)
	}
	if g.Roots, err = certificatesIn(f.RootCert); err != nil {
		return nil, err
	}
	return g, nil
}

func certificatesIn(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	out, err := certs.ParseRoots(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, nil
}

// issuer is g for the state, or what does not fit in it.
func (g *Given) issuer() (*Issuer, error) {
	if err := g.check(time.Now()); err != nil {
		return nil, err
	}
	key, err := marshalKey(g.Key)
	if err != nil {
		return nil, err
	}
	above := slices.DeleteFunc(slices.Clone(g.Chain[1:]), func(c *x509.Certificate) bool {
		return slices.ContainsFunc(g.Roots, c.Equal)
	})
	i := &Issuer{
		CertPEM: PEM(g.Chain[:1]), KeyPEM: key, ChainPEM: PEM(above), RootsPEM: PEM(g.Roots),
		Created: time.Now().UTC(),
	}
	return i, i.parse()
}

// check says what would make peers refuse what g signs, but for what the trial
// of the issuer finds.
func (g *Given) check(now time.Time) error {
	if err := checkKey(g.Key.Public()); err != nil {
		return err
	}
	for _, c := range slices.Concat(g.Chain, g.Roots) {
		switch {
		case !c.IsCA || !c.BasicConstraintsValid:
			return fmt.Errorf("%q is not an authority's certificate", c.Subject)
		case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
			return fmt.Errorf("%q must not sign certificates (key usage)", c.Subject)
		}
	}
	for n, c := range g.Chain[1:] { // it is sent in this order, and its end is found so
		if err := g.Chain[n].CheckSignatureFrom(c); err != nil {
			return fmt.Errorf("in the chain, %q is not signed by the next, %q: %w", g.Chain[n].Subject, c.Subject, err)
		}
	}
	for _, c := range g.Chain {
		if now.Before(c.NotBefore) || now.After(c.NotAfter) {
			return fmt.Errorf("%q is valid from %s to %s, and it is %s", c.Subject,
				c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

func marshalKey(key crypto.Signer) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// PEM writes certificates one after another, each ending in a newline.
func PEM(list []*x509.Certificate) string {
	var out strings.Builder
	for _, c := range list {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return out.String()
}
