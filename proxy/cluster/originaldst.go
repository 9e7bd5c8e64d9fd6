package cluster

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"outrider/proxy/config"
)

// cleanupInterval is how long an original destination without connections is
// kept; source: Cluster.cleanup_interval's default.
const cleanupInterval = 5 * time.Second

// originals are the hosts of an ORIGINAL_DST cluster: made at the first
// connection to a destination, forgotten after a while without any.
type originals struct {
	mu    sync.RWMutex
	hosts map[netip.AddrPort]*original // guarded by mu
}

type original struct {
	host *Host
	used bool // since the last sweep; guarded by originals.mu
}

func newOriginals() *originals { return &originals{hosts: map[netip.AddrPort]*original{}} }

// find is the host of dst, nil if dst is not valid.
func (o *originals) find(c *Cluster, dst netip.AddrPort, peek bool) *Host {
	if !dst.IsValid() {
		return nil
	}
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	if p := c.cfg.OriginalDst.PortOverride; p != 0 {
		dst = netip.AddrPortFrom(dst.Addr(), p)
	}
	o.mu.RLock()
	known := o.hosts[dst]
	o.mu.RUnlock()
	if known != nil && known.host.count.cxActive.Load() > 0 {
		return known.host // in use: the sweep leaves it alone
	}
	if peek {
		return c.newOriginal(dst)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if known = o.hosts[dst]; known == nil {
		known = &original{host: c.newOriginal(dst)}
		o.hosts[dst] = known
		c.members.change.Inc()
		o.count(c)
	}
	known.used = true
	return known.host
}

// count needs mu.
func (o *originals) count(c *Cluster) {
	c.members.total.Set(int64(len(o.hosts)))
	c.members.healthy.Set(int64(len(o.hosts)))
}

func (c *Cluster) newOriginal(dst netip.AddrPort) *Host {
	locality := &config.LocalityEndpoints{}
	ep := &config.Endpoint{Address: config.Address{AddrPort: dst}, Hostname: c.cfg.Name + dst.String(), Weight: 1}
	return c.newHost(wanted{dst.String(), c.newSpec(ep, locality, ep.Address)})
}

// list is every host.
func (o *originals) list() []*Host {
	o.mu.RLock()
	defer o.mu.RUnlock()
	out := make([]*Host, 0, len(o.hosts))
	for _, known := range o.hosts {
		out = append(out, known.host)
	}
	return out
}

// sweep forgets, at every interval, the hosts that had no connection during
// it.
func (o *originals) sweep(ctx context.Context, c *Cluster) {
	tick := time.NewTicker(cleanupInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			o.sweepOnce(c)
		}
	}
}

func (o *originals) sweepOnce(c *Cluster) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for dst, known := range o.hosts {
		if !known.used && known.host.count.cxActive.Load() == 0 {
			delete(o.hosts, dst)
			c.members.change.Inc()
		}
		known.used = false
	}
	o.count(c)
}
