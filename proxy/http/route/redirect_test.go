package route_test

import (
	"testing"

	"outrider/proxy/config"
)

// The results are those of Envoy 1.40 with the same routes.
func TestRedirects(t *testing.T) {
	for name, c := range map[string]struct {
		match    config.RouteMatch
		redirect config.Redirect
		path     string
		fields   []string
		want     string
	}{
		"prefix":                    {config.RouteMatch{Prefix: ptr("/rd/prefix")}, config.Redirect{PrefixRewrite: ptr("/new"), Status: 302}, "/rd/prefix/x?y", nil, "302 http://h.com/new/x?y"},
		"prefix of a path":          {config.RouteMatch{Path: ptr("/rd")}, config.Redirect{PrefixRewrite: ptr("/new")}, "/rd?q", nil, "301 http://h.com/new?q"},
		"no prefix":                 {config.RouteMatch{Path: ptr("/rd")}, config.Redirect{PrefixRewrite: ptr("")}, "/rd?q", nil, "301 http://h.com/rd?q"},
		"https":                     {config.RouteMatch{Prefix: ptr("/")}, config.Redirect{HTTPS: true}, "/a?z", []string{"host: h.com:80"}, "301 https://h.com/a?z"},
		"https, another port":       {config.RouteMatch{Prefix: ptr("/")}, config.Redirect{HTTPS: true}, "/a?z", []string{"host: h.com:8080"}, "301 https://h.com:8080/a?z"},
		"https, IPv6":               {config.RouteMatch{Prefix: ptr("/")}, config.Redirect{HTTPS: true}, "/", []string{"host: [::1]:80"}, "301 https://[::1]/"},
		"https, IPv6 without port":  {config.RouteMatch{Prefix: ptr("/")}, config.Redirect{HTTPS: true}, "/", []string{"host: [::1]"}, "301 https://[::1]/"},
		"https, already":            {config.RouteMatch{Prefix: ptr("/")}, config.Redirect{HTTPS: true}, "/", []string{"host: h.com:443", "x-forwarded-proto: https"}, "301 https://h.com:443/"},
		"port":                      {config.RouteMatch{Prefix: ptr("/")}, config.Redirect{HTTPS: true, Port: 8443}, "/", []string{"host: h.com:1234"}, "301 https://h.com:8443/"},
		"host":                      {config.RouteMatch{Prefix: ptr("/")}, config.Redirect{Host: "example.com"}, "/x?q", []string{"host: h.com:99"}, "301 http://example.com/x?q"},
		"path":                      {config.RouteMatch{Prefix: ptr("/")}, config.Redirect{Path: "/a/b"}, "/x?q", nil, "301 http://h.com/a/b?q"},
		"path, stripped":            {config.RouteMatch{Prefix: ptr("/")}, config.Redirect{Path: "/a/b", StripQuery: true}, "/x?q", nil, "301 http://h.com/a/b"},
		"path with a query":         {config.RouteMatch{Prefix: ptr("/")}, config.Redirect{Path: "/a/b?z", StripQuery: true}, "/x?q", nil, "301 http://h.com/a/b?z"},
		"stripped":                  {config.RouteMatch{Prefix: ptr("/")}, config.Redirect{StripQuery: true}, "/x?q", nil, "301 http://h.com/x"},
		"regex":                     {config.RouteMatch{Prefix: ptr("/")}, config.Redirect{RegexRewrite: &config.RegexRewrite{Pattern: "^/rd/([a-z]+)/(.*)$", Substitution: `/\2/\1`}}, "/rd/regex/abc?q", nil, "301 http://h.com/abc/regex?q"},
		"regex that leaves nothing": {config.RouteMatch{Prefix: ptr("/")}, config.Redirect{RegexRewrite: &config.RegexRewrite{Pattern: ".*", Substitution: ""}}, "/x?q", nil, "301 http://h.com/x?q"},
		"scheme":                    {config.RouteMatch{Prefix: ptr("/")}, config.Redirect{Scheme: "ftp"}, "/", nil, "301 ftp://h.com/"},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(c.path, c.fields...)
			m := find(t, all(&config.Route{Match: c.match, Redirect: &c.redirect}), r)
			status, location := m.Redirect(r)
			if got := text(status, location); got != c.want {
				t.Errorf("the redirect is %q, want %q", got, c.want)
			}
			if m.Location(r) != "" || m.Cluster != "" {
				t.Errorf("it is a direct response to %q as well, or has cluster %q", m.Location(r), m.Cluster)
			}
		})
	}
}

func TestDirectResponsesHaveALocationWhereEnvoySendsOne(t *testing.T) {
	for status, want := range map[int]string{200: "", 201: "http://h.com/a?b", 302: "http://h.com/a?b", 404: "", 304: "http://h.com/a?b"} {
		r := request("/a?b")
		m := find(t, all(&config.Route{Match: config.RouteMatch{Prefix: ptr("/")}, Direct: &config.DirectReply{Status: status}}), r)
		if got := m.Location(r); got != want {
			t.Errorf("status %d has location %q, want %q", status, got, want)
		}
		if s, l := m.Redirect(r); s != 0 {
			t.Errorf("status %d is a redirect: %d %s", status, s, l)
		}
	}
}

func TestVirtualHostsMayRequireTLS(t *testing.T) {
	for _, c := range []struct {
		require  config.RequireTLS
		proto    string
		internal bool
		want     string
	}{
		{config.TLSNotRequired, "http", false, "0 "},
		{config.TLSForAll, "http", false, "301 https://h.com:80/a?b"},
		{config.TLSForAll, "http", true, "301 https://h.com:80/a?b"},
		{config.TLSForAll, "", false, "301 https://h.com:80/a?b"},
		{config.TLSForAll, "https", false, "0 "},
		{config.TLSForExternal, "http", false, "301 https://h.com:80/a?b"},
		{config.TLSForExternal, "http", true, "0 "},
		{config.TLSForExternal, "https", false, "0 "},
	} {
		cfg := all(to(config.RouteMatch{Prefix: ptr("/")}, "c"))
		cfg.VirtualHosts[0].RequireTLS = c.require
		r := request("/a?b", "host: h.com:80")
		if c.proto != "" {
			r.Head.Fields.Add("x-forwarded-proto", c.proto)
		}
		r.Internal = c.internal
		m := find(t, cfg, r)
		status, location := m.Redirect(r)
		if got := text(status, location); got != c.want || (m.Route == nil) != (status != 0) {
			t.Errorf("%d for %q (internal: %v) makes %q with route %v, want %q", c.require, c.proto, c.internal, got, m.Route, c.want)
		}
		m.RewriteRequest(r.Head, r.Info)
		m.RewriteResponse(r.Head, r.Info)
		_, _, _ = m.Hash(r)
		if m.Override("x") != nil || m.Retry() != nil || m.VirtualCluster(r.Head) != "" {
			t.Error("a match without anything has something")
		}
	}
}
