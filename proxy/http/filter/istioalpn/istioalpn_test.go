package istioalpn_test

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/http/filter/istioalpn"
	"outrider/proxy/stats"
)

func TestTheProtocolOfTheUpstreamRequestDecides(t *testing.T) {
	own := &config.IstioALPN{Override: map[config.IstioALPNProtocol][]string{
		config.IstioHTTP10: {"ten"}, config.IstioHTTP11: {"istio-http/1.1", "istio"}, config.IstioHTTP2: {"istio-h2", "istio"},
	}}
	h11, h2 := own.Override[config.IstioHTTP11], own.Override[config.IstioHTTP2]
	for name, c := range map[string]struct {
		mode       config.UpstreamHTTPMode
		downstream codec.Protocol
		change     func(s *filtertest.Stream)
		metadata   string
		want       []string
	}{
		"explicit HTTP/1":           {mode: config.UpstreamHTTP1, downstream: codec.HTTP2, want: h11},
		"explicit HTTP/2":           {mode: config.UpstreamHTTP2, downstream: codec.HTTP11, want: h2},
		"by ALPN":                   {mode: config.UpstreamAuto, downstream: codec.HTTP11, want: h2},
		"as downstream, HTTP/2":     {mode: config.UpstreamFollow, downstream: codec.HTTP2, want: h2},
		"as downstream, HTTP/1.1":   {mode: config.UpstreamFollow, downstream: codec.HTTP11, want: h11},
		"HTTP/1.0 is never spoken":  {mode: config.UpstreamFollow, downstream: codec.HTTP10, want: h11},
		"the cluster forbids it":    {mode: config.UpstreamHTTP2, metadata: "false"},
		"the cluster has a say":     {mode: config.UpstreamHTTP2, metadata: "true", want: h2},
		"no such cluster":           {change: func(s *filtertest.Stream) { s.ClusterIs = "other" }},
		"no route":                  {change: func(s *filtertest.Stream) { s.RouteFound = nil }},
		"a route without a cluster": {change: func(s *filtertest.Stream) { s.RouteFound = &config.Route{Direct: &config.DirectReply{}} }},
		"the route's own": {mode: config.UpstreamHTTP2, want: []string{"mine"}, change: func(s *filtertest.Stream) {
			s.Overriding = []*config.FilterOverride{{Config: &config.IstioALPN{Override: map[config.IstioALPNProtocol][]string{config.IstioHTTP2: {"mine"}}}}}
		}},
		"nothing for the protocol": {mode: config.UpstreamHTTP2, change: func(s *filtertest.Stream) {
			s.Overriding = []*config.FilterOverride{{Config: &config.IstioALPN{}}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			reg := stats.New()
			d := filtertest.Deps(reg)
			d.Clusters = filtertest.StaticClusters(t, reg, map[string]int{"c": 1}, func(cl *config.Cluster) {
				cl.HTTP.Mode = c.mode
				if c.metadata != "" {
					cl.Metadata = map[string]*structpb.Struct{"istio": {Fields: map[string]*structpb.Value{"alpn_override": structpb.NewStringValue(c.metadata)}}}
				}
			})
			f, err := istioalpn.New(&config.HTTPFilter{Config: own}, d)
			if err != nil {
				t.Fatal(err)
			}
			s := filtertest.New(t)
			s.RouteFound, s.ClusterIs = &config.Route{Action: &config.RouteAction{Cluster: "c"}}, "c"
			s.Info().HTTP.Protocol = c.downstream
			if c.change != nil {
				c.change(s)
			}
			s.Start(f).RequestHead(filtertest.Request("GET", "/"), true)
			if !slices.Equal(s.Offered, c.want) || s.Up.Head == nil {
				t.Errorf("offered %q, want %q", s.Offered, c.want)
			}
		})
	}
}
