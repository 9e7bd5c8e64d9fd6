package cluster

import (
	"context"

	"outrider/certs"
)

// A cluster takes the place of one that works only when it works too: its
// endpoints have come, and its secrets are there. docs/xds.md.

// predecessor is the cluster whose place c would take; nil if there is none, or
// c has taken it.
func (c *Cluster) predecessor() *Cluster {
	if old := c.successor(); old != c {
		return old
	}
	return nil
}

// waitsFor is the secret that c has to wait for before it takes the place of
// the old one; nil for none. One that the old one lacks as well is not waited
// for.
func (c *Cluster) waitsFor() error {
	if old := c.predecessor(); old == nil || missing(old.Secrets()) != nil {
		return nil
	}
	return missing(c.Secrets())
}

func missing(handles []*certs.Handle) error {
	for _, h := range handles {
		if _, err := h.Current(); err != nil {
			return err
		}
	}
	return nil
}

// awaitSecrets calls onWarm again when the secrets have come.
func (c *Cluster) awaitSecrets(ctx context.Context) {
	for _, h := range c.Secrets() {
		for {
			changed := h.Changed() // before it is looked: no publication is missed
			if _, err := h.Current(); err == nil {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
	select {
	case <-c.warm:
		c.onWarm(c)
	case <-ctx.Done():
	}
}

// giveUp ends the wait for the first endpoints, unless c would take the place
// of a cluster that has some.
func (c *Cluster) giveUp() {
	if old := c.predecessor(); old != nil && len(old.snap.Load().hosts) > 0 {
		c.opts.Log.Warn("cluster update waits for its endpoints, the version before goes on", "cluster", c.cfg.Name)
		return
	}
	c.discovered()
}

// ask asks for the endpoints of an EDS cluster, until retire.
func (c *Cluster) ask() {
	if c.cfg.EDS == nil || c.opts.Endpoints == nil {
		return
	}
	stop := c.opts.Endpoints(c.cfg.EDS)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unask = stop
}
