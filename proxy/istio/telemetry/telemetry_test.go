package telemetry

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/message"
	"outrider/proxy/istio/peer"
	"outrider/proxy/stats"
	"outrider/tlsmux"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func structOf(t testing.TB, values map[string]any) *structpb.Struct {
	t.Helper()
	s, err := structpb.NewStruct(values)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func node(t testing.TB) *config.Node {
	return &config.Node{ID: "n", Metadata: structOf(t, map[string]any{
		"WORKLOAD_NAME": "us", "NAMESPACE": "our", "CLUSTER_ID": "k1", "ISTIO_VERSION": "1.30.1",
		"LABELS": map[string]any{
			"app": "us-app", "version": "v9", "service.istio.io/canonical-name": "us-svc", "service.istio.io/canonical-revision": "v9r",
		},
	})}
}

// clusters are those that the tests know.
func clusters(t testing.TB) func(string) *config.Cluster {
	service := func(values map[string]any) *config.Cluster {
		return &config.Cluster{Metadata: map[string]*structpb.Struct{"istio": structOf(t, map[string]any{"services": []any{values}})}}
	}
	all := map[string]*config.Cluster{
		"outbound|80||web.shop":     service(map[string]any{"host": "web.shop.svc.cluster.local", "name": "web", "namespace": "shop"}),
		"without a name":            service(map[string]any{"host": "web.shop.svc.cluster.local"}),
		"PassthroughCluster":        {},
		"InboundPassthroughCluster": {},
		"plain":                     {},
	}
	return func(name string) *config.Cluster { return all[name] }
}

func tlsOf(t testing.TB, remote, own string, verified bool) *tlsmux.State {
	t.Helper()
	uri := func(s string) []*url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return []*url.URL{u}
	}
	return &tlsmux.State{
		PeerVerified: verified, PeerID: spiffeid.RequireFromString(remote),
		Peer: []*x509.Certificate{{URIs: uri(remote)}}, Local: &x509.Certificate{URIs: uri(own)},
	}
}

const (
	clientID = "spiffe://td/ns/users/sa/someone"
	serverID = "spiffe://td/ns/our/sa/us"
)

func client() *peer.Peer {
	return peer.New(peer.Workload{
		Name: "client", Namespace: "claimed", CanonicalName: "client-svc", CanonicalRevision: "v1", App: "client-app", Version: "v1a", Cluster: "k2", Identity: "spiffe://claimed",
	})
}

// request is one that is over.
func request(t testing.TB, change func(i *flow.Info)) *flow.Info {
	t.Helper()
	start := time.Now()
	i := (&flow.Info{}).NewRequest(start)
	i.End = start.Add(12 * time.Millisecond)
	i.HTTP.Status = 200
	i.HTTP.Request = message.NewHead()
	i.HTTP.Request.Authority = "asked.example"
	i.HTTP.DownstreamWireReceived, i.HTTP.DownstreamWireSent = 150, 3000
	if change != nil {
		change(i)
	}
	return i
}

func reporter(t testing.TB, cfg config.IstioStats) (*Reporter, *stats.Registry) {
	t.Helper()
	reg := stats.New()
	r, err := New(&cfg, Deps{Stats: reg, Node: node(t), Cluster: clusters(t)})
	if err != nil {
		t.Fatal(err)
	}
	return r, reg
}

// exposed is what Prometheus gets of Istio's metrics: of each its labels with
// its value.
func exposed(t testing.TB, reg *stats.Registry) map[string][]string {
	t.Helper()
	var text strings.Builder
	if err := reg.Prometheus(&text, stats.Query{}); err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text.String()))
	if err != nil {
		t.Fatalf("Prometheus cannot read it: %v\n%s", err, text.String())
	}
	out := map[string][]string{}
	for name, f := range families {
		if !strings.HasPrefix(name, "istio_") {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			value := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			if h := m.GetHistogram(); h != nil {
				value = h.GetSampleSum()
			}
			out[name] = append(out[name], strings.Join(append(labels, fmt.Sprint(value)), " "))
		}
	}
	return out
}

