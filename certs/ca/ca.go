// Package ca is a small certificate authority in memory, for tests and the
// demo: good certificates, and each kind of bad one.
package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"
)

// CA is one authority: a root, or an intermediate below another.
type CA struct {
	Cert   *x509.Certificate
	key    crypto.Signer
	parent *CA
}

// Leaf describes a certificate to issue. Zero times are an hour ago and a day
// from now; a nil Usage is client and server.
type Leaf struct {
	ID        string // SPIFFE ID, or any URI
	DNS       []string
	IPs       []net.IP
	CN        string
	NotBefore time.Time
	NotAfter  time.Time
	Usage     []x509.ExtKeyUsage
	RSA       bool
}

// Issued is a certificate with its key. Chain has the intermediates, and not
// the root.
type Issued struct {
	Cert     *x509.Certificate
	ChainPEM []byte
	KeyPEM   []byte
}

// New makes a root of that name.
func New(name string) (*CA, error) { return newCA(name, nil) }

// Intermediate makes an authority below c.
func (c *CA) Intermediate(name string) (*CA, error) { return newCA(name, c) }

func newCA(name string, parent *CA) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	c := &CA{key: key, parent: parent}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	signer, issuer := crypto.Signer(key), template
	if parent != nil {
		signer, issuer = parent.key, parent.Cert
	}
	c.Cert, err = sign(template, issuer, key.Public(), signer)
	return c, err
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return n
}

func sign(template, issuer *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// RootPEM is the root at the top of c.
func (c *CA) RootPEM() []byte {
	for c.parent != nil {
		c = c.parent
	}
	return certPEM(c.Cert)
}

// PEM is c's own certificate.
func (c *CA) PEM() []byte { return certPEM(c.Cert) }

// Issue makes a key and a certificate for it.
func (c *CA) Issue(l Leaf) (*Issued, error) {
	key, err := newKey(l.RSA)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: l.CN}, DNSNames: l.DNS, IPAddresses: l.IPs,
		NotBefore: l.NotBefore, NotAfter: l.NotAfter, ExtKeyUsage: l.Usage, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if l.ID != "" {
		u, err := url.Parse(l.ID)
		if err != nil {
			return nil, err
		}
		template.URIs = []*url.URL{u}
	}
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(24 * time.Hour)
	}
	if template.ExtKeyUsage == nil {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	}
	cert, err := sign(template, c.Cert, key.Public(), c.key)
	if err != nil {
		return nil, fmt.Errorf("issue %s: %w", l.ID, err)
	}
	return c.issued(cert, key)
}

func newKey(useRSA bool) (crypto.Signer, error) {
	if useRSA {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

func (c *CA) issued(cert *x509.Certificate, key crypto.Signer) (*Issued, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	out := &Issued{Cert: cert, KeyPEM: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}
	chain := [][]byte{certPEM(cert)}
	for up := c; up.parent != nil; up = up.parent {
		chain = append(chain, up.PEM())
	}
	out.ChainPEM = bytes.Join(chain, nil)
	return out, nil
}

// CRL is c's revocation list with those certificates, good until next.
func (c *CA) CRL(next time.Time, revoked ...*x509.Certificate) ([]byte, error) {
	list := &x509.RevocationList{Number: serial(), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: next}
	for _, r := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: r.SerialNumber, RevocationTime: time.Now().Add(-time.Minute),
		})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, c.Cert, c.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), nil
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
