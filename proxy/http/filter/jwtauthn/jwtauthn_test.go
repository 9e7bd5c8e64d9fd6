package jwtauthn_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/http/filter/jwtauthn"
	"outrider/proxy/stats"
)

// recorded is a request that was made to Envoy 1.40 with the configuration of
// asRecorded, and what came of it.
type recorded struct {
	Claim, Method, Path string
	Headers             [][2]string
	Status              int
	Body, Challenge     string
	UpPath              string
	Up                  map[string]string
}

// different are where we differ on purpose, and why.
func different() map[string]string {
	return map[string]string{
		"a good token in a parameter": "other parameters stay as they are; Envoy decodes them and does not encode them again",
	}
}

func TestRequestsAreJudgedAsEnvoyDoes(t *testing.T) {
	text := file(t, "envoy.json")
	var all []recorded
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	r := stats.New()
	d := filtertest.Deps(r)
	d.Upstream = filtertest.Upstream{Calls: func(string) http.RoundTripper { return keyServer(t, nil) }}
	factory, err := jwtauthn.New(&config.HTTPFilter{Name: "jwt", Config: asRecorded(t)}, d)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if different()[c.Claim] != "" {
			continue
		}
		s := run(t, factory, c)
		got := recorded{Claim: c.Claim, Method: c.Method, Path: c.Path, Headers: c.Headers, Status: 200, Up: c.Up}
		if s.Replied != nil {
			got.Status, got.Body, got.Up = s.Replied.Status, s.Replied.Body, nil
			got.Challenge = s.Replied.Fields.Value("www-authenticate")
			if want := "jwt_authn_access_denied{" + strings.ReplaceAll(c.Body, " ", "_") + "}"; s.Replied.Details != want {
				t.Errorf("%s: details %q, want %q", c.Claim, s.Replied.Details, want)
			}
		} else if !s.Up.End {
			t.Errorf("%s: the request did not go on", c.Claim)
			continue
		} else {
			got.UpPath, got.Up = s.Up.Head.Path, map[string]string{}
			for _, f := range s.Up.Head.Fields {
				got.Up[f.Name], _ = s.Up.Head.Fields.Joined(f.Name)
			}
		}
		delete(c.Up, "content-length")
		if diff := cmp.Diff(c, got); diff != "" {
			t.Errorf("%s: (-Envoy +got)\n%s", c.Claim, diff)
		}
	}
}

func run(t *testing.T, f filter.Factory, c recorded) *filtertest.Stream {
	t.Helper()
	h := filtertest.Request(c.Method, c.Path, ":authority", "web")
	for _, p := range c.Headers {
		h.Fields.Add(p[0], strings.TrimSpace(p[1]))
	}
	s := filtertest.New(t).Start(f)
	s.RequestHead(h, true)
	s.Wait()
	return s
}

