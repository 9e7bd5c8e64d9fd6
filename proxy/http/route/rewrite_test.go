package route_test

import (
	"slices"
	"strings"
	"testing"

	"outrider/proxy/accesslog"
	"outrider/proxy/config"
	"outrider/proxy/http/message"
	"outrider/proxy/http/route"
)

// The results are those of Envoy 1.40 with the same routes.
func TestRequestsAreRewritten(t *testing.T) {
	regex := func(p, s string) *config.RegexRewrite { return &config.RegexRewrite{Pattern: p, Substitution: s} }
	prefix := func(p string) config.RouteMatch { return config.RouteMatch{Prefix: &p} }
	for name, c := range map[string]struct {
		match  config.RouteMatch
		action config.RouteAction
		path   string
		fields []string
		want   string // path, host, and the fields x-*
	}{
		"nothing":           {prefix("/"), config.RouteAction{}, "/a?b", nil, "/a?b h.com"},
		"prefix":            {prefix("/pr"), config.RouteAction{PrefixRewrite: "/new"}, "/pr/x?y", nil, "/new/x?y h.com x-envoy-original-path=/pr/x?y"},
		"prefix, all of it": {prefix("/pr"), config.RouteAction{PrefixRewrite: "/new"}, "/pr", nil, "/new h.com x-envoy-original-path=/pr"},
		"prefix of a path":  {config.RouteMatch{Path: ptr("/exact"), IgnoreCase: true}, config.RouteAction{PrefixRewrite: "/new"}, "/exAct?q", nil, "/new?q h.com x-envoy-original-path=/exAct?q"},
		"prefix of a regex": {config.RouteMatch{Regex: "/sr/.*"}, config.RouteAction{PrefixRewrite: "/new"}, "/sr/abc?q", nil, "/new?q h.com x-envoy-original-path=/sr/abc?q"},
		"what a client says is no original": {prefix("/pr"), config.RouteAction{PrefixRewrite: "/new"}, "/pr", []string{"x-envoy-original-path: /evil"},
			"/new h.com x-envoy-original-path=/pr"},
		"regex, every match": {prefix("/"), config.RouteAction{RegexRewrite: regex("one", "two")}, "/xxx/one/yyy/one/zzz?one", nil,
			"/xxx/two/yyy/two/zzz?one h.com x-envoy-original-path=/xxx/one/yyy/one/zzz?one"},
		"regex with groups": {prefix("/"), config.RouteAction{RegexRewrite: regex("^/service/([^/]+)(/.*)$", `\2/instance/\1`)}, "/service/foo/v1/api", nil,
			"/v1/api/instance/foo h.com x-envoy-original-path=/service/foo/v1/api"},
		"regex, the first of two": {prefix("/"), config.RouteAction{RegexRewrite: regex("^(.*?)one(.*)$", `\1two\2`)}, "/xxx/one/yyy/one/zzz", nil,
			"/xxx/two/yyy/one/zzz h.com x-envoy-original-path=/xxx/one/yyy/one/zzz"},
		"regex, any case":                 {prefix("/"), config.RouteAction{RegexRewrite: regex("(?i)/xxx/", "/yyy/")}, "/aaa/XxX/bbb", nil, "/aaa/yyy/bbb h.com x-envoy-original-path=/aaa/XxX/bbb"},
		"regex with signs":                {prefix("/"), config.RouteAction{RegexRewrite: regex("a", `$1\\\0`)}, "/a", nil, `/$1\a h.com x-envoy-original-path=/a`},
		"template":                        {config.RouteMatch{Template: "/tm/{a}/{b=**}"}, config.RouteAction{PathTemplateRewrite: "/{b}/{a}"}, "/tm/1/2/3?q", nil, "/2/3/1?q h.com x-envoy-original-path=/tm/1/2/3?q"},
		"path format":                     {prefix("/"), config.RouteAction{PathFormatRewrite: "/x%REQ(nn)%?a=b"}, "/pf?q=1", []string{"nn: 7"}, "/x7?a=b?q=1 h.com x-envoy-original-path=/pf?q=1"},
		"path format without a value":     {prefix("/"), config.RouteAction{PathFormatRewrite: "/x%REQ(nn)%"}, "/pf", nil, "/x h.com x-envoy-original-path=/pf"},
		"path format that makes nothing":  {prefix("/"), config.RouteAction{PathFormatRewrite: "%REQ(nn)%"}, "/pe?q", nil, "/pe?q h.com"},
		"host":                            {prefix("/"), config.RouteAction{HostRewrite: "new"}, "/", nil, "/ new x-envoy-original-host=h.com"},
		"host, the same":                  {prefix("/"), config.RouteAction{HostRewrite: "h.com"}, "/", nil, "/ h.com x-envoy-original-host=h.com"},
		"host, noted":                     {prefix("/"), config.RouteAction{HostRewrite: "new", AppendXFHost: true}, "/", nil, "/ new x-envoy-original-host=h.com x-forwarded-host=h.com"},
		"host, noted after another":       {prefix("/"), config.RouteAction{HostRewrite: "new", AppendXFHost: true}, "/", []string{"x-forwarded-host: a"}, "/ new x-envoy-original-host=h.com x-forwarded-host=a,h.com"},
		"host, noted already":             {prefix("/"), config.RouteAction{HostRewrite: "new", AppendXFHost: true}, "/", []string{"x-forwarded-host: a,h.com"}, "/ new x-envoy-original-host=h.com x-forwarded-host=a,h.com"},
		"host, noted behind a space":      {prefix("/"), config.RouteAction{HostRewrite: "new", AppendXFHost: true}, "/", []string{"x-forwarded-host: a, h.com"}, "/ new x-envoy-original-host=h.com x-forwarded-host=a, h.com,h.com"},
		"host of the path":                {prefix("/"), config.RouteAction{HostRewritePath: regex("^/hp/(.+)/.+$", `\1`)}, "/hp/foo/bar?x", nil, "/hp/foo/bar?x foo x-envoy-original-host=h.com"},
		"host of a path without a match":  {prefix("/"), config.RouteAction{HostRewritePath: regex("^/hp/(.+)/.+$", `\1`)}, "/hp", nil, "/hp /hp x-envoy-original-host=h.com"},
		"host format":                     {prefix("/"), config.RouteAction{HostRewriteFormat: "h-%REQ(nn)%"}, "/", []string{"nn: 7"}, "/ h-7 x-envoy-original-host=h.com"},
		"host format without a value":     {prefix("/"), config.RouteAction{HostRewriteFormat: "h-%REQ(nn)%"}, "/", nil, "/ h-- x-envoy-original-host=h.com"},
		"host of a header":                {prefix("/"), config.RouteAction{HostRewriteHeader: "nn"}, "/", []string{"nn: a", "nn: b"}, "/ a x-envoy-original-host=h.com"},
		"host of a header, not there":     {prefix("/"), config.RouteAction{HostRewriteHeader: "nn"}, "/", nil, "/ h.com"},
		"host of a path that is replaced": {prefix("/"), config.RouteAction{HostRewritePath: regex("^/", "x"), PrefixRewrite: "/n/"}, "/a", nil, "/n/a xa x-envoy-original-host=h.com x-envoy-original-path=/a"},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(c.path, c.fields...)
			find(t, all(&config.Route{Match: c.match, Action: &c.action}), r).RewriteRequest(r.Head, r.Info)
			var fields []string
			for _, f := range r.Head.Fields {
				if strings.HasPrefix(f.Name, "x-") {
					fields = append(fields, f.Name+"="+f.Value)
				}
			}
			slices.Sort(fields)
			got := strings.Join(append([]string{r.Head.Path, r.Head.Authority}, fields...), " ")
			if got != c.want {
				t.Errorf("the request is %q, want %q", got, c.want)
			}
		})
	}
}

