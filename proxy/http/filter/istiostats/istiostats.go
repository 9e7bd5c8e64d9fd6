// Package istiostats is Istio's istio.stats for requests: each is counted when
// it is over, and the messages of gRPC while they come.
package istiostats

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/istio/telemetry"
)

// New makes the filter of a *config.IstioStats. It has no configuration of
// routes.
func New(cfg *config.HTTPFilter, d filter.Deps) (filter.Factory, error) {
	own, ok := cfg.Config.(*config.IstioStats)
	if !ok {
		return nil, fmt.Errorf("%T is no configuration of istio.stats", cfg.Config)
	}
	r, err := telemetry.New(own, telemetry.Deps{
		Stats: d.Stats, Node: d.Node, Direction: d.Direction,
		Cluster: func(name string) *config.Cluster {
			if d.Clusters == nil {
				return nil
			}
			if c := d.Clusters.Get(name); c != nil {
				return c.Config()
			}
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return &factory{r}, nil
}

// factory is a filter.Runner: it forgets metrics that are not used.
type factory struct{ r *telemetry.Reporter }

// New is the filter of a request.
func (f *factory) New(s filter.Stream) filter.Filter { return &counter{s: s, r: f.r} }

// Run forgets what is not used any more, where the configuration says so.
func (f *factory) Run(ctx context.Context) error { return f.r.Run(ctx) }

// counter is the filter of one request.
type counter struct {
	filter.Pass
	s    filter.Stream
	r    *telemetry.Reporter
	grpc bool
	call *telemetry.Call // nil: nothing was counted of it yet
}

// RequestHead sees whether it is a call of gRPC.
func (c *counter) RequestHead(h *message.Head, _ bool) filter.Action {
	if c.grpc = isGRPC(h); c.grpc && c.r.Every() > 0 {
		c.s.After(c.r.Every(), c.tick)
	}
	return filter.Continue
}

// tick counts messages, and comes again.
func (c *counter) tick() {
	c.messages(false)
	c.s.After(c.r.Every(), c.tick)
}

// End counts the request.
func (c *counter) End() {
	if c.grpc {
		c.messages(true)
	}
	c.r.Request(c.s.Info(), c.grpc)
}

// messages counts those that grpc_stats has seen; none if it is not there, as
// in Envoy.
func (c *counter) messages(over bool) {
	text, ok := c.s.Info().FilterState["envoy.filters.http.grpc_stats"]
	if !ok {
		return
	}
	client, server, _ := strings.Cut(text, ",")
	sent, err1 := strconv.ParseUint(client, 10, 64)
	received, err2 := strconv.ParseUint(server, 10, 64)
	if err1 == nil && err2 == nil {
		if c.call == nil {
			c.call = &telemetry.Call{}
		}
		c.call.Messages(c.r, c.s.Info(), sent, received, over)
	}
}

// isGRPC reports a content type of gRPC: application/grpc, or with +proto or
// the like.
func isGRPC(h *message.Head) bool {
	rest, ok := strings.CutPrefix(h.Fields.Value("content-type"), "application/grpc")
	return ok && (rest == "" || rest[0] == '+') && h.Path != ""
}