func TestTheTextNameIsEnvoys(t *testing.T) {
	r, reg := reporter(t, config.IstioStats{Reporter: config.IstioDestination})
	r.Request(request(t, nil), false)
	var text strings.Builder
	if err := reg.Text(&text, stats.Query{UsedOnly: true}); err != nil {
		t.Fatal(err)
	}
	want := "istiocustom.istio_requests_total.reporter.destination.source_workload.unknown.source_canonical_service.unknown.source_canonical_revision.latest." +
		"source_workload_namespace.unknown.source_principal.unknown.source_app.unknown.source_version.unknown.source_cluster.unknown.destination_workload.us." +
		"destination_workload_namespace.our.destination_principal.unknown.destination_app.us-app.destination_version.v9.destination_service.asked.example." +
		"destination_canonical_service.us-svc.destination_canonical_revision.v9r.destination_service_name.asked.example.destination_service_namespace.our." +
		"destination_cluster.k1.request_protocol.http.response_code.200.grpc_response_status.response_flags.-.connection_security_policy.none: 1\n"
	if !strings.Contains(text.String(), want) || !strings.Contains(text.String(), "istiocustom.istio_build.component.proxy.tag.1.30.1: 1\n") {
		t.Errorf("got\n%s\nwant among it\n%s", text.String(), want)
	}
}

func TestMessagesOfGRPCAreCountedOnceThePeerIsKnown(t *testing.T) {
	r, reg := reporter(t, config.IstioStats{Reporter: config.IstioDestination})
	i := request(t, nil)
	var call Call
	call.Messages(r, i, 5, 1, false)
	if got := exposed(t, reg)["istio_request_messages_total"]; got != nil {
		t.Fatalf("counted before the peer is known: %q", got)
	}
	i.DownstreamPeer = client()
	call.Messages(r, i, 6, 2, false)
	call.Messages(r, i, 9, 2, true)
	got := exposed(t, reg)
	for name, want := range map[string]string{"istio_request_messages_total": " 9", "istio_response_messages_total": " 2"} {
		if len(got[name]) != 1 || !strings.HasSuffix(got[name][0], "destination_cluster=k1"+want) || !strings.Contains(got[name][0], "source_workload=client ") {
			t.Errorf("%s is %q, want%s without labels of the outcome", name, got[name], want)
		}
	}
	var silent Call
	silent.Messages(r, request(t, nil), 1, 1, true)
	if got := exposed(t, reg)["istio_request_messages_total"]; len(got) != 2 {
		t.Errorf("a call without a peer is not counted at its end: %q", got)
	}
}

func TestAConnectionIsCountedOnceItsPeerIsKnown(t *testing.T) {
	for name, c := range map[string]struct {
		reporter config.IstioReporter
		found    func(i *flow.Info)
		want     string
	}{
		"the client has spoken":     {config.IstioDestination, func(i *flow.Info) { i.DownstreamPeer = client() }, "source_workload=client "},
		"the client does not speak": {config.IstioDestination, func(i *flow.Info) { i.SetState("peer_not_found", "true") }, "source_workload=unknown "},
		"the server has spoken":     {config.IstioSource, func(i *flow.Info) { i.UpstreamPeer = client() }, "destination_workload=client "},
		"the server does not speak": {config.IstioSource, func(i *flow.Info) { i.NoUpstreamPeer = true }, "destination_workload=unknown "},
	} {
		t.Run(name, func(t *testing.T) {
			r, reg := reporter(t, config.IstioStats{Reporter: c.reporter})
			i := &flow.Info{}
			i.Received.Store(3)
			conn := r.Connection()
			if conn.Report(i, false); len(exposed(t, reg)) != 1 {
				t.Fatalf("counted before the peer is known: %v", exposed(t, reg))
			}
			c.found(i)
			conn.Report(i, false)
			i.Received.Store(10)
			i.Sent.Store(20)
			conn.Report(i, false)
			if got := exposed(t, reg)["istio_tcp_connections_closed_total"]; got != nil {
				t.Errorf("an open connection is closed: %q", got)
			}
			i.Sent.Store(21)
			conn.Report(i, true)
			got := exposed(t, reg)
			for metric, value := range map[string]string{
				"istio_tcp_connections_opened_total": " 1", "istio_tcp_connections_closed_total": " 1",
				"istio_tcp_received_bytes_total": " 10", "istio_tcp_sent_bytes_total": " 21",
			} {
				one := got[metric]
				if len(one) != 1 || !strings.HasSuffix(one[0], value) || !strings.Contains(one[0], c.want) || !strings.Contains(one[0], " request_protocol=tcp response_flags=- connection_security_policy=") {
					t.Errorf("%s is %q, want%s of %s", metric, one, value, c.want)
				}
			}
		})
	}
}

