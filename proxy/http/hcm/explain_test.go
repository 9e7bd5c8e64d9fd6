package hcm

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"outrider/certs"
	"outrider/proxy/config"
	netfilter "outrider/proxy/filter"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter/builtin"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/http/route"
	"outrider/proxy/stats"
)

// explained is a manager with CORS and RBAC, which lets /open through, and the
// routes of the test.
func explained(t *testing.T, routes ...*config.Route) *Manager {
	t.Helper()
	open := &config.RBACRules{Policies: []config.RBACPolicy{{
		Name: "open", Principals: []*config.Principal{{Any: true}},
		Permissions: []*config.Permission{{URLPath: &certs.StringMatcher{Kind: certs.MatchPrefix, Pattern: "/open"}}},
	}}}
	m := &Manager{name: "hcm", cfg: &config.HTTPConnectionManager{NormalizePath: true, StripAnyPort: true}, deps: Deps{Rand: func() uint64 { return 0 }}}
	makers, d := builtin.Makers(), filtertest.Deps(stats.New())
	for _, f := range []*config.HTTPFilter{
		{Name: "cors", Config: &config.HTTPCORS{}},
		{Name: "off", Disabled: true, Config: &config.HTTPRBAC{RBAC: &config.RBAC{Rules: &config.RBACRules{}}}},
		{Name: "rbac", Config: &config.HTTPRBAC{RBAC: &config.RBAC{Rules: open}}},
	} {
		made, err := makers.Of(f.Config)(f, d)
		if err != nil {
			t.Fatal(err)
		}
		m.filters = append(m.filters, factory{name: f.Name, disabled: f.Disabled, Factory: made})
	}
	table, err := route.Compile(&config.RouteConfig{Name: "rc", VirtualHosts: []*config.VirtualHost{{Name: "v", Domains: []string{"*"}, Routes: routes}}}, route.Deps{Format: d.Format, Runtime: d.RuntimePPM})
	if err != nil {
		t.Fatal(err)
	}
	m.routes.Store(table)
	return m
}

func prefix(p string) config.RouteMatch { return config.RouteMatch{Prefix: &p} }

func TestARequestIsExplainedByItsRouteAndItsFilters(t *testing.T) {
	weighted := &config.WeightedClusters{Total: 4, Clusters: []config.WeightedHTTPCluster{{Name: "a", Weight: 1}, {Name: "b", Weight: 3}}}
	off := map[string]*config.FilterOverride{"rbac": {Disabled: true}}
	m := explained(t,
		&config.Route{Name: "free", Match: prefix("/free"), Direct: &config.DirectReply{Status: 418}, PerFilter: off},
		&config.Route{Name: "weighted", Match: prefix("/open/w"), Action: &config.RouteAction{Weighted: weighted}},
		&config.Route{Name: "header", Match: prefix("/open/h"), Action: &config.RouteAction{ClusterHeader: "x-c"}},
		&config.Route{Name: "rest", Match: prefix("/open"), Action: &config.RouteAction{Cluster: "c"}},
	)
	conn := &flow.Info{Remote: flow.Addr{AddrPort: netip.MustParseAddrPort("10.0.0.1:9")}}
	for path, c := range map[string]struct {
		denied   bool
		reason   string
		filters  string
		clusters []netfilter.ClusterShare
	}{
		"/open/w":         {reason: "one of 2 clusters", filters: "cors rbac", clusters: []netfilter.ClusterShare{{Cluster: "a", Share: 0.25}, {Cluster: "b", Share: 0.75}}},
		"/open/x":         {reason: "HTTP to cluster c", filters: "cors rbac", clusters: []netfilter.ClusterShare{{Cluster: "c", Share: 1}}},
		"/open/h":         {denied: true, reason: "the header that names the cluster", filters: "cors rbac"},
		"/free/1":         {reason: "the route answers 418", filters: "cors"},
		"/open/../closed": {denied: true, reason: "rbac: denied: none of 1 ALLOW policies", filters: "cors rbac"},
		"/closed":         {denied: true, reason: "rbac: denied: none of 1 ALLOW policies", filters: "cors rbac"},
	} {
		v := m.ExplainRequest(conn, filtertest.Request("GET", path))
		if v.Denied != c.denied || !strings.Contains(v.Reason, c.reason) {
			t.Errorf("%s: denied %v, %q; want %v, %q", path, v.Denied, v.Reason, c.denied, c.reason)
		}
		var names []string
		for _, f := range v.Request.Filters {
			names = append(names, f.Filter)
		}
		if got := strings.Join(names, " "); got != c.filters {
			t.Errorf("%s: filters %q, want %q", path, got, c.filters)
		}
		if diff := cmp.Diff(c.clusters, v.Clusters); diff != "" {
			t.Errorf("%s: clusters (-want +got):\n%s", path, diff)
		}
		if v.Request.VirtualHost != "v" || len(v.Request.Routes) == 0 {
			t.Errorf("%s: virtual host %q, routes %v", path, v.Request.VirtualHost, v.Request.Routes)
		}
	}
	if v := m.ExplainRequest(conn, filtertest.Request("GET", "/a#b")); !v.Denied || !strings.Contains(v.Reason, "normal form") {
		t.Errorf("a path with a fragment: denied %v, %q", v.Denied, v.Reason)
	}
	v := explained(t).ExplainRequest(conn, filtertest.Request("GET", "/open"))
	if !v.Denied || !strings.Contains(v.Reason, "no route") {
		t.Errorf("without routes: denied %v, %q", v.Denied, v.Reason)
	}
	if v := (&Manager{}).ExplainRequest(conn, filtertest.Request("GET", "/")); !v.Denied {
		t.Error("without a route configuration a request is let through")
	}
}

func TestRoutesWithWhatAFilterCannotUseAreRefused(t *testing.T) {
	m := explained(t)
	bad := &config.Route{Match: prefix("/"), PerFilter: map[string]*config.FilterOverride{"rbac": {Config: "text"}}}
	err := m.setRoutes(&config.RouteConfig{VirtualHosts: []*config.VirtualHost{{Name: "v", Domains: []string{"*"}, Routes: []*config.Route{bad}}}})
	if err == nil || !strings.Contains(err.Error(), `virtual_hosts["v"].routes[0].typed_per_filter_config["rbac"]`) {
		t.Errorf("the error is %v, want a refusal with its path", err)
	}
}

func TestConnectionsEndWhereHealthChecksAreToFail(t *testing.T) {
	for name, c := range map[string]struct {
		failing bool
		listen  *config.Listener
		want    bool
	}{
		"healthy":                      {want: false},
		"failing":                      {failing: true, want: true},
		"failing, of a listener":       {failing: true, listen: &config.Listener{}, want: true},
		"failing, that drains by hand": {failing: true, listen: &config.Listener{DrainModifyOnly: true}},
		"healthy, of a listener":       {listen: &config.Listener{}},
	} {
		m := &Manager{deps: Deps{Listener: c.listen, Failing: func() bool { return c.failing }}}
		if got := m.failing(); got != c.want {
			t.Errorf("%s: connections end: %v, want %v", name, got, c.want)
		}
	}
	if (&Manager{}).failing() {
		t.Error("without an answer connections end")
	}
}
