package istioca

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const cluster = "https://kubernetes.default.svc.cluster.local"

// signed is a token with those claims.
func signed(t testing.TB, alg jose.SignatureAlgorithm, key any, kid string, claims map[string]any) string {
	t.Helper()
	opts := &jose.SignerOptions{}
	if kid != "" {
		opts.WithHeader("kid", kid)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// projected are the claims of a token that Kubernetes projects.
func projected(change map[string]any) map[string]any {
	now := time.Now()
	out := map[string]any{
		"iss": cluster, "aud": []string{"istio-ca"}, "sub": "system:serviceaccount:dev:web",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{
			"namespace": "dev", "serviceaccount": map[string]any{"name": "web", "uid": "1"}, "pod": map[string]any{"name": "web-0"},
		},
	}
	maps.Copy(out, change)
	maps.DeleteFunc(out, func(_ string, v any) bool { return v == nil })
	return out
}

func keySet(t testing.TB, keys ...jose.JSONWebKey) []byte {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func fileWith(t testing.TB, text []byte) (path string, keys *KeyFile) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := NewKeyFile(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return path, keys
}

func believing(keys Keys) *tokens {
	return &tokens{td: webID.TrustDomain(), audiences: []string{DefaultAudience}, issuers: []TokenIssuer{{Issuer: cluster, Keys: keys}}}
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestTokenNamesTheIdentity(t *testing.T) {
	ec, rs := testKey(t), rsaKey(t, 2048)
	edPublic, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, keys := fileWith(t, keySet(t,
		jose.JSONWebKey{Key: &ec.PublicKey, KeyID: "ec", Use: "sig", Algorithm: "ES256"},
		jose.JSONWebKey{Key: &rs.PublicKey, KeyID: "rsa"}, jose.JSONWebKey{Key: edPublic, KeyID: "ed"},
		jose.JSONWebKey{Key: &ec.PublicKey, KeyID: "other", Use: "enc"}))
	for name, c := range map[string]struct{ token, want string }{
		"projected by Kubernetes": {signed(t, jose.RS256, rs, "rsa", projected(nil)), webID.String()},
		"the subject alone":       {signed(t, jose.ES256, ec, "ec", projected(map[string]any{"kubernetes.io": nil})), webID.String()},
		"kubernetes.io alone":     {signed(t, jose.PS256, rs, "rsa", projected(map[string]any{"sub": "web"})), webID.String()},
		"a SPIFFE ID": {signed(t, jose.EdDSA, ed, "ed", projected(map[string]any{
			"kubernetes.io": nil, "sub": "spiffe://cluster.local/vm/db",
		})), "spiffe://cluster.local/vm/db"},
		"one audience that is no list": {signed(t, jose.ES256, ec, "ec", projected(map[string]any{"aud": "istio-ca"})), webID.String()},
		"no key ID":                    {signed(t, jose.ES256, ec, "", projected(nil)), webID.String()},
		"a clock 20 s ahead":           {signed(t, jose.ES256, ec, "ec", projected(map[string]any{"nbf": time.Now().Add(20 * time.Second).Unix()})), webID.String()},
	} {
		t.Run(name, func(t *testing.T) {
			id, how, err := believing(keys).authenticate(t.Context(), c.token)
			if err != nil || id.String() != c.want || !strings.HasPrefix(how, "token of "+cluster) {
				t.Errorf("got %s, %q, %v, want %s", id, how, err, c.want)
			}
		})
	}
}

func TestTokenIsRefused(t *testing.T) {
	ec, stranger, rs := testKey(t), testKey(t), rsaKey(t, 2048)
	_, keys := fileWith(t, keySet(t, jose.JSONWebKey{Key: &ec.PublicKey, KeyID: "ec", Algorithm: "ES256"},
		jose.JSONWebKey{Key: &rs.PublicKey, KeyID: "rsa", Algorithm: "RS256"}))
	with := func(change map[string]any) string { return signed(t, jose.ES256, ec, "ec", projected(change)) }
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).Unix() }
	public, err := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	asSecret := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	valid := with(nil)
	parts := strings.Split(valid, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"ec"}`)) + "." + parts[1] + "."
	for name, c := range map[string]struct{ token, want string }{
		"expired":                    {with(map[string]any{"exp": ago(time.Minute)}), "the token expired at "},
		"no expiry":                  {with(map[string]any{"exp": nil}), "the token has no expiry"},
		"not valid yet":              {with(map[string]any{"nbf": ago(-time.Minute)}), "the token is not valid before "},
		"another audience":           {with(map[string]any{"aud": "vault"}), `the token is for another audience, ["vault"]`},
		"no audience":                {with(map[string]any{"aud": nil}), "the token is for another audience"},
		"another issuer":             {with(map[string]any{"iss": "https://example.com"}), "issuer is not accepted"},
		"no issuer":                  {with(map[string]any{"iss": nil}), "issuer is not accepted"},
		"a stranger's key":           {signed(t, jose.ES256, stranger, "ec", projected(nil)), "signature is not accepted"},
		"another algorithm":          {signed(t, jose.PS256, rs, "rsa", projected(nil)), "signature is not accepted"},
		"a key that nobody has":      {signed(t, jose.ES256, ec, "new", projected(nil)), "signature is not accepted"},
		"the public key as a secret": {signed(t, jose.HS256, asSecret, "ec", projected(nil)), "cannot be read"},
		"no signature":               {none, "cannot be read"},
		"claims of another":          {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"`+cluster+`"}`)) + "." + parts[2], "signature is not accepted"},
		"not a token":                {"hello", "cannot be read"},
		"empty":                      {"", "cannot be read"},
		"too long":                   {strings.Repeat("x", maxTokenBytes+1), "too long"},
		"another trust domain":       {with(map[string]any{"kubernetes.io": nil, "sub": "spiffe://other.org/ns/a/sa/b"}), "names no identity"},
		"the trust domain itself":    {with(map[string]any{"kubernetes.io": nil, "sub": "spiffe://cluster.local"}), "names no identity"},
		"two identities":             {with(map[string]any{"sub": "spiffe://cluster.local/ns/dev/sa/web"}), "names no identity"},
		"two service accounts":       {with(map[string]any{"sub": "system:serviceaccount:dev:admin"}), "names no identity"},
		"a user":                     {with(map[string]any{"kubernetes.io": nil, "sub": "alice"}), "names no identity"},
		"a subject with a path":      {with(map[string]any{"kubernetes.io": nil, "sub": "system:serviceaccount:dev:web/../admin"}), "names no identity"},
		"a subject of three parts":   {with(map[string]any{"kubernetes.io": nil, "sub": "system:serviceaccount:dev:web:x"}), "names no identity"},
		"an empty name":              {with(map[string]any{"kubernetes.io": nil, "sub": "system:serviceaccount:dev:"}), "names no identity"},
	} {
		t.Run(name, func(t *testing.T) {
			id, _, err := believing(keys).authenticate(t.Context(), c.token)
			var auth *authError
			if !errors.As(err, &auth) || !strings.Contains(auth.text, c.want) {
				t.Errorf("got %s, %v, want a refusal with %q", id, err, c.want)
			}
		})
	}
}

