package proxy

import (
	"context"
	"net"
	"sync"
	"time"

	"outrider/certs"
	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/stats"
	"outrider/proxy/xds"
)

// streams are the connections to control planes: the aggregated one, and one
// for each type, cluster and protocol that is asked for by itself.
type streams struct {
	discovery *discovery
	cache     *xds.Cache // nil: nothing is kept

	mu    sync.Mutex
	byKey map[streamKey]*stream // guarded by mu
	ctx   context.Context       //nolint:containedctx // guarded by mu; nil unless run runs
	wait  sync.WaitGroup
}

// streamKey tells streams apart. Of the aggregated one it is the zero value.
type streamKey struct {
	cluster, typeURL string
	delta            bool
}

// stream is one of them, with what takes its types.
type stream struct {
	source  *certs.Source // what asks for it says so
	client  *xds.Client
	secrets *xds.Shared[*certs.Secret]
	routes  *xds.Shared[*config.RouteConfig]
	filters *xds.Shared[*extension]
}

// of is the stream for resources of a type from source, made at its first use.
func (s *streams) of(source *certs.Source, typeURL string) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	var key streamKey
	if !source.ADS {
		key = streamKey{source.Cluster, typeURL, source.Delta}
	}
	if one := s.byKey[key]; one != nil {
		return one
	}
	one := s.open(source, key)
	s.byKey[key] = one
	if s.ctx != nil {
		s.start(one)
	}
	return one
}

// open makes a stream.
func (s *streams) open(source *certs.Source, key streamKey) *stream {
	d, asked := s.discovery, source
	root := d.server.registry.Root()
	scope, service := root, xds.Service{}
	if source.ADS {
		source = d.server.boot.ADS
	} else {
		scope = controlScope(root, key)
		service, _ = xds.Services(key.typeURL)
	}
	var rate *xds.Rate
	if r := source.Rate; r != nil {
		rate = &xds.Rate{Tokens: r.Tokens, PerSecond: r.PerSecond}
	}
	var transport xds.Transport = &xds.GRPC{Authority: source.Cluster, Dial: func(ctx context.Context) (net.Conn, error) {
		return d.dialControlPlane(ctx, source.Cluster)
	}}
	if asked.ADS && d.server.opts.ADS != nil {
		transport = d.server.opts.ADS
	}
	one := &stream{source: asked, client: xds.New(xds.Options{
		Transport: transport,
		Server:    source.Cluster, Delta: source.Delta, Node: d.node, NodeOnce: source.SetNodeOnFirstMessageOnly,
		Service: service, Rate: rate, Cache: s.cache, ControlPlane: xds.NewControlPlane(scope), Log: d.server.log,
	})}
	d.register(one)
	return one
}

// controlScope is where Envoy has control_plane.* of a stream of one type. That
// of endpoints, routes and secrets is per resource there, and per stream here.
func controlScope(root *stats.Scope, key streamKey) *stats.Scope {
	switch key.typeURL {
	case xds.ClusterType:
		return root.Scope("cluster_manager").Scope("cds")
	case xds.ListenerType:
		return root.Scope("listener_manager").Scope("lds")
	}
	return root.Scope("outrider").Scope("xds").Tagged("envoy_cluster_name", key.cluster)
}

// The order of requests that are due together (Envoy's): a cluster before its
// endpoints before the listeners that send to it before their filters and routes.
const (
	clusterRank = iota
	endpointRank
	secretRank
	listenerRank
	extensionRank
	routeRank
	furtherRank
)

