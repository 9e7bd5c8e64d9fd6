package cluster

import (
	"outrider/proxy/cluster/lb"
	"outrider/proxy/config"
)

// snapshot is the host set at one moment, laid out for choosing. It is
// immutable: a change of hosts or of their health makes a new one.
type snapshot struct {
	hosts  []*Host
	levels []*level // by priority
	load   lb.Load
	drops  []config.Drop

	healthy, degraded, excluded int
}

// level is one priority.
type level struct {
	all, healthy, degraded *pool
	// localHealthy and localDegraded choose a locality first; nil unless
	// locality_weighted_lb_config is set.
	localHealthy, localDegraded *localities
	// hash is the consistent hash over the hosts that count now; nil for the
	// other policies.
	hash *pool
}

// pool is a list of hosts and the balancer over it.
type pool struct {
	hosts []*Host
	pick  lb.Picker
}

// localities is a choice of locality by weight and availability.
type localities struct {
	pick  lb.Picker
	pools []*pool
}

func (p *pool) choose(in lb.Input) *Host {
	i := p.pick.Pick(in)
	if i < 0 {
		return nil
	}
	return p.hosts[i]
}

func (l *localities) choose(in lb.Input) *Host {
	i := l.pick.Pick(in)
	if i < 0 {
		return nil
	}
	return l.pools[i].choose(in)
}

// assignmentTerms is what an assignment says beside its hosts.
type assignmentTerms struct {
	overprovisioning uint32
	weightedHealth   bool
	drops            []config.Drop
}

// newSnapshot lays out hosts.
func (c *Cluster) newSnapshot(hosts []*Host, terms assignmentTerms) *snapshot {
	s := &snapshot{hosts: hosts, drops: terms.drops}
	groups := groupByPriority(hosts)
	health := make([]lb.Level, len(groups))
	for i, g := range groups {
		health[i] = g.health(terms.weightedHealth)
		s.healthy += health[i].Healthy
		s.degraded += health[i].Degraded
		s.excluded += health[i].Excluded
	}
	over := terms.overprovisioning
	if over == 0 {
		over = 140 // Envoy's kDefaultOverProvisioningFactor
	}
	s.load = lb.Distribute(health, over, c.cfg.LBCommon.PanicThreshold)
	for i, g := range groups {
		s.levels = append(s.levels, c.newLevel(g, s.load.Panic[i], over))
	}
	return s
}

// group is the hosts of one priority by health.
type group struct {
	all, healthy, degraded []*Host
	excluded               int
	excludedWeight         float64
}

func groupByPriority(hosts []*Host) []*group {
	var groups []*group
	for _, h := range hosts {
		p := int(h.spec.Load().priority())
		for len(groups) <= p {
			groups = append(groups, &group{})
		}
		g := groups[p]
		g.all = append(g.all, h)
		if h.has(excludedFlags) {
			g.excluded++
			g.excludedWeight += h.spec.Load().weight()
			continue
		}
		switch h.Health() {
		case HealthyHost:
			g.healthy = append(g.healthy, h)
		case DegradedHost:
			g.degraded = append(g.degraded, h)
		case UnhealthyHost:
		}
	}
	return groups
}

func (g *group) health(weighted bool) lb.Level {
	return lb.Level{
		Hosts: len(g.all), Healthy: len(g.healthy), Degraded: len(g.degraded), Excluded: g.excluded,
		Weighted:      weighted,
		HealthyWeight: uint64(sumWeights(g.healthy)), DegradedWeight: uint64(sumWeights(g.degraded)),
		TotalWeight: uint64(sumWeights(g.all) - g.excludedWeight),
	}
}

func sumWeights(hosts []*Host) float64 {
	sum := 0.0
	for _, h := range hosts {
		sum += h.spec.Load().weight()
	}
	return sum
}

func (c *Cluster) newLevel(g *group, inPanic bool, over uint32) *level {
	if c.hashes() {
		eligible := g.healthy
		if inPanic {
			eligible = g.all
		}
		return &level{hash: c.hashPool(eligible)}
	}
	l := &level{all: c.newPool(g.all)}
	l.healthy, l.degraded = l.all, l.all
	if len(g.healthy) != len(g.all) {
		l.healthy = c.newPool(g.healthy)
	}
	if len(g.degraded) != len(g.all) {
		l.degraded = c.newPool(g.degraded)
	}
	if c.cfg.LBCommon.LocalityWeighted {
		l.localHealthy = c.newLocalities(g, g.healthy, over)
		l.localDegraded = c.newLocalities(g, g.degraded, over)
	}
	return l
}

// newPool makes the balancer of the cluster's policy over hosts.
func (c *Cluster) newPool(hosts []*Host) *pool {
	p := &pool{hosts: hosts}
	weights := make([]float64, len(hosts))
	for i, h := range hosts {
		weights[i] = h.spec.Load().weight()
	}
	part := c.slowStart(hosts)
	switch c.cfg.LB {
	case config.LeastRequestLB:
		p.pick = lb.NewLeast(weights, lb.LeastConfig{
			Choices: c.cfg.LeastRequest.Choices, Bias: c.cfg.LeastRequest.Bias,
			Active: func(i int) uint64 { return uint64(max(0, hosts[i].count.rqActive.Load())) },
			Part:   part, Rand: c.opts.Rand,
		})
	case config.Random:
		p.pick = lb.NewRandom(len(hosts), c.opts.Rand)
	case config.RoundRobin, config.RingHashLB, config.MaglevLB, config.ClusterProvided:
		if part != nil {
			p.pick = lb.NewRamp(weights, part, c.opts.Rand)
		} else {
			p.pick = lb.NewStride(weights, c.opts.Rand())
		}
	}
	return p
}