// What a caller is told has nothing of what is accepted here.
func TestRefusalOfATokenRevealsNothing(t *testing.T) {
	ec := testKey(t)
	_, keys := fileWith(t, keySet(t, jose.JSONWebKey{Key: &ec.PublicKey, KeyID: "ec"}))
	for _, change := range []map[string]any{{"iss": "x"}, {"aud": "x"}, {"sub": "x", "kubernetes.io": nil}, {"exp": 1}} {
		_, _, err := believing(keys).authenticate(t.Context(), signed(t, jose.ES256, ec, "ec", projected(change)))
		var auth *authError
		if !errors.As(err, &auth) {
			t.Fatalf("%v: got %v", change, err)
		}
		for _, secret := range []string{cluster, "istio-ca", "cluster.local", `"ec"`} {
			if strings.Contains(auth.text, secret) {
				t.Errorf("%v: %q tells of %q", change, auth.text, secret)
			}
		}
	}
}

func TestOwnTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := openTest(t, Config{})
		s := newTestServer(t, a)
		token, err := a.Token(webID, DefaultAudience, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if id, _, err := s.tokens.authenticate(t.Context(), token); err != nil || id != webID {
			t.Fatalf("got %s, %v", id, err)
		}
		time.Sleep(time.Minute + tokenLeeway)
		_, _, err = s.tokens.authenticate(t.Context(), token)
		wantText(t, err, "the token expired at ")
	})
}

func TestTokenOfAnotherAuthorityIsRefused(t *testing.T) {
	a, b := openTest(t, Config{}), openTest(t, Config{}) // of one trust domain
	token, err := a.Token(webID, DefaultAudience, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = newTestServer(t, b).tokens.authenticate(t.Context(), token)
	wantText(t, err, "signature is not accepted")
}

func TestTokenIsMadeForOurWorkloadsOnly(t *testing.T) {
	a := openTest(t, Config{})
	for id, want := range map[string]string{
		"spiffe://other.org/ns/dev/sa/web": "is not in the trust domain", "spiffe://cluster.local": "names the trust domain",
	} {
		_, err := a.Token(mustID(t, id), DefaultAudience, time.Hour)
		wantText(t, err, want)
	}
	_, err := a.Token(webID, DefaultAudience, 0)
	wantText(t, err, "for a second at least")
}

func FuzzToken(f *testing.F) {
	key := rsaKey(f, 2048)
	_, keys := fileWith(f, keySet(f, jose.JSONWebKey{Key: key.Public(), KeyID: "k"}))
	known := signed(f, jose.RS256, key, "k", projected(nil))
	f.Add(known)
	f.Add("a.b.c")
	believed := believing(keys)
	// Promise: no panic, and nobody but who has the key is believed.
	f.Fuzz(func(t *testing.T, raw string) {
		id, _, err := believed.authenticate(t.Context(), raw)
		if err == nil && (id != webID || !sameSignature(raw, known)) {
			t.Errorf("%q is believed to be %s", raw, id)
		}
	})
}

// sameSignature says that two tokens have one signature over the same text;
// base64 and its end may be written in more than one way.
func sameSignature(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	return len(x) == 3 && len(y) == 3 && x[0] == y[0] && x[1] == y[1]
}
