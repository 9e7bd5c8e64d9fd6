package proxy

import (
	"context"
	"fmt"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/config/decode"
	"outrider/proxy/flow"
	"outrider/proxy/xds"
)

// feedADS follows a secret of the aggregated stream until ctx ends
// (certs.Feeds.ADS).
func (d *discovery) feedADS(ctx context.Context, h *certs.Handle) {
	h.Attempt()
	w, err := d.streams.of(h.Ref().Source, xds.SecretType).secrets.Watch(h.Ref().Name, xds.WatchOptions[*certs.Secret]{
		Refused: h.Reject, Failed: h.Fail,
	})
	if err != nil {
		h.Fail(err)
		return
	}
	defer w.Close()
	for {
		changed := w.Changed() // before it is looked: no version is missed
		if v, ok := w.Current(); ok {
			h.Publish(v.Value)
			h.Attempt()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// need is what a filter chain cannot serve without: a route configuration, or
// that of a filter.
type need struct {
	what string // it is called in errors
	watch
	// optional says that there is something else to serve with, once the watch has
	// been waited for (default_config).
	optional bool
}

// watch is an xds.Watch of whatever type.
type watch interface {
	First() <-chan struct{}
	Changed() <-chan struct{}
	Missing() error
}

// missing is why the chain is not ready; nil if it is, as far as this goes.
func (n need) missing() error {
	err := n.Missing()
	if err == nil || n.optional && over(n.First()) {
		return nil
	}
	return fmt.Errorf("%s %w", n.what, err)
}

// changed is closed when missing may be another.
func (n need) changed() <-chan struct{} {
	if n.optional {
		return n.First() // closed with the first version too
	}
	return n.Changed()
}

func over(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// needs collects what the filters of one chain ask for while they are made.
type needs struct {
	server   *Server
	listener *config.Listener
	chain    *config.FilterChain
	all      []need
}

// routes subscribes to a route configuration until cancel: update is called
// with the version that is there, and with each further one, from any
// goroutine. A version that it refuses is refused to the server, and the one
// before goes on.
func (n *needs) routes(rds *config.RDS, update func(*config.RouteConfig) error) (cancel func(), err error) {
	d := n.server.discovery
	if !overStream(rds.Source) {
		return d.fileRoutes(rds, update)
	}
	w, err := d.streams.of(rds.Source, xds.RouteType).routes.Watch(rds.Name, xds.WatchOptions[*config.RouteConfig]{
		Check: update, FetchTimeout: rds.Source.InitialFetchTimeout, Stats: n.stats(rds),
	})
	if err != nil {
		return nil, err
	}
	if v, ok := w.Current(); ok {
		if err := update(v.Value); err != nil {
			w.Close()
			return nil, err
		}
	}
	n.all = append(n.all, need{what: "route configuration", watch: w})
	return w.Close, nil
}

// stats are http.<stat_prefix>.rds.<name>.*
func (n *needs) stats(rds *config.RDS) *xds.Stats {
	scope := n.server.registry.Scope("http")
	for _, f := range n.chain.Filters {
		if f.HTTP != nil && f.HTTP.RDS == rds {
			scope = scope.Tagged("envoy_http_conn_manager_prefix", f.HTTP.StatPrefix)
		}
	}
	return xds.NewStats(scope.Scope("rds").Tagged("envoy_rds_route_config", rds.Name))
}

// fileRoutes follows a route configuration in a file.
func (d *discovery) fileRoutes(rds *config.RDS, update func(*config.RouteConfig) error) (cancel func(), err error) {
	if rds.Source == nil || rds.Source.Path == "" {
		return nil, fmt.Errorf("rds %q: there is no source", rds.Name)
	}
	stop, err := d.followContent(rds.Source, func(text []byte) error {
		routes, err := d.routesOf(text, rds.Name)
		if err != nil {
			return err
		}
		if err := update(routes); err != nil {
			return err
		}
		d.noteRoutes(rds, routes)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return func() {
		stop()
		d.noteRoutes(rds, nil)
	}, nil
}

// fileRoute is a route configuration that came from a file.
type fileRoute struct {
	config  *config.RouteConfig
	updated time.Time
}

// noteRoutes notes what rds has brought, for the dump; nil if nobody wants it any
// more.
func (d *discovery) noteRoutes(rds *config.RDS, routes *config.RouteConfig) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if routes == nil {
		delete(d.fileRouted, rds)
		return
	}
	if d.fileRouted == nil {
		d.fileRouted = map[*config.RDS]fileRoute{}
	}
	d.fileRouted[rds] = fileRoute{routes, time.Now()}
}

// followContent applies a file, and each further content of it until cancel. One
// that is wrong at the beginning is a mistake of the listener.
func (d *discovery) followContent(source *certs.Source, apply func([]byte) error) (cancel func(), err error) {
	last := ""
	look := func() error {
		text, err := readStable(source.Path)
		if err != nil || string(text) == last {
			return err
		}
		last = string(text)
		return apply(text)
	}
	if err := look(); err != nil {
		return nil, fmt.Errorf("%s: %w", source.Path, err)
	}
	wanted, cancel := context.WithCancel(context.Background())
	d.background(func(ctx context.Context) {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		defer context.AfterFunc(wanted, stop)()
		changed := func() {
			if err := look(); err != nil {
				d.refuse(source.Path, err)
			}
		}
		if err := certs.Watch(ctx, certs.Dirs(source.Path, source.WatchedDirectory), changed); err != nil {
			d.refuse(source.Path, err)
		}
	})
	return cancel, nil
}

// routesOf is the route configuration of that name in a discovery response.
func (d *discovery) routesOf(text []byte, name string) (*config.RouteConfig, error) {
	all, _, err := resources(text, func() *routev3.RouteConfiguration { return &routev3.RouteConfiguration{} }, d.decoding(), decode.RouteConfiguration)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.Name == name {
			return r, nil
		}
	}
	return nil, fmt.Errorf("there is no route configuration %q", name)
}

// needWait is for how long a connection waits for what its chain needs, if
// nothing says for how long that is waited for at all.
const needWait = 15 * time.Second

// awaitNeeds waits for the routes and filters of a chain that is new: a connection
// that met a chain without any would be told that there is no such page.
func (ch *liveChain) awaitNeeds() error {
	for _, n := range ch.needs {
		if over(n.First()) {
			continue
		}
		t := time.NewTimer(needWait)
		defer t.Stop()
		select {
		case <-n.First():
		case <-t.C:
			return flow.End(flow.StageHold, flow.NoRouteFound, fmt.Errorf("%s %w", n.what, n.Missing()))
		case <-ch.ctx.Done():
			return flow.End(flow.StageHold, 0, context.Cause(ch.ctx))
		}
	}
	return nil
}

// missingNeeds is the first of them that has not come; nil for none.
func (ch *liveChain) missingNeeds() error {
	for _, n := range ch.needs {
		if err := n.missing(); err != nil {
			return err
		}
	}
	return nil
}

// waitNeeds waits for all of them. If ctx ends it returns what is missing.
func (ch *liveChain) waitNeeds(ctx context.Context) error {
	for _, n := range ch.needs {
		for {
			changed := n.changed() // before it is looked: no version is missed
			missing := n.missing()
			if missing == nil {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return missing
			}
		}
	}
	return nil
}
