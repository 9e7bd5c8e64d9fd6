package istioca

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	maxTokenBytes = 16 << 10
	// tokenLeeway is how far apart the clocks of a token's issuer and ours may be.
	tokenLeeway = 30 * time.Second
)

// asymmetric are the signature algorithms of tokens. None of them can be made
// with what verifies it.
func asymmetric() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
		jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	}
}

// TokenIssuer is somebody whose tokens are believed.
type TokenIssuer struct {
	// Issuer is the iss claim.
	Issuer string
	Keys   Keys
}

// tokens authenticates by JSON Web Tokens.
type tokens struct {
	td        spiffeid.TrustDomain
	audiences []string
	issuers   []TokenIssuer
}

// claims are what counts of a token. Kubernetes names the service account in
// its own claim and in the subject.
type claims struct {
	jwt.Claims
	Kubernetes *struct {
		Namespace      string `json:"namespace"`
		ServiceAccount struct {
			Name string `json:"name"`
		} `json:"serviceaccount"`
	} `json:"kubernetes.io"`
}

// Refused authentication. The text is for the caller, and has nothing that it
// did not know; the reason is for the log.
type authError struct {
	text   string
	reason error
}

func (e *authError) Error() string { return e.text + ": " + e.reason.Error() }
func (e *authError) Unwrap() error { return e.reason }

func refuseToken(text string, format string, args ...any) *authError {
	return &authError{text: text, reason: fmt.Errorf(format, args...)}
}

// authenticate is the ID that a token is for. The error is an *authError.
func (t *tokens) authenticate(ctx context.Context, raw string) (spiffeid.ID, string, error) {
	var none spiffeid.ID
	if len(raw) > maxTokenBytes {
		return none, "", refuseToken("the token is too long", "it has %d bytes", len(raw))
	}
	token, err := jwt.ParseSigned(raw, asymmetric())
	if err != nil {
		return none, "", refuseToken("the token cannot be read", "%w", err)
	}
	var unverified jwt.Claims
	if err := token.UnsafeClaimsWithoutVerification(&unverified); err != nil {
		return none, "", refuseToken("the token cannot be read", "%w", err)
	}
	n := slices.IndexFunc(t.issuers, func(i TokenIssuer) bool { return i.Issuer == unverified.Issuer })
	if n < 0 {
		return none, "", refuseToken("the token's issuer is not accepted", "issuer %q", unverified.Issuer)
	}
	c, err := t.verify(ctx, token, t.issuers[n])
	if err != nil {
		return none, "", err
	}
	id, err := t.identity(c)
	if err != nil {
		return none, "", refuseToken("the token names no identity that is issued here", "issuer %q, subject %q: %w", c.Issuer, c.Subject, err)
	}
	return id, fmt.Sprintf("token of %s, subject %s", c.Issuer, c.Subject), nil
}

// verify checks the signature, and then the claims.
func (t *tokens) verify(ctx context.Context, token *jwt.JSONWebToken, from TokenIssuer) (*claims, error) {
	header := token.Headers[0] // ParseSigned takes tokens with one signature only
	keys, err := from.Keys.find(ctx, header.KeyID)
	if err != nil {
		return nil, refuseToken("the token cannot be checked now", "%w", err)
	}
	if len(keys) == 0 {
		return nil, refuseToken("the token's signature is not accepted", "issuer %q has no key %q", from.Issuer, header.KeyID)
	}
	var c *claims
	var failed error
	for _, key := range keys {
		if key.Algorithm != "" && key.Algorithm != header.Algorithm {
			failed = fmt.Errorf("it is signed with %s, and key %q is for %s", header.Algorithm, key.KeyID, key.Algorithm)
			continue
		}
		var trial claims
		if failed = token.Claims(key.Key, &trial); failed == nil {
			c = &trial
			break
		}
	}
	if c == nil {
		return nil, refuseToken("the token's signature is not accepted", "issuer %q, key %q: %w", from.Issuer, header.KeyID, failed)
	}
	return c, t.checkClaims(c, from.Issuer, time.Now())
}

func (t *tokens) checkClaims(c *claims, issuer string, now time.Time) error {
	at := now.UTC().Format(time.RFC3339)
	switch {
	case c.Issuer != issuer:
		return refuseToken("the token's issuer is not accepted", "issuer %q", c.Issuer)
	case !slices.ContainsFunc(t.audiences, c.Audience.Contains):
		return refuseToken(fmt.Sprintf("the token is for another audience, %q", []string(c.Audience)), "wanted one of %q", t.audiences)
	case c.Expiry == nil:
		return refuseToken("the token has no expiry", "subject %q", c.Subject)
	case !now.Before(c.Expiry.Time().Add(tokenLeeway)):
		return refuseToken(fmt.Sprintf("the token expired at %s, and it is %s", c.Expiry.Time().UTC().Format(time.RFC3339), at), "subject %q", c.Subject)
	case c.NotBefore != nil && now.Before(c.NotBefore.Time().Add(-tokenLeeway)):
		return refuseToken(fmt.Sprintf("the token is not valid before %s, and it is %s", c.NotBefore.Time().UTC().Format(time.RFC3339), at), "subject %q", c.Subject)
	}
	return nil
}

// identity is whom a verified token is for: Kubernetes' service account, or a
// subject that is a SPIFFE ID.
func (t *tokens) identity(c *claims) (spiffeid.ID, error) {
	var none spiffeid.ID
	if strings.HasPrefix(c.Subject, "spiffe://") {
		if c.Kubernetes != nil {
			return none, errors.New("it names a SPIFFE ID and a service account")
		}
		id, err := spiffeid.FromString(c.Subject)
		if err == nil && (!id.MemberOf(t.td) || id.Path() == "") {
			err = fmt.Errorf("it is not a workload of the trust domain %q", t.td)
		}
		return id, err
	}
	namespace, account, err := serviceAccount(c)
	if err != nil {
		return none, err
	}
	return spiffeid.FromSegments(t.td, "ns", namespace, "sa", account)
}

// serviceAccount is what the subject and Kubernetes' own claim agree on.
func serviceAccount(c *claims) (namespace, account string, err error) {
	rest, isAccount := strings.CutPrefix(c.Subject, "system:serviceaccount:")
	if isAccount {
		var found bool
		namespace, account, found = strings.Cut(rest, ":")
		if !found || strings.Contains(account, ":") {
			return "", "", errors.New("the subject is not system:serviceaccount:NAMESPACE:NAME")
		}
	}
	k := c.Kubernetes
	switch {
	case k == nil && !isAccount:
		return "", "", errors.New("the subject is neither a service account nor a SPIFFE ID")
	case k == nil:
		return namespace, account, nil
	case isAccount && (k.Namespace != namespace || k.ServiceAccount.Name != account):
		return "", "", fmt.Errorf("the claim kubernetes.io names %q in namespace %q", k.ServiceAccount.Name, k.Namespace)
	}
	return k.Namespace, k.ServiceAccount.Name, nil
}
