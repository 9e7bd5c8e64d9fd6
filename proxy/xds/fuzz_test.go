package xds

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// FuzzAnswers promises, for any two answers of either protocol: no panic; each
// resource that is told to Apply has a name that is subscribed to, and a body of
// the type; what is refused is in no request as ours; each answer has one reply.
func FuzzAnswers(f *testing.F) {
	body := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	one := &anypb.Any{TypeUrl: ClusterType, Value: body(cluster("a", ""))}
	f.Add(true, body(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: ClusterType, Nonce: "1", Resources: []*discoveryv3.Resource{{Name: "a", Resource: one}}}),
		body(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: ClusterType, Nonce: "2", RemovedResources: []string{"a"}}))
	f.Add(false, body(&discoveryv3.DiscoveryResponse{TypeUrl: ClusterType, Nonce: "1", Resources: []*anypb.Any{one, one}}),
		body(&discoveryv3.DiscoveryResponse{TypeUrl: ClusterType, Nonce: "2"}))
	f.Add(false, body(&discoveryv3.DiscoveryResponse{TypeUrl: EndpointType, Resources: []*anypb.Any{{TypeUrl: wrapperType, Value: body(&discoveryv3.Resource{Name: "e", Resource: one})}}}), []byte{})
	f.Fuzz(func(t *testing.T, isDelta bool, first, second []byte) {
		c := New(Options{Delta: isDelta})
		refused := map[string]bool{}
		for _, url := range []string{ClusterType, EndpointType} {
			c.Register(Type{URL: url, Whole: url == ClusterType, Apply: func(u Update) map[string]error {
				out := map[string]error{}
				for _, r := range u.Updated {
					if r.Body.GetTypeUrl() != url || url == EndpointType && r.Name != "e" {
						t.Errorf("%s was told of %q, a %s", url, r.Name, r.Body.GetTypeUrl())
					}
					if strings.HasPrefix(r.Name, "x") {
						out[r.Name] = errors.New("no")
						refused[r.Name] = true
					}
				}
				return out
			}})
		}
		if c.Subscribe(ClusterType, Wildcard) != nil || c.Subscribe(EndpointType, "e") != nil {
			t.Fatal("no subscription")
		}
		for _, data := range [][]byte{first, second} {
			var a answer
			if isDelta {
				m := &discoveryv3.DeltaDiscoveryResponse{}
				if proto.Unmarshal(data, m) != nil {
					return
				}
				a = c.readDelta(m)
			} else {
				m := &discoveryv3.DiscoveryResponse{}
				if proto.Unmarshal(data, m) != nil {
					return
				}
				a = c.readWhole(m)
			}
			k := c.kinds[a.url]
			before := 0
			if k != nil {
				before = len(k.acks)
			}
			c.take(a)
			if k != nil && isDelta && len(k.acks) != before+1 || k != nil && !isDelta && len(k.acks) != 1 {
				t.Errorf("%d replies after %d", len(k.acks), before)
			}
		}
		for name := range c.kinds[ClusterType].versions() {
			if refused[name] {
				t.Errorf("%q was refused, and is said to be ours", name)
			}
		}
	})
}

// FuzzCacheFile promises that a file is used only if it is whole, and never
// panics.
func FuzzCacheFile(f *testing.F) {
	f.Add([]byte(cacheHeader + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		cache := openCache(t, t.TempDir(), "n")
		if err := os.WriteFile(cache.path("xds", ClusterType), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if list, _, err := cache.load("xds", ClusterType); err == nil && len(list) > 0 && !strings.HasPrefix(string(text), cacheHeader) {
			t.Errorf("%d resources are used from %s", len(list), filepath.Base(cache.path("xds", ClusterType)))
		}
	})
}
