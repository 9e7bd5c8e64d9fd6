package filtertest

import (
	"net/netip"
	"testing"
	"time"

	"outrider/certs"
	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/stats"
)

// StaticClusters are clusters with so many hosts each, which take no
// connection, counting in r. change may change their configuration.
func StaticClusters(t testing.TB, r *stats.Registry, hosts map[string]int, change func(*config.Cluster)) *cluster.Set {
	t.Helper()
	limit := config.Thresholds{MaxConnections: 1024, MaxPendingRequests: 1024, MaxRequests: 1024, MaxRetries: 3}
	var all []*config.Cluster
	for name, n := range hosts {
		l := &config.LocalityEndpoints{}
		for i := range n {
			addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(i+1))
			l.Endpoints = append(l.Endpoints, &config.Endpoint{Address: config.Address{AddrPort: addr}, Weight: 1})
		}
		one := &config.Cluster{
			Name: name, Digest: name, ConnectTimeout: 5 * time.Second,
			CircuitBreakers: [2]config.Thresholds{limit, limit}, LBCommon: config.LBCommon{PanicThreshold: 50},
			Assignment:      &config.Assignment{Localities: []*config.LocalityEndpoints{l}, Overprovisioning: 140},
			TransportSocket: config.TransportSocket{Name: "envoy.transport_sockets.raw_buffer"},
		}
		if change != nil {
			change(one)
		}
		all = append(all, one)
	}
	set := cluster.NewSet(cluster.Options{Stats: r, Secrets: certs.NewStore(certs.Feeds{})})
	if err := set.Apply(all); err != nil {
		t.Fatal(err)
	}
	return set
}
