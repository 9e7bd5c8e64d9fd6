package route_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"outrider/proxy/accesslog"
	"outrider/proxy/config"
	"outrider/proxy/http/route"
)

func text(status int, location string) string { return strconv.Itoa(status) + " " + location }

func TestOverridesGoByLevel(t *testing.T) {
	override := func(s string) map[string]*config.FilterOverride {
		return map[string]*config.FilterOverride{s: {Config: s}, "all": {Config: s}, "off": {Config: s}}
	}
	rt := to(config.RouteMatch{Prefix: ptr("/")}, "")
	rt.PerFilter = override("route")
	rt.PerFilter["off"] = &config.FilterOverride{Disabled: true}
	rt.Action.Weighted = &config.WeightedClusters{Clusters: []config.WeightedHTTPCluster{{Name: "w", Weight: 1}}}
	cfg := all(rt)
	cfg.PerFilter, cfg.VirtualHosts[0].PerFilter = override("config"), override("host")
	m := find(t, cfg, request("/"))
	var got []any
	for _, o := range m.Overrides("all") {
		got = append(got, o.Config)
	}
	if !slices.Equal(got, []any{"config", "host", "route"}) || m.Override("all").Config != "route" {
		t.Errorf("the overrides are %v and the most specific %v", got, m.Override("all"))
	}
	if o := m.Override("host"); o == nil || o.Config != "host" {
		t.Errorf("the override of the virtual host alone is %v", o)
	}
	if o := m.Override("off"); o == nil || !o.Disabled || len(m.Overrides("off")) != 2 {
		t.Errorf("the filter that the route disables has %v", o)
	}
	if m.Override("none") != nil {
		t.Error("there is an override of a filter that no level names")
	}
	rt.Action.Weighted.Clusters[0].PerFilter = override("weighted")
	if o := find(t, cfg, request("/")).Override("all"); o.Config != "weighted" {
		t.Errorf("the most specific override is %v, want the weighted cluster's", o.Config)
	}
}

func TestPoliciesAreInherited(t *testing.T) {
	rt := to(config.RouteMatch{Prefix: ptr("/")}, "c")
	cfg := all(rt)
	host := cfg.VirtualHosts[0]
	mirror := func(name string) []config.MirrorPolicy { return []config.MirrorPolicy{{Cluster: name}} }
	policy := func(name string) *config.RetryPolicy {
		return &config.RetryPolicy{On: []string{name}, RequestHeaders: []config.HeaderMatcher{{Name: name}}, RetriableHeaders: []config.HeaderMatcher{{Name: name}}}
	}
	if m := find(t, cfg, request("/")); m.Mirrors() != nil || m.Retry() != nil || !m.RetriableHeaders().Empty() || !m.RetryRequestHeaders().Empty() {
		t.Errorf("there are policies where none is configured: %v %v", m.Mirrors(), m.Retry())
	}
	for _, c := range []struct {
		set  func()
		want string
	}{
		{func() { cfg.MirrorPolicies, host.Retry = mirror("config"), policy("config") }, "config"},
		{func() { host.MirrorPolicies, host.Retry = mirror("vhost"), policy("vhost") }, "vhost"},
		{func() { rt.Action.MirrorPolicies, rt.Action.Retry = mirror("route"), policy("route") }, "route"},
	} {
		c.set()
		m := find(t, cfg, request("/"))
		r := request("/", c.want+": 1")
		if m.Mirrors()[0].Cluster != c.want || m.Retry().On[0] != c.want || !m.RetriableHeaders().Any(r.Head) || !m.RetryRequestHeaders().Any(r.Head) {
			t.Errorf("the policies are %v and %v, want those of the %s", m.Mirrors(), m.Retry(), c.want)
		}
		more := m.RetriableHeaders().WithPresent("more")
		if m.RetriableHeaders().Any(request("/", "more: 1").Head) || !more.Any(request("/", "more: 1").Head) || !more.Any(r.Head) {
			t.Error("WithPresent changes the list that it is called on, or does not add")
		}
	}
}

func TestVirtualClustersAreFoundInOrder(t *testing.T) {
	cfg := all(to(config.RouteMatch{Prefix: ptr("/")}, "c"))
	cfg.VirtualHosts[0].VirtualClusters = []config.VirtualCluster{
		{Name: "a", Headers: []config.HeaderMatcher{{Name: "a"}}}, {Name: "b", Headers: []config.HeaderMatcher{{Name: "b"}}},
	}
	for _, c := range []struct {
		fields []string
		want   string
	}{{[]string{"b: 1"}, "b"}, {[]string{"b: 1", "a: 1"}, "a"}, {nil, ""}} {
		r := request("/", c.fields...)
		if got := find(t, cfg, r).VirtualCluster(r.Head); got != c.want {
			t.Errorf("with %q the virtual cluster is %q, want %q", c.fields, got, c.want)
		}
	}
}

func TestMistakesAreRefusedAtOnce(t *testing.T) {
	bad := to(config.RouteMatch{Regex: "("}, "c")
	bad.Action.RegexRewrite = &config.RegexRewrite{Pattern: "a", Substitution: `\1`}
	bad.Action.HostRewriteFormat = "%NOPE%"
	bad.Headers = config.HeaderOps{RequestAdd: []config.HeaderValueOption{{Name: ":path", Value: "/"}}, ResponseRemove: []string{"Host"}}
	second := to(config.RouteMatch{Prefix: ptr("/"), Path: ptr("/")}, "")
	second.Action.Weighted = &config.WeightedClusters{Clusters: []config.WeightedHTTPCluster{{Name: "w"}}}
	second.Action.PathTemplateRewrite = "/{a}"
	cfg := all(bad, second)
	cfg.VirtualHosts[0].VirtualClusters = []config.VirtualCluster{{Name: "v"}}
	cfg.VirtualHosts = append(cfg.VirtualHosts, &config.VirtualHost{Name: "two", Domains: []string{"*", "a", "A", "*.b", "*.B", "c.*", "c.*"}})
	_, err := route.Compile(cfg, route.Deps{Format: accesslog.Formatter})
	if err == nil {
		t.Fatal("it is accepted")
	}
	for _, want := range []string{
		`route configuration "r"`, `virtual_hosts[0] "all"`, "routes[0]: match: safe_regex", `regex_rewrite: substitution "\\1"`,
		"host_rewrite: ", `request_headers_to_add[0]: ":path": :-prefixed or host headers may not be modified`,
		`response_headers_to_remove[0]: "Host": :-prefixed or host headers may not be removed`,
		"routes[1]: match: 2 path criteria are set", "weighted_clusters: the sum of the weights is 0",
		`path_template_rewrite "/{a}": the route has no uri_template`, "virtual_clusters[0]: virtual clusters must define headers",
		`domain "*" is there twice`, `domain "A" is there twice`, `domain "*.B" is there twice`, `domain "c.*" is there twice`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
}