// register tells a stream's client who takes what. What is not subscribed to is
// never asked for.
func (d *discovery) register(one *stream) {
	boot, registry := d.server.boot, d.server.registry
	one.client.Register(xds.Type{
		URL: xds.ClusterType, Apply: d.takeClusters, Whole: true, Rank: clusterRank,
		Holds: []string{xds.EndpointType, xds.SecretType}, FetchTimeout: fetchTimeout(boot.CDS),
		Stats: xds.NewStats(registry.Scope("cluster_manager").Scope("cds")),
	})
	one.client.Register(xds.Type{
		URL: xds.EndpointType, Rank: endpointRank,
		Apply:  func(u xds.Update) map[string]error { return d.takeAssignments(one.source, u) },
		Failed: func(error) { d.assignmentsFailed(one) },
	})
	one.client.Register(xds.Type{
		URL: xds.ListenerType, Apply: d.takeListeners, Whole: true, Rank: listenerRank,
		Holds: []string{xds.RouteType, xds.ExtensionType, xds.SecretType}, FetchTimeout: fetchTimeout(boot.LDS),
		Stats: xds.NewStats(registry.Scope("listener_manager").Scope("lds")),
	})
	one.secrets = xds.NewShared(one.client, xds.Type{URL: xds.SecretType, Rank: secretRank, Private: true}, d.takeSecret)
	for _, t := range d.server.opts.Types {
		t.Rank += furtherRank
		one.client.Register(t)
	}
	one.routes = xds.NewShared(one.client, xds.Type{URL: xds.RouteType, Rank: routeRank}, d.takeRoutes)
	one.filters = xds.NewShared(one.client, xds.Type{URL: xds.ExtensionType, Rank: extensionRank}, d.takeExtension)
	one.filters.CountByName(d.extensionStats)
}

func fetchTimeout(s *certs.Source) time.Duration {
	if s == nil {
		return 0
	}
	return s.InitialFetchTimeout
}

// run keeps the streams until ctx ends.
func (s *streams) run(ctx context.Context) {
	s.mu.Lock()
	s.ctx = ctx
	for _, one := range s.byKey {
		s.start(one)
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.ctx = nil
	s.mu.Unlock()
	s.wait.Wait()
}

// start needs mu.
func (s *streams) start(one *stream) {
	ctx := s.ctx
	s.wait.Go(func() {
		if err := one.client.Run(ctx); err != nil {
			s.discovery.server.log.Error("xDS client ended", "reason", err)
		}
	})
}

// askFurther asks for Options.Types, if there is an aggregated stream.
func (d *discovery) askFurther() {
	if d.server.boot.ADS == nil {
		return
	}
	for _, t := range d.server.opts.Types {
		d.subscribe(d.streams.of(&certs.Source{ADS: true}, t.URL), t.URL, xds.Wildcard)
	}
}

// firstClusters waits for the first answer of CDS, if clusters come by a
// stream. If ctx ends first it returns ctx.Err().
func (d *discovery) firstClusters(ctx context.Context) error {
	return d.first(ctx, d.server.boot.CDS, xds.ClusterType)
}

// firstListeners asks for the listeners, if they come by a stream, and waits
// for the first answer. If ctx ends first it returns ctx.Err().
func (d *discovery) firstListeners(ctx context.Context) error {
	return d.first(ctx, d.server.boot.LDS, xds.ListenerType)
}

func (d *discovery) first(ctx context.Context, source *certs.Source, typeURL string) error {
	if !overStream(source) {
		return nil
	}
	one := d.streams.of(source, typeURL)
	d.subscribe(one, typeURL, xds.Wildcard)
	select {
	case <-one.client.First(typeURL):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// all are the streams, in no order.
func (s *streams) all() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*stream, 0, len(s.byKey))
	for _, one := range s.byKey {
		out = append(out, one)
	}
	return out
}

// showAge sets how old the configuration is that came from the disk, 0 when it
// is a control plane's.
func (s *streams) showAge() {
	if s.cache == nil {
		return
	}
	var oldest time.Duration
	for _, one := range s.all() {
		if age, used := one.client.CacheAge(); used {
			oldest = max(oldest, age)
		}
	}
	scope := s.discovery.server.registry.Scope("outrider").Scope("xds")
	scope.Gauge("cache_age_seconds").Set(int64(oldest.Seconds()))
}

// overStream says that a source is a stream.
func overStream(s *certs.Source) bool { return s != nil && (s.ADS || s.Cluster != "") }

// dialControlPlane connects to an endpoint of a cluster as soon as that has
// some.
func (d *discovery) dialControlPlane(ctx context.Context, name string) (net.Conn, error) {
	c := d.server.clusters.Get(name)
	if c == nil {
		return d.dial(ctx, name)
	}
	select {
	case <-c.Warm():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return c.Connect(ctx, cluster.Request{})
}
