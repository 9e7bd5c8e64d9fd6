package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"outrider/proxy/config"
)

// Set is all clusters of a proxy (Envoy: the cluster manager). Its methods may
// be called by many goroutines.
type Set struct {
	opts Options

	// clusters is by name: string to *Cluster. It changes under mu, and is read
	// without: a change costs the same however many clusters there are.
	clusters sync.Map
	active   atomic.Int64 // how many are in clusters

	mu          sync.Mutex
	warming     map[string]*Cluster           // guarded by mu; wait to take the place of one in clusters
	assignments map[string]*config.Assignment // guarded by mu; by service name
	followers   map[string][]*Cluster         // guarded by mu; EDS clusters by service name
	scopes      map[string]int                // guarded by mu; living clusters by statName
	starts      []*Cluster                    // guarded by mu; for Run

	wake chan struct{} // cap 1: starts is not empty

	// assigning makes assignments arrive in order; it is taken before mu.
	assigning sync.Mutex
}

// NewSet makes an empty Set.
func NewSet(opts Options) *Set {
	return &Set{
		opts: opts.withDefaults(), warming: map[string]*Cluster{}, wake: make(chan struct{}, 1),
		assignments: map[string]*config.Assignment{}, followers: map[string][]*Cluster{}, scopes: map[string]int{},
	}
}

// Run resolves names, checks health and ejects outliers for all clusters until
// ctx ends; then it returns nil.
func (s *Set) Run(ctx context.Context) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	for {
		s.mu.Lock()
		starts := s.starts
		s.starts = nil
		s.mu.Unlock()
		for _, c := range starts {
			running, stop := context.WithCancel(ctx)
			if !c.start(stop) {
				stop()
				continue
			}
			wait.Go(func() {
				defer stop()
				c.run(running)
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
	}
}

// Get is the cluster of that name, nil if there is none. It takes no lock.
func (s *Set) Get(name string) *Cluster {
	if c, ok := s.clusters.Load(name); ok {
		return c.(*Cluster) //nolint:errcheck // nothing else is in it
	}
	return nil
}

// put makes c the cluster of a name, or nothing if c is nil. It needs mu.
func (s *Set) put(name string, c *Cluster) {
	if c == nil {
		if _, had := s.clusters.LoadAndDelete(name); had {
			s.active.Add(-1)
		}
		return
	}
	if _, had := s.clusters.Swap(name, c); !had {
		s.active.Add(1)
	}
}

// each calls f for every cluster, in no order.
func (s *Set) each(f func(*Cluster)) {
	s.clusters.Range(func(_, c any) bool {
		f(c.(*Cluster)) //nolint:errcheck // nothing else is in it
		return true
	})
}

// All is every cluster, by name.
func (s *Set) All() []*Cluster {
	out := make([]*Cluster, 0, s.active.Load())
	s.each(func(c *Cluster) { out = append(out, c) })
	slices.SortFunc(out, func(a, b *Cluster) int { return cmp.Compare(a.cfg.Name, b.cfg.Name) })
	return out
}

// Warming is every cluster that waits to take the place of one of All, by name.
func (s *Set) Warming() []*Cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.warming), func(a, b *Cluster) int {
		return cmp.Compare(a.cfg.Name, b.cfg.Name)
	})
}

// Apply makes cfgs the clusters of the set. Clusters whose Digest is the same
// live on; changed ones take the place of the old when they are warm; those
// that cfgs does not have are removed. On an error nothing has changed.
func (s *Set) Apply(cfgs []*config.Cluster) error {
	names := map[string]bool{}
	for _, cfg := range cfgs {
		names[cfg.Name] = true
	}
	var removed []string
	s.each(func(c *Cluster) {
		if !names[c.cfg.Name] {
			removed = append(removed, c.cfg.Name)
		}
	})
	return s.Change(cfgs, removed)
}

// Update adds or changes one cluster.
func (s *Set) Update(cfg *config.Cluster) error { return s.Change([]*config.Cluster{cfg}, nil) }

