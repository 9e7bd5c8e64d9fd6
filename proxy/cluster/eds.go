package cluster

import (
	"time"

	"outrider/proxy/config"
)

// serviceName is what the cluster's endpoints are asked for by.
func (c *Cluster) serviceName() string {
	if c.cfg.EDS != nil && c.cfg.EDS.ServiceName != "" {
		return c.cfg.EDS.ServiceName
	}
	return c.cfg.Name
}

// serviceKey is what the set knows the cluster's endpoints by.
func (c *Cluster) serviceKey() string {
	if c.opts.ServiceKey != nil && c.cfg.EDS != nil {
		return c.opts.ServiceKey(c.cfg.EDS)
	}
	return c.serviceName()
}

// assign makes a the cluster's endpoints.
func (c *Cluster) assign(a *config.Assignment) {
	c.members.attempt.Inc()
	c.members.success.Inc()
	var list []wanted
	for _, l := range a.Localities {
		for _, ep := range l.Endpoints {
			list = append(list, wanted{ep.Address.String(), c.newSpec(ep, l, ep.Address)})
		}
	}
	if len(list) == 0 {
		c.members.empty.Inc()
	}
	if !c.setHosts(list, termsOf(a)) {
		c.members.noRebuild.Inc()
	}
	if a.StaleAfter > 0 {
		c.members.assignmentTimeoutRx.Inc()
	}
	c.mu.Lock()
	stop(c.giveUpTimer)
	stop(c.staleTimer)
	c.assignments++
	if n := c.assignments; a.StaleAfter > 0 && !c.gone {
		c.staleTimer = time.AfterFunc(a.StaleAfter, func() { c.dropStale(n) })
	}
	c.mu.Unlock()
	c.discovered()
}

func stop(t *time.Timer) {
	if t != nil {
		t.Stop()
	}
}

// awaitAssignment gives up waiting for the first assignment after
// initial_fetch_timeout. There is a timer and no goroutine, for there may be
// tens of thousands of clusters.
func (c *Cluster) awaitAssignment() {
	timeout := c.fetchTimeout()
	if c.cfg.Type != config.EDSType || timeout <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone || c.isWarm() {
		return
	}
	c.giveUpTimer = time.AfterFunc(timeout, func() {
		if !c.isWarm() {
			c.opts.Log.Warn("no endpoints within initial_fetch_timeout", "cluster", c.cfg.Name, "service", c.serviceName())
			c.giveUp()
		}
	})
}

// dropStale drops the endpoints when their assignment, the nth, is older than it
// may be.
func (c *Cluster) dropStale(n uint64) {
	c.mu.Lock()
	last := c.assignments == n && !c.gone
	c.mu.Unlock()
	if last {
		c.members.assignmentStale.Inc()
		c.setHosts(nil, assignmentTerms{})
	}
}

// fetchTimeout is 0 for waiting for ever.
func (c *Cluster) fetchTimeout() time.Duration {
	if c.cfg.EDS == nil || c.cfg.EDS.Source == nil {
		return 15 * time.Second // the default of ConfigSource.initial_fetch_timeout
	}
	return c.cfg.EDS.Source.InitialFetchTimeout
}
