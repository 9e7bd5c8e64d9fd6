package route

import (
	"strconv"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/http/message"
)

// Match is the route of one request.
type Match struct {
	table    *Table
	host     *host
	entry    *entry    // nil where Route is
	weighted *weighted // what Weighted is of
	needsTLS bool

	Config      *config.RouteConfig
	VirtualHost *config.VirtualHost
	// Route is nil where the virtual host demands TLS and the request had none.
	Route *config.Route
	// Cluster is where the request goes; "" if the route goes nowhere, or by a
	// header that the request does not have.
	Cluster string
	// Weighted is the weighted cluster that was chosen; nil if there are none.
	Weighted *config.WeightedHTTPCluster
}

// choose chooses the cluster.
func (m *Match) choose(r *Request) {
	a := m.Route.Action
	switch {
	case a == nil:
	case a.ClusterHeader != "":
		m.Cluster = first(r.Head, a.ClusterHeader)
	case a.Weighted == nil:
		m.Cluster = a.Cluster
	default:
		m.weigh(r, a.Weighted)
	}
}

// weigh goes by the request's random number, or by the hash or the header that
// stands in for it.
func (m *Match) weigh(r *Request, w *config.WeightedClusters) {
	value := r.Random
	if w.UseHash {
		if h, ok := m.hash(r, nil); ok {
			value = h
		}
	}
	if n, ok := onlyNumber(r.Head, w.RandomHeader); ok {
		value = n
	}
	total := uint64(0)
	for i := range w.Clusters {
		total += uint64(w.Clusters[i].Weight)
	}
	value %= total // which is not 0: see compileWeights
	for i := range m.entry.weighted {
		one := &m.entry.weighted[i]
		if value >= uint64(one.cfg.Weight) {
			value -= uint64(one.cfg.Weight)
			continue
		}
		m.weighted, m.Weighted = one, one.cfg
		if m.Cluster = one.cfg.Name; m.Cluster == "" {
			m.Cluster = first(r.Head, one.cfg.Header)
		}
		return
	}
}

// onlyNumber is the number in a header, if it is there once.
func onlyNumber(h *message.Head, name string) (uint64, bool) {
	if name == "" {
		return 0, false
	}
	text, n := "", 0
	for i := range h.Fields {
		if h.Fields[i].Name == name {
			text, n = h.Fields[i].Value, n+1
		}
	}
	if n == 0 && name[0] == ':' {
		text, n = h.Value(name), 1
	}
	value, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(text), "+"), 10, 64)
	return value, n == 1 && err == nil
}

// Overrides are what the levels say about a filter, the least specific first:
// route configuration, virtual host, route, weighted cluster. A level that
// only disables the filter is not among them.
func (m *Match) Overrides(filter string) []*config.FilterOverride {
	var out []*config.FilterOverride
	for _, level := range m.perFilter() {
		if o := level[filter]; o != nil && o.Config != nil {
			out = append(out, o)
		}
	}
	return out
}

// Override is the most specific of what the levels say; nil if none says
// anything.
func (m *Match) Override(filter string) *config.FilterOverride {
	levels := m.perFilter()
	for i := len(levels) - 1; i >= 0; i-- {
		if o := levels[i][filter]; o != nil {
			return o
		}
	}
	return nil
}

func (m *Match) perFilter() [4]map[string]*config.FilterOverride {
	levels := [4]map[string]*config.FilterOverride{m.Config.PerFilter, m.VirtualHost.PerFilter}
	if m.Route != nil {
		levels[2] = m.Route.PerFilter
	}
	if m.Weighted != nil {
		levels[3] = m.Weighted.PerFilter
	}
	return levels
}

// VirtualCluster is the name of the first virtual cluster that a request is
// of; "" if it is of none. In the stats, what is of none of several is "other".
func (m *Match) VirtualCluster(h *message.Head) string {
	for i, when := range m.host.clusters {
		if when.Match(h) {
			return m.VirtualHost.VirtualClusters[i].Name
		}
	}
	return ""
}

// Mirrors are the policies for copies of the request: the route's, else the
// virtual host's, else the route configuration's.
func (m *Match) Mirrors() []config.MirrorPolicy {
	switch {
	case m.Route != nil && m.Route.Action != nil && len(m.Route.Action.MirrorPolicies) > 0:
		return m.Route.Action.MirrorPolicies
	case len(m.VirtualHost.MirrorPolicies) > 0:
		return m.VirtualHost.MirrorPolicies
	}
	return m.Config.MirrorPolicies
}
