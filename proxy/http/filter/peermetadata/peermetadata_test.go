package peermetadata_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/http/filter/peermetadata"
	"outrider/proxy/http/message"
	"outrider/proxy/istio/peer"
	"outrider/proxy/stats"
)

const (
	metadataHeader = "x-envoy-peer-metadata"
	idHeader       = "x-envoy-peer-metadata-id"
)

func methods(names ...string) []config.IstioExchangeMethod {
	var out []config.IstioExchangeMethod
	for _, name := range names {
		out = append(out, config.IstioExchangeMethod{Name: name})
	}
	return out
}

// inbound and outbound are what istiod sends for sidecars.
func inbound() *config.IstioHTTPExchange {
	return &config.IstioHTTPExchange{
		DownstreamDiscovery: methods("istio_headers", "workload_discovery"), DownstreamPropagation: methods("istio_headers"),
		AdditionalLabels: []string{"role"},
	}
}

func outbound() *config.IstioHTTPExchange {
	return &config.IstioHTTPExchange{
		UpstreamDiscovery: methods("istio_headers", "workload_discovery"), UpstreamPropagation: methods("istio_headers"),
	}
}

// deps are of a node "us", with clusters in and out of the mesh.
func deps(t *testing.T) filter.Deps {
	t.Helper()
	reg := stats.New()
	d := filtertest.Deps(reg)
	s, err := structpb.NewStruct(map[string]any{"WORKLOAD_NAME": "us", "NAMESPACE": "our"})
	if err != nil {
		t.Fatal(err)
	}
	d.Node = &config.Node{ID: "sidecar~us", Metadata: s, Locality: config.Locality{Region: "r1"}}
	names := map[string]int{"inside": 1, "external": 1, "disabled": 1, "PassthroughCluster": 1}
	d.Clusters = filtertest.StaticClusters(t, reg, names, func(c *config.Cluster) {
		mark := map[string]string{"external": "external", "disabled": "disable_mx"}[c.Name]
		if mark != "" {
			c.Metadata = map[string]*structpb.Struct{"istio": {Fields: map[string]*structpb.Value{mark: structpb.NewBoolValue(true)}}}
		}
	})
	return d
}

func start(t *testing.T, cfg *config.IstioHTTPExchange) (*filtertest.Stream, filter.Factory) {
	t.Helper()
	f, err := peermetadata.New(&config.HTTPFilter{Config: cfg}, deps(t))
	if err != nil {
		t.Fatal(err)
	}
	return filtertest.New(t).Start(f), f
}

