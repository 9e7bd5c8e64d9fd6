package proxy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"outrider/proxy/filter"
	"outrider/proxy/http/message"
)

func TestARequestIsAskedAboutByMethodAndURL(t *testing.T) {
	q, err := QueryText{Request: "POST https://shop:8443/a%20b?x=1", Headers: []string{"X-Who: me: too", "empty:"}}.Parse()
	if err != nil {
		t.Fatal(err)
	}
	h := q.Request
	if got := strings.Join([]string{h.Method, h.Scheme, h.Authority, h.Path}, " "); got != "POST https shop:8443 /a%20b?x=1" {
		t.Errorf("the request is %s", got)
	}
	if diff := cmp.Diff(message.Fields{{Name: "x-who", Value: "me: too"}, {Name: "empty"}}, h.Fields); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	if q, err := (QueryText{}).Parse(); err != nil || q.Request != nil {
		t.Errorf("without a request there is %v, %v", q.Request, err)
	}
	for _, bad := range []QueryText{
		{Request: "GET"}, {Request: "GET /path"}, {Request: "GET http:///path"}, {Request: "GET ftp://h/"}, {Request: "GET http://h/ x"}, {Request: "http://h/"},
		{Headers: []string{"a: b"}}, {Request: "GET http://h/", Headers: []string{"novalue"}}, {Request: "GET http://h/", Headers: []string{": x"}},
	} {
		if _, err := bad.Parse(); err == nil {
			t.Errorf("%q with %q is taken", bad.Request, bad.Headers)
		}
	}
}

func TestTheTextSaysHowARequestFared(t *testing.T) {
	x := Explanation{Listener: "l", Filters: []filter.Verdict{{Filter: "hcm", Reason: "HTTP", Request: &filter.RequestVerdict{
		VirtualHost: "v", Domain: "*.shop",
		Routes:  []filter.RouteVerdict{{Route: "routes[0]", Failed: "prefix /a"}, {Route: "all", Matched: true}},
		Filters: []filter.Verdict{{Filter: "rbac", Reason: "denied", Shadow: &filter.Verdict{Reason: "allowed"}}},
	}}}}
	want := []string{"virtual host v, by domain *.shop", "not routes[0]: prefix /a", "route all", "HTTP filter rbac: denied", "shadow rules: allowed"}
	got := strings.Join(strings.Fields(x.Text()), " ")
	for _, w := range want {
		_, after, ok := strings.Cut(got, w)
		if !ok {
			t.Fatalf("%q is not in its place in:\n%s", w, x.Text())
		}
		got = after
	}
}