// Remove removes a cluster, if it is there. Its connections go on.
func (s *Set) Remove(name string) { _ = s.Change(nil, []string{name}) }

// Change adds or changes some clusters and removes others. On an error nothing
// has changed.
func (s *Set) Change(updated []*config.Cluster, removed []string) error {
	made, refused := s.build(updated)
	if len(refused) > 0 {
		s.discard(made)
		var errs []error
		for _, cfg := range updated {
			errs = append(errs, refused[cfg.Name])
			delete(refused, cfg.Name)
		}
		return errors.Join(errs...)
	}
	s.change(updated, removed, made)
	return nil
}

// ChangeEach is Change where each cluster stands for itself: it returns why
// those were refused that have not changed, by name.
func (s *Set) ChangeEach(updated []*config.Cluster, removed []string) (refused map[string]error) {
	made, refused := s.build(updated)
	good := slices.DeleteFunc(slices.Clone(updated), func(cfg *config.Cluster) bool { return refused[cfg.Name] != nil })
	for name := range refused {
		if c := made[name]; c != nil { // the first of two of that name
			s.discard(map[string]*Cluster{name: c})
			delete(made, name)
		}
	}
	s.change(good, removed, made)
	return refused
}

// change puts in what was made of updated, and takes removed out.
func (s *Set) change(updated []*config.Cluster, removed []string, made map[string]*Cluster) {
	for _, c := range made {
		c.ask()
	}
	var retired []*Cluster
	s.mu.Lock()
	for _, name := range removed {
		retired = append(retired, s.Get(name), s.warming[name])
		s.put(name, nil)
		delete(s.warming, name)
	}
	for _, cfg := range updated {
		// A change back to what is current ends the warming of the other.
		if c := s.Get(cfg.Name); c != nil && c.cfg.Digest == cfg.Digest && s.warming[cfg.Name] != nil && made[cfg.Name] == nil {
			if w := s.warming[cfg.Name]; w.cfg.Digest != cfg.Digest {
				retired = append(retired, w)
				delete(s.warming, cfg.Name)
			}
		}
	}
	for name, c := range made {
		retired = append(retired, s.warming[name])
		delete(s.warming, name)
		old := s.Get(name)
		c.successor = func() *Cluster { return s.Get(c.cfg.Name) }
		c.awaits = c.waitsFor() != nil
		if old == nil || c.isWarm() && !c.awaits {
			retired = append(retired, old)
			s.put(name, c)
		} else {
			s.warming[name] = c
		}
		s.adopt(c)
	}
	s.mu.Unlock()
	for _, c := range retired {
		if c != nil {
			c.retire()
		}
	}
	for _, c := range made {
		s.firstAssignment(c)
		c.awaitAssignment()
	}
	s.count(len(made), retired)
}

// build makes the clusters of cfgs that are new or changed, and says which
// cannot be made.
func (s *Set) build(cfgs []*config.Cluster) (made map[string]*Cluster, refused map[string]error) {
	made, refused = map[string]*Cluster{}, map[string]error{}
	seen := map[string]bool{}
	deferStats := int(s.active.Load())+len(cfgs) > s.opts.DeferStatsAbove
	for _, cfg := range cfgs {
		if seen[cfg.Name] {
			refused[cfg.Name] = fmt.Errorf("cluster %q: there are two of that name", cfg.Name)
			continue
		}
		seen[cfg.Name] = true
		if s.unchanged(cfg) {
			continue
		}
		c, err := newCluster(cfg, &s.opts, deferStats)
		if err != nil {
			refused[cfg.Name] = err
			continue
		}
		made[cfg.Name] = c
	}
	return made, refused
}

// discard drops the metrics of clusters that were never used.
func (s *Set) discard(made map[string]*Cluster) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range made {
		if s.scopes[statName(c.cfg)] == 0 {
			c.scope.Remove()
		}
	}
}

