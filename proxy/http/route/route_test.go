package route_test

import (
	"strings"
	"testing"

	"outrider/certs"
	"outrider/proxy/accesslog"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/message"
	"outrider/proxy/http/route"
)

func ptr[T any](v T) *T { return &v }

func exact(s string) *certs.StringMatcher { return &certs.StringMatcher{Pattern: s} }

func compile(t testing.TB, cfg *config.RouteConfig) *route.Table {
	t.Helper()
	table, err := route.Compile(cfg, route.Deps{Format: accesslog.Formatter})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// request is GET path of h.com, in plaintext; fields are "name: value".
func request(path string, fields ...string) *route.Request {
	h := message.NewHead()
	h.Method, h.Scheme, h.Authority, h.Path = "GET", "http", "h.com", path
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		if name == "host" {
			h.Authority = value
			continue
		}
		h.Fields.Add(name, value)
	}
	return &route.Request{Head: h, Info: &flow.Info{HTTP: &flow.HTTP{Request: h}}}
}

// to is a route to a cluster.
func to(m config.RouteMatch, cluster string) *config.Route {
	return &config.Route{Match: m, Action: &config.RouteAction{Cluster: cluster}}
}

// all is a configuration of one virtual host.
func all(routes ...*config.Route) *config.RouteConfig {
	return &config.RouteConfig{Name: "r", VirtualHosts: []*config.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: routes}}}
}

// cluster is where a request goes; "-" if it has no route.
func cluster(t *route.Table, r *route.Request) string {
	m, ok := t.Find(r)
	if !ok {
		return "-"
	}
	return m.Cluster
}

// Source: Envoy's documentation of VirtualHost.domains.
func TestTheMostSpecificDomainWins(t *testing.T) {
	cfg := &config.RouteConfig{}
	for _, domains := range []string{
		"*", "www.foo.com", "*.foo.com", "*-bar.foo.com", "foo.*", "foo.b*", "h.com:80", "*.port.com", "[::1]", "a.foo.*",
	} {
		cfg.VirtualHosts = append(cfg.VirtualHosts, &config.VirtualHost{
			Name: domains, Domains: []string{domains}, Routes: []*config.Route{to(config.RouteMatch{Prefix: ptr("/")}, domains)},
		})
	}
	for _, c := range []struct {
		host       string
		ignorePort bool
		want       string
	}{
		{"www.foo.com", false, "www.foo.com"},
		{"WWW.Foo.com", false, "www.foo.com"},
		{"a.b.foo.com", false, "*.foo.com"},
		{"x-bar.foo.com", false, "*-bar.foo.com"},
		{".foo.com", false, "*"},
		{"foo.com", false, "foo.*"},
		{"foo.bar", false, "foo.b*"},
		{"foo.", false, "*"},
		{"a.foo.com", false, "*.foo.com"},
		{"a.foo.org", false, "a.foo.*"},
		{"other", false, "*"},
		{"h.com:80", false, "h.com:80"},
		{"h.com:80", true, "*"},
		{"www.foo.com:80", false, "*"},
		{"www.foo.com:80", true, "www.foo.com"},
		{"a.port.com:99", true, "*.port.com"},
		{"[::1]:80", true, "[::1]"},
		{"[::1]", true, "[::1]"},
		{"", false, "-"},
	} {
		cfg.IgnorePortInHost = c.ignorePort
		if got := cluster(compile(t, cfg), request("/", "host: "+c.host)); got != c.want {
			t.Errorf("%q (port ignored: %v) is routed by %s, want %s", c.host, c.ignorePort, got, c.want)
		}
	}
}

func TestTheOnlyVirtualHostForAllNeedsNoHost(t *testing.T) {
	table := compile(t, all(to(config.RouteMatch{Prefix: ptr("/")}, "c")))
	if got := cluster(table, request("/", "host: ")); got != "c" {
		t.Errorf("a request without host goes to %s, want c", got)
	}
}

