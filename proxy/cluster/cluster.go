// Package cluster is the upstream side that lives: endpoints from every kind
// of discovery, their health, load balancing, circuit breakers, and the dial
// with the transport socket that the endpoint's metadata chooses.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/stats"
)

// Cluster is one living cluster. Its methods may be called by many goroutines.
type Cluster struct {
	cfg      *config.Cluster
	opts     *Options
	scope    *stats.Scope
	members  *membership
	fallback *socket
	matches  []*socket
	breakers [2]*breaker
	dialer   *dialer
	original *originals // ORIGINAL_DST only
	health   *healthChecks
	outlier  *outlierDetection
	added    time.Time

	trafficOnce sync.Once
	trafficNow  atomic.Pointer[traffic]

	requestsOnce sync.Once
	requestsNow  atomic.Pointer[requestStats]

	tlsOnce  sync.Once
	tlsStats *stats.TLS // made by tlsOnce

	snap atomic.Pointer[snapshot]

	mu      sync.Mutex
	hosts   []*Host            // guarded by mu; in the order of the assignment
	byKey   map[string]*Host   // guarded by mu
	terms   assignmentTerms    // guarded by mu
	stop    context.CancelFunc // guarded by mu; ends run
	gone    bool               // guarded by mu; retired
	dynamic bool               // guarded by mu; came by CDS
	// Of EDS, guarded by mu: the end of the wait for the first assignment, and
	// of the time that the last one is good for; nil for never.
	giveUpTimer, staleTimer *time.Timer
	assignments             uint64        // guarded by mu; counts them
	unask                   func()        // guarded by mu; ends ask, nil if there is nothing to end
	update                  chan struct{} // cap 1: the hosts have changed

	warmOnce sync.Once
	warm     chan struct{}
	onWarm   func(*Cluster)

	// awaits says that it takes the place of another only when its secrets are
	// there: see succession.go.
	awaits bool

	// users counts the Set that holds the cluster and its connections; at 0
	// the cluster is gone for good.
	users   atomic.Int64
	retired atomic.Bool
	onGone  func()
	// successor is the cluster that has the name now; nil if none.
	successor func() *Cluster
}

// newCluster makes a cluster that has its static hosts and nothing running.
func newCluster(cfg *config.Cluster, opts *Options, deferStats bool) (*Cluster, error) {
	if len(cfg.HealthChecks) > 1 {
		return nil, fmt.Errorf("cluster %q: %d health checks: one at most, as in Envoy", cfg.Name, len(cfg.HealthChecks))
	}
	c := &Cluster{
		cfg: cfg, opts: opts, scope: statScope(opts.Stats, cfg), byKey: map[string]*Host{},
		update: make(chan struct{}, 1), warm: make(chan struct{}), added: opts.Now(),
	}
	c.users.Store(1)
	c.successor = func() *Cluster { return nil }
	c.members = newMembership(c.scope, cfg.Type)
	c.snap.Store(&snapshot{})
	if !deferStats {
		c.traffic()
	}
	for i, name := range [...]string{"default", "high"} {
		c.breakers[i] = newBreaker(cfg.CircuitBreakers[i], c.scope.Scope("circuit_breakers").Scope(name))
	}
	if err := c.makeSockets(); err != nil {
		return nil, err
	}
	c.dialer = newDialer(cfg, opts.Bind)
	if len(cfg.HealthChecks) == 1 {
		c.health = newHealthChecks(c, cfg.HealthChecks[0])
	}
	if cfg.Outlier != nil {
		c.outlier = newOutlierDetection(c, cfg.Outlier)
	}
	return c, c.begin()
}

// makeSockets makes the transport sockets.
func (c *Cluster) makeSockets() error {
	var err error
	if c.fallback, err = c.newSocket("", c.cfg.TransportSocket); err != nil {
		return err
	}
	for _, m := range c.cfg.SocketMatches {
		s, err := c.newSocket(m.Name, m.Socket)
		if err != nil {
			return err
		}
		c.matches = append(c.matches, s)
	}
	return nil
}

// begin puts in the hosts that need no discovery.
func (c *Cluster) begin() error {
	switch c.cfg.Type {
	case config.Static:
		list, err := c.staticHosts()
		if err != nil {
			return err
		}
		c.setHosts(list, termsOf(c.cfg.Assignment))
		c.discovered()
	case config.OriginalDstType:
		c.original = newOriginals()
		c.markWarm()
	case config.StrictDNS, config.LogicalDNS:
		if countEndpoints(c.cfg.Assignment) == 0 {
			c.discovered()
		}
	case config.EDSType:
	}
	return nil
}

