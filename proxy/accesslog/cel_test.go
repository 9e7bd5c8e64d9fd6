package accesslog

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/message"
	istiopeer "outrider/proxy/istio/peer"
)

// asked is a request from a peer, with status 404.
func asked() *flow.Info {
	i := (&flow.Info{}).NewRequest(time.Unix(0, 0))
	i.Remote = flow.Addr{AddrPort: netip.MustParseAddrPort("10.0.0.9:4242")}
	i.DownstreamPeer = istiopeer.New(istiopeer.Workload{Name: "web", Kind: "pod"})
	i.HTTP.Status = 404
	i.HTTP.Request = message.NewHead()
	i.HTTP.Request.Path = "/a?b=c"
	i.HTTP.Response = message.NewHead()
	i.HTTP.Response.Fields.Add("server", "s")
	return i
}

func TestAnExpressionChoosesEntries(t *testing.T) {
	is := func(text string) *config.AccessLogFilter { return &config.AccessLogFilter{Expression: text} }
	for claim, c := range map[string]struct {
		f    *config.AccessLogFilter
		want bool
	}{
		"true":              {is("response.code >= 400"), true},
		"false":             {is("response.code >= 500"), false},
		"no bool":           {is("response.code"), false},
		"nothing":           {is("request.referer == 'x'"), false},
		"of the request":    {is("request.url_path.startsWith('/a')"), true},
		"of the answer":     {is("response.headers.server == 's'"), true},
		"among others":      {&config.AccessLogFilter{And: []*config.AccessLogFilter{is("true"), is("false")}}, false},
		"one of two":        {&config.AccessLogFilter{Or: []*config.AccessLogFilter{is("false"), is("true")}}, true},
		"of a connection's": {is("source.port == 4242"), true},
	} {
		f, err := Filter(c.f)
		if err != nil {
			t.Errorf("%s: %v", claim, err)
			continue
		}
		l, err := compile(&config.AccessLog{Filter: c.f})
		if err != nil {
			t.Fatal(err)
		}
		if got := passes(c.f, &entry{info: asked(), cel: l.cel}); got != c.want || f(asked()) != c.want {
			t.Errorf("%s: %v, and %v by Filter", claim, got, f(asked()))
		}
	}
	for _, text := range []string{"nope", "xds.node.id == 'a'", "node.id == 'a'", "xds.listener_direction == 1"} {
		f := &config.AccessLogFilter{Or: []*config.AccessLogFilter{is(text)}}
		if _, err := Filter(f); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
		if _, err := compile(&config.AccessLog{Filter: f}); err == nil {
			t.Errorf("%s is taken in a log", text)
		}
	}
}

func TestExpressionsAndPeersArePrinted(t *testing.T) {
	connection := &flow.Info{UpstreamPeer: istiopeer.New(istiopeer.Workload{Name: "server"})}
	for format, want := range map[string]string{
		"%CEL(request.url_path)%": "/a", "%CEL(request.referer)%": "-", "%CEL(response.code + 1)%": "405", "%CEL(request.path):2%": "/a",
		"%CEL(has(request.referer) ? request.referer : 'none')%": "none", "%CEL(size('(a)'))%": "3",
		"%REQ_WITHOUT_QUERY(:PATH)%": "/a", "%REQ_WITHOUT_QUERY(X-A?:PATH):1%": "/", "%REQ_WITHOUT_QUERY(X-A)%": "-",
		"%FILTER_STATE(downstream_peer:PLAIN)%":              `{"type":"pod","workload":"web"}`,
		"%FILTER_STATE(downstream_peer_obj:FIELD:workload)%": "web", "%FILTER_STATE(downstream_peer:FIELD:none)%": "-",
		"%FILTER_STATE(upstream_peer:PLAIN)%": "-", "%UPSTREAM_FILTER_STATE(upstream_peer:PLAIN)%": "-",
	} {
		if got := printed(t, &config.AccessLog{Format: format}, asked()); got != want {
			t.Errorf("%s is %q, want %q", format, got, want)
		}
	}
	if got := printed(t, &config.AccessLog{Format: "%UPSTREAM_FILTER_STATE(upstream_peer:PLAIN)%"}, connection); got != `{"workload":"server"}` {
		t.Errorf("the peer upstream of a connection is %s", got)
	}
}
