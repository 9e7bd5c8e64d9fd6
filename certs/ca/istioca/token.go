package istioca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// DefaultAudience is what a token must be made for: the audience of the
// istio-token that Kubernetes projects.
const DefaultAudience = "istio-ca"

// ownIssuer is the issuer of an authority's own tokens.
func ownIssuer(td spiffeid.TrustDomain) string { return "outrider-ca://" + td.Name() }

func newTokenKey() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	return marshalKey(key)
}

// tokenKey is the key that signs own tokens, with its ID.
func (s *State) tokenKey() (jose.JSONWebKey, error) {
	var none jose.JSONWebKey
	block, _ := pem.Decode([]byte(s.TokenKey))
	if block == nil {
		return none, errors.New("token_key: it is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return none, fmt.Errorf("token_key: %w", err)
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return none, errors.New("token_key: it is not an ECDSA key on P-256")
	}
	out := jose.JSONWebKey{Key: private, Algorithm: string(jose.ES256), Use: "sig"}
	sum, err := out.Thumbprint(crypto.SHA256)
	out.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	return out, err
}

// Token makes a token with which a workload may ask once or often, until ttl
// is over, for certificates of that ID.
func (a *Authority) Token(id spiffeid.ID, audience string, ttl time.Duration) (string, error) {
	if err := a.checkID(id); err != nil {
		return "", err
	}
	if ttl < time.Second {
		return "", fmt.Errorf("a token for %s: it must be for a second at least", ttl)
	}
	s, err := a.dir.load()
	if err != nil {
		return "", err
	}
	key, err := s.tokenKey()
	if err != nil {
		return "", err
	}
	opts := (&jose.SignerOptions{}).WithType("JWT")
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, opts)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	now := time.Now()
	return jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: ownIssuer(a.td), Subject: id.String(), Audience: jwt.Audience{audience}, ID: rand.Text(),
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(ttl)),
	}).Serialize()
}

// checkID refuses an ID that is not ours to give.
func (a *Authority) checkID(id spiffeid.ID) error {
	if !id.MemberOf(a.td) {
		return fmt.Errorf("%q is not in the trust domain %q", id, a.td)
	}
	if id.Path() == "" {
		return fmt.Errorf("%q names the trust domain, and no workload", id)
	}
	return nil
}

// ownKeys are the keys of the authority's own tokens.
type ownKeys struct{ dir *dir }

func (o ownKeys) find(_ context.Context, kid string) ([]jose.JSONWebKey, error) {
	s, err := o.dir.load()
	if err != nil {
		return nil, err
	}
	key, err := s.tokenKey()
	if err != nil {
		return nil, err
	}
	return withID([]jose.JSONWebKey{key.Public()}, kid), nil
}