// asRecorded is the configuration that Envoy had.
func asRecorded(t *testing.T) *config.JWTAuthn {
	jwks := file(t, "jwks.json")
	text := func(s string) *string { return &s }
	from := func(name string) []config.JWTHeader { return []config.JWTHeader{{Name: name}} }
	of := func(p string) *config.JWTRequirement { return &config.JWTRequirement{Provider: p} }
	remote := func(uri string) *config.RemoteJWKS {
		return &config.RemoteJWKS{URI: uri, Cluster: "c", Timeout: time.Second, CacheTime: 10 * time.Minute}
	}
	c := &config.JWTAuthn{
		BypassCORS: true,
		Providers: map[string]*config.JWTProvider{
			"one": {Issuer: "https://one"},
			"aud": {Issuer: "https://one", Audiences: []string{"a1", "a2"}, Forward: true},
			"two": {Issuer: "https://two", FromHeaders: from("x-two")},
			"claims": {Issuer: "https://one", FromHeaders: from("x-c"), ForwardPayloadHeader: "x-payload", ClaimToHeaders: [][2]string{
				{"x-claim-sub", "sub"}, {"x-n", "n"}, {"x-neg", "neg"}, {"x-f", "f"}, {"x-t", "t"}, {"x-o", "o"}, {"x-in", "o.in"},
				{"x-li", "l"}, {"x-em", "e"}, {"x-no", "nope"},
			}},
			"padded":     {Issuer: "https://one", FromHeaders: from("x-p"), Forward: true, ForwardPayloadHeader: "x-payload", PadPayloadHeader: true},
			"cookie":     {Issuer: "https://one", FromCookies: []string{"tok"}},
			"subject":    {Issuer: "https://one", FromHeaders: from("x-s"), Subjects: &certs.StringMatcher{Kind: certs.MatchPrefix, Pattern: "spiffe://"}},
			"life":       {Issuer: "https://one", FromHeaders: from("x-l"), MaxLifetime: time.Hour},
			"exp":        {Issuer: "https://one", FromHeaders: from("x-e"), RequireExpiration: true},
			"remote":     {Issuer: "https://r", FromHeaders: from("x-r"), Remote: remote("http://keys/jwks")},
			"remotefail": {Issuer: "https://r", FromHeaders: from("x-rf"), Remote: remote("http://keys/nojwks")},
		},
	}
	for _, p := range c.Providers {
		p.ClockSkew = time.Minute
		if p.Remote == nil {
			p.LocalJWKS = jwks
		}
	}
	rule := func(prefix string, r *config.JWTRequirement) {
		c.Rules = append(c.Rules, config.JWTRule{Match: config.RouteMatch{Prefix: text(prefix)}, Requires: r})
	}
	rule("/nothing", nil)
	rule("/one", of("one"))
	rule("/aud", of("aud"))
	rule("/ownaud", &config.JWTRequirement{Provider: "aud", Audiences: []string{"own"}})
	rule("/any", &config.JWTRequirement{Any: []*config.JWTRequirement{of("one"), of("two")}})
	rule("/allmissing", &config.JWTRequirement{All: []*config.JWTRequirement{{AllowMissing: true}, {AllowMissingOrFailed: true}}})
	rule("/all", &config.JWTRequirement{All: []*config.JWTRequirement{of("one"), of("two")}})
	rule("/missing", &config.JWTRequirement{Any: []*config.JWTRequirement{of("one"), {AllowMissing: true}}})
	rule("/failed", &config.JWTRequirement{Any: []*config.JWTRequirement{of("one"), {AllowMissingOrFailed: true}}})
	for _, name := range []string{"claims", "padded", "cookie", "subject", "life"} {
		rule("/"+name, of(name))
	}
	c.Rules = append(c.Rules, config.JWTRule{Match: config.RouteMatch{Path: text("/exp")}, Requires: of("exp")})
	rule("/remotefail", of("remotefail"))
	rule("/remote", of("remote"))
	c.Rules = append(c.Rules,
		config.JWTRule{Match: config.RouteMatch{Path: text("/query"), Query: []config.QueryMatcher{{Name: "q", String: &certs.StringMatcher{Pattern: "1"}}}}, Requires: of("one")},
		config.JWTRule{Match: config.RouteMatch{Path: text("/exact")}, Requires: of("one")},
		config.JWTRule{Match: config.RouteMatch{PathSeparatedPrefix: text("/sep")}, Requires: of("one")})
	return c
}

func file(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// goodToken is one that Envoy has taken.
func goodToken(t *testing.T, claim string) recorded {
	t.Helper()
	var all []recorded
	if err := json.Unmarshal(file(t, "envoy.json"), &all); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Claim == claim {
			return c
		}
	}
	t.Fatalf("no request %q", claim)
	return recorded{}
}

func remoteFilter(t *testing.T, r *config.RemoteJWKS, client http.RoundTripper) (filter.Factory, *stats.Registry) {
	t.Helper()
	prefix := "/"
	reg := stats.New()
	d := filtertest.Deps(reg)
	d.Upstream = filtertest.Upstream{Calls: func(string) http.RoundTripper { return client }}
	f, err := jwtauthn.New(&config.HTTPFilter{Config: &config.JWTAuthn{
		Providers: map[string]*config.JWTProvider{"r": {Issuer: "https://r", FromHeaders: []config.JWTHeader{{Name: "x-r"}}, Remote: r, ClockSkew: time.Minute}},
		Rules:     []config.JWTRule{{Match: config.RouteMatch{Prefix: &prefix}, Requires: &config.JWTRequirement{Provider: "r"}}},
	}}, d)
	if err != nil {
		t.Fatal(err)
	}
	return f, reg
}

