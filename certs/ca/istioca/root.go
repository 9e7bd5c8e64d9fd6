package istioca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509/pkix"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs/ca"
)

// DefaultRootTTL is the life of a root that is made here, istiod's too.
const DefaultRootTTL = 10 * 365 * 24 * time.Hour

// Root is an authority to come: one from outside, or a root to make.
type Root struct {
	// Given is the one from outside; nil makes a root.
	Given *Given
	// TTL is the life of a root made here; 0 is DefaultRootTTL.
	TTL time.Duration
	// Key is the key of a root made here; "" is P256.
	Key KeyKind
}

// KeyKind is a kind of private key.
type KeyKind string

// The kinds of keys that roots are made with.
const (
	P256    KeyKind = "P256"
	P384    KeyKind = "P384"
	RSA2048 KeyKind = "RSA2048"
	RSA4096 KeyKind = "RSA4096"
)

func (k KeyKind) generate() (crypto.Signer, error) {
	switch k {
	case P256, "":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	}
	return nil, fmt.Errorf("key kind %q is none of %s, %s, %s and %s", string(k), P256, P384, RSA2048, RSA4096)
}

// issuer is the given authority, or a root made now.
func (r Root) issuer(td spiffeid.TrustDomain) (*Issuer, error) {
	if r.Given == nil {
		return r.make(td)
	}
	i, err := r.Given.issuer()
	if err == nil {
		err = i.trial(td)
	}
	if err != nil {
		return nil, fmt.Errorf("the given authority %q: %w", r.Given.Chain[0].Subject, err)
	}
	return i, nil
}

func (r Root) make(td spiffeid.TrustDomain) (*Issuer, error) {
	ttl := orElse(r.TTL, DefaultRootTTL)
	if ttl < time.Second {
		return nil, fmt.Errorf("a life of %s is too short for a root", ttl)
	}
	signer, err := r.Key.generate()
	if err != nil {
		return nil, fmt.Errorf("make a root: %w", err)
	}
	now := time.Now()
	name := pkix.Name{
		Organization: []string{td.Name()},
		CommonName:   "outrider root " + now.UTC().Format("2006-01-02T15:04:05.000Z"), // tells two roots apart
	}
	root, err := ca.NewRoot(name, signer, now.Add(-Backdate), now.Add(ttl))
	if err != nil {
		return nil, fmt.Errorf("make a root: %w", err)
	}
	key, err := marshalKey(signer)
	if err != nil {
		return nil, err
	}
	i := &Issuer{CertPEM: string(root.PEM()), KeyPEM: key, RootsPEM: string(root.PEM()), Created: now.UTC()}
	return i, i.parse()
}
