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

// need is a route configuration without which a filter chain cannot serve.
type need = *xds.Watch[*config.RouteConfig]

// needs collects what the filters of one chain ask for while they are made.
type needs struct {
	server *Server
	chain  *config.FilterChain
	all    []need
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
	n.all = append(n.all, w)
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

// fileRoutes follows a route configuration in a file. One that is wrong at the
// beginning is a mistake of the listener.
func (d *discovery) fileRoutes(rds *config.RDS, update func(*config.RouteConfig) error) (cancel func(), err error) {
	if rds.Source == nil || rds.Source.Path == "" {
		return nil, fmt.Errorf("rds %q: there is no source", rds.Name)
	}
	last := ""
	apply := func() error {
		text, err := readStable(rds.Source.Path)
		if err != nil || string(text) == last {
			return err
		}
		last = string(text)
		routes, err := d.routesOf(text, rds.Name)
		if err != nil {
			return err
		}
		return update(routes)
	}
	if err := apply(); err != nil {
		return nil, fmt.Errorf("%s: %w", rds.Source.Path, err)
	}
	wanted, cancel := context.WithCancel(context.Background())
	d.background(func(ctx context.Context) {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		defer context.AfterFunc(wanted, stop)()
		changed := func() {
			if err := apply(); err != nil {
				d.refuse(rds.Source.Path, err)
			}
		}
		if err := certs.Watch(ctx, certs.Dirs(rds.Source.Path, rds.Source.WatchedDirectory), changed); err != nil {
			d.refuse(rds.Source.Path, err)
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

// routeWait is for how long a connection waits for the routes of its chain, if
// nothing says for how long they are waited for at all.
const routeWait = 15 * time.Second

// awaitRoutes waits for the routes of a chain that is new: a connection that
// met a chain without any would be told that there is no such page.
func (ch *liveChain) awaitRoutes() error {
	for _, w := range ch.needs {
		select {
		case <-w.First():
			continue
		default:
		}
		t := time.NewTimer(routeWait)
		defer t.Stop()
		select {
		case <-w.First():
		case <-t.C:
			return flow.End(flow.StageHold, flow.NoRouteFound, fmt.Errorf("route configuration %w", w.Missing()))
		case <-ch.ctx.Done():
			return flow.End(flow.StageHold, 0, context.Cause(ch.ctx))
		}
	}
	return nil
}

// missingRoutes is the first of them that has not come; nil for none.
func (ch *liveChain) missingRoutes() error {
	for _, w := range ch.needs {
		if err := w.Missing(); err != nil {
			return fmt.Errorf("route configuration %w", err)
		}
	}
	return nil
}

// waitRoutes waits for all of them. If ctx ends it returns what is missing.
func (ch *liveChain) waitRoutes(ctx context.Context) error {
	for _, w := range ch.needs {
		for {
			changed := w.Changed() // before it is looked: no version is missed
			missing := w.Missing()
			if missing == nil {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return fmt.Errorf("route configuration %w", missing)
			}
		}
	}
	return nil
}
