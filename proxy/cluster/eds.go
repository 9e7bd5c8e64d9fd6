package cluster

import (
	"context"
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
	c.staleAfter = a.StaleAfter
	c.mu.Unlock()
	select {
	case c.assigned <- struct{}{}:
	default:
	}
	c.discovered()
}

// followEDS gives up waiting for the first assignment after
// initial_fetch_timeout, and drops the endpoints when an assignment gets
// older than it may.
func (c *Cluster) followEDS(ctx context.Context) {
	var giveUp, stale <-chan time.Time
	if timeout := c.fetchTimeout(); timeout > 0 {
		giveUp = time.After(timeout)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.assigned:
			giveUp = nil
			stale = c.staleTimer()
		case <-giveUp:
			giveUp = nil
			c.opts.Log.Warn("no endpoints within initial_fetch_timeout", "cluster", c.cfg.Name, "service", c.serviceName())
			c.giveUp()
		case <-stale:
			stale = nil
			c.members.assignmentStale.Inc()
			c.setHosts(nil, assignmentTerms{})
		}
	}
}

// fetchTimeout is 0 for waiting for ever.
func (c *Cluster) fetchTimeout() time.Duration {
	if c.cfg.EDS == nil || c.cfg.EDS.Source == nil {
		return 15 * time.Second // the default of ConfigSource.initial_fetch_timeout
	}
	return c.cfg.EDS.Source.InitialFetchTimeout
}

func (c *Cluster) staleTimer() <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.staleAfter == 0 {
		return nil
	}
	return time.After(c.staleAfter)
}