func TestKeysAreFetchedOnceAndAgainWhenTheyAreTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		f, reg := remoteFilter(t, &config.RemoteJWKS{URI: "http://keys/jwks", CacheTime: time.Minute}, keyServer(t, &asked))
		c := goodToken(t, "remote")
		for range 3 {
			if s := run(t, f, c); s.Replied != nil {
				t.Fatalf("refused: %s", s.Replied.Body)
			}
		}
		if got := asked.Load(); got != 1 {
			t.Errorf("fetched %d times within the cache's time, want once", got)
		}
		time.Sleep(time.Minute)
		run(t, f, c)
		if got := asked.Load(); got != 2 {
			t.Errorf("fetched %d times after it, want twice", got)
		}
		if got := counter(reg, "jwks_fetch_success"); got != 2 {
			t.Errorf("counted %d fetches, want 2", got)
		}
	})
}

func TestTokensThatNoKeyCouldSaveFetchNothing(t *testing.T) {
	var asked atomic.Int32
	f, _ := remoteFilter(t, &config.RemoteJWKS{URI: "http://keys/jwks", CacheTime: time.Minute}, keyServer(t, &asked))
	for _, claim := range []string{"two sections", "expired", "a good token"} {
		c := goodToken(t, claim)
		c.Headers[0] = [2]string{"x-r", strings.TrimPrefix(c.Headers[0][1], "Bearer ")}
		if s := run(t, f, c); s.Replied == nil {
			t.Errorf("%s: not refused", claim)
		}
	}
	if got := asked.Load(); got != 0 {
		t.Errorf("fetched %d times, want none", got)
	}
}

func TestThoseWhoWaitForKeysShareOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		server := keyServer(t, &asked)
		slow := roundTrip(func(r *http.Request) (*http.Response, error) {
			select {
			case <-time.After(time.Second):
				return server.RoundTrip(r)
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		})
		f, _ := remoteFilter(t, &config.RemoteJWKS{URI: "http://keys/jwks", CacheTime: time.Minute}, slow)
		c := goodToken(t, "remote")
		var all []*filtertest.Stream
		for range 3 {
			h := filtertest.Request(c.Method, c.Path, "x-r", c.Headers[0][1])
			s := filtertest.New(t).Start(f)
			s.RequestHead(h, true)
			all = append(all, s)
			synctest.Wait()
		}
		all[0].Finish() // the one that fetches goes away
		for _, s := range all[1:] {
			s.Wait()
			if s.Replied != nil || !s.Up.End {
				t.Error("a request that waited did not go on")
			}
		}
		if got := asked.Load(); got != 1 {
			t.Errorf("fetched %d times, want once", got)
		}
	})
}

func TestFetchesAreTriedAgainAsThePolicySays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		f, reg := remoteFilter(t, &config.RemoteJWKS{
			URI: "http://keys/no", CacheTime: time.Minute, Retries: 3, BackoffBase: time.Second, BackoffMax: 2 * time.Second,
		}, keyServer(t, &asked))
		s := run(t, f, goodToken(t, "remote"))
		if s.Replied == nil || s.Replied.Body != "Jwks remote fetch is failed" || asked.Load() != 4 || counter(reg, "jwks_fetch_failed") != 1 {
			t.Errorf("got %+v after %d fetches, want a refusal after 4", s.Replied, asked.Load())
		}
	})
}

