package ca

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"time"
)

// NewRoot makes a root with that key for a longer life than a test's: it is
// valid from notBefore to notAfter.
func NewRoot(name pkix.Name, key crypto.Signer, notBefore, notAfter time.Time) (*CA, error) {
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: name, NotBefore: notBefore, NotAfter: notAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &CA{Cert: cert, key: key}, nil
}

// Load is the authority with that certificate and its key, which must fit.
func Load(cert *x509.Certificate, key crypto.Signer) (*CA, error) {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("the private key does not fit the certificate of %q", cert.Subject)
	}
	return &CA{Cert: cert, key: key}, nil
}

// Key is what c signs with.
func (c *CA) Key() crypto.Signer { return c.key }

// Sign issues a certificate for somebody else's key: template with a serial
// number of its own.
func (c *CA) Sign(template *x509.Certificate, public crypto.PublicKey) (*x509.Certificate, error) {
	withSerial := *template
	withSerial.SerialNumber = serial()
	return sign(&withSerial, c.Cert, public, c.key)
}
