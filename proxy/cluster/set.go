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

	// clusters is by name; swapped whole.
	clusters atomic.Pointer[map[string]*Cluster]

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
	s := &Set{
		opts: opts.withDefaults(), warming: map[string]*Cluster{}, wake: make(chan struct{}, 1),
		assignments: map[string]*config.Assignment{}, followers: map[string][]*Cluster{}, scopes: map[string]int{},
	}
	s.clusters.Store(&map[string]*Cluster{})
	return s
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
func (s *Set) Get(name string) *Cluster { return (*s.clusters.Load())[name] }

// All is every cluster, by name.
func (s *Set) All() []*Cluster {
	return slices.SortedFunc(maps.Values(*s.clusters.Load()), func(a, b *Cluster) int {
		return cmp.Compare(a.cfg.Name, b.cfg.Name)
	})
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
	for name := range *s.clusters.Load() {
		if !names[name] {
			removed = append(removed, name)
		}
	}
	return s.Change(cfgs, removed)
}

// Update adds or changes one cluster.
func (s *Set) Update(cfg *config.Cluster) error { return s.Change([]*config.Cluster{cfg}, nil) }

// Remove removes a cluster, if it is there. Its connections go on.
func (s *Set) Remove(name string) { _ = s.Change(nil, []string{name}) }

// Change adds or changes some clusters and removes others. On an error nothing
// has changed.
func (s *Set) Change(updated []*config.Cluster, removed []string) error {
	made, err := s.build(updated)
	if err != nil {
		return err
	}
	var retired []*Cluster
	s.mu.Lock()
	next := maps.Clone(*s.clusters.Load())
	for _, name := range removed {
		retired = append(retired, next[name], s.warming[name])
		delete(next, name)
		delete(s.warming, name)
	}
	for _, cfg := range updated {
		// A change back to what is current ends the warming of the other.
		if c := next[cfg.Name]; c != nil && c.cfg.Digest == cfg.Digest && s.warming[cfg.Name] != nil && made[cfg.Name] == nil {
			if w := s.warming[cfg.Name]; w.cfg.Digest != cfg.Digest {
				retired = append(retired, w)
				delete(s.warming, cfg.Name)
			}
		}
	}
	for name, c := range made {
		retired = append(retired, s.warming[name])
		delete(s.warming, name)
		old := next[name]
		if old == nil || c.isWarm() {
			retired = append(retired, old)
			next[name] = c
		} else {
			s.warming[name] = c
		}
		s.adopt(c)
	}
	s.clusters.Store(&next)
	s.mu.Unlock()
	for _, c := range retired {
		if c != nil {
			c.retire()
		}
	}
	for _, c := range made {
		s.firstAssignment(c)
	}
	s.count(len(made), retired)
	return nil
}

// build makes the clusters of cfgs that are new or changed.
func (s *Set) build(cfgs []*config.Cluster) (map[string]*Cluster, error) {
	var errs []error
	made := map[string]*Cluster{}
	seen := map[string]bool{}
	current := *s.clusters.Load()
	deferStats := len(current)+len(cfgs) > s.opts.DeferStatsAbove
	for _, cfg := range cfgs {
		if seen[cfg.Name] {
			errs = append(errs, fmt.Errorf("cluster %q: there are two of that name", cfg.Name))
			continue
		}
		seen[cfg.Name] = true
		if s.unchanged(cfg) {
			continue
		}
		c, err := newCluster(cfg, &s.opts, deferStats)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		made[cfg.Name] = c
	}
	if err := errors.Join(errs...); err != nil {
		s.discard(made)
		return nil, err
	}
	return made, nil
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
	c := (*s.clusters.Load())[cfg.Name]
	return c != nil && c.cfg.Digest == cfg.Digest
}

// adopt makes c one of the set's. It needs mu.
func (s *Set) adopt(c *Cluster) {
	c.onWarm = s.promote
	name := statName(c.cfg)
	s.scopes[name]++
	c.onGone = func() { s.forget(c, name) }
	c.successor = func() *Cluster { return s.Get(c.cfg.Name) }
	if c.cfg.Type == config.EDSType {
		service := c.serviceName()
		s.followers[service] = append(s.followers[service], c)
	}
	if c.periodic() {
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
	if s.warming[c.cfg.Name] != c {
		s.mu.Unlock()
		return
	}
	delete(s.warming, c.cfg.Name)
	next := maps.Clone(*s.clusters.Load())
	old := next[c.cfg.Name]
	next[c.cfg.Name] = c
	s.clusters.Store(&next)
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
		service := c.serviceName()
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
	scope.Gauge("active_clusters").Set(int64(len(*s.clusters.Load())))
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
	for _, c := range *s.clusters.Load() {
		if !c.isWarm() {
			out = append(out, c)
		}
	}
	return out
}

// SetAssignment gives the endpoints of a service to the EDS clusters that
// follow it, now and later.
func (s *Set) SetAssignment(serviceName string, a *config.Assignment) {
	s.assigning.Lock()
	defer s.assigning.Unlock()
	s.mu.Lock()
	s.assignments[serviceName] = a
	followers := slices.Clone(s.followers[serviceName])
	s.mu.Unlock()
	for _, c := range followers {
		c.assign(a)
	}
}

// firstAssignment gives c what came before it.
func (s *Set) firstAssignment(c *Cluster) {
	if c.cfg.Type != config.EDSType {
		return
	}
	s.assigning.Lock()
	defer s.assigning.Unlock()
	s.mu.Lock()
	a := s.assignments[c.serviceName()]
	s.mu.Unlock()
	if a != nil {
		c.assign(a)
	}
}
