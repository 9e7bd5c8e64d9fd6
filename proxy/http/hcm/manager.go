// Package hcm is the HTTP connection manager with its router: requests of a
// downstream connection through the filters to a cluster, and the answers back.
//
// A request is a stream. Both of its connections call it from their own
// goroutines, and timers do; one lock each makes that one thing after another.
// No goroutine belongs to a request.
package hcm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"outrider/proxy/cluster"
	"outrider/proxy/config"
	netfilter "outrider/proxy/filter"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/h1"
	"outrider/proxy/http/h2"
	"outrider/proxy/http/pool"
	"outrider/proxy/http/route"
	"outrider/proxy/stats"
)

// Deps is what a Manager is made with.
type Deps struct {
	Stats    *stats.Registry
	Log      *slog.Logger
	Node     *config.Node
	Listener *config.Listener
	Clusters interface {
		Get(name string) *cluster.Cluster
	}
	Pools    *pool.Pools
	Upstream filter.Upstream
	// AccessLogs makes an access log, Format compiles a text in their language.
	AccessLogs func(*config.AccessLog) (filter.AccessLogger, error)
	Format     func(text string, omitEmpty bool) (func(*flow.Info) string, error)
	// BodyFormat compiles the format of an access log, without its file, and
	// LogFilter the filter of one.
	BodyFormat func(*config.AccessLog) (func(*flow.Info) string, error)
	LogFilter  func(*config.AccessLogFilter) (func(*flow.Info) bool, error)
	// LocalAddress is the machine's own, for X-Forwarded-For of clients on
	// loopback; invalid if there is none.
	LocalAddress netip.Addr
	// Panicked is told what panicked in a request, which has ended for it.
	Panicked func(p any)
	// Makers are the makers of filters.
	Makers filter.Makers
	// Failing reports whether the proxy was told to fail health checks.
	Failing func() bool
	// Background is what the filters' own work runs in; nil if it does not.
	Background context.Context //nolint:containedctx // ends with the server
	// Routes subscribes to a route configuration; update is called with each
	// version, from any goroutine, until the returned function is called.
	Routes func(rds *config.RDS, update func(*config.RouteConfig) error) (cancel func(), err error)
	// Extensions subscribes to the configuration of a filter with Discovery;
	// prepare is called with each version, from any goroutine, until the returned
	// function is called.
	Extensions func(f *config.HTTPFilter, prepare Prepare) (cancel func(), err error)
	// RuntimePPM is the value of a runtime key as parts per million, or ppm.
	RuntimePPM func(key string, ppm uint32) uint32
	Rand       func() uint64
}

// Manager is one http_connection_manager, compiled; its connections share it.
type Manager struct {
	name    string
	cfg     *config.HTTPConnectionManager
	deps    Deps
	log     *slog.Logger
	filters []factory
	router  *config.HTTPRouter
	// upgrades are the upgrades' own filters, by type.
	upgrades  map[string][]factory
	routes    atomic.Pointer[route.Table]
	stats     *managerStats
	logs      []filter.AccessLogger
	upLogs    []filter.AccessLogger
	replies   *localReplies
	bodies    bodies
	mutations filter.Attached[config.MirrorPolicy, compiledMutations]
	h1        h1.Options
	h2        h2.Options
	cancels   []func() // of the subscriptions

	runners []filter.Runner
	work    context.Context    //nolint:containedctx // of the runners; nil if they do not run
	stop    context.CancelFunc // of work
	running sync.WaitGroup
}

// factory makes one filter of a request: Factory, or what found has now.
type factory struct {
	name     string
	disabled bool
	filter.Factory
	found *discovered // nil: its configuration does not come by discovery
}

// New compiles a connection manager. Every mistake is in the error.
func New(name string, cfg *config.HTTPConnectionManager, d Deps) (*Manager, error) {
	m := &Manager{name: name, cfg: cfg, deps: d, log: d.Log, stop: func() {}}
	if d.Background != nil {
		m.work, m.stop = context.WithCancel(d.Background)
	}
	m.stats = newManagerStats(d.Stats, cfg.StatPrefix)
	m.h1, m.h2 = m.codecOptions()
	errs := []error{m.makeFilters(), m.makeLogs()}
	var err error
	m.replies, err = newLocalReplies(cfg.LocalReply, d)
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		m.Close()
		return nil, err
	}
	switch {
	case cfg.Routes != nil:
		err = m.setRoutes(cfg.Routes)
	case d.Routes == nil:
		err = errors.New("rds: there is nothing to subscribe with")
	default:
		var cancel func()
		if cancel, err = d.Routes(cfg.RDS, m.setRoutes); err == nil {
			m.cancels = append(m.cancels, cancel)
		}
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	for _, r := range m.runners {
		m.runs(r)
	}
	return m, nil
}

// Close ends the subscriptions to routes and filters, and the filters' own work.
// No connection may be left.
func (m *Manager) Close() {
	for _, cancel := range m.cancels {
		cancel()
	}
	m.stop()
	m.running.Wait()
}