func TestARequestMeetsAllCriteriaOfItsRoute(t *testing.T) {
	for _, c := range []struct {
		name  string
		match config.RouteMatch
		path  string
		field string
		want  bool
	}{
		{"a prefix", config.RouteMatch{Prefix: ptr("/a")}, "/ab?x", "", true},
		{"a prefix, not in the query", config.RouteMatch{Prefix: ptr("/a?x")}, "/a?x", "", false},
		{"a prefix, not in the fragment", config.RouteMatch{Prefix: ptr("/a#x")}, "/a#x", "", false},
		{"a prefix, other case", config.RouteMatch{Prefix: ptr("/A")}, "/a", "", false},
		{"a prefix, any case", config.RouteMatch{Prefix: ptr("/Ab"), IgnoreCase: true}, "/aBc", "", true},
		{"the empty prefix", config.RouteMatch{Prefix: ptr("")}, "*", "", true},
		{"a path", config.RouteMatch{Path: ptr("/a")}, "/a?x", "", true},
		{"a path that goes on", config.RouteMatch{Path: ptr("/a")}, "/ab", "", false},
		{"a path, any case", config.RouteMatch{Path: ptr("/A"), IgnoreCase: true}, "/a", "", true},
		{"a separated prefix", config.RouteMatch{PathSeparatedPrefix: ptr("/a")}, "/a/b", "", true},
		{"a separated prefix, alone", config.RouteMatch{PathSeparatedPrefix: ptr("/a")}, "/a?b", "", true},
		{"a separated prefix, not separated", config.RouteMatch{PathSeparatedPrefix: ptr("/a")}, "/ab", "", false},
		{"a regex of the whole path", config.RouteMatch{Regex: "/re/[0-9]+"}, "/re/12?x", "", true},
		{"a regex of a part", config.RouteMatch{Regex: "/re/[0-9]+"}, "/re/12x", "", false},
		{"a regex has no case to ignore", config.RouteMatch{Regex: "/A", IgnoreCase: true}, "/a", "", false},
		{"gRPC", config.RouteMatch{Prefix: ptr("/"), GRPC: true}, "/", "content-type: application/grpc", true},
		{"gRPC with a message format", config.RouteMatch{Prefix: ptr("/"), GRPC: true}, "/", "content-type: application/grpc+proto", true},
		{"gRPC with a parameter", config.RouteMatch{Prefix: ptr("/"), GRPC: true}, "/", "content-type: application/grpc;x", false},
		{"gRPC-Web", config.RouteMatch{Prefix: ptr("/"), GRPC: true}, "/", "content-type: application/grpc-web", false},
		{"gRPC in other case", config.RouteMatch{Prefix: ptr("/"), GRPC: true}, "/", "content-type: Application/GRPC", false},
		{"a header", config.RouteMatch{Prefix: ptr("/"), Headers: []config.HeaderMatcher{{Name: "x", String: exact("1")}}}, "/", "x: 1", true},
		{"no header", config.RouteMatch{Prefix: ptr("/"), Headers: []config.HeaderMatcher{{Name: "x"}}}, "/", "", false},
		{"a query parameter", query("a", nil, nil), "/?b&a", "", true},
		{"no query parameter", query("a", nil, nil), "/?b", "", false},
		{"a query parameter that is there", query("a", nil, ptr(true)), "/?a=", "", true},
		{"a query parameter that is not", query("a", nil, ptr(false)), "/?b", "", true},
		{"a query parameter that is, but should not", query("a", nil, ptr(false)), "/?a", "", false},
		{"a query parameter's value", query("a", exact("b%20c"), nil), "/?a=b%20c", "", true},
		{"a query parameter is not decoded", query("a", exact("b c"), nil), "/?a=b%20c", "", false},
		{"the first query parameter counts", query("a", exact("2"), nil), "/?a=1&a=2", "", false},
		{"a cookie", cookies(false), "/", "cookie: a=x", true},
		{"a cookie in quotes, after another", cookies(false), "/", `cookie: b=1; a="x"`, true},
		{"a cookie with a space after it", cookies(false), "/", "cookie: a=x ;b", false},
		{"a cookie with a space after its name", cookies(false), "/", "cookie: a =x", false},
		{"the first cookie counts", cookies(false), "/", "cookie: a=z; a=x", false},
		{"no cookie", cookies(false), "/", "", false},
		{"no cookie, inverted", cookies(true), "/", "", true},
		{"a cookie, inverted", cookies(true), "/", "cookie: a=x", false},
		{"TLS that is not there presents nothing", config.RouteMatch{Prefix: ptr("/"), TLSPresented: ptr(false)}, "/", "", true},
		{"TLS that is not there validates nothing", config.RouteMatch{Prefix: ptr("/"), TLSValidated: ptr(true)}, "/", "", false},
		{"no filter state", config.RouteMatch{Prefix: ptr("/"), FilterState: []config.FilterStateMatcher{{Key: "k", String: exact("")}}}, "/", "", false},
		{"CONNECT alone", config.RouteMatch{Connect: true}, "/", "", false},
		{"half of all, the other", config.RouteMatch{Prefix: ptr("/"), RuntimePPM: ptr(uint32(0))}, "/", "", false},
		{"half of all, this", config.RouteMatch{Prefix: ptr("/"), RuntimePPM: ptr(uint32(1))}, "/", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := request(c.path)
			if c.field != "" {
				r = request(c.path, c.field)
			}
			table := compile(t, all(to(c.match, "c")))
			if _, got := table.Find(r); got != c.want {
				_, trace := table.Explain(r)
				t.Errorf("%q matches: %v, want %v: %+v", c.path, got, c.want, trace)
			}
			_, trace := table.Explain(r)
			if failed := trace.Trials[0].Failed; (failed == "") != c.want || (trace.Refused == "") != c.want {
				t.Errorf("explained as %+v, want a reason only if it fails", trace)
			}
			criteria, err := route.CompileCriteria(c.match)
			if err != nil || criteria.Match(r) != c.want {
				t.Errorf("its criteria alone match: %v, %v, want %v", criteria.Match(r), err, c.want)
			}
		})
	}
}

