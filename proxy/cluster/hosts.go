package cluster

import (
	"outrider/proxy/config"
)

// wanted is a host as discovery wants it; key is its identity.
type wanted struct {
	key  string
	spec *hostSpec
}

func termsOf(a *config.Assignment) assignmentTerms {
	if a == nil {
		return assignmentTerms{}
	}
	return assignmentTerms{overprovisioning: a.Overprovisioning, weightedHealth: a.WeightedHealth, drops: a.DropOverload}
}

// newSpec is ep, reached at address.
func (c *Cluster) newSpec(ep *config.Endpoint, l *config.LocalityEndpoints, address config.Address) *hostSpec {
	s := &hostSpec{address: address, additional: ep.Additional, hostname: ep.Hostname, locality: l, endpoint: ep}
	s.socket = c.socketFor(ep, l)
	return s
}

func (c *Cluster) newHost(w wanted) *Host {
	h := &Host{key: w.key}
	h.spec.Store(w.spec)
	h.setEDSHealth(w.spec.endpoint.Health)
	if c.health != nil && !w.spec.endpoint.DisableHealthCheck {
		h.set(failedActiveHC)
		if c.cfg.LBCommon.IgnoreNewHostsUntilFirstHC {
			h.set(pendingActiveHC)
		}
	}
	return h
}

// setHosts makes list the cluster's hosts. Known ones keep their health and
// counts. It reports whether any came or went.
func (c *Cluster) setHosts(list []wanted, terms assignmentTerms) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	hosts := make([]*Host, 0, len(list))
	byKey := make(map[string]*Host, len(list))
	changed := false
	for _, w := range list {
		if byKey[w.key] != nil {
			continue
		}
		h := c.byKey[w.key]
		if h == nil {
			h = c.newHost(w)
			changed = true
		} else {
			h.spec.Store(w.spec)
			h.setEDSHealth(w.spec.endpoint.Health)
			h.clear(pendingRemoval)
			if w.spec.endpoint.DisableHealthCheck {
				h.clear(failedActiveHC | pendingActiveHC | degradedActiveHC | activeHCTimeout)
			}
		}
		hosts = append(hosts, h)
		byKey[w.key] = h
	}
	for _, h := range c.hosts {
		switch {
		case byKey[h.key] != nil:
		case c.outlivesRemoval(h):
			h.set(pendingRemoval)
			hosts = append(hosts, h)
			byKey[h.key] = h
		default:
			changed = true
			defer c.forget(h)
		}
	}
	c.hosts, c.byKey, c.terms = hosts, byKey, terms
	if changed {
		c.members.change.Inc()
	}
	c.rebuild()
	for _, h := range hosts {
		c.closeIfUnhealthy(h)
	}
	return changed
}

// closeIfUnhealthy is close_connections_on_host_health_failure.
func (c *Cluster) closeIfUnhealthy(h *Host) {
	if c.cfg.CloseOnHealthFailure && h.Health() == UnhealthyHost {
		h.conns.closeAll()
	}
}

// outlivesRemoval says that a host, though discovery has dropped it, is used
// for as long as its health checks succeed.
func (c *Cluster) outlivesRemoval(h *Host) bool {
	return c.health != nil && !c.cfg.IgnoreHealthOnRemoval &&
		!h.spec.Load().endpoint.DisableHealthCheck && !h.has(failedActiveHC)
}

// rebuild makes the snapshot of the hosts as they are. It needs mu.
func (c *Cluster) rebuild() {
	s := c.newSnapshot(c.hosts, c.terms)
	c.snap.Store(s)
	c.members.total.Set(int64(len(s.hosts)))
	c.members.healthy.Set(int64(s.healthy))
	c.members.degraded.Set(int64(s.degraded))
	c.members.excluded.Set(int64(s.excluded))
	select {
	case c.update <- struct{}{}:
	default:
	}
}

// healthChanged is called after h's flags changed.
func (c *Cluster) healthChanged(h *Host) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.has(pendingRemoval) && h.has(failedActiveHC) {
		c.drop(h)
	}
	c.rebuild()
	c.closeIfUnhealthy(h)
}

// drop forgets h. It needs mu.
func (c *Cluster) drop(h *Host) {
	kept := make([]*Host, 0, len(c.hosts))
	for _, other := range c.hosts {
		if other != h {
			kept = append(kept, other)
		}
	}
	c.hosts = kept
	delete(c.byKey, h.key)
	c.members.change.Inc()
	c.forget(h)
}

// forget tells whoever keeps something of h that it is no endpoint any more.
func (c *Cluster) forget(h *Host) {
	h.gone.Store(true) // first: who asks after it was told finds it
	c.opts.Gone(h)
}

// hostsNow are the hosts of the current snapshot.
func (c *Cluster) hostsNow() []*Host { return c.snap.Load().hosts }