func find(t *testing.T, cfg *config.RouteConfig, r *route.Request) *route.Match {
	t.Helper()
	m, trace := compile(t, cfg).Explain(r)
	if m == nil {
		t.Fatalf("no route: %+v", trace)
	}
	return m
}

func TestOriginalsMayBeLeftOut(t *testing.T) {
	rt := to(config.RouteMatch{Prefix: ptr("/")}, "c")
	rt.Action.PrefixRewrite, rt.Action.HostRewrite = "/n/", "new"
	table, err := route.Compile(all(rt), route.Deps{Format: accesslog.Formatter, SuppressEnvoyHeaders: true})
	if err != nil {
		t.Fatal(err)
	}
	r := request("/a")
	m, _ := table.Find(r)
	m.RewriteRequest(r.Head, r.Info)
	if r.Head.Path != "/n/a" || r.Head.Authority != "new" || len(r.Head.Fields) != 0 {
		t.Errorf("the request is %+v, want it rewritten without x-envoy-original fields", r.Head)
	}
}

func TestConnectGetsItsPortBack(t *testing.T) {
	rt := to(config.RouteMatch{Connect: true}, "c")
	r := request("")
	r.Head.Method = "CONNECT"
	r.Info.SetState(route.ConnectPort, "443")
	m := find(t, all(rt), r)
	m.RewriteRequest(r.Head, r.Info)
	if r.Head.Authority != "h.com:443" {
		t.Errorf("CONNECT goes to %q, want h.com:443", r.Head.Authority)
	}
	r.Head.Authority = "h.com:1"
	m.RewriteRequest(r.Head, r.Info)
	if r.Head.Authority != "h.com:1" {
		t.Errorf("CONNECT with a port goes to %q, want h.com:1", r.Head.Authority)
	}
}

