package route

import (
	"slices"
	"strconv"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/edit"
	"outrider/proxy/http/headers"
	"outrider/proxy/http/message"
)

// Match is the route of one request.
type Match struct {
	table    *Table
	host     *host
	entry    *entry
	weight   *weighted
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
		m.Cluster = r.Head.Value(a.ClusterHeader)
	case a.Weighted == nil:
		m.Cluster = a.Cluster
	default:
		m.weigh(r, a.Weighted)
	}
}

func (m *Match) weigh(r *Request, w *config.WeightedClusters) {
	value := r.Random
	if w.RandomHeader != "" {
		if n, err := strconv.ParseUint(r.Head.Value(w.RandomHeader), 10, 64); err == nil {
			value = n
		}
	}
	if w.UseHash {
		if h, _, ok := m.Hash(r); ok {
			value = h
		}
	}
	total := w.Total
	if total == 0 {
		for i := range w.Clusters {
			total += uint64(w.Clusters[i].Weight)
		}
	}
	if total == 0 {
		return
	}
	value %= total
	for i := range m.entry.weighted {
		one := &m.entry.weighted[i]
		if value >= uint64(one.cfg.Weight) {
			value -= uint64(one.cfg.Weight)
			continue
		}
		m.weight, m.Weighted = one, one.cfg
		m.Cluster = one.cfg.Name
		if one.cfg.Header != "" {
			m.Cluster = r.Head.Value(one.cfg.Header)
		}
		return
	}
}

// Overrides are what the levels say about a filter, the least specific first:
// route configuration, virtual host, route, weighted cluster.
func (m *Match) Overrides(filter string) []*config.FilterOverride {
	var out []*config.FilterOverride
	for _, level := range m.perFilter() {
		if o := level[filter]; o != nil {
			out = append(out, o)
		}
	}
	return out
}

// Override is the most specific of them; nil if there is none.
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

// levels are the header operations, the most specific first.
func (m *Match) levels() [4]*ops {
	out := [4]*ops{}
	if m.weight != nil {
		out[0] = &m.weight.ops
	}
	if m.entry != nil {
		out[1] = &m.entry.ops
	}
	out[2], out[3] = &m.host.ops, &m.table.ops
	if m.Config.MostSpecificWins { // then it comes last
		slices.Reverse(out[:])
	}
	return out
}

// RewriteRequest makes the request the one that goes upstream: header
// operations, then path and host.
func (m *Match) RewriteRequest(h *message.Head, info *flow.Info) {
	for _, o := range m.levels() {
		if o != nil {
			change(h, info, o.requestRemove, o.request)
		}
	}
	if m.Route != nil && m.Route.Action != nil {
		m.rewriteHost(h, info)
		m.rewritePath(h, info)
	}
}

// RewriteResponse makes the answer the one that goes downstream.
func (m *Match) RewriteResponse(h *message.Head, info *flow.Info) {
	for _, o := range m.levels() {
		if o != nil {
			change(h, info, o.responseRemove, o.response)
		}
	}
}

func change(h *message.Head, info *flow.Info, remove []string, add []edit.Add) {
	for _, name := range remove {
		h.Fields.Del(name)
	}
	for i := range add {
		add[i].Apply(h, info)
	}
}

// VirtualCluster is the name of the first virtual cluster that a request is of,
// "" if there are none, and "other" if it is of none of them.
func (m *Match) VirtualCluster(h *message.Head) string {
	if len(m.host.clusters) == 0 {
		return ""
	}
	for _, c := range m.host.clusters {
		if c.when.Match(h) {
			return c.name
		}
	}
	return "other"
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

func (m *Match) retry() *retry {
	if m.entry != nil && m.entry.retry != nil {
		return m.entry.retry
	}
	return m.host.retry
}

// Retry is the retry policy: the route's, else the virtual host's, else nil.
func (m *Match) Retry() *config.RetryPolicy {
	if r := m.retry(); r != nil {
		return r.cfg
	}
	return nil
}

// Headers are matchers of which any may match.
type Headers struct {
	list    headers.Matchers
	present []string
}

// RetriableHeaders are those of answers that ask for another attempt.
func (m *Match) RetriableHeaders() Headers {
	if r := m.retry(); r != nil {
		return Headers{list: r.response}
	}
	return Headers{}
}

// RetryRequestHeaders are those of requests that may have one.
func (m *Match) RetryRequestHeaders() Headers {
	if r := m.retry(); r != nil {
		return Headers{list: r.requests}
	}
	return Headers{}
}

// Empty reports that there are none.
func (h Headers) Empty() bool { return len(h.list) == 0 && len(h.present) == 0 }

// Any reports whether one matches.
func (h Headers) Any(head *message.Head) bool {
	for i := range h.list {
		if h.list[i].Match(head) {
			return true
		}
	}
	return slices.ContainsFunc(h.present, head.Fields.Has)
}

// WithPresent is h and one more, which matches if the field is there.
func (h Headers) WithPresent(name string) Headers {
	h.present = append(slices.Clone(h.present), strings.ToLower(name))
	return h
}
