// Package route finds the route of a request, and says what it does to the
// request and to its answer: envoy.config.route.v3 as a compiled table. It is
// pure: it has no connections and no time.
package route

import (
	"errors"
	"fmt"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/edit"
	"outrider/proxy/http/headers"
	"outrider/proxy/http/message"
)

// Deps is what a table is compiled with.
type Deps struct {
	// Format compiles a text in the language of access logs.
	Format func(text string, omitEmpty bool) (func(*flow.Info) string, error)
	// Runtime is the value of a runtime key as parts per million, or ppm; nil
	// is always ppm.
	Runtime func(key string, ppm uint32) uint32
	// Rand is not needed by tables: each Request has its random number.
	Rand func() uint64
	// SuppressEnvoyHeaders leaves x-envoy-original-path and -host out (the
	// router's suppress_envoy_headers).
	SuppressEnvoyHeaders bool
}

// Table is a route configuration, compiled. It is immutable.
type Table struct {
	cfg     *config.RouteConfig
	deps    Deps
	ops     ops
	domains domains
}

// host is one virtual host.
type host struct {
	cfg      *config.VirtualHost
	routes   []*entry
	ops      ops
	clusters []headers.Matchers // as cfg.VirtualClusters
	retry    *retry
}

// entry is one route.
type entry struct {
	cfg      *config.Route
	criteria *Criteria
	ops      ops
	weighted []weighted
	retry    *retry // nil: the virtual host's
	rewrite  rewrite
	hash     []hashPolicy
}

// weighted is one of the clusters of a route.
type weighted struct {
	cfg *config.WeightedHTTPCluster
	ops ops
}

// Compile compiles a route configuration. Every mistake is in the error.
func Compile(cfg *config.RouteConfig, d Deps) (*Table, error) {
	t := &Table{cfg: cfg, deps: d}
	var errs []error
	err := t.ops.compile(cfg.Headers, d.Format)
	errs = append(errs, err)
	for i, v := range cfg.VirtualHosts {
		h, err := t.compileHost(v)
		if err != nil {
			errs = append(errs, fmt.Errorf("virtual_hosts[%d] %q: %w", i, v.Name, err))
		}
		for _, domain := range v.Domains {
			if err := t.domains.add(domain, h); err != nil {
				errs = append(errs, fmt.Errorf("virtual_hosts[%d] %q: %w", i, v.Name, err))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("route configuration %q: %w", cfg.Name, err)
	}
	return t, nil
}

func (t *Table) compileHost(v *config.VirtualHost) (*host, error) {
	h := &host{cfg: v}
	var errs []error
	errs = append(errs, h.ops.compile(v.Headers, t.deps.Format))
	var err error
	h.retry, err = compileRetry(v.Retry)
	errs = append(errs, err)
	for i, c := range v.VirtualClusters {
		when, err := headers.Compile(c.Headers)
		if err == nil && when.Empty() {
			err = errors.New("virtual clusters must define headers")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("virtual_clusters[%d]: %w", i, err))
		}
		h.clusters = append(h.clusters, when)
	}
	for i, r := range v.Routes {
		e, err := t.compileRoute(r)
		if err != nil {
			errs = append(errs, fmt.Errorf("routes[%d]: %w", i, err))
		}
		h.routes = append(h.routes, e)
	}
	return h, errors.Join(errs...)
}

func (t *Table) compileRoute(r *config.Route) (*entry, error) {
	e := &entry{cfg: r}
	c, err := compileCriteria(r.Match, t.deps.Runtime)
	e.criteria = c
	errs := []error{err, e.ops.compile(r.Headers, t.deps.Format), e.rewrite.compile(r, c, t.deps.Format)}
	a := r.Action
	if a == nil {
		return e, errors.Join(errs...)
	}
	e.retry, err = compileRetry(a.Retry)
	errs = append(errs, err)
	e.hash, err = compileHash(a.HashPolicies)
	errs = append(errs, err)
	if a.Weighted != nil {
		errs = append(errs, e.compileWeights(a.Weighted, t.deps.Format))
	}
	return e, errors.Join(errs...)
}

func (e *entry) compileWeights(w *config.WeightedClusters, format edit.Formatter) error {
	var errs []error
	total := uint64(0)
	for i := range w.Clusters {
		one := weighted{cfg: &w.Clusters[i]}
		if err := one.ops.compile(one.cfg.Headers, format); err != nil {
			errs = append(errs, fmt.Errorf("weighted_clusters.clusters[%d]: %w", i, err))
		}
		total += uint64(one.cfg.Weight)
		e.weighted = append(e.weighted, one)
	}
	if total == 0 || total > 1<<32-1 { // as Envoy
		errs = append(errs, fmt.Errorf("weighted_clusters: the sum of the weights is %d, and not from 1 to 4294967295", total))
	}
	return errors.Join(errs...)
}

// Name is the route configuration's.
func (t *Table) Name() string { return t.cfg.Name }

// Config is what the table was compiled from.
func (t *Table) Config() *config.RouteConfig { return t.cfg }

// InternalOnly is internal_only_headers.
func (t *Table) InternalOnly() []string { return t.cfg.InternalOnly }

// Request is what a route is found by.
type Request struct {
	Head *message.Head
	Info *flow.Info
	// Scheme stands in where the request has no x-forwarded-proto, or no
	// scheme.
	Scheme string
	// Internal says that the client is internal, for require_tls
	// EXTERNAL_ONLY.
	Internal bool
	// Random decides among weighted clusters and fractions. It should stay the
	// same for a request whose route is looked for again.
	Random uint64
}

// forwarded is what x-forwarded-proto says, else the request's scheme.
func (r *Request) forwarded() string {
	if v, ok := r.Head.Fields.Get("x-forwarded-proto"); ok {
		return v
	}
	return r.scheme()
}

func (r *Request) scheme() string {
	if r.Head.Scheme != "" {
		return r.Head.Scheme
	}
	return r.Scheme
}

// Find is the route of a request; false if it has none. A request that its
// virtual host wants to come by TLS has a Match without a Route.
func (t *Table) Find(r *Request) (*Match, bool) {
	m := t.find(r, nil)
	return m, m != nil
}

func (t *Table) find(r *Request, trace *Trace) *Match {
	h := t.domains.find(r.Head.Authority, t.cfg.IgnorePortInHost, trace)
	if h == nil {
		return nil
	}
	if h.demandsTLS(r) {
		trace.demandsTLS(r)
		return &Match{table: t, host: h, Config: t.cfg, VirtualHost: h.cfg, needsTLS: true}
	}
	path := pathOf(r.Head.Path, t.cfg.IgnorePathParameters)
	for i, e := range h.routes {
		var trial *Trial
		if trace != nil {
			trial = trace.try(i, e)
		}
		if !e.criteria.match(r, path, trial) {
			continue
		}
		m := &Match{table: t, host: h, entry: e, Config: t.cfg, VirtualHost: h.cfg, Route: e.cfg}
		m.choose(r)
		trace.found(m)
		return m
	}
	return nil
}

func (h *host) demandsTLS(r *Request) bool {
	switch h.cfg.RequireTLS {
	case config.TLSForAll:
		return r.forwarded() != "https"
	case config.TLSForExternal:
		return !r.Internal && r.forwarded() != "https"
	}
	return false
}
