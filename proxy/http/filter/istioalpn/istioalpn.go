// Package istioalpn is Istio's istio.alpn filter: it has the upstream
// connection offer the protocols of the mesh, by what is spoken to the cluster.
package istioalpn

import (
	"fmt"
	"slices"

	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
)

// New makes the filter of a *config.IstioALPN. A route's replaces it.
func New(cfg *config.HTTPFilter, d filter.Deps) (filter.Factory, error) {
	own, ok := cfg.Config.(*config.IstioALPN)
	if !ok {
		return nil, fmt.Errorf("%T is no configuration of istio.alpn", cfg.Config)
	}
	routes := filter.NewOverrides(func(c *config.IstioALPN) (*config.IstioALPN, error) {
		own := *c
		return &own, nil
	})
	return filter.Checked(filter.FactoryFunc(func(s filter.Stream) filter.Filter {
		return &offerer{s: s, own: own, routes: routes, d: d}
	}), routes.Check), nil
}

// offerer is the filter of one request.
type offerer struct {
	filter.Pass
	s      filter.Stream
	own    *config.IstioALPN
	routes *filter.Overrides[config.IstioALPN, *config.IstioALPN]
	d      filter.Deps
}

// RequestHead offers what is configured, if the request goes to a cluster that
// does not forbid it.
func (f *offerer) RequestHead(*message.Head, bool) filter.Action {
	cfg, err := f.routes.Of(f.s.Override())
	if err != nil {
		return filter.Misconfigured(f.s, err)
	}
	if cfg == nil {
		cfg = f.own
	}
	r, name := f.s.Route(), f.s.Cluster()
	if r == nil || r.Action == nil || name == "" {
		return filter.Continue
	}
	c := f.d.Clusters.Get(name)
	if c == nil || forbids(c) {
		return filter.Continue
	}
	if names := cfg.Override[spoken(c.Config(), f.s.Info().HTTP.Protocol)]; len(names) > 0 {
		f.s.OfferALPN(slices.Clone(names))
	}
	return filter.Continue
}

// forbids reports the cluster metadata istio: {alpn_override: "false"}.
func forbids(c *cluster.Cluster) bool {
	return c.Config().Metadata["istio"].GetFields()["alpn_override"].GetStringValue() == "false"
}

// spoken is the protocol of requests to the cluster. HTTP/1.0 is never spoken
// upstream; a cluster that finds it out by ALPN counts as HTTP/2.
func spoken(c *config.Cluster, downstream codec.Protocol) config.IstioALPNProtocol {
	http2 := c.HTTP.Mode == config.UpstreamHTTP2 || c.HTTP.Mode == config.UpstreamAuto ||
		c.HTTP.Mode == config.UpstreamFollow && downstream == codec.HTTP2
	if http2 {
		return config.IstioHTTP2
	}
	return config.IstioHTTP11
}