func TestMetricsThatAreNotUsedAreForgottenAfterARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, reg := reporter(t, config.IstioStats{Rotation: time.Hour, GracefulDeletion: time.Minute})
		done := make(chan error)
		go func() { done <- r.Run(t.Context()) }()
		t.Cleanup(func() {
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		once := request(t, func(i *flow.Info) { i.HTTP.Status = 500 })
		often := request(t, nil)
		r.Request(once, false)
		r.Request(often, false)
		time.Sleep(time.Hour + 30*time.Second)
		r.Request(often, false)
		if got := exposed(t, reg)["istio_requests_total"]; len(got) != 2 {
			t.Errorf("%d metrics before the grace is over, want 2", len(got))
		}
		time.Sleep(time.Minute)
		got := exposed(t, reg)["istio_requests_total"]
		if len(got) != 1 || !strings.HasSuffix(got[0], " 2") {
			t.Errorf("what is left is %q, want the one that is used, with 2", got)
		}
		r.Request(once, false)
		if got := exposed(t, reg)["istio_requests_total"]; len(got) != 2 {
			t.Errorf("what was forgotten does not count again: %q", got)
		}
	})
}

func TestMetricsOfAFilterThatIsGoneAreForgottenWhenNobodyUsesThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config.IstioStats{Rotation: time.Hour, GracefulDeletion: time.Minute}
		r, reg := reporter(t, cfg)
		ctx, gone := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		next, err := New(&cfg, Deps{Stats: reg, Node: node(t)})
		if err != nil {
			t.Fatal(err)
		}
		count := func(r *Reporter, code int) {
			r.Request(request(t, func(i *flow.Info) { i.HTTP.Status = code }), false)
		}
		count(r, 200)
		count(r, 300)
		count(r, 400)
		gone()
		if err := <-done; err != nil {
			t.Error(err)
		}
		time.Sleep(30 * time.Second)
		count(next, 200) // of the filter in its place
		count(r, 300)    // of a connection that is left
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := exposed(t, reg)["istio_requests_total"]; len(got) != 2 {
			t.Errorf("left are %q, want those with 200 and 300", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		got := exposed(t, reg)["istio_requests_total"]
		if len(got) != 1 || !strings.Contains(got[0], "response_code=200") || !strings.HasSuffix(got[0], " 2") {
			t.Errorf("left are %q, want the one of the filter that is there, which counts on", got)
		}
	})
}

func TestTwoFiltersOfOneProxyShareMetrics(t *testing.T) {
	r, reg := reporter(t, config.IstioStats{})
	again, err := New(&config.IstioStats{}, Deps{Stats: reg, Node: node(t), Cluster: clusters(t)})
	if err != nil {
		t.Fatal(err)
	}
	r.Request(request(t, nil), false)
	again.Request(request(t, nil), false)
	if got := exposed(t, reg)["istio_requests_total"]; len(got) != 1 || !strings.HasSuffix(got[0], " 2") {
		t.Errorf("the requests are %q, want 2 under one metric", got)
	}
}

func TestMemoryIsBoundedWhateverPeersSay(t *testing.T) {
	r, reg := reporter(t, config.IstioStats{Reporter: config.IstioDestination})
	i := request(t, nil)
	for n := range maxSeries + 100 {
		i.DownstreamPeer = peer.New(peer.Workload{Name: fmt.Sprint(n)})
		r.Request(i, false)
	}
	if n := len(r.series.now) + len(r.series.before); n > maxSeries {
		t.Errorf("%d series are remembered, the limit is %d", n, maxSeries)
	}
	if got := reg.Scope("istio_stats").Counter("series_overflow").Value(); got == 0 {
		t.Error("nothing tells that there were too many")
	}
}

func TestALikeRequestTakesNoMemory(t *testing.T) {
	for name, reporterKind := range map[string]config.IstioReporter{"source": config.IstioSource, "destination": config.IstioDestination} {
		r, _ := reporter(t, config.IstioStats{Reporter: reporterKind})
		i := busy(t)
		r.Request(i, false)
		if n := testing.AllocsPerRun(100, func() { r.Request(i, false) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// busy is a request with all that labels are made of.
func busy(t testing.TB) *flow.Info {
	return request(t, func(i *flow.Info) {
		i.UpstreamCluster = "outbound|80||web.shop"
		i.Downstream, i.Upstream = tlsOf(t, clientID, serverID, true), tlsOf(t, clientID, serverID, true)
		i.DownstreamPeer, i.UpstreamPeer = client(), client()
	})
}

func BenchmarkRequestOfAKnownPeer(b *testing.B) {
	r, _ := reporter(b, config.IstioStats{Reporter: config.IstioDestination})
	i := busy(b)
	b.ReportAllocs()
	for b.Loop() {
		r.Request(i, false)
	}
}