// unchanged says that cfg is there already, in use or warming. A Digest of ""
// is never the same.
func (s *Set) unchanged(cfg *config.Cluster) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cfg.Digest == "" {
		return false
	}
	if w := s.warming[cfg.Name]; w != nil && w.cfg.Digest == cfg.Digest {
		return true
	}
	c := s.Get(cfg.Name)
	return c != nil && c.cfg.Digest == cfg.Digest
}

// SetDynamic says that the cluster of that name came by CDS (added_via_api), be
// it in use or warming.
func (s *Set) SetDynamic(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range []*Cluster{s.Get(name), s.warming[name]} {
		if c != nil {
			c.SetDynamic()
		}
	}
}

// adopt makes c one of the set's. It needs mu.
func (s *Set) adopt(c *Cluster) {
	c.onWarm = s.promote
	name := statName(c.cfg)
	s.scopes[name]++
	c.onGone = func() { s.forget(c, name) }
	if c.cfg.Type == config.EDSType {
		service := c.serviceKey()
		s.followers[service] = append(s.followers[service], c)
	}
	if c.periodic() || c.awaits {
		s.starts = append(s.starts, c)
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// promote puts a cluster that has become warm in the place of the old one.
func (s *Set) promote(c *Cluster) {
	s.mu.Lock()
	if s.warming[c.cfg.Name] != c || c.waitsFor() != nil {
		s.mu.Unlock()
		return
	}
	delete(s.warming, c.cfg.Name)
	old := s.Get(c.cfg.Name)
	s.put(c.cfg.Name, c)
	s.mu.Unlock()
	if old != nil {
		old.retire()
	}
	c.showAgain()
	s.opts.Log.Info("cluster updated", "cluster", c.cfg.Name)
}

// showAgain sets the gauges that the cluster shares with the one before it.
func (c *Cluster) showAgain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.original == nil {
		c.rebuild()
	}
}

// forget drops the metrics of a cluster that is gone, unless another cluster
// uses them.
func (s *Set) forget(c *Cluster, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.cfg.Type == config.EDSType {
		service := c.serviceKey()
		s.followers[service] = slices.DeleteFunc(s.followers[service], func(o *Cluster) bool { return o == c })
		if len(s.followers[service]) == 0 {
			delete(s.followers, service)
		}
	}
	if s.scopes[name]--; s.scopes[name] > 0 {
		return
	}
	delete(s.scopes, name)
	c.scope.Remove()
}

// count keeps cluster_manager's metrics.
func (s *Set) count(made int, retired []*Cluster) {
	scope := s.opts.Stats.Scope("cluster_manager")
	replaced := map[string]bool{}
	for _, c := range retired {
		if c == nil {
			continue
		}
		if s.Get(c.cfg.Name) == nil {
			scope.Counter("cluster_removed").Inc()
			s.opts.Log.Info("cluster removed", "cluster", c.cfg.Name)
		} else {
			replaced[c.cfg.Name] = true
		}
	}
	scope.Counter("cluster_modified").Add(uint64(len(replaced)))
	scope.Counter("cluster_added").Add(uint64(max(0, made-len(replaced))))
	s.mu.Lock()
	warming := len(s.warming)
	s.mu.Unlock()
	scope.Gauge("warming_clusters").Set(int64(warming))
	scope.Gauge("active_clusters").Set(s.active.Load())
}

// WaitWarm waits until every cluster, as the set is now, is warm. It needs
// Run. If ctx ends first it returns ctx.Err().
func (s *Set) WaitWarm(ctx context.Context) error {
	for _, c := range s.pending() {
		select {
		case <-c.warm:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Warm reports whether every cluster is warm.
func (s *Set) Warm() bool { return len(s.pending()) == 0 }

// pending are the clusters that are not warm.
func (s *Set) pending() []*Cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Cluster
	for _, c := range s.warming {
		out = append(out, c)
	}
	s.each(func(c *Cluster) {
		if !c.isWarm() {
			out = append(out, c)
		}
	})
	return out
}