func query(name string, value *certs.StringMatcher, present *bool) config.RouteMatch {
	return config.RouteMatch{Prefix: ptr("/"), Query: []config.QueryMatcher{{Name: name, String: value, Present: present}}}
}

func cookies(invert bool) config.RouteMatch {
	return config.RouteMatch{Prefix: ptr("/"), Cookies: []config.CookieMatcher{{Name: "a", String: exact("x"), Invert: invert}}}
}

func TestPathParametersMayBeIgnored(t *testing.T) {
	cfg := all(to(config.RouteMatch{Path: ptr("/a")}, "c"))
	if got := cluster(compile(t, cfg), request("/a;v=1?x")); got != "-" {
		t.Errorf("with parameters it goes to %s, want nowhere", got)
	}
	cfg.IgnorePathParameters = true
	if got := cluster(compile(t, cfg), request("/a;v=1?x")); got != "c" {
		t.Errorf("with parameters ignored it goes to %s, want c", got)
	}
}

func TestConnectGoesByItsOwnCriterion(t *testing.T) {
	table := compile(t, all(to(config.RouteMatch{Prefix: ptr("")}, "prefix"), to(config.RouteMatch{Connect: true}, "connect")))
	r := request("")
	r.Head.Method = "CONNECT"
	if got := cluster(table, r); got != "connect" {
		t.Errorf("CONNECT without a path goes to %s, want connect", got)
	}
}

func TestExplainSaysWhatFoundTheRoute(t *testing.T) {
	cfg := all(
		&config.Route{Name: "first", Match: config.RouteMatch{Prefix: ptr("/a")}, Action: &config.RouteAction{Cluster: "a"}},
		to(config.RouteMatch{Prefix: ptr("/"), Headers: []config.HeaderMatcher{{Name: "x", String: exact("1")}}}, "b"),
		to(config.RouteMatch{Prefix: ptr("/")}, "c"),
	)
	cfg.VirtualHosts[0].Domains = []string{"*.com"}
	m, trace := compile(t, cfg).Explain(request("/b?q", "x: 2"))
	if m == nil || m.Cluster != "c" || trace.Cluster != "c" || trace.Host != "h.com" || trace.VirtualHost != "all" || trace.Domain != "*.com" {
		t.Fatalf("explained as %+v", trace)
	}
	want := []route.Trial{
		{Route: "first", Failed: `path: prefix "/a": it is "/b"`},
		{Route: "routes[1]", Failed: `headers: header x exact "1": it is "2"`},
		{Route: "routes[2]", Matched: true},
	}
	for i := range want {
		if trace.Trials[i] != want[i] {
			t.Errorf("trial %d is %+v, want %+v", i, trace.Trials[i], want[i])
		}
	}
	_, trace = compile(t, cfg).Explain(request("/", "host: h.org"))
	if trace.Refused != `no virtual host of route configuration "r" has a domain for "h.org"` {
		t.Errorf("without a virtual host the reason is %q", trace.Refused)
	}
}