// said is the header of a workload.
func said(t *testing.T, w peer.Workload) string {
	t.Helper()
	h, err := w.Header()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// told is who we said we are in a header; "" if nothing was said.
func told(t *testing.T, h *message.Head) string {
	t.Helper()
	text, ok := h.Fields.Get(metadataHeader)
	if !ok {
		return ""
	}
	w, err := peer.FromHeader(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.Name + "/" + w.Region
}

func TestAServerHearsTheClientAndAnswersIt(t *testing.T) {
	s, _ := start(t, inbound())
	s.RequestHead(filtertest.Request("GET", "/", idHeader, "sidecar~client", metadataHeader, said(t, peer.Workload{Name: "client", Labels: `{"role":"front","other":"x"}`})), true)
	if s.Up.Head.Fields.Has(metadataHeader) || s.Up.Head.Fields.Has(idHeader) {
		t.Errorf("the workload gets %v", s.Up.Head.Fields)
	}
	want := peer.Workload{Name: "client", Labels: `{"role":"front"}`}
	if got := s.Info().DownstreamPeer; got == nil || got.Workload() != want {
		t.Fatalf("the client is %+v, want %+v", got, want)
	}
	if text, ok := s.Info().State("downstream_peer"); !ok || text != `{"labels":{"role":"front"},"workload":"client"}` {
		t.Errorf("the filter state is %s", text)
	}
	s.ResponseHead(filtertest.Response(200), true)
	if got, id := told(t, s.Down.Head), s.Down.Head.Fields.Value(idHeader); got != "us/r1" || id != "sidecar~us" {
		t.Errorf("the client is told %q by %q", got, id)
	}
}

func TestAClientThatSaysNothingIsToldNothing(t *testing.T) {
	for name, pairs := range map[string][]string{"nothing": nil, "an ID alone": {idHeader, "x"}} {
		s, _ := start(t, inbound())
		s.RequestHead(filtertest.Request("GET", "/", pairs...), true)
		s.ResponseHead(filtertest.Response(200), true)
		if s.Info().DownstreamPeer != nil || s.Down.Head.Fields.Has(metadataHeader) || s.Down.Head.Fields.Has(idHeader) != (pairs != nil) {
			t.Errorf("%s: the client gets %v", name, s.Down.Head.Fields)
		}
	}
}

func TestAClientTellsTheServerAndHearsIt(t *testing.T) {
	s, _ := start(t, outbound())
	s.ClusterIs = "inside"
	s.RequestHead(filtertest.Request("GET", "/", metadataHeader, "of the workload", idHeader, "too"), true)
	if got := told(t, s.Up.Head); got != "us/r1" || len(s.Up.Head.Fields) != 2 {
		t.Errorf("the server is told %q in %v", got, s.Up.Head.Fields)
	}
	s.ResponseHead(filtertest.Response(200, metadataHeader, said(t, peer.Workload{Name: "server"}), idHeader, "x"), true)
	if got := s.Info().UpstreamPeer; got == nil || got.Workload().Name != "server" {
		t.Errorf("the server is %+v", got)
	}
	if len(s.Down.Head.Fields) != 0 {
		t.Errorf("the workload gets %v", s.Down.Head.Fields)
	}
}

func TestNothingIsToldOutsideTheMesh(t *testing.T) {
	for _, c := range []struct {
		cluster string
		skip    bool
		want    bool
	}{
		{"inside", true, true}, {"external", true, false}, {"external", false, true}, {"PassthroughCluster", true, false},
		{"PassthroughCluster", false, true}, {"disabled", false, false}, {"no such cluster", true, true}, {"", true, true},
	} {
		cfg := outbound()
		cfg.UpstreamPropagation[0].SkipExternal = c.skip
		s, _ := start(t, cfg)
		s.ClusterIs = c.cluster
		s.RequestHead(filtertest.Request("GET", "/"), true)
		if got := s.Up.Head.Fields.Has(metadataHeader); got != c.want {
			t.Errorf("cluster %q, skip_external_clusters %v: told %v, want %v", c.cluster, c.skip, got, c.want)
		}
	}
}

func TestNonsenseIsTakenAwayAndTellsNothing(t *testing.T) {
	for name, value := range map[string]string{
		"no base64": "{}", "no message": base64.StdEncoding.EncodeToString([]byte("\xff\xff")), "empty": "",
		"huge": strings.Repeat("A", 64<<10),
	} {
		s, _ := start(t, inbound())
		s.RequestHead(filtertest.Request("GET", "/", metadataHeader, value, metadataHeader, "second", idHeader, "x"), true)
		if s.Info().DownstreamPeer != nil || len(s.Up.Head.Fields) != 0 {
			t.Errorf("%s: the peer is %v, the workload gets %v", name, s.Info().DownstreamPeer, s.Up.Head.Fields)
		}
	}
}

func TestOneClientCannotSayWhatAnotherIs(t *testing.T) {
	s, f := start(t, inbound())
	s.RequestHead(filtertest.Request("GET", "/", idHeader, "same", metadataHeader, said(t, peer.Workload{Name: "liar"})), true)
	again := filtertest.New(t).Start(f)
	again.RequestHead(filtertest.Request("GET", "/", idHeader, "same", metadataHeader, said(t, peer.Workload{Name: "honest"})), true)
	if got := again.Info().DownstreamPeer.Workload().Name; got != "honest" {
		t.Errorf("the client is %q by the ID of another", got)
	}
}

func TestMorePeersThanCanBeRememberedAreHeard(t *testing.T) {
	_, f := start(t, inbound())
	for i := range 1200 {
		name := fmt.Sprint("w", i)
		s := filtertest.New(t).Start(f)
		s.RequestHead(filtertest.Request("GET", "/", metadataHeader, said(t, peer.Workload{Name: name})), true)
		if got := s.Info().DownstreamPeer.Workload().Name; got != name {
			t.Fatalf("%q is heard as %q", name, got)
		}
	}
}

func TestTheFirstMethodThatFindsAPeerCounts(t *testing.T) {
	header := said(t, peer.Workload{Name: "by header"})
	for name, c := range map[string]struct {
		methods []config.IstioExchangeMethod
		already bool
		want    string
	}{
		"baggage first":          {methods: methods("baggage", "istio_headers"), want: "by baggage"},
		"headers first":          {methods: methods("workload_discovery", "istio_headers", "baggage"), want: "by header"},
		"known from before":      {methods: methods("baggage"), already: true, want: "before"},
		"no source of any peers": {methods: methods("workload_discovery", "upstream_filter_state")},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := start(t, &config.IstioHTTPExchange{DownstreamDiscovery: c.methods})
			if c.already {
				s.Info().DownstreamPeer = peer.New(peer.Workload{Name: "before"})
			}
			s.RequestHead(filtertest.Request("GET", "/", "baggage", "k8s.pod.name=by baggage", metadataHeader, header), true)
			got := ""
			if p := s.Info().DownstreamPeer; p != nil {
				got = p.Workload().Name
			}
			if got != c.want {
				t.Errorf("the peer is %q, want %q", got, c.want)
			}
			if !s.Up.Head.Fields.Has("baggage") {
				t.Error("baggage was taken away, which is not Istio's alone")
			}
		})
	}
}

func TestBaggageIsSent(t *testing.T) {
	s, _ := start(t, &config.IstioHTTPExchange{UpstreamPropagation: methods("baggage"), DownstreamPropagation: methods("baggage")})
	s.RequestHead(filtertest.Request("GET", "/", "baggage", "of the workload"), true)
	s.ResponseHead(filtertest.Response(200), true)
	const want = "k8s.pod.name=us,k8s.namespace.name=our,cloud.region=r1"
	if up, down := s.Up.Head.Fields.Value("baggage"), s.Down.Head.Fields.Value("baggage"); up != want || down != want {
		t.Errorf("baggage %q and %q, want %q", up, down, want)
	}
}

func TestANodeThatSaysTooMuchIsRefused(t *testing.T) {
	d := deps(t)
	labels := map[string]any{}
	cfg := outbound()
	for i := range 100 {
		name := fmt.Sprint("label", i)
		labels[name] = strings.Repeat("x", 1000)
		cfg.AdditionalLabels = append(cfg.AdditionalLabels, name)
	}
	d.Node.Metadata.Fields["LABELS"], _ = structpb.NewValue(labels)
	if _, err := peermetadata.New(&config.HTTPFilter{Config: cfg}, d); err == nil || !strings.Contains(err.Error(), "the limit is") {
		t.Errorf("the error is %v", err)
	}
}
