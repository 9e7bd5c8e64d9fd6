package extauthz_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/http/filter/extauthz"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/stats"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAnswersOfTheHTTPServiceDecide(t *testing.T) {
	any := []certs.StringMatcher{{Kind: certs.MatchPrefix, Pattern: "x-"}}
	service := config.ExtAuthzHTTP{Cluster: "authz", PathPrefix: "/check", RequestAdd: [][2]string{{"x-key", "k"}}}
	for claim, c := range map[string]struct {
		change  func(*config.ExtAuthzHTTP)
		status  int
		fields  [][2]string
		replied int
		details string
		want    []string
	}{
		"200":                        {nil, 200, [][2]string{{"x-who", "me"}}, 0, "", []string{"authorization=a", "x-j=1", "x-r=1"}},
		"fields for the upstream":    {func(s *config.ExtAuthzHTTP) { s.UpstreamHeaders = any }, 200, [][2]string{{"x-who", "me"}, {"y", "1"}}, 0, "", []string{"authorization=a", "x-j=1", "x-r=1", "x-who=me"}},
		"fields that are added":      {func(s *config.ExtAuthzHTTP) { s.UpstreamHeadersToAppend = any }, 200, [][2]string{{"x-j", "2"}, {"x-n", "1"}}, 0, "", []string{"authorization=a", "x-j=1", "x-j=2", "x-n=1", "x-r=1"}},
		"fields that go":             {nil, 200, [][2]string{{"x-envoy-auth-headers-to-remove", "X-R, x-j"}}, 0, "", []string{"authorization=a"}},
		"403":                        {nil, 403, [][2]string{{"x-why", "no"}, {"x-envoy-auth-headers-to-remove", "a"}}, 403, "ext_authz_denied", []string{"x-why=no"}},
		"201 is not 200":             {nil, 201, nil, 201, "ext_authz_denied", nil},
		"302 with a location":        {func(s *config.ExtAuthzHTTP) { s.ClientHeaders = []certs.StringMatcher{{Pattern: "x-b"}} }, 302, [][2]string{{"location", "/l"}, {"x-a", "1"}, {"x-b", "1"}}, 302, "ext_authz_denied", []string{"location=/l", "x-b=1"}},
		"503 is no answer":           {nil, 503, nil, 403, "ext_authz_error", nil},
		"a connection that is ended": {nil, 0, nil, 403, "ext_authz_error", nil},
	} {
		t.Run(claim, func(t *testing.T) {
			var seen *http.Request
			client := roundTrip(func(r *http.Request) (*http.Response, error) {
				seen = r
				if c.status == 0 {
					return nil, io.ErrUnexpectedEOF
				}
				resp := &http.Response{StatusCode: c.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("why"))}
				for _, f := range c.fields {
					resp.Header.Add(f[0], f[1])
				}
				return resp, nil
			})
			own := service
			if c.change != nil {
				c.change(&own)
			}
			d := filtertest.Deps(stats.New())
			d.Upstream = filtertest.Upstream{Calls: func(string) http.RoundTripper { return client }}
			f, err := extauthz.New(&config.HTTPFilter{Config: &config.ExtAuthz{HTTP: &own, StatusOnError: 403}}, d)
			if err != nil {
				t.Fatal(err)
			}
			s := filtertest.New(t).Start(f)
			s.RequestHead(filtertest.Request("GET", "//p/%2f?q=%41", "authorization", "a", "x-j", "1", "x-r", "1"), true)
			s.Wait()
			if got, want := seen.Method+" "+seen.Host+" "+seen.URL.RequestURI(), "GET host /check//p/%2f?q=%41"; got != want {
				t.Errorf("asked %q, want %q", got, want)
			}
			if seen.Header.Get("authorization") != "a" || seen.Header.Get("x-key") != "k" || seen.Header.Get("x-r") != "" {
				t.Errorf("asked with %v", seen.Header)
			}
			if c.replied == 0 {
				if s.Replied != nil {
					t.Fatalf("got %+v", s.Replied)
				}
				if diff := cmp.Diff(c.want, pairs(s.Up.Head.Fields)); diff != "" {
					t.Error(diff)
				}
				return
			}
			if s.Replied == nil || s.Replied.Status != c.replied || s.Replied.Details != c.details {
				t.Fatalf("got %+v", s.Replied)
			}
			if diff := cmp.Diff(c.want, pairs(s.Replied.Fields)); diff != "" {
				t.Error(diff)
			}
			if c.details == "ext_authz_denied" && s.Replied.Body != "why" {
				t.Errorf("body %q", s.Replied.Body)
			}
		})
	}
}
