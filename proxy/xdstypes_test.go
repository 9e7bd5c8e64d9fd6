package proxy

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/proxy/config/decode"
	"outrider/proxy/xds"
	"outrider/proxy/xds/xdstest"
)

func TestFurtherTypesComeByTheAggregatedStream(t *testing.T) {
	table := func(text string) *anypb.Any { return &anypb.Any{TypeUrl: xds.NameTableType, Value: []byte(text)} }
	script := &xdstest.Script{OnWhole: func(s xdstest.Whole) error {
		for {
			m, err := s.Recv()
			if err != nil {
				return nil
			}
			if m.GetTypeUrl() != xds.NameTableType || m.GetVersionInfo() == "2" {
				continue
			}
			out := &discoveryv3.DiscoveryResponse{TypeUrl: xds.NameTableType, VersionInfo: "1", Nonce: "1", Resources: []*anypb.Any{table("one")}}
			if m.GetResponseNonce() != "" {
				out.VersionInfo, out.Nonce, out.Resources = "2", "2", []*anypb.Any{table("two")}
			}
			if err := s.Send(out); err != nil {
				return nil
			}
		}
	}}
	var mu sync.Mutex
	var got []string
	names := xds.Type{URL: xds.NameTableType, Name: xds.Nameless, Whole: true, Apply: func(u xds.Update) map[string]error {
		mu.Lock()
		defer mu.Unlock()
		for _, r := range u.Updated {
			got = append(got, string(r.Body.GetValue()))
		}
		return nil
	}}
	r := runOver(t, bootOver(script.Serve(t), "GRPC", true), Options{DrainTime: time.Second, Types: []xds.Type{names}})
	r.eventually("both tables", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) == 2 && got[0] == "one" && got[1] == "two"
	})
}

func TestTheNodeSaysWhoAsks(t *testing.T) {
	boot, err := decode.Bootstrap([]byte(bootOver("127.0.0.1:1", "GRPC", true)), decode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n := nodeOf(boot, "1.2")
	if n.GetId() != "test" || n.GetUserAgentName() != "outrider" || n.GetUserAgentVersion() != "1.2" || !slices.Contains(n.GetClientFeatures(), wrappedFeature) {
		t.Errorf("node: %v", n)
	}
	if given := boot.Node.Source.(*corev3.Node); given.GetUserAgentName() != "" {
		t.Error("the bootstrap's node was changed")
	}
}

func TestEndpointsMayHaveAStreamOfTheirOwn(t *testing.T) {
	for _, api := range []string{"GRPC", "DELTA_GRPC"} {
		t.Run(api, func(t *testing.T) {
			a, b := says(t, "a"), says(t, "b")
			plane := xdstest.Listen(t, "test", "tcp", "127.0.0.1:0")
			own := func(name string) *clusterv3.Cluster {
				c := &clusterv3.Cluster{}
				text := `{"name":"` + name + `","type":"EDS","connect_timeout":"1s","eds_cluster_config":{"eds_config":{"resource_api_version":"V3","initial_fetch_timeout":"0s",
					"api_config_source":{"api_type":"` + api + `","transport_api_version":"V3","grpc_services":[{"envoy_grpc":{"cluster_name":"plane"}}]}}}}`
				if err := protojson.Unmarshal([]byte(text), c); err != nil {
					t.Fatal(err)
				}
				return c
			}
			push := func(to string) {
				plane.Set(t, xdstest.Resources{
					xds.ClusterType:  listOf(own("c"), own("d")),
					xds.EndpointType: listOf(assignmentOf(t, "c", to), assignmentOf(t, "d", a)),
					xds.ListenerType: listOf(proxyTo(t, "l", "c"), proxyTo(t, "m", "d")),
				})
			}
			push(a)
			r := runOver(t, bootOver(plane.Address(), api, true), Options{DrainTime: time.Second})
			r.eventually("the first push", func() bool { return r.hears("l") == "a" && r.hears("m") == "a" })
			if n := plane.Opened(); n != 2 {
				t.Errorf("%d streams, want the aggregated one and one for all endpoints", n)
			}
			push(b)
			r.eventually("other endpoints", func() bool { return r.hears("l") == "b" && r.hears("m") == "a" })
			plane.Stop()
			r.eventually("the loss is counted", func() bool {
				return !strings.Contains(r.get("/stats?filter=cluster.c.update_failure"), "update_failure: 0")
			})
		})
	}
}

func TestAControlPlaneIsWaitedForAsLongAsTheBootstrapSays(t *testing.T) {
	static := `
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains: [{filters: [{name: echo, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]}]
`
	boot := bootOver(filepath.Join(t.TempDir(), "none"), "DELTA_GRPC", true) + static
	patient := runOver(t, boot, Options{DrainTime: time.Second})
	hurried := runOver(t, strings.ReplaceAll(boot, "initial_fetch_timeout: 0s", "initial_fetch_timeout: 0.2s"), Options{DrainTime: time.Second})
	hurried.eventually("life without a control plane", func() bool { return hurried.State() == "LIVE" })
	if !echoes(hurried.dial("127.0.0.1")) {
		t.Error("the static listener does not serve")
	}
	stats := hurried.get("/stats?filter=init_fetch_timeout")
	for _, want := range []string{"cluster_manager.cds.init_fetch_timeout: 1", "listener_manager.lds.init_fetch_timeout: 1"} {
		if !strings.Contains(stats, want) {
			t.Errorf("stats lack %q:\n%s", want, stats)
		}
	}
	if got := patient.State(); got != "PRE_INITIALIZING" {
		t.Errorf("with initial_fetch_timeout 0 the state is %s, want PRE_INITIALIZING", got)
	}
}

func TestEndpointsOfAPushAreAskedForAtOnce(t *testing.T) {
	plane := xdstest.Listen(t, "test", "tcp", "127.0.0.1:0")
	const n = 3000
	var clusters, endpoints []types.Resource
	for i := range n {
		name := fmt.Sprint("c", i)
		clusters = append(clusters, edsCluster(t, name))
		endpoints = append(endpoints, assignmentOf(t, name, "127.0.0.1:1"))
	}
	plane.Set(t, xdstest.Resources{xds.ClusterType: clusters, xds.EndpointType: endpoints, xds.ListenerType: nil})
	r := runOver(t, bootOver(plane.Address(), "DELTA_GRPC", true), Options{DrainTime: time.Second})
	r.eventually("life", func() bool { return r.State() == "LIVE" })
	for _, one := range plane.Requests() {
		if one.Type == "ClusterLoadAssignment" {
			if len(one.Names) != n {
				t.Errorf("the first request asks for %d, want all %d", len(one.Names), n)
			}
			return
		}
	}
	t.Error("no endpoints were asked for")
}

func TestEndpointsThatNobodyWantsAreForgotten(t *testing.T) {
	s := populated(t, 1)
	s.discovery.takeClusters(xds.Update{Removed: []string{"c0"}})
	if n := len(s.discovery.assignments) + len(s.discovery.services); n != 0 {
		t.Errorf("%d are left", n)
	}
	s.discovery.takeClusters(xds.Update{Updated: []xds.Resource{resource(t, "c0", edsCluster(t, "c0"))}})
	if d := s.clusters.Get("c0").Describe(); d.Warm || len(d.Hosts) != 0 {
		t.Errorf("the cluster that comes again has %d endpoints of before", len(d.Hosts))
	}
}
