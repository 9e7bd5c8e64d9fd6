package proxy

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"outrider/certs"
	"outrider/proxy/config/decode"
	"outrider/proxy/xds"
)

// populated is a server that has taken n clusters with their endpoints and n
// listeners from a control plane.
func populated(t *testing.T, n int) *Server {
	t.Helper()
	boot, err := decode.Bootstrap([]byte(bootOver("127.0.0.1:1", "DELTA_GRPC", true)), decode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(boot, Options{NoSockets: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Abort)
	var clusters, endpoints, listeners xds.Update
	for i := range n {
		name := fmt.Sprintf("c%d", i)
		clusters.Updated = append(clusters.Updated, resource(t, name, edsCluster(t, name)))
		endpoints.Updated = append(endpoints.Updated, resource(t, name, assignmentOf(t, name, "127.0.0.1:1", "127.0.0.1:2")))
		listeners.Updated = append(listeners.Updated, resource(t, "l"+name, proxyTo(t, "l"+name, name)))
	}
	for _, refused := range []map[string]error{s.discovery.takeClusters(clusters), s.discovery.takeAssignments(&certs.Source{ADS: true}, endpoints), s.discovery.takeListeners(listeners)} {
		if len(refused) > 0 {
			t.Fatalf("refused: %v", refused)
		}
	}
	return s
}

// resource is a message as it came.
func resource(t *testing.T, name string, m proto.Message) xds.Resource {
	return xds.Resource{Name: name, Version: "1", Body: packed(t, name, m).GetResource()}
}

// changes are updates of one resource each, alternating.
func changes(t *testing.T, s *Server) map[string]func(i int) {
	endpoints := [2]xds.Update{}
	clusters, listeners := endpoints, endpoints
	for i := range 2 {
		c := clusterTo(t, "c0", fmt.Sprintf("127.0.0.1:%d", 10+i))
		clusters[i].Updated = []xds.Resource{resource(t, "c0", c)}
		endpoints[i].Updated = []xds.Resource{resource(t, "c1", assignmentOf(t, "c1", fmt.Sprintf("127.0.0.1:%d", 10+i)))}
		l := proxyTo(t, "lc0", fmt.Sprintf("c%d", i))
		listeners[i].Updated = []xds.Resource{resource(t, "lc0", l)}
	}
	return map[string]func(int){
		"endpoint": func(i int) { s.discovery.takeAssignments(&certs.Source{ADS: true}, endpoints[i%2]) },
		"cluster":  func(i int) { s.discovery.takeClusters(clusters[i%2]) },
		"listener": func(i int) { s.discovery.takeListeners(listeners[i%2]) },
	}
}

func TestAnUpdateCostsTheSameAmongMany(t *testing.T) {
	const few, many = 10, 2000
	cost := func(n int) map[string]time.Duration {
		out := map[string]time.Duration{}
		for what, change := range changes(t, populated(t, n)) {
			best := time.Hour
			for i := range 200 {
				begin := time.Now()
				change(i)
				best = min(best, time.Since(begin))
			}
			out[what] = best
		}
		return out
	}
	small, large := cost(few), cost(many)
	for what, took := range large {
		if took > 4*small[what]+100*time.Microsecond {
			t.Errorf("an update of one %s takes %s among %d and %s among %d", what, small[what], few, took, many)
		}
	}
}
