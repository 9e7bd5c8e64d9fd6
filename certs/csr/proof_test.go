package csr

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// jwt is an unsigned token with those claims.
func jwt(claims string) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(`{"alg":"RS256"}`)) + "." + enc([]byte(claims)) + "." + enc([]byte("a signature that nobody checks"))
}

func expiring(at time.Time) string {
	return jwt(fmt.Sprintf(`{"aud":["istio-ca"],"exp":%d}`, at.Unix()))
}

func TestTokenIsReadForEachRequest(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	path := writeFile(t, "", "one")
	c := a.client(func(o *Options) { o.TokenPath = path })
	for _, want := range []string{"one", "two", ""} {
		if want == "" {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		} else {
			writeFile(t, path, want+"\n")
		}
		if _, err := c.Issue(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(a.last().md.Get("authorization"), ",")
		if want != "" {
			want = "Bearer " + want
		}
		if got != want {
			t.Errorf("authorization is %q, want %q", got, want)
		}
	}
}

func TestTokenFileThatCannotBeUsedIsNotSkipped(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	for _, c := range []struct{ name, path, text string }{
		{"empty", writeFile(t, "", " \n"), "it is empty"},
		{"a directory", t.TempDir(), "is a directory"},
		{"two lines", writeFile(t, "", "secret\nsecret"), "byte 6 cannot be in a token"},
		{"too long", writeFile(t, "", strings.Repeat("s", maxToken+1)), "more than 16384 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := a.client(func(o *Options) { o.TokenPath = c.path }).Issue(t.Context())
			failed(t, err, StagePrepare, Ours, codes.FailedPrecondition)
			var wrong *TokenError
			if !errors.As(err, &wrong) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), c.path) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want %q", err, c.text)
			}
		})
	}
}

