package decode

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/certs"
	"outrider/proxy/config"
)

// pushes are what an istiod of Istio 1.30 sent to two workloads, with and
// without authorization policies, in both protocols: testdata/istiod.
func pushes(t testing.TB) map[string][]*anypb.Any {
	t.Helper()
	files, err := filepath.Glob("testdata/istiod/*.pb")
	if err != nil || len(files) != 32 {
		t.Fatalf("%d files, want 32: %v", len(files), err)
	}
	out := map[string][]*anypb.Any{}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(path), ".pb")
		if !strings.Contains(name, "-delta") {
			response := &discoveryv3.DiscoveryResponse{}
			if err := proto.Unmarshal(data, response); err != nil {
				t.Fatal(err)
			}
			out[name] = response.GetResources()
			continue
		}
		response := &discoveryv3.DeltaDiscoveryResponse{}
		if err := proto.Unmarshal(data, response); err != nil {
			t.Fatal(err)
		}
		for _, r := range response.GetResources() {
			out[name] = append(out[name], r.GetResource())
		}
	}
	return out
}

// decodeAny decodes one resource of any of the four kinds.
func decodeAny(t testing.TB, a *anypb.Any, opts Options) (any, error) {
	t.Helper()
	m, err := a.UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	switch r := m.(type) {
	case *listenerv3.Listener:
		return Listener(r, opts)
	case *clusterv3.Cluster:
		return Cluster(r, opts)
	case *endpointv3.ClusterLoadAssignment:
		return Assignment(r, opts)
	case *routev3.RouteConfiguration:
		return RouteConfiguration(r, opts)
	}
	t.Fatalf("%s is of no kind that is decoded", a.GetTypeUrl())
	return nil, nil
}

func TestWhatIstiodPushesIsTaken(t *testing.T) {
	static := &config.Bootstrap{Clusters: []*config.Cluster{{Name: "sds-grpc"}, {Name: "xds-grpc"}}, ADS: &certs.Source{Cluster: "xds-grpc"}}
	for name, resources := range pushes(t) {
		if len(resources) == 0 {
			t.Errorf("%s is empty", name)
		}
		for i, r := range resources {
			if _, err := decodeAny(t, r, Options{Static: static}); err != nil {
				t.Errorf("%s, resource %d:\n%v", name, i, err)
			}
		}
	}
}