func countEndpoints(a *config.Assignment) int {
	n := 0
	if a != nil {
		for _, l := range a.Localities {
			n += len(l.Endpoints)
		}
	}
	return n
}

func (c *Cluster) staticHosts() ([]wanted, error) {
	var list []wanted
	var errs []error
	if c.cfg.Assignment == nil {
		return nil, nil
	}
	seen := map[string]int{}
	for _, l := range c.cfg.Assignment.Localities {
		for _, ep := range l.Endpoints {
			if ep.Address.Host != "" {
				errs = append(errs, fmt.Errorf("cluster %q: %q is not an IP address, and the cluster's type is STATIC", c.cfg.Name, ep.Address))
				continue
			}
			key := ep.Address.String()
			if seen[key]++; seen[key] > 1 {
				key = fmt.Sprintf("%s#%d", key, seen[key])
			}
			list = append(list, wanted{key, c.newSpec(ep, l, ep.Address)})
		}
	}
	return list, errors.Join(errs...)
}

// run does what is periodic until ctx ends. It is only called if periodic.
func (c *Cluster) run(ctx context.Context) {
	var wait sync.WaitGroup
	defer wait.Wait()
	switch c.cfg.Type {
	case config.StrictDNS, config.LogicalDNS:
		wait.Go(func() { c.resolve(ctx) })
	case config.OriginalDstType:
		wait.Go(func() { c.original.sweep(ctx, c) })
	case config.Static, config.EDSType:
	}
	if c.awaits {
		wait.Go(func() { c.awaitSecrets(ctx) })
	}
	if c.outlier != nil {
		wait.Go(func() { c.outlier.run(ctx) })
	}
	if c.health != nil {
		c.health.run(ctx)
	}
}

// periodic reports whether run has anything to do.
func (c *Cluster) periodic() bool {
	return c.cfg.Type != config.Static && c.cfg.Type != config.EDSType || c.outlier != nil || c.health != nil
}

// start keeps stop for retire; it is false if the cluster is retired already.
func (c *Cluster) start(stop context.CancelFunc) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop = stop
	return !c.gone
}

// retire ends the periodic work and new connections; open ones go on, and
// with the last the cluster's metrics go.
func (c *Cluster) retire() {
	c.mu.Lock()
	gone, end, unask := c.gone, c.stop, c.unask
	c.gone = true
	stop(c.giveUpTimer)
	stop(c.staleTimer)
	c.mu.Unlock()
	if gone {
		return
	}
	if unask != nil {
		unask()
	}
	c.retired.Store(true)
	for _, h := range c.hostsNow() {
		c.forget(h)
	}
	if end != nil {
		end()
	}
	c.release()
}

// acquire counts a user in, unless the cluster is retired.
func (c *Cluster) acquire() bool {
	for !c.retired.Load() {
		n := c.users.Load()
		if n <= 0 {
			return false
		}
		if c.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

// hold counts a user of c in. Whoever had c in hand when it was replaced must not
// notice: then it is a user of the cluster that has the name now. That one is what
// to release; nil if the cluster has been removed.
func (c *Cluster) hold() *Cluster {
	for holder := c; ; {
		if holder.acquire() {
			return holder
		}
		next := c.successor()
		if next == nil || next == holder {
			return nil
		}
		holder = next
	}
}

func (c *Cluster) release() {
	if c.users.Add(-1) == 0 && c.onGone != nil {
		c.onGone()
	}
}

// discovered says that discovery has answered once: the cluster is warm, or
// will be after the first health checks.
func (c *Cluster) discovered() {
	if c.health == nil || c.health.discovered() {
		c.markWarm()
	}
}

// markWarm says that the cluster can be used.
func (c *Cluster) markWarm() {
	c.warmOnce.Do(func() {
		close(c.warm)
		if c.onWarm != nil {
			c.onWarm(c)
		}
	})
}

// Warm is closed when the cluster's hosts are known: after the first
// resolution, assignment or round of health checks, or when waiting for it
// has been given up.
func (c *Cluster) Warm() <-chan struct{} { return c.warm }

func (c *Cluster) isWarm() bool {
	select {
	case <-c.warm:
		return true
	default:
		return false
	}
}

// traffic is made at its first use.
func (c *Cluster) traffic() *traffic {
	if t := c.trafficNow.Load(); t != nil {
		return t
	}
	c.trafficOnce.Do(func() { c.trafficNow.Store(newTraffic(c.scope)) })
	return c.trafficNow.Load()
}

// Config is the cluster's configuration.
func (c *Cluster) Config() *config.Cluster { return c.cfg }

// Name is the cluster's name.
func (c *Cluster) Name() string { return c.cfg.Name }