func TestClaimsAreReadWhereThereAreAny(t *testing.T) {
	for _, c := range []struct {
		name, token string
		nbf, exp    int64
	}{
		{"both", jwt(`{"nbf":5,"exp":10}`), 5, 10},
		{"a fraction", jwt(`{"exp":10.7}`), 0, 10},
		{"none", jwt(`{}`), 0, 0},
		{"text", jwt(`{"exp":"soon"}`), 0, 0},
		{"beyond all time", jwt(`{"exp":1e300}`), 0, 0},
		{"negative", jwt(`{"exp":-5}`), 0, 0},
		{"no JWT", "opaque", 0, 0},
		{"no base64", "a.!.c", 0, 0},
	} {
		nbf, exp := claims(c.token)
		if unix(nbf) != c.nbf || unix(exp) != c.exp {
			t.Errorf("%s: got %s and %s, want %d and %d", c.name, nbf, exp, c.nbf, c.exp)
		}
	}
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func TestExpiredTokenIsSentAndNamedWhenItIsRefused(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	at := time.Now().Add(-22 * time.Hour)
	path := writeFile(t, "", expiring(at))
	a.dates(func() string { return httpDate(time.Now().Add(time.Hour)) })
	a.answers(func(*x509.CertificateRequest) ([]string, error) {
		return nil, status.Error(codes.Unauthenticated, "token has expired")
	})
	_, err := a.client(func(o *Options) { o.TokenPath = path }).Issue(t.Context())
	e := failed(t, err, StageRequest, Ours, codes.Unauthenticated)
	for _, text := range []string{"expired at " + stamp(at), "22h0m", "by our clock", "the authority's clock is 1h0m", "ahead of ours"} {
		if !strings.Contains(e.Error(), text) {
			t.Errorf("got %v, want %q in it", e, text)
		}
	}
	if len(a.last().md.Get("authorization")) != 1 {
		t.Error("the token was not sent")
	}
}

func TestMissingProofIsNamedWhenItIsRefused(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	a.answers(func(*x509.CertificateRequest) ([]string, error) {
		return nil, status.Error(codes.Unauthenticated, "who are you")
	})
	_, err := a.client(func(o *Options) { o.TokenPath = "/nowhere/istio-token" }).Issue(t.Context())
	e := failed(t, err, StageRequest, Ours, codes.Unauthenticated)
	if want := "we sent no token (/nowhere/istio-token does not exist) and presented no client certificate"; e.Proof != want {
		t.Errorf("got %q, want %q", e.Proof, want)
	}
}

func TestTokenAndCertificateStandInForEachOther(t *testing.T) {
	fresh, stale := expiring(time.Now().Add(time.Hour)), expiring(time.Now().Add(-time.Hour))
	old := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	type shown struct{ token, certificate bool }
	for _, c := range []struct {
		name  string
		auth  tls.ClientAuthType
		token string
		cert  []edit // nil: no certificate
		want  shown
	}{
		{"both", tls.VerifyClientCertIfGiven, fresh, []edit{}, shown{true, true}},
		{"certificate only", tls.RequireAndVerifyClientCert, "", []edit{}, shown{false, true}},
		{"expired token beside a certificate", tls.VerifyClientCertIfGiven, stale, []edit{}, shown{false, true}},
		{"expired token, and nobody asks for the certificate", tls.NoClientCert, stale, []edit{}, shown{true, false}},
		{"expired certificate beside a token", tls.VerifyClientCertIfGiven, fresh, []edit{old}, shown{true, false}},
		{"both expired", tls.RequestClientCert, stale, []edit{old}, shown{true, false}},
		{"expired certificate only", tls.RequestClientCert, "", []edit{old}, shown{false, true}},
		{"neither", tls.RequestClientCert, "", nil, shown{false, false}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAuthority(t, c.auth)
			client := a.client(func(o *Options) {
				if c.token != "" {
					o.TokenPath = writeFile(t, "", c.token)
				}
				if c.cert != nil {
					o.Certificate = func() (*tls.Certificate, error) { return a.root.client(t, workload, c.cert...), nil }
				}
			})
			if _, err := client.Issue(t.Context()); err != nil {
				t.Fatal(err)
			}
			s := a.last()
			if got := (shown{len(s.md.Get("authorization")) > 0, len(s.clients) > 0}); got != c.want {
				t.Errorf("showed %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestRefusedClientCertificateIsNamed(t *testing.T) {
	a := newAuthority(t, tls.RequireAndVerifyClientCert)
	stranger := newRoot(t, "stranger")
	_, err := a.client(func(o *Options) {
		o.Certificate = func() (*tls.Certificate, error) { return stranger.client(t, workload), nil }
	}).Issue(t.Context())
	e := failed(t, err, StageConnect, Ours, codes.Unavailable)
	if !strings.Contains(e.Error(), "presented the client certificate of \""+workload) || !strings.Contains(e.Error(), "remote error: tls:") {
		t.Errorf("got %v", e)
	}
}

func TestClientCertificateThatCannotBeHadIsOurs(t *testing.T) {
	a := newAuthority(t, tls.RequestClientCert)
	lost := errors.New("disk is gone")
	for _, c := range []struct {
		name string
		give func() (*tls.Certificate, error)
		want string
	}{
		{"error", func() (*tls.Certificate, error) { return nil, lost }, "disk is gone"},
		{"no key", func() (*tls.Certificate, error) { return &tls.Certificate{Certificate: [][]byte{{1}}}, nil }, "no certificate or no key"},
		{"no DER", func() (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{{1}}, PrivateKey: newKey(t)}, nil
		}, "x509"},
	} {
		_, err := a.client(func(o *Options) { o.Certificate = c.give }).Issue(t.Context())
		failed(t, err, StagePrepare, Ours, codes.FailedPrecondition)
		var wrong *CertificateError
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
	if _, err := a.client(func(o *Options) { o.Certificate = func() (*tls.Certificate, error) { return nil, nil } }).Issue(t.Context()); err != nil {
		t.Errorf("no certificate yet: %v", err)
	}
}

func TestScrubTakesEveryPieceOfTheToken(t *testing.T) {
	secret := token{value: "abcdefghijklmnopqrstuvwxyz"}
	for _, c := range []struct{ in, want string }{
		{"", ""}, {"plain words", "plain words"},
		{"a abcdefghijklmnopqrstuvwxyz b", "a [token] b"},
		{"cut: abcdefghijklmno", "cut: [token]"},
		{"tail: opqrstuvwxyz!", "tail: [token]!"},
		{"two: abcdefghijkl abcdefghijkl", "two: [token] [token]"},
		{"short: abcdefgh", "short: abcdefgh"},
	} {
		if got := secret.scrub(c.in); got != c.want {
			t.Errorf("%q: got %q, want %q", c.in, got, c.want)
		}
	}
	if got := (token{value: "abc"}).scrub("x abc y"); got != "x [token] y" {
		t.Errorf("a short token: got %q", got)
	}
}

func FuzzToken(f *testing.F) {
	f.Add(expiring(time.Now()), "text")
	f.Add("a.b.c", "a.b.c")
	// The promise: no panic, and no piece of the token is left.
	f.Fuzz(func(t *testing.T, value, text string) {
		claims(value)
		got := token{path: "p", value: value}.scrub(text)
		for i := 0; i+scrubbed <= len(value); i++ {
			if strings.Contains(got, value[i:i+scrubbed]) && !strings.Contains("[token]", value[i:i+scrubbed]) {
				t.Errorf("%q is left in %q", value[i:i+scrubbed], got)
			}
		}
	})
}

func TestProofIsDescribedForPeople(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	leaf := newRoot(t, "root").leaf(t, newKey(t).Public(), workload, validity(now, -time.Hour, time.Hour))
	late := now.Add(2 * time.Hour)
	cert := &tls.Certificate{}
	asked := func(p *proof) *proof { p.asked.Store(true); return p }
	for _, c := range []struct {
		proof *proof
		want  string
	}{
		{&proof{}, "we sent no token and presented no client certificate"},
		{&proof{at: now, token: token{path: "/t", value: "v"}, sent: true}, "we sent the token of /t and presented no client certificate"},
		{&proof{at: now, token: token{path: "/t", value: "v", notBefore: now.Add(time.Minute)}, sent: true},
			"we sent the token of /t, which is not valid before 2026-01-02T03:05:05Z, in 1m0s by our clock (2026-01-02T03:04:05Z) and presented no client certificate"},
		{asked(&proof{at: now, token: token{path: "/t", value: "v", expires: now}, certificate: cert, leaf: leaf}),
			"we did not send the token of /t, which expired at 2026-01-02T03:04:05Z, 0s ago by our clock (2026-01-02T03:04:05Z) and presented the client certificate of \"" + workload + "\""},
		{&proof{at: now, certificate: cert, leaf: leaf}, "we sent no token and were not asked for the client certificate of \"" + workload + "\""},
		{asked(&proof{at: late, certificate: cert, leaf: leaf}),
			"we sent no token and presented the client certificate of \"" + workload + "\", valid from 2026-01-02T02:04:05Z to 2026-01-02T04:04:05Z while our clock says 2026-01-02T05:04:05Z"},
		{&proof{at: now, token: token{path: "/t", value: "v"}, sent: true, unused: "an old one"}, "we sent the token of /t and did not present an old one"},
	} {
		if got := c.proof.describe(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}
