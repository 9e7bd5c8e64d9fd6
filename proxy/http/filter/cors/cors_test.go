package cors_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/http/filter/cors"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

func origins(patterns ...string) []certs.StringMatcher {
	var out []certs.StringMatcher
	for _, p := range patterns {
		out = append(out, certs.StringMatcher{Pattern: p})
	}
	return out
}

const million = 1_000_000

var yes, no = true, false

// full is a policy with all fields.
func full() *config.CORSPolicy {
	return &config.CORSPolicy{
		Origins: origins("http://a"), AllowMethods: "GET,PUT", AllowHeaders: "x-h", ExposeHeaders: "x-e", MaxAge: "7",
		Credentials: &yes, PrivateNetwork: &yes, EnabledPPM: million,
	}
}

// with is full, changed.
func with(change func(p *config.CORSPolicy)) *config.CORSPolicy {
	p := full()
	change(p)
	return p
}

func fields(pairs ...string) message.Fields {
	var out message.Fields
	for i := 0; i < len(pairs); i += 2 {
		out.Add(pairs[i], pairs[i+1])
	}
	return out
}

func stream(t *testing.T, reg *stats.Registry, host, route *config.CORSPolicy, overrides ...*config.FilterOverride) *filtertest.Stream {
	t.Helper()
	f, err := cors.New(&config.HTTPFilter{Config: &config.HTTPCORS{}}, filtertest.Deps(reg))
	if err != nil {
		t.Fatal(err)
	}
	s := filtertest.New(t)
	s.RouteFound = &config.Route{Action: &config.RouteAction{CORS: route}}
	s.Host = &config.VirtualHost{CORS: host}
	s.Overriding = overrides
	return s.Start(f)
}

// preflight is a preflight request and what it meets.
type preflight struct {
	host, route *config.CORSPolicy
	overrides   []*config.FilterOverride
	method      string
	headers     []string
	want        message.Fields // nil: it goes on
	valid       string         // the counter, "" for none
}

func preflights() map[string]preflight {
	ask := []string{"origin", "http://a", "access-control-request-method", "DELETE", "access-control-request-headers", "x-r", "access-control-request-private-network", "true"}
	all := fields("access-control-allow-origin", "http://a", "access-control-allow-credentials", "true", "access-control-allow-methods", "GET,PUT",
		"access-control-allow-headers", "x-h", "access-control-max-age", "7", "access-control-allow-private-network", "true")
	return map[string]preflight{
		"with all":              {route: full(), headers: ask, want: all, valid: "origin_valid"},
		"by the virtual host":   {host: full(), headers: ask, want: all, valid: "origin_valid"},
		"without a policy":      {headers: ask},
		"without an origin":     {route: full(), headers: ask[2:]},
		"without a method":      {route: full(), headers: []string{"origin", "http://a"}, valid: "origin_valid"},
		"that is no OPTIONS":    {route: full(), method: "GET", headers: ask, valid: "origin_valid"},
		"of another origin":     {route: full(), headers: append([]string{"origin", "http://b"}, ask[2:]...), valid: "origin_invalid"},
		"of another, forwarded": {route: with(func(p *config.CORSPolicy) { p.ForwardPreflights = &yes }), headers: append([]string{"origin", "http://b"}, ask[2:]...), valid: "origin_invalid"},
		"of another, not forwarded": {
			route:   with(func(p *config.CORSPolicy) { p.ForwardPreflights = &no }),
			headers: append([]string{"origin", "http://b"}, ask[2:]...), want: all[1:], valid: "origin_invalid",
		},
		"with stars": {
			route:   with(func(p *config.CORSPolicy) { p.AllowMethods, p.AllowHeaders, p.Origins = "*", "*", origins("*") }),
			headers: ask, valid: "origin_valid",
			want: fields("access-control-allow-origin", "http://a", "access-control-allow-credentials", "true", "access-control-allow-methods", "DELETE",
				"access-control-allow-headers", "x-r", "access-control-max-age", "7", "access-control-allow-private-network", "true"),
		},
		"with a star and nothing asked": {
			route:   &config.CORSPolicy{Origins: origins("http://a"), AllowHeaders: "*", EnabledPPM: million},
			headers: ask[:4], want: append(all[:1:1], fields("access-control-allow-headers", "")...), valid: "origin_valid",
		},
		"with little": {route: &config.CORSPolicy{Origins: origins("http://a"), EnabledPPM: million}, headers: ask, want: all[:1], valid: "origin_valid"},
		"by field": {
			host:    with(func(p *config.CORSPolicy) { p.EnabledPPM = 0 }),
			route:   &config.CORSPolicy{AllowMethods: "PATCH", Credentials: &no, PrivateNetwork: &no, EnabledPPM: million},
			headers: ask, valid: "origin_valid",
			want: fields("access-control-allow-origin", "http://a", "access-control-allow-methods", "PATCH", "access-control-allow-headers", "x-h", "access-control-max-age", "7"),
		},
		"in the shadow":               {route: with(func(p *config.CORSPolicy) { p.EnabledPPM, p.ShadowPPM = 0, million }), headers: ask, valid: "origin_valid"},
		"disabled":                    {route: with(func(p *config.CORSPolicy) { p.EnabledPPM = 0 }), headers: ask},
		"by an override":              {overrides: []*config.FilterOverride{{Config: full()}}, headers: ask, want: all, valid: "origin_valid"},
		"by an override, not a field": {route: full(), overrides: []*config.FilterOverride{{Config: &config.CORSPolicy{EnabledPPM: million}}}, headers: ask, valid: "origin_invalid"},
		"by overrides, field by field": {
			overrides: []*config.FilterOverride{{Config: full()}, {Config: &config.CORSPolicy{MaxAge: "9", Credentials: &no, EnabledPPM: million}}},
			headers:   ask, valid: "origin_valid",
			want: fields("access-control-allow-origin", "http://a", "access-control-allow-methods", "GET,PUT",
				"access-control-allow-headers", "x-h", "access-control-max-age", "9", "access-control-allow-private-network", "true"),
		},
	}
}

