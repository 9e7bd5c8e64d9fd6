package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// ParseKeyPair reads a chain, leaf first, and the leaf's private key
// (PKCS #8, PKCS #1 or SEC 1), both PEM. The key must fit the leaf. A
// certificate out of its time is no error here.
func ParseKeyPair(chainPEM, keyPEM []byte) (*KeyPair, error) {
	chain, err := parseCertificates(chainPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate chain: %w", err)
	}
	if len(chain) == 0 {
		return nil, errors.New("certificate chain: there is no certificate in it")
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	leaf := chain[0]
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(leaf.PublicKey) {
		return nil, fmt.Errorf("private key: %s does not fit the certificate of %q, which has %s",
			keyKind(key.Public()), leaf.Subject, keyKind(leaf.PublicKey))
	}
	pair := &KeyPair{CertPath: "<inline>", TLS: tls.Certificate{PrivateKey: key, Leaf: leaf}}
	for _, c := range chain {
		pair.TLS.Certificate = append(pair.TLS.Certificate, c.Raw)
	}
	if id, err := x509svid.IDFromCert(leaf); err == nil {
		pair.ID = id
	}
	return pair, nil
}

// ParseRoots reads a bundle of certificates in PEM. An empty one is refused.
func ParseRoots(text []byte) ([]*x509.Certificate, error) {
	roots, err := parseCertificates(text)
	if err == nil && len(roots) == 0 {
		err = errors.New("there is no certificate in it")
	}
	return roots, err
}

// ParseCRLs reads revocation lists in PEM. Text without any is refused.
func ParseCRLs(text []byte) ([]*x509.RevocationList, error) {
	var out []*x509.RevocationList
	err := eachBlock(text, func(n int, b *pem.Block) error {
		if b.Type != "X509 CRL" {
			return fmt.Errorf("PEM block %d is %q, not a revocation list", n, b.Type)
		}
		crl, err := x509.ParseRevocationList(b.Bytes)
		if err != nil {
			return fmt.Errorf("PEM block %d: %w", n, err)
		}
		out = append(out, crl)
		return nil
	})
	if err == nil && len(out) == 0 {
		err = errors.New("there is no revocation list in it")
	}
	return out, err
}

func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	err := eachBlock(text, func(n int, b *pem.Block) error {
		if b.Type != "CERTIFICATE" {
			return nil // keys and parameters may stand beside
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return fmt.Errorf("PEM block %d: %w", n, err)
		}
		out = append(out, c)
		return nil
	})
	return out, err
}

// eachBlock calls f for each PEM block, counted from 1. Text that has PEM's
// dashes but no block is a broken block, not an empty file.
func eachBlock(text []byte, f func(n int, b *pem.Block) error) error {
	n := 0
	for block, rest := pem.Decode(text); ; block, rest = pem.Decode(rest) {
		if block == nil {
			if bytes.Contains(rest, []byte("-----BEGIN")) {
				return fmt.Errorf("PEM block %d cannot be read", n+1)
			}
			return nil
		}
		n++
		if err := f(n, block); err != nil {
			return err
		}
	}
}

func parseKey(text []byte) (crypto.Signer, error) {
	var key any
	err := eachBlock(text, func(n int, b *pem.Block) error {
		var err error
		switch b.Type {
		case "EC PARAMETERS", "CERTIFICATE":
			return nil
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
		case "RSA PRIVATE KEY":
			if b.Headers["DEK-Info"] != "" {
				return errors.New("it is encrypted, which is not supported")
			}
			key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
		case "EC PRIVATE KEY":
			if b.Headers["DEK-Info"] != "" {
				return errors.New("it is encrypted, which is not supported")
			}
			key, err = x509.ParseECPrivateKey(b.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return errors.New("it is encrypted, which is not supported")
		default:
			return fmt.Errorf("PEM block %d is %q, not a private key", n, b.Type)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	switch k := key.(type) {
	case nil:
		return nil, errors.New("there is no private key in it")
	case *rsa.PrivateKey:
		return k, nil
	case *ecdsa.PrivateKey:
		return k, nil
	case ed25519.PrivateKey:
		return k, nil
	}
	return nil, fmt.Errorf("a key of type %T is not supported", key)
}

func keyKind(public crypto.PublicKey) string {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("an RSA key of %d bits", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "an ECDSA key on " + k.Curve.Params().Name
	case ed25519.PublicKey:
		return "an Ed25519 key"
	}
	return fmt.Sprintf("a key of type %T", public)
}
