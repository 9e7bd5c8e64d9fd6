package cluster

import (
	"math"
	"time"
)

// age is how long ago the cluster was added, in nanoseconds, at least 1.
func (c *Cluster) age() int64 { return max(1, int64(c.opts.Now().Sub(c.added))) }

// slowStart has hosts that are healthy for the first time enter slow start, and
// is the part of its weight that hosts[i] has by it; nil if none is in it. It is
// made anew whenever the hosts or their health change: a host that leaves slow
// start has all of its weight, with or without.
func (c *Cluster) slowStart(hosts []*Host) func(i int) float64 {
	window := c.cfg.SlowStart.Window
	if window <= 0 {
		return nil
	}
	now, some := c.age(), false
	for _, h := range hosts {
		if h.Health() == HealthyHost {
			h.healthyAt.CompareAndSwap(0, now)
			some = some || now-h.healthyAt.Load() <= int64(window)
		}
	}
	if !some {
		return nil
	}
	return func(i int) float64 { return c.slowStartPart(hosts[i]) }
}

// slowStartPart is Envoy's formula: between MinWeight and 1.
func (c *Cluster) slowStartPart(h *Host) float64 {
	cfg, since := c.cfg.SlowStart, h.healthyAt.Load()
	if since == 0 || h.Health() != HealthyHost {
		return 1
	}
	healthy := time.Duration(c.age() - since)
	if healthy >= cfg.Window {
		return 1
	}
	part := float64(max(healthy, time.Millisecond)) / float64(cfg.Window)
	if cfg.Aggression != 1 {
		part = math.Pow(part, 1/cfg.Aggression)
	}
	return min(1, max(part, cfg.MinWeight))
}
