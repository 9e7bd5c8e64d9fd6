// Package httpfilter is an HTTP filter of one's own, as an example: it lets only
// requests through that say for which tenant they are, and counts them by
// tenant. It is configured like any filter of Envoy's:
//
//	http_filters:
//	- name: tenant
//	  typed_config:
//	    "@type": type.googleapis.com/google.protobuf.Struct
//	    value: {header: x-tenant, tenants: [red, blue]}
//
// Three steps bring it into the proxy: Decode reads its typed_config
// (decode.Options.HTTPFilters), New makes it (filter.Makers), and a route may
// replace its configuration (typed_per_filter_config) without any further step.
package httpfilter

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

// Message is the type of typed_config that Decode is for.
const Message = "google.protobuf.Struct"

// Config is the filter's configuration.
type Config struct {
	Header  string
	Tenants []string
}

// Decode makes a *Config of the message in typed_config. The decoder of the
// configuration says where the mistake is that it returns.
func Decode(m proto.Message) (any, error) {
	s, ok := m.(*structpb.Struct)
	if !ok {
		return nil, fmt.Errorf("%T is no configuration of tenant", m)
	}
	cfg := &Config{Header: s.GetFields()["header"].GetStringValue()}
	for _, v := range s.GetFields()["tenants"].GetListValue().GetValues() {
		cfg.Tenants = append(cfg.Tenants, v.GetStringValue())
	}
	if cfg.Header == "" {
		return nil, fmt.Errorf("header must be set")
	}
	return cfg, nil
}

// New makes the filter of a connection manager: one Factory for all requests.
func New(cfg *config.HTTPFilter, d filter.Deps) (filter.Factory, error) {
	own, ok := cfg.Config.(*Config)
	if !ok {
		return nil, fmt.Errorf("%T is no configuration of tenant", cfg.Config)
	}
	counts := d.Scope.Scope("tenant")
	return filter.FactoryFunc(func(s filter.Stream) filter.Filter {
		return &tenant{stream: s, cfg: own, counts: counts}
	}), nil
}

// tenant is the filter of one request. What it has not written is in Pass.
type tenant struct {
	filter.Pass
	stream filter.Stream
	cfg    *Config
	counts *stats.Scope
}

// RequestHead refuses a request without a known tenant.
func (f *tenant) RequestHead(h *message.Head, _ bool) filter.Action {
	cfg := f.cfg
	if o := f.stream.Override(); o != nil && o.Config != nil {
		route, ok := o.Config.(*Config)
		if !ok {
			return filter.Misconfigured(f.stream, fmt.Errorf("a route has %T for tenant", o.Config))
		}
		cfg = route
	}
	name := h.Fields.Value(cfg.Header)
	if !slices.Contains(cfg.Tenants, name) {
		f.counts.Counter("refused").Inc()
		f.stream.Reply(filter.Reply{Status: 403, Body: "no such tenant", Details: "tenant_unknown"})
		return filter.Stop
	}
	f.counts.Valued("requests", "tenant", name).Inc()
	return filter.Continue
}

// ResponseHead says in the response for whom it is.
func (f *tenant) ResponseHead(h *message.Head, _ bool) filter.Action {
	h.Fields.Add("vary", f.cfg.Header)
	return filter.Continue
}