// runs starts a filter's own work, until stop is called or the manager is closed.
func (m *Manager) runs(r filter.Runner) (stop context.CancelFunc) {
	if m.work == nil {
		return func() {}
	}
	ctx, stop := context.WithCancel(m.work)
	m.running.Go(func() {
		defer stop()
		if err := r.Run(ctx); err != nil {
			m.log.Error("a filter has stopped", "filter_chain", m.name, "error", err)
		}
	})
	return stop
}

// panicked tells what panicked, where it is recovered.
func (m *Manager) panicked(p any) {
	if m.deps.Panicked != nil {
		m.deps.Panicked(p)
		return
	}
	m.deps.Log.Error("request panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}

// setRoutes makes cfg the routes of all requests from now on.
func (m *Manager) setRoutes(cfg *config.RouteConfig) error {
	t, err := route.Compile(cfg, route.Deps{
		Format: m.deps.Format, Runtime: m.deps.RuntimePPM, Rand: m.deps.Rand,
		SuppressEnvoyHeaders: m.router != nil && m.router.SuppressEnvoyHeaders,
	})
	if err != nil {
		return fmt.Errorf("route_config: %w", err)
	}
	if err := m.checkRoutes(cfg); err != nil {
		return fmt.Errorf("route_config: %w", err)
	}
	m.routes.Store(t)
	return nil
}

func (m *Manager) makeFilters() error {
	var errs []error
	list, err := m.factories(m.cfg.Filters, "http_filters")
	m.filters = list
	errs = append(errs, err)
	for i := range m.cfg.Upgrades {
		u := &m.cfg.Upgrades[i]
		if u.Filters == nil {
			continue
		}
		list, err := m.factories(u.Filters, fmt.Sprintf("upgrade_configs[%d].filters", i))
		if m.upgrades == nil {
			m.upgrades = map[string][]factory{}
		}
		m.upgrades[u.Type] = list
		errs = append(errs, err)
	}
	if n := len(m.cfg.Filters); n > 0 {
		m.router, _ = m.cfg.Filters[n-1].Config.(*config.HTTPRouter)
	}
	if m.router == nil {
		errs = append(errs, errors.New("http_filters: the last one is not the router"))
	}
	return errors.Join(errs...)
}

// factories compiles all filters but the router, which is the last.
func (m *Manager) factories(list []*config.HTTPFilter, field string) ([]factory, error) {
	d := filter.Deps{
		Stats: m.deps.Stats, Scope: m.stats.scope, Log: m.deps.Log, Node: m.deps.Node,
		Clusters: m.deps.Clusters, Format: m.deps.Format, Upstream: m.deps.Upstream,
		AccessLogs: m.deps.AccessLogs, RuntimePPM: m.deps.RuntimePPM, Failing: m.deps.Failing,
	}
	if m.deps.Listener != nil {
		d.Direction = m.deps.Listener.Direction
	}
	var out []factory
	var errs []error
	for i, f := range list {
		if _, ok := f.Config.(*config.HTTPRouter); ok {
			continue
		}
		if f.Discovery != nil {
			found, err := m.discover(f, d)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s[%d] %q: %w", field, i, f.Name, err))
				continue
			}
			out = append(out, factory{name: f.Name, disabled: f.Disabled, found: found})
			continue
		}
		maker := m.deps.Makers.Of(f.Config)
		if maker == nil {
			errs = append(errs, fmt.Errorf("%s[%d] %q: there is no filter for %T", field, i, f.Name, f.Config))
			continue
		}
		made, err := maker(f, d)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s[%d] %q: %w", field, i, f.Name, err))
			continue
		}
		out = append(out, factory{name: f.Name, disabled: f.Disabled, Factory: made})
		if r, ok := made.(filter.Runner); ok {
			m.runners = append(m.runners, r)
		}
	}
	return out, errors.Join(errs...)
}

func (m *Manager) makeLogs() error {
	var errs []error
	add := func(list []*config.AccessLog, to *[]filter.AccessLogger, field string) {
		for i, cfg := range list {
			l, err := m.deps.AccessLogs(cfg)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s[%d]: %w", field, i, err))
				continue
			}
			*to = append(*to, l)
		}
	}
	add(m.cfg.AccessLogs, &m.logs, "access_log")
	if m.router != nil {
		add(m.router.UpstreamLogs, &m.upLogs, "upstream_log")
	}
	return errors.Join(errs...)
}

// Begin counts a connection in that has not been served yet.
func (m *Manager) Begin(*netfilter.Conn) (end func()) { return func() {} }

// Explain is what would become of a connection: what becomes of its requests
// is for ExplainRequest.
func (m *Manager) Explain(info *flow.Info) netfilter.Verdict {
	if info.HTTP != nil && info.HTTP.Request != nil {
		return m.ExplainRequest(info, info.HTTP.Request)
	}
	v := netfilter.Verdict{Filter: m.name, Type: "http_connection_manager"}
	t := m.routes.Load()
	if t == nil {
		v.Reason = "HTTP; its route configuration has not come yet"
		return v
	}
	v.Reason = fmt.Sprintf("HTTP by route configuration %q", t.Name())
	return v
}

// Serve serves the requests of one connection until it ends.
func (m *Manager) Serve(ctx context.Context, c *netfilter.Conn) error { return m.serve(ctx, c) }
