// Package grpcstats is envoy.filters.http.grpc_stats: it counts the calls and
// the messages of gRPC, by cluster, service and method.
package grpcstats

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

// New makes the filter of a *config.GRPCStats. It has no configuration of
// routes.
func New(cfg *config.HTTPFilter, d filter.Deps) (filter.Factory, error) {
	own, ok := cfg.Config.(*config.GRPCStats)
	if !ok {
		return nil, fmt.Errorf("%T is no configuration of grpc_stats", cfg.Config)
	}
	return filter.FactoryFunc(func(s filter.Stream) filter.Filter { return &counter{s: s, cfg: own, d: d} }), nil
}

// stateName is the object of the filter state that has the counts.
const stateName = "envoy.filters.http.grpc_stats"

// counter is the filter of one request.
type counter struct {
	filter.Pass
	s   filter.Stream
	cfg *config.GRPCStats
	d   filter.Deps

	grpc               bool
	scope              *stats.Scope // nil: nothing is counted
	requests, received frames
	answers            bool // the response is gRPC
}

// RequestHead finds out what to count under.
func (c *counter) RequestHead(h *message.Head, _ bool) filter.Action {
	if c.grpc = isGRPC(h); !c.grpc {
		return filter.Continue
	}
	name := c.s.Cluster()
	if name == "" {
		return filter.Continue
	}
	cl := c.d.Clusters.Get(name)
	service, method, ok := split(h.Path)
	if cl == nil || !ok {
		return filter.Continue
	}
	if alt := cl.Config().AltStatName; alt != "" {
		name = alt
	}
	c.scope = c.d.Stats.Scope("cluster").Tagged("envoy_cluster_name", name).Scope("grpc")
	if c.cfg.AllMethods || slices.Contains(c.cfg.Methods[service], method) {
		c.scope = c.under(service, method)
	}
	return filter.Continue
}

// under is the scope of a method. Envoy finds the labels by the dots in the
// name, so a service a.b.C has the label service a and method b.
func (c *counter) under(service, method string) *stats.Scope {
	if c.cfg.ReplaceDots {
		service = strings.ReplaceAll(service, ".", "_")
	}
	parts := append(strings.Split(service, "."), method)
	s := c.scope.Tagged("envoy_grpc_bridge_service", parts[0]).Tagged("envoy_grpc_bridge_method", parts[1])
	for _, p := range parts[2:] {
		s = s.Scope(p)
	}
	return s
}

// RequestData counts messages.
func (c *counter) RequestData(p []byte, _ bool) ([]byte, filter.Action) {
	if !c.grpc {
		return p, filter.Continue
	}
	if n := c.requests.take(p); n > 0 {
		c.tell()
		c.add("request_message_count", n)
	}
	return p, filter.Continue
}

// ResponseHead counts the end of a call that has no trailers.
func (c *counter) ResponseHead(h *message.Head, end bool) filter.Action {
	c.answers = c.grpc && h.Status == 200 && isGRPC(h)
	c.status(h.Fields)
	if end {
		c.duration()
	}
	return filter.Continue
}

// ResponseData counts messages.
func (c *counter) ResponseData(p []byte, _ bool) ([]byte, filter.Action) {
	if !c.answers {
		return p, filter.Continue
	}
	if n := c.received.take(p); n > 0 {
		c.tell()
		c.add("response_message_count", n)
	}
	return p, filter.Continue
}

// ResponseTrailers counts the end of a call.
func (c *counter) ResponseTrailers(t *message.Fields) filter.Action {
	c.status(*t)
	c.duration()
	return filter.Continue
}

func (c *counter) add(name string, n uint64) {
	if c.scope != nil {
		c.scope.Counter(name).Add(n)
	}
}

// status counts a grpc-status that is there. One that is no number could be
// any text of the peer's, and is counted as unknown (2).
func (c *counter) status(f message.Fields) {
	status, ok := f.Get("grpc-status")
	if !ok || c.scope == nil {
		return
	}
	if n, err := strconv.ParseUint(status, 10, 16); err != nil {
		status = "2"
	} else {
		status = strconv.FormatUint(n, 10)
	}
	c.add(status, 1)
	if c.add("total", 1); status == "0" {
		c.add("success", 1)
	} else {
		c.add("failure", 1)
	}
}

// duration records the time from the last byte sent upstream to the last that
// came from there.
func (c *counter) duration() {
	h := c.s.Info().HTTP
	if c.scope == nil || !c.cfg.UpstreamStats || h.LastUpstreamTx.IsZero() || h.LastUpstreamRx.IsZero() {
		return
	}
	c.scope.Histogram("upstream_rq_time").Record(uint64(max(h.LastUpstreamRx.Sub(h.LastUpstreamTx).Milliseconds(), 0)))
}

// tell puts the counts into the filter state.
func (c *counter) tell() {
	if c.cfg.EmitFilterState {
		c.s.Info().SetState(stateName, strconv.FormatUint(c.requests.count, 10)+","+strconv.FormatUint(c.received.count, 10))
	}
}

// isGRPC reports a content type of gRPC: application/grpc, +proto or the like.
func isGRPC(h *message.Head) bool {
	rest, ok := strings.CutPrefix(h.Fields.Value("content-type"), "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// split is service and method of a path /service/method.
func split(path string) (service, method string, ok bool) {
	path, _, _ = strings.Cut(path, "?")
	rest, ok := strings.CutPrefix(path, "/")
	if !ok {
		return "", "", false
	}
	service, method, ok = strings.Cut(rest, "/")
	if !ok || service == "" || method == "" || strings.Contains(method, "/") {
		return "", "", false
	}
	return service, method, true
}
