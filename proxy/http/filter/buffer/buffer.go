// Package buffer is envoy.filters.http.buffer: a request goes on only when all
// of its body has come.
package buffer

import (
	"fmt"
	"strconv"

	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

// New makes the filter of a *config.HTTPBuffer. A route's replaces it.
func New(cfg *config.HTTPFilter, d filter.Deps) (filter.Factory, error) {
	own, ok := cfg.Config.(*config.HTTPBuffer)
	if !ok {
		return nil, fmt.Errorf("%T is no configuration of buffer", cfg.Config)
	}
	tooLarge := d.Scope.Counter("downstream_rq_too_large")
	routes := filter.NewOverrides(func(c *config.HTTPBuffer) (*config.HTTPBuffer, error) {
		own := *c
		return &own, nil
	})
	return filter.Checked(filter.FactoryFunc(func(s filter.Stream) filter.Filter {
		return &buffer{s: s, own: own, routes: routes, tooLarge: tooLarge}
	}), routes.Check), nil
}

// buffer is the filter of one request.
type buffer struct {
	filter.Pass
	s        filter.Stream
	own      *config.HTTPBuffer
	routes   *filter.Overrides[config.HTTPBuffer, *config.HTTPBuffer]
	tooLarge *stats.Counter

	head *message.Head // nil: the body is not awaited
	size int
	max  int
}

// RequestHead holds a request with a body. An upgraded connection has none that
// ends.
func (b *buffer) RequestHead(h *message.Head, end bool) filter.Action {
	if end || h.Method == "CONNECT" || h.Fields.Has("upgrade") {
		return filter.Continue
	}
	cfg, err := b.routes.Of(b.s.Override())
	if err != nil {
		return filter.Misconfigured(b.s, err)
	}
	if cfg == nil {
		cfg = b.own
	}
	b.head, b.max = h, int(cfg.MaxBytes)
	if l, ok := b.s.(filter.RequestLimiter); ok {
		l.LimitRequest(b.max)
	}
	return filter.Stop
}

// RequestData holds the body until it ends.
func (b *buffer) RequestData(p []byte, end bool) ([]byte, filter.Action) {
	if b.head == nil {
		return p, filter.Continue
	}
	if b.size += len(p); b.size > b.max {
		b.tooLarge.Inc()
		b.s.Reply(filter.Reply{Status: 413, Body: "Payload Too Large", Details: "request_payload_too_large"})
		return nil, filter.Stop
	}
	if !end {
		return p, filter.Stop
	}
	b.done()
	return p, filter.Continue
}

// RequestTrailers lets all go that was held.
func (b *buffer) RequestTrailers(*message.Fields) filter.Action {
	if b.head != nil {
		b.done()
	}
	return filter.Continue
}

// done tells the length that is known now.
func (b *buffer) done() {
	if !b.head.Fields.Has("content-length") {
		b.head.Fields.Add("content-length", strconv.Itoa(b.size))
	}
	b.head = nil
}
