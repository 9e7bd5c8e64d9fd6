package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/proxy/xds"
	"outrider/proxy/xds/xdstest"
)

// istioBoot is what Istio's agent writes, as far as it matters here.
func istioBoot(address string, delta bool) string {
	api := "GRPC"
	if delta {
		api = "DELTA_GRPC"
	}
	text := strings.ReplaceAll(bootOver(address, api, true), "plane", "xds-grpc")
	return text + `
  - {name: sds-grpc, type: STATIC, connect_timeout: 1s, load_assignment: {cluster_name: sds-grpc, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: ./none}}}}]}]}}
`
}

func anyOf(t *testing.T, m proto.Message) *anypb.Any { return packed(t, "", m).GetResource() }

func TestWhatIstiodSentIsInUse(t *testing.T) {
	for _, policy := range []string{"permissive", "authz"} {
		for _, workload := range []string{"uc", "uc-delta", "user-web", "user-web-delta"} {
			t.Run(policy+" "+workload, func(t *testing.T) {
				delta := strings.HasSuffix(workload, "-delta")
				replay := xdstest.NewReplay(t, fmt.Sprintf("config/decode/testdata/istiod/%s-%s", policy, workload), delta)
				r := runOver(t, istioBoot(replay.Serve(t), delta), Options{DrainTime: time.Second, NoSockets: true})
				r.eventually("answers to clusters, endpoints, listeners and routes", func() bool {
					for _, url := range []string{xds.ClusterType, xds.EndpointType, xds.ListenerType, xds.RouteType} {
						if replay.Acked(url) == 0 && len(replay.Nacks()) == 0 {
							return false
						}
					}
					return true
				})
				for _, refusal := range replay.Nacks() {
					t.Errorf("refused: %s", refusal)
				}
				for _, name := range replay.Names(xds.ClusterType) {
					if r.clusters.Get(name) == nil {
						t.Errorf("there is no cluster %q", name)
					}
				}
				for _, name := range replay.Names(xds.EndpointType) {
					if c := r.clusters.Get(name); c == nil || len(c.Describe().Hosts) == 0 {
						t.Errorf("cluster %q has no endpoints", name)
					}
				}
				for _, name := range replay.Names(xds.ListenerType) {
					if r.listeners.get(name) == nil {
						t.Errorf("there is no listener %q", name)
					}
				}
			})
		}
	}
}
