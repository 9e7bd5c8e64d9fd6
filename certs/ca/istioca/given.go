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
		return nil, fmt.Errorf("the given authority %q: %w", g.Chain[0].Subject, err)
	}
	key, err := marshalKey(g.Key)
	if err != nil {
		return nil, err
	}
	above := slices.DeleteFunc(slices.Clone(g.Chain[1:]), func(c *x509.Certificate) bool {
		return slices.ContainsFunc(g.Roots, c.Equal)
	})
	i := &Issuer{
		CertPEM: joinPEM(g.Chain[:1]), KeyPEM: key, ChainPEM: joinPEM(above), RootsPEM: joinPEM(g.Roots),
		Created: time.Now().UTC(),
	}
	return i, i.parse()
}

// check says what would make peers refuse what g signs.
func (g *Given) check(now time.Time) error {
	if err := checkKey(g.Key.Public()); err != nil {
		return err
	}
	for n, c := range slices.Concat(g.Chain, g.Roots) {
		if !c.IsCA || !c.BasicConstraintsValid {
			return fmt.Errorf("certificate %d, %q, is not an authority's", n+1, c.Subject)
		}
		if c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0 {
			return fmt.Errorf("certificate %d, %q, must not sign certificates (key usage)", n+1, c.Subject)
		}
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range g.Roots {
		roots.AddCert(c)
	}
	for _, c := range g.Chain[1:] {
		between.AddCert(c)
	}
	_, err := g.Chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("it does not lead to the given root: %w", err)
	}
	return g.checkOrder()
}

// checkOrder: each certificate of the chain is signed by the next, for that
// is how it is sent, and how its end is found.
func (g *Given) checkOrder() error {
	for n, c := range g.Chain[1:] {
		if err := g.Chain[n].CheckSignatureFrom(c); err != nil {
			return fmt.Errorf("certificate %d of the chain, %q, is not signed by the next, %q: %w",
				n+1, g.Chain[n].Subject, c.Subject, err)
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

// joinPEM writes certificates one after another, each ending in a newline.
func joinPEM(list []*x509.Certificate) string {
	var out strings.Builder
	for _, c := range list {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return out.String()
}
