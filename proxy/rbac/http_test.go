package rbac

import (
	"net/netip"
	"strings"
	"testing"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/message"
)

// requested is a request on the connection of described, whose client is
// 172.16.0.9 by x-forwarded-for.
func requested(path string) *flow.Info {
	info := described().NewRequest(described().Start)
	info.Remote = flow.Addr{AddrPort: netip.MustParseAddrPort("172.16.0.9:0")}
	h := message.NewHead()
	h.Method, h.Authority, h.Path = "GET", "shop", path
	h.Fields.Add("x-a", "1")
	h.Fields.Add("x-a", "2")
	info.HTTP.Request = h
	return info
}

func TestPermissionsOfRequestsMatchAsInEnvoy(t *testing.T) {
	tmpl := func(s string) *config.Permission { return &config.Permission{Template: s} }
	head := func(m config.HeaderMatcher) *config.Permission { return &config.Permission{Header: &m} }
	for name, c := range map[string]struct {
		p    *config.Permission
		path string
		want bool
	}{
		"a path":                             {p: &config.Permission{URLPath: exact("/a")}, path: "/a", want: true},
		"a path without its query":           {p: &config.Permission{URLPath: exact("/a")}, path: "/a?b#c", want: true},
		"a path without its fragment":        {p: &config.Permission{URLPath: exact("/a")}, path: "/a#b?c", want: true},
		"another path":                       {p: &config.Permission{URLPath: exact("/a")}, path: "/ab"},
		"the query is not the path":          {p: &config.Permission{URLPath: prefixed("/a?")}, path: "/a?b"},
		"a header's values are one":          {p: head(config.HeaderMatcher{Name: "X-A", String: exact("1,2")}), path: "/", want: true},
		"a header that is not there":         {p: head(config.HeaderMatcher{Name: "x-b", String: exact("1")}), path: "/"},
		"not a header that is not there":     {p: &config.Permission{Not: head(config.HeaderMatcher{Name: "x-b"})}, path: "/", want: true},
		"the method":                         {p: head(config.HeaderMatcher{Name: ":method", String: exact("GET")}), path: "/", want: true},
		"the path with query as a header":    {p: head(config.HeaderMatcher{Name: ":path", String: exact("/a?b")}), path: "/a?b", want: true},
		"the authority":                      {p: head(config.HeaderMatcher{Name: ":authority", String: exact("shop")}), path: "/", want: true},
		"template, one segment":              {p: tmpl("/a/*/c"), path: "/a/b/c?d", want: true},
		"template, * is not two":             {p: tmpl("/a/*/c"), path: "/a/b/b/c"},
		"template, * is not nothing":         {p: tmpl("/a/*"), path: "/a/"},
		"template, the rest":                 {p: tmpl("/a/**"), path: "/a/b/c", want: true},
		"template, ** may be nothing":        {p: tmpl("/a/**"), path: "/a/", want: true},
		"template, a suffix":                 {p: tmpl("/a/**.mp4"), path: "/a/b/c.mp4", want: true},
		"template, its dot is a dot":         {p: tmpl("/a/**.mp4"), path: "/a/b/cxmp4"},
		"template, a variable":               {p: tmpl("/a/{id}/c"), path: "/a/7/c", want: true},
		"template, a variable is a segment":  {p: tmpl("/a/{id}"), path: "/a/7/c"},
		"template, a variable with patterns": {p: tmpl("/{v=a/*}/c"), path: "/a/b/c", want: true},
		"template, a variable of the rest":   {p: tmpl("/a/{rest=**}"), path: "/a/b/c", want: true},
		"template, the whole path":           {p: tmpl("/a"), path: "/a/b"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := compilePermission(c.p)
			if err != nil {
				t.Fatal(err)
			}
			checkRule(t, r, requested(c.path), c.want)
		})
	}
}

func TestPrincipalsOfRequestsMatchAsInEnvoy(t *testing.T) {
	for name, c := range map[string]struct {
		p    *config.Principal
		want bool
	}{
		"source_ip is the connection's":        {p: &config.Principal{SourceIP: cidr("10.0.0.0/24")}, want: true},
		"source_ip is not the forwarded":       {p: &config.Principal{SourceIP: cidr("172.16.0.0/16")}},
		"remote_ip is the forwarded":           {p: &config.Principal{SourceIP: cidr("172.16.0.0/16"), Forwarded: true}, want: true},
		"remote_ip is not the connection's":    {p: &config.Principal{SourceIP: cidr("10.0.0.0/24"), Forwarded: true}},
		"direct_remote_ip is the socket's":     {p: &config.Principal{DirectRemoteIP: cidr("192.168.0.0/16")}, want: true},
		"a header":                             {p: &config.Principal{Header: &config.HeaderMatcher{Name: "x-a"}}, want: true},
		"a path":                               {p: &config.Principal{URLPath: exact("/p")}, want: true},
		"a name in x-forwarded-client-cert":    {p: &config.Principal{Authenticated: &config.Authenticated{Name: exact(evilID)}}},
		"the name in the verified certificate": {p: &config.Principal{Authenticated: &config.Authenticated{Name: exact(webID)}}, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := compilePrincipal(c.p)
			if err != nil {
				t.Fatal(err)
			}
			info := requested("/p?q")
			info.HTTP.Request.Fields.Add("x-forwarded-client-cert", "URI="+evilID)
			info.Downstream = peer(t, true, webID)
			checkRule(t, r, info, c.want)
		})
	}
}

func TestConnectionsHaveNothingOfHTTP(t *testing.T) {
	for _, p := range []*config.Permission{
		{URLPath: prefixed("")}, {Template: "/**"}, {Header: &config.HeaderMatcher{Name: "x", Invert: true}},
	} {
		r, err := compilePermission(p)
		if err != nil {
			t.Fatal(err)
		}
		checkRule(t, r, described(), false)
	}
}

func TestBrokenCriteriaOfRequestsAreRefused(t *testing.T) {
	for want, p := range map[string]*config.Permission{
		"the header has no name": {Header: &config.HeaderMatcher{}},
		"no closing brace":       {Template: "/{a"},
		"in a variable":          {Template: "/{a={b}}"},
	} {
		if _, err := compilePermission(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want one with %q", err, want)
		}
	}
}