// newLocalities weighs each locality by its weight and by how much of it is
// eligible; it is nil if no locality has any weight.
func (c *Cluster) newLocalities(g *group, eligible []*Host, over uint32) *localities {
	order, total := byLocality(g.all)
	_, available := byLocality(eligible)
	l := &localities{}
	var weights []float64
	for _, key := range order {
		have := available[key]
		if len(have) == 0 {
			continue
		}
		weight := float64(have[0].spec.Load().locality.Weight)
		counted := 0
		for _, h := range total[key] {
			if !h.has(excludedFlags) {
				counted++
			}
		}
		share := float64(over) / 100 * float64(len(have)) / float64(max(1, counted))
		if weight *= min(1, share); weight > 0 {
			weights = append(weights, weight)
			l.pools = append(l.pools, c.newPool(have))
		}
	}
	if len(weights) == 0 {
		return nil
	}
	l.pick = lb.NewStride(weights, c.opts.Rand())
	return l
}

// byLocality groups hosts by locality, in the order of their first host.
func byLocality(hosts []*Host) ([]config.Locality, map[config.Locality][]*Host) {
	var order []config.Locality
	groups := map[config.Locality][]*Host{}
	for _, h := range hosts {
		key := h.Locality()
		if groups[key] == nil {
			order = append(order, key)
		}
		groups[key] = append(groups[key], h)
	}
	return order, groups
}

func (c *Cluster) hashes() bool {
	return c.cfg.LB == config.RingHashLB || c.cfg.LB == config.MaglevLB
}

// hashPool is the consistent hash over hosts.
func (c *Cluster) hashPool(hosts []*Host) *pool {
	p := &pool{}
	var nodes []lb.Node
	for _, n := range c.normalized(hosts) {
		if n.weight > 0 {
			p.hosts = append(p.hosts, n.host)
			nodes = append(nodes, lb.Node{Key: c.hashKey(n.host), Weight: n.weight})
		}
	}
	if c.cfg.LB == config.RingHashLB {
		ring := lb.NewRing(nodes, lb.RingConfig{Min: c.cfg.RingHash.Min, Max: c.cfg.RingHash.Max, Murmur: c.cfg.RingHash.MurmurHash})
		p.pick = ring
		scope := c.scope.Scope("ring_hash_lb")
		scope.Gauge("size").Set(int64(ring.Size()))
		scope.Gauge("min_hashes_per_host").Set(int64(ring.Least))
		scope.Gauge("max_hashes_per_host").Set(int64(ring.Most))
	} else {
		table := lb.NewMaglev(nodes, c.cfg.Maglev.TableSize)
		p.pick = table
		scope := c.scope.Scope("maglev_lb")
		scope.Gauge("min_entries_per_host").Set(int64(table.Least))
		scope.Gauge("max_entries_per_host").Set(int64(table.Most))
	}
	if f := c.cfg.LBCommon.HashBalanceFactor; f > 0 {
		p.pick = &lb.Bounded{
			Inner: p.pick, Nodes: nodes, Factor: f,
			Active:  func(i int) uint64 { return uint64(max(0, p.hosts[i].count.rqActive.Load())) },
			Overall: func() uint64 { return uint64(max(0, c.breakers[0].rq.active.Load())) },
		}
	}
	return p
}

// hashKey is metadata envoy.lb hash_key, else the host name if that is asked
// for, else the address.
func (c *Cluster) hashKey(h *Host) string {
	if v := h.Metadata()["envoy.lb"].GetFields()["hash_key"].GetStringValue(); v != "" {
		return v
	}
	if c.cfg.LBCommon.HashByHostname && h.Hostname() != "" {
		return h.Hostname()
	}
	return h.String()
}

type weighedHost struct {
	host   *Host
	weight float64
}

// normalized gives each host its share, all of them 1 together: by host
// weight, within the locality's share if localities are weighed.
func (c *Cluster) normalized(hosts []*Host) []weighedHost {
	if !c.cfg.LBCommon.LocalityWeighted {
		return share(nil, hosts, 1)
	}
	order, groups := byLocality(hosts)
	sum := 0.0
	for _, key := range order {
		sum += float64(groups[key][0].spec.Load().locality.Weight)
	}
	var out []weighedHost
	for _, key := range order {
		if w := float64(groups[key][0].spec.Load().locality.Weight); w > 0 {
			out = share(out, groups[key], w/sum)
		}
	}
	return out
}

func share(out []weighedHost, hosts []*Host, of float64) []weighedHost {
	sum := sumWeights(hosts)
	for _, h := range hosts {
		out = append(out, weighedHost{h, h.spec.Load().weight() * of / sum})
	}
	return out
}
