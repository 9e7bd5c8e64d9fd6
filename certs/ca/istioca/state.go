package istioca

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
	"outrider/certs/ca"
)

// stateVersion is the format of state.json. Another one is refused.
const stateVersion = 1

// State is all that an authority must not lose, and what is in state.json. A
// State is never changed once it is read: an update makes another.
type State struct {
	Version     int                  `json:"version"`
	TrustDomain spiffeid.TrustDomain `json:"trust_domain"`
	// TokenKey signs the authority's own tokens: PKCS #8 in PEM.
	TokenKey string `json:"token_key"`
	// Issuers are one authority, or while a root is rotated the old one and the
	// new one, in this order.
	Issuers  []*Issuer `json:"issuers"`
	Rotation *Rotation `json:"rotation,omitempty"`
}

// Issuer is one certificate authority with its key.
type Issuer struct {
	// CertPEM is the certificate that signs, KeyPEM its key in PKCS #8.
	CertPEM string `json:"cert"`
	KeyPEM  string `json:"key"`
	// ChainPEM are the intermediates above CertPEM, without the root.
	ChainPEM string `json:"chain,omitempty"`
	// RootsPEM are the roots that peers need for what it signs.
	RootsPEM string `json:"roots"`
	// LegacyPEM leads from RootsPEM back to the roots that were before, for
	// clients of the server that still know only those: see legacy.
	LegacyPEM string `json:"legacy,omitempty"`
	// Created is when it came to this state.
	Created time.Time `json:"created"`
	// IssuedUntil is not before the end of any certificate that it has signed.
	// It is written before such a certificate is.
	IssuedUntil time.Time `json:"issued_until"`

	signer *ca.CA
	above  []*x509.Certificate // intermediates, nearest first
	roots  []*x509.Certificate
	legacy []*x509.Certificate
}

// Rotation is a change of roots under way: see Plan.
type Rotation struct {
	// Began is when the new root was first given out.
	Began time.Time `json:"began"`
	// SignsAt is when the new authority begins to sign: not before the last
	// certificate that came without the new root has expired.
	SignsAt time.Time `json:"signs_at"`
}

// parseState reads state.json and everything in it.
func parseState(text []byte) (*State, error) {
	s := &State{}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, err
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("version %d is not known: this program writes version %d", s.Version, stateVersion)
	}
	if s.TrustDomain.IsZero() {
		return nil, errors.New("trust_domain is missing")
	}
	if want := 1 + btoi(s.Rotation != nil); len(s.Issuers) != want {
		return nil, fmt.Errorf("there are %d issuers, and must be %d", len(s.Issuers), want)
	}
	for n, i := range s.Issuers {
		if i == nil {
			return nil, fmt.Errorf("issuers[%d] is null", n)
		}
		if err := i.parse(); err != nil {
			return nil, fmt.Errorf("issuers[%d]: %w", n, err)
		}
	}
	return s, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// parse reads the PEM fields and checks that they fit each other.
func (i *Issuer) parse() error {
	pair, err := certs.ParseKeyPair([]byte(i.CertPEM), []byte(i.KeyPEM))
	if err != nil {
		return err
	}
	key, ok := pair.TLS.PrivateKey.(crypto.Signer)
	if !ok {
		return fmt.Errorf("a private key of type %T cannot sign", pair.TLS.PrivateKey)
	}
	if i.signer, err = ca.Load(pair.TLS.Leaf, key); err != nil {
		return err
	}
	if i.above, err = optional(i.ChainPEM); err != nil {
		return fmt.Errorf("chain: %w", err)
	}
	if i.legacy, err = optional(i.LegacyPEM); err != nil {
		return fmt.Errorf("legacy: %w", err)
	}
	if i.roots, err = certs.ParseRoots([]byte(i.RootsPEM)); err != nil {
		return fmt.Errorf("roots: %w", err)
	}
	return nil
}

func optional(text string) ([]*x509.Certificate, error) {
	if text == "" {
		return nil, nil
	}
	return certs.ParseRoots([]byte(text))
}

// Cert is the certificate that signs.
func (i *Issuer) Cert() *x509.Certificate { return i.signer.Cert }

// Roots are the roots that peers need for what i signs.
func (i *Issuer) Roots() []*x509.Certificate { return i.roots }

// ID names an issuer in logs and in status: the first 8 bytes of the SHA-256
// of its public key, in hex.
func (i *Issuer) ID() string {
	sum := sha256.Sum256(i.Cert().RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:8])
}

// ends is the last moment of anything that i signs: the first not-after on the
// way up to a root. Where several roots lead on, the one that lasts longest
// counts.
func (i *Issuer) ends() time.Time {
	end := i.Cert().NotAfter
	for _, c := range i.above {
		end = earlier(end, c.NotAfter)
	}
	var last time.Time
	for _, r := range i.anchors() {
		last = later(last, r.NotAfter)
	}
	return earlier(end, last)
}

// anchors are the roots that i leads to; a bundle may have others beside them.
func (i *Issuer) anchors() []*x509.Certificate {
	var out []*x509.Certificate
	for _, r := range i.roots {
		if i.top().Equal(r) || i.top().CheckSignatureFrom(r) == nil {
			out = append(out, r)
		}
	}
	return out
}

// begins is the first moment of anything that i signs.
func (i *Issuer) begins() time.Time {
	begin := i.Cert().NotBefore
	for _, c := range i.above {
		if c.NotBefore.After(begin) {
			begin = c.NotBefore
		}
	}
	return begin
}

// top is the last certificate below the root.
func (i *Issuer) top() *x509.Certificate {
	if len(i.above) > 0 {
		return i.above[len(i.above)-1]
	}
	return i.Cert()
}

// selfSigned says that the issuer is its own root.
func (i *Issuer) selfSigned() bool {
	return slices.ContainsFunc(i.roots, i.Cert().Equal)
}

// intermediates are the certificates between a leaf and its root.
func (i *Issuer) intermediates() []*x509.Certificate {
	if i.selfSigned() {
		return nil
	}
	return append([]*x509.Certificate{i.Cert()}, i.above...)
}

// Pin is the SHA-256 of a certificate's public key (SubjectPublicKeyInfo) in
// hex: what `outrider sidecar --ca-pin` takes.
func Pin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
