package istioca

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// The keys that are signed for: RSA from 2048 bits (NIST SP 800-57, 112 bits
// of security) to the 8192 that crypto/tls accepts, ECDSA on P-256 and above,
// Ed25519.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// signingRequest is what counts of a certificate signing request: the key, whose
// possession is proved, and the identity that it names, if it names one.
type signingRequest struct {
	public any
	asks   spiffeid.ID // zero if it asks for none
}

// parseRequest reads a PEM request and refuses every one that asks for
// anything but one SPIFFE ID. The subject is not carried over, and may be
// anything.
func parseRequest(text string) (*signingRequest, error) {
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return nil, errors.New("it is not PEM")
	case block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST":
		return nil, fmt.Errorf("it is a PEM block of type %q, and must be CERTIFICATE REQUEST", block.Type)
	case strings.TrimSpace(string(rest)) != "":
		return nil, errors.New("there is something after the PEM block")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, err
	}
	switch csr.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1, x509.DSAWithSHA256, x509.MD5WithRSA, x509.MD2WithRSA:
		return nil, fmt.Errorf("it is signed with %s, which is too weak", csr.SignatureAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("its signature does not prove that the key is the caller's: %w", err)
	}
	asks, err := askedID(csr)
	if err != nil {
		return nil, err
	}
	return &signingRequest{public: csr.PublicKey, asks: asks}, nil
}

func checkKey(public any) error {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("an RSA key of %d bits is refused: it must have %d to %d", bits, minRSABits, maxRSABits)
		}
		if k.E < 65537 { // FIPS 186-5, A.1.1
			return fmt.Errorf("an RSA key with the exponent %d is refused: it must be 65537 or more", k.E)
		}
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
		default:
			return fmt.Errorf("an ECDSA key on %s is refused: it must be on P-256, P-384 or P-521", k.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("a key of type %T is refused: it must be ECDSA, RSA or Ed25519", public)
	}
	return nil
}

// oidBasicConstraints is RFC 5280, section 4.2.1.9.
var oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}

// askedID is the one identity that a request names.
func askedID(csr *x509.CertificateRequest) (spiffeid.ID, error) {
	var none spiffeid.ID
	for _, e := range csr.Extensions {
		var basic struct {
			IsCA bool `asn1:"optional"`
			Len  int  `asn1:"optional,default:-1"`
		}
		if !e.Id.Equal(oidBasicConstraints) {
			continue
		}
		if _, err := asn1.Unmarshal(e.Value, &basic); err != nil || basic.IsCA {
			return none, errors.New("it asks for the certificate of an authority")
		}
	}
	switch {
	case len(csr.DNSNames) > 0:
		return none, fmt.Errorf("it asks for the DNS name %q: a workload gets its SPIFFE ID only", csr.DNSNames[0])
	case len(csr.IPAddresses) > 0:
		return none, fmt.Errorf("it asks for the IP address %s: a workload gets its SPIFFE ID only", csr.IPAddresses[0])
	case len(csr.EmailAddresses) > 0:
		return none, fmt.Errorf("it asks for the mail address %q: a workload gets its SPIFFE ID only", csr.EmailAddresses[0])
	case len(csr.URIs) == 0:
		return none, nil
	case len(csr.URIs) > 1:
		return none, fmt.Errorf("it asks for %d identities (%s and %s ...): it may name one", len(csr.URIs), csr.URIs[0], csr.URIs[1])
	}
	id, err := spiffeid.FromURI(csr.URIs[0])
	if err != nil {
		return none, fmt.Errorf("it asks for %q: %w", csr.URIs[0], err)
	}
	return id, nil
}