func TestKeysOfAsyncFetchAreThereBeforeRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		f, _ := remoteFilter(t, &config.RemoteJWKS{URI: "http://keys/jwks", CacheTime: time.Minute, AsyncFetch: true, FailedRefetch: time.Second}, keyServer(t, &asked))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.(filter.Runner).Run(ctx) }()
		time.Sleep(130 * time.Second)
		if got := asked.Load(); got != 3 { // at 0, 55 and 110 seconds
			t.Errorf("fetched %d times, want 3", got)
		}
		if s := run(t, f, goodToken(t, "remote")); s.Replied != nil || asked.Load() != 3 {
			t.Errorf("the request was refused or fetched on its own")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func counter(r *stats.Registry, name string) uint64 {
	return filtertest.Scope(r).Scope("jwt_authn").Counter(name).Value()
}

func TestRoutesHaveRequirementsOfTheirOwn(t *testing.T) {
	prefix := "/"
	cfg := &config.JWTAuthn{
		Providers:    map[string]*config.JWTProvider{"one": {Issuer: "https://one", LocalJWKS: file(t, "jwks.json"), ClockSkew: time.Minute, PayloadInMetadata: "p", HeaderInMetadata: "h", FailedStatusInMetadata: "bad", NormalizeSpaces: []string{"sub"}, ClearRouteCache: true}},
		Rules:        []config.JWTRule{{Match: config.RouteMatch{Prefix: &prefix}, Requires: &config.JWTRequirement{Provider: "one"}}},
		Requirements: map[string]*config.JWTRequirement{"lax": {AllowMissing: true}, "b": nil},
	}
	f, err := jwtauthn.New(&config.HTTPFilter{Config: cfg}, filtertest.Deps(stats.New()))
	if err != nil {
		t.Fatal(err)
	}
	for claim, c := range map[string]struct {
		override any
		status   int
		body     string
	}{
		"no override":               {nil, 401, "Jwt is missing"},
		"disabled":                  {&config.JWTOverride{Disabled: true}, 200, ""},
		"a requirement by name":     {&config.JWTOverride{Requirement: "lax"}, 200, ""},
		"one that asks for nothing": {&config.JWTOverride{Requirement: "b"}, 200, ""},
		"a name that is not there":  {&config.JWTOverride{Requirement: "x"}, 403, "Failed JWT authentication: Wrong requirement_name: x. It should be one of [b,lax]"},
		"of another filter":         {&config.CORSPolicy{}, 403, "Failed JWT authentication: a route has *config.CORSPolicy for jwt_authn"},
	} {
		s := filtertest.New(t)
		if c.override != nil {
			s.Overriding = []*config.FilterOverride{{Config: c.override}}
		}
		s.Start(f).RequestHead(filtertest.Request("GET", "/"), true)
		status, body := 200, ""
		if s.Replied != nil {
			status, body = s.Replied.Status, s.Replied.Body
		}
		if status != c.status || body != c.body || (status == 200) != s.Up.End {
			t.Errorf("%s: got %d %q, want %d %q", claim, status, body, c.status, c.body)
		}
		if claim == "no override" {
			got := s.StreamInfo.DynamicMetadata["envoy.filters.http.jwt_authn"].AsMap()
			if diff := cmp.Diff(map[string]any{"bad": map[string]any{"code": "1", "message": "Jwt is missing"}}, got); diff != "" {
				t.Error(diff)
			}
		}
	}
	s := run(t, f, goodToken(t, "a good token"))
	got := s.StreamInfo.DynamicMetadata["envoy.filters.http.jwt_authn"].AsMap()
	want := map[string]any{
		"p": map[string]any{"iss": "https://one", "sub": []any{"me"}, "exp": 4102444800.0},
		"h": map[string]any{"alg": "RS256", "kid": "rsa"},
	}
	if diff := cmp.Diff(want, got); diff != "" || s.Cleared != 1 {
		t.Errorf("metadata (-want +got), route cleared %d times:\n%s", s.Cleared, diff)
	}
}

// No token, however it is made, gets past or stops the proxy.
func FuzzToken(f *testing.F) {
	cfg := &config.JWTAuthn{Providers: map[string]*config.JWTProvider{"one": {LocalJWKS: file(f, "one.json")}}}
	prefix := "/"
	cfg.Rules = []config.JWTRule{{Match: config.RouteMatch{Prefix: &prefix}, Requires: &config.JWTRequirement{Provider: "one"}}}
	made, err := jwtauthn.New(&config.HTTPFilter{Config: cfg}, filtertest.Deps(stats.New()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("Bearer eyJhbGciOiJSUzI1NiJ9.e30.eA", "/?access_token=a.b.c&b=%4")
	f.Fuzz(func(t *testing.T, value, path string) {
		s := filtertest.New(t).Start(made)
		s.RequestHead(filtertest.Request("GET", "/"+path, "authorization", value), true)
		if s.Replied == nil {
			t.Fatal("a token without a signature got past")
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// keyServer has the keys at /jwks. asked counts requests.
func keyServer(t testing.TB, asked *atomic.Int32) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		if asked != nil {
			asked.Add(1)
		}
		if r.Host != "keys" && r.URL.Host != "keys" {
			return nil, errors.New("another host")
		}
		if r.URL.Path != "/jwks" {
			return &http.Response{StatusCode: 500, Body: http.NoBody}, nil
		}
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(string(file(t, "jwks.json"))))}, nil
	})
}
