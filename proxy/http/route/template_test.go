package route_test

import (
	"strings"
	"testing"

	"outrider/proxy/accesslog"
	"outrider/proxy/config"
	"outrider/proxy/http/route"
)

// The results are those of Envoy 1.40; source of the forms:
// uri_template_match.proto.
func TestTemplatesMatchWholePaths(t *testing.T) {
	for _, c := range []struct {
		template, path string
		want           bool
	}{
		{"/", "/", true},
		{"/t/{a}/x/{b=**}", "/t/1/x/", true},
		{"/t/{a}/x/{b=**}", "/t/1/x/2/3", true},
		{"/t/{a}/x/{b=**}", "/t/1/x", false},
		{"/t/{a}/x/{b=**}", "/t/a=b/x/c", true},
		{"/t/{a}/x/{b=**}", "/t/a*b/x/c", true},
		{"/t/{a}/x/{b=**}", "/t/a?x/x/c", false},
		{"/t/{a}/x/{b=**}", "/t//x/c", false},
		{"/t/*", "/t/a[b", false},
		{"/t/*", "/t/%5B", true},
		{"/t/*", "/t/a;v=1", true},
		{"/t2/*/z=1", "/t2/q/z=1", true},
		{"/t3/{a=foo/*}.mp4", "/t3/foo/bar.mp4?x", true},
		{"/t3/{a=foo/*}.mp4", "/t3/foo/a.mp4.mp4", true},
		{"/t3/{a=foo/*}.mp4", "/t3/foo/a.mp3", false},
		{"/t4/", "/t4/", true},
		{"/t4/", "/t4", false},
		{"/x/**", "/x/", true},
		{"/x/**", "/x//", true},
		{"/x/**", "/x", false},
		{"/a.b+c$(d)", "/a.b+c$(d)", true},
		{"/a.b+c$(d)", "/aXb+c$(d)", false},
	} {
		cfg := all(to(config.RouteMatch{Template: c.template}, "c"))
		cfg.IgnorePathParameters = true // which is not for templates
		if _, got := compile(t, cfg).Find(request(c.path)); got != c.want {
			t.Errorf("template %s matches %s: %v, want %v", c.template, c.path, got, c.want)
		}
	}
}

func TestTemplatesWithMistakesAreRefused(t *testing.T) {
	for _, template := range []string{
		"a", "//", "/a//b", "/{a", "/{a}/{a}", "/{}", "/{a=}", "/{a=b/}", "/{a={b}}", "/{1}", "/a*b", "/*b/c", "/{a}b/c", "/a}", "/a b", "/{a=b*}",
		"/**/*", "/{a=**}/{b}", "/***", "/{abcdefghijklmnopq}", "/{a-b}", "/{a}/{b}/{c}/{d}/{e}/{f}",
	} {
		if _, err := route.CompileCriteria(config.RouteMatch{Template: template}); err == nil || !strings.Contains(err.Error(), template) {
			t.Errorf("template %q is accepted, or the error does not name it: %v", template, err)
		}
	}
	for _, rewrite := range []string{"/{b}", "/{a"} {
		rt := to(config.RouteMatch{Template: "/{a}"}, "c")
		rt.Action.PathTemplateRewrite = rewrite
		if _, err := route.Compile(all(rt), route.Deps{Format: accesslog.Formatter}); err == nil {
			t.Errorf("rewrite %q is accepted", rewrite)
		}
	}
}

// A template that is accepted compiles, and a path that is made from it
// matches.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"/t/{a}/x/{b=**}", "/t3/{a=foo/*}.mp4", "/", "/**", "/{a=*}/b", "/%41", "/{"} {
		f.Add(s, "/t/1/x/2")
	}
	f.Fuzz(func(t *testing.T, template, path string) {
		c, err := route.CompileCriteria(config.RouteMatch{Template: template})
		if err != nil {
			return
		}
		if !strings.HasPrefix(path, "/") {
			path = "/"
		}
		c.Match(request(path))
		if strings.ContainsAny(template, "*{") {
			return
		}
		if r := request(template); !c.Match(r) {
			t.Errorf("%q does not match itself: %s", template, c.Why(r))
		}
	})
}

// A cookie and a parameter that are found stand in the request.
func FuzzCookiesAndQuery(f *testing.F) {
	f.Add(`a=1; b="2"; ;=;a`, "b")
	f.Add("?a=1&b&=&&c==", "b")
	f.Fuzz(func(t *testing.T, text, name string) {
		if name == "" {
			return
		}
		any := config.RouteMatch{
			Prefix: ptr(""), Cookies: []config.CookieMatcher{{Name: name, String: exact("\x00no\x00"), Invert: true}},
			Query: []config.QueryMatcher{{Name: name}},
		}
		c, err := route.CompileCriteria(any)
		if err != nil {
			t.Fatal(err)
		}
		r := request("/?"+text, "cookie: "+text)
		if c.Match(r) && !strings.Contains(text, name) {
			t.Errorf("%q is found in %q", name, text)
		}
		c.Why(r)
	})
}
