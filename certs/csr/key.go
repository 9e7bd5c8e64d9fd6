package csr

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Key is a kind of private key: P256, P384, or RSA with its bits, as "RSA2048".
type Key string

// The elliptic curves that peers of a mesh all know (Istio: ECC_CURVE).
const (
	P256 Key = "P256"
	P384 Key = "P384"
)

// RSA is an RSA key of so many bits; New refuses other than 2048 to 4096.
func RSA(bits int) Key { return Key("RSA" + strconv.Itoa(bits)) }

// The bounds of RSA keys: less is forgeable (NIST SP 800-57, part 1), more
// costs each handshake more than it brings.
const (
	minRSA = 2048
	maxRSA = 4096
)

// rsaBits are the bits of an RSA kind; 0 if it is none.
func (k Key) rsaBits() int {
	digits, ok := strings.CutPrefix(string(k), "RSA")
	bits, err := strconv.Atoi(digits)
	if !ok || err != nil || RSA(bits) != k {
		return 0
	}
	return bits
}

func (k Key) check() error {
	if k == P256 || k == P384 {
		return nil
	}
	if bits := k.rsaBits(); bits < minRSA || bits > maxRSA {
		return fmt.Errorf("key kind %q is none of %s, %s and RSA%d to RSA%d", string(k), P256, P384, minRSA, maxRSA)
	}
	return nil
}

func (k Key) generate() (crypto.Signer, error) {
	switch k {
	case P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	}
	return rsa.GenerateKey(rand.Reader, k.rsaBits())
}

// request is a certificate signing request in PEM, as pilot-agent makes it: an
// empty organisation, and the ID as URI if it is known. The authority takes
// the ID from who asks, not from here.
func request(key crypto.Signer, id spiffeid.ID) (string, error) {
	template := &x509.CertificateRequest{Subject: pkix.Name{Organization: []string{""}}}
	if !id.IsZero() {
		template.URIs = []*url.URL{id.URL()}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}
