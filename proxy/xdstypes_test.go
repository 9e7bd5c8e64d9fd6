package proxy

import (
	"slices"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
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