func TestHostOfTheEndpointIsWritten(t *testing.T) {
	rt := to(config.RouteMatch{Prefix: ptr("/")}, "c")
	rt.Action.AutoHostRewrite, rt.Action.AppendXFHost = true, true
	r := request("/")
	find(t, all(rt), r).RewriteHost(r.Head, "endpoint")
	if r.Head.Authority != "endpoint" || r.Head.Value("x-forwarded-host") != "h.com" || r.Head.Value("x-envoy-original-host") != "h.com" {
		t.Errorf("the request is %+v", r.Head)
	}
}

func TestHeaderOperationsGoByLevel(t *testing.T) {
	level := func(name string) config.HeaderOps {
		return config.HeaderOps{
			RequestAdd: []config.HeaderValueOption{
				{Name: "Order", Value: name}, {Name: "last", Value: name, Action: config.HeaderOverwrite}, {Name: "path", Value: "%REQ(:PATH)%"},
			},
			ResponseAdd: []config.HeaderValueOption{{Name: "order", Value: name}, {Name: "last", Value: name, Action: config.HeaderOverwrite}},
		}
	}
	rt := to(config.RouteMatch{Prefix: ptr("/")}, "")
	rt.Headers = level("route")
	rt.Action.PrefixRewrite = "/new/"
	rt.Action.Weighted = &config.WeightedClusters{Clusters: []config.WeightedHTTPCluster{{Name: "w", Weight: 1, Headers: level("weighted"), HostRewrite: "w.host"}}}
	cfg := all(rt)
	cfg.Headers, cfg.VirtualHosts[0].Headers = level("config"), level("host")
	for _, c := range []struct {
		mostSpecific bool
		order, last  string
	}{
		{false, "weighted,route,host,config", "config"},
		{true, "weighted,config,host,route", "route"},
	} {
		cfg.MostSpecificWins = c.mostSpecific
		r := request("/a")
		m := find(t, cfg, r)
		m.RewriteRequest(r.Head, r.Info)
		if got := r.Head.Value("order"); got != c.order || r.Head.Value("last") != c.last || r.Head.Authority != "w.host" {
			t.Errorf("the request is %+v, want order %s and last %s", r.Head, c.order, c.last)
		}
		if got, _ := r.Head.Fields.Get("path"); got != "/a" {
			t.Errorf("the path in a header is %q, want that before the rewrite", got)
		}
		h := message.NewHead()
		h.Status = 200
		m.RewriteResponse(h, r.Info)
		if h.Value("order") != c.order || h.Value("last") != c.last {
			t.Errorf("the response is %+v, want order %s and last %s", h, c.order, c.last)
		}
	}
}

// The result is that of Envoy 1.40 for the same operations.
func TestHeaderOperationsAreComputedBeforeTheyAreDone(t *testing.T) {
	rt := to(config.RouteMatch{Prefix: ptr("/")}, "c")
	rt.Headers.ResponseRemove = []string{"gone"}
	rt.Headers.ResponseAdd = []config.HeaderValueOption{
		{Name: "a", Value: "route"},
		{Name: "b", Value: "one", Action: config.HeaderAddIfAbsent}, {Name: "b", Value: "two", Action: config.HeaderAddIfAbsent},
		{Name: "c", Value: "1", Action: config.HeaderOverwriteIfExists}, {Name: "gone", Value: "1", Action: config.HeaderOverwriteIfExists},
		{Name: "d", Value: "1", Action: config.HeaderOverwrite}, {Name: "d", Value: "2", Action: config.HeaderOverwrite}, {Name: "d", Value: "3"},
		{Name: "e", Value: "%REQ(nope)%"}, {Name: "f", Value: "%REQ(nope)%", KeepEmpty: true},
		{Name: "vary", Value: "1"}, {Name: "vary", Value: "2"},
	}
	r := request("/")
	h := message.NewHead()
	h.Fields.Add("gone", "x")
	find(t, all(rt), r).RewriteResponse(h, r.Info)
	want := message.Fields{{Name: "d", Value: "2"}, {Name: "a", Value: "route"}, {Name: "b", Value: "one"}, {Name: "b", Value: "two"}, {Name: "d", Value: "3"}, {Name: "f", Value: ""}, {Name: "vary", Value: "1,2"}}
	if !slices.Equal(h.Fields, want) {
		t.Errorf("the fields are %v, want %v", h.Fields, want)
	}
}