func TestPreflightRequestsAreAnswered(t *testing.T) {
	for name, c := range preflights() {
		t.Run(name, func(t *testing.T) {
			reg := stats.New()
			s := stream(t, reg, c.host, c.route, c.overrides...)
			method := c.method
			if method == "" {
				method = "OPTIONS"
			}
			s.RequestHead(filtertest.Request(method, "/", c.headers...), true)
			if c.want == nil {
				if s.Up.Head == nil || s.Replied != nil {
					t.Errorf("replied %+v, want it to go on", s.Replied)
				}
			} else if s.Replied == nil || s.Replied.Status != 200 || s.Replied.Details != "cors_response" {
				t.Errorf("replied %+v, want 200", s.Replied)
			} else if diff := cmp.Diff(c.want, s.Replied.Fields); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
			var want map[string]uint64
			if c.valid != "" {
				want = map[string]uint64{c.valid: 1}
			}
			if diff := cmp.Diff(want, filtertest.Counters(t, reg, "http.test.cors.")); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
		})
	}
}

func TestResponsesSayWhoMayReadThem(t *testing.T) {
	for name, c := range map[string]struct {
		policy *config.CORSPolicy
		origin string
		want   message.Fields
	}{
		"an allowed origin": {policy: full(), origin: "http://a", want: fields("access-control-allow-origin", "http://a", "access-control-allow-credentials", "true", "access-control-expose-headers", "x-e")},
		"another origin":    {policy: full(), origin: "http://b", want: fields("access-control-allow-origin", "theirs")},
		"in the shadow":     {policy: with(func(p *config.CORSPolicy) { p.EnabledPPM, p.ShadowPPM = 0, million }), origin: "http://a", want: fields("access-control-allow-origin", "theirs")},
	} {
		t.Run(name, func(t *testing.T) {
			s := stream(t, stats.New(), nil, c.policy)
			s.RequestHead(filtertest.Request("GET", "/", "origin", c.origin), true)
			s.ResponseHead(filtertest.Response(200, "access-control-allow-origin", "theirs"), true)
			if diff := cmp.Diff(c.want, s.Down.Head.Fields); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
}

func TestARouteWithoutAPolicyInItsPlaceIsRefused(t *testing.T) {
	s := stream(t, stats.New(), full(), nil, &config.FilterOverride{Config: "text"})
	s.RequestHead(filtertest.Request("GET", "/", "origin", "http://a"), true)
	if s.Replied == nil || s.Replied.Status != 500 {
		t.Errorf("replied %+v, want 500", s.Replied)
	}
}

func TestWhatIsNotForwardedHasNoPolicy(t *testing.T) {
	s := stream(t, stats.New(), full(), nil)
	s.RouteFound = &config.Route{Direct: &config.DirectReply{Status: 200}}
	s.RequestHead(filtertest.Request("OPTIONS", "/", "origin", "http://a", "access-control-request-method", "GET"), true)
	if s.Replied != nil || s.Up.Head == nil {
		t.Errorf("replied %+v, want it to go on", s.Replied)
	}
}
