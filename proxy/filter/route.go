package filter

import (
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// clusterState is the filter state object that names the cluster of one
// connection (Envoy: PerConnectionCluster). It has no effect on weighted
// clusters.
const clusterState = "envoy.tcp_proxy.cluster"

// route chooses the cluster of a connection.
type route struct {
	cluster  string
	weighted []config.WeightedCluster
	total    uint64 // of the weights

	bySource bool
	byState  string // "" none
}

func newRoute(cfg *config.TCPProxy) (*route, error) {
	r := &route{cluster: cfg.Cluster, weighted: cfg.Weighted, bySource: cfg.HashSourceIP, byState: cfg.HashFilterState}
	for _, w := range cfg.Weighted {
		r.total += uint64(w.Weight)
	}
	switch {
	case len(cfg.Weighted) == 0 && cfg.Cluster == "":
		return nil, errors.New("neither cluster nor weighted_clusters is set")
	case len(cfg.Weighted) > 0 && r.total == 0:
		return nil, fmt.Errorf("weighted_clusters: the weights of all %d are 0", len(cfg.Weighted))
	}
	return r, nil
}

// pick is the cluster for a random number.
func (r *route) pick(info *flow.Info, random uint64) string {
	if len(r.weighted) == 0 {
		return r.single(info)
	}
	point := random % r.total
	for _, w := range r.weighted {
		if point < uint64(w.Weight) {
			return w.Name
		}
		point -= uint64(w.Weight)
	}
	return r.weighted[len(r.weighted)-1].Name // not reached: the weights add up to total
}

func (r *route) single(info *flow.Info) string {
	if name, ok := info.FilterState[clusterState]; ok {
		return name
	}
	return r.cluster
}

// shares is what pick chooses from.
func (r *route) shares(info *flow.Info) []ClusterShare {
	if len(r.weighted) == 0 {
		return []ClusterShare{{Cluster: r.single(info), Share: 1}}
	}
	var out []ClusterShare
	for _, w := range r.weighted {
		out = append(out, ClusterShare{Cluster: w.Name, Share: float64(w.Weight) / float64(r.total)})
	}
	return out
}

// hash is what the hash policy makes of the connection, with xxHash64 as in
// Envoy; false without a policy, or if what it hashes is not there.
func (r *route) hash(info *flow.Info) (uint64, bool) {
	if r.bySource && info.Remote.IsIP() {
		return xxhash.Sum64String(info.Remote.Addr().String()), true
	}
	if v, ok := info.State(r.byState); ok && r.byState != "" {
		return xxhash.Sum64String(v), true
	}
	return 0, false
}
