package cluster

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"outrider/proxy/config"
)

// TTLResolver is a Resolver that knows how long its answers are good; only
// with one does respect_dns_ttl have an effect.
type TTLResolver interface {
	Resolver
	LookupTTL(ctx context.Context, network, host string) ([]netip.Addr, time.Duration, error)
}

// names are the resolved names of a DNS cluster.
type names struct {
	mu      sync.Mutex
	addrs   map[string][]netip.Addr // guarded by mu; by name, the last good answer
	waiting int                     // guarded by mu; names with no answer or failure yet
}

// resolve keeps every name of the cluster resolved until ctx ends.
func (c *Cluster) resolve(ctx context.Context) {
	var list []string
	if c.cfg.Assignment != nil {
		for _, l := range c.cfg.Assignment.Localities {
			for _, ep := range l.Endpoints {
				if ep.Address.Host != "" && !slices.Contains(list, ep.Address.Host) {
					list = append(list, ep.Address.Host)
				}
			}
		}
	}
	n := &names{addrs: map[string][]netip.Addr{}, waiting: len(list)}
	if len(list) == 0 {
		c.applyNames(n)
		c.discovered()
		return
	}
	var wait sync.WaitGroup
	for _, name := range list {
		wait.Go(func() { c.follow(ctx, name, n) })
	}
	wait.Wait()
}

// follow resolves one name again and again.
func (c *Cluster) follow(ctx context.Context, name string, n *names) {
	failures := 0
	first := true
	for {
		c.members.attempt.Inc()
		addrs, ttl, err := c.lookup(ctx, name)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			failures++
			c.members.failure.Inc()
			c.opts.Log.Debug("name not resolved", "cluster", c.cfg.Name, "name", name, "reason", err)
		} else {
			failures = 0
			c.members.success.Inc()
			c.answered(n, name, addrs)
		}
		if first {
			first = false
			c.firstAnswer(n)
		}
		if !sleep(ctx, c.nextLookup(failures, ttl)) {
			return
		}
	}
}

// answered takes in a good answer; an empty one takes the hosts away.
func (c *Cluster) answered(n *names, name string, addrs []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(addrs) == 0 {
		c.members.empty.Inc()
	}
	old, known := n.addrs[name]
	if known && c.sameAnswer(old, addrs) {
		c.members.noRebuild.Inc()
		return
	}
	n.addrs[name] = addrs
	c.applyNames(n)
}

// sameAnswer ignores the order, except that LOGICAL_DNS uses the first only.
func (c *Cluster) sameAnswer(a, b []netip.Addr) bool {
	if c.cfg.Type == config.LogicalDNS {
		return len(a) > 0 && len(b) > 0 && a[0] == b[0] || len(a) == 0 && len(b) == 0
	}
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.Addr.Compare)
	slices.SortFunc(b, netip.Addr.Compare)
	return slices.Equal(a, b)
}

func (c *Cluster) firstAnswer(n *names) {
	n.mu.Lock()
	n.waiting--
	last := n.waiting == 0
	n.mu.Unlock()
	if last {
		c.discovered()
	}
}

// applyNames makes the hosts from the answers. It needs n.mu, so that answers
// come in order.
func (c *Cluster) applyNames(n *names) {
	if c.cfg.Assignment == nil {
		return
	}
	var list []wanted
	for _, l := range c.cfg.Assignment.Localities {
		for _, ep := range l.Endpoints {
			if ep.Address.Host == "" {
				list = append(list, wanted{ep.Address.String(), c.newSpec(ep, l, ep.Address)})
				continue
			}
			for _, a := range n.addrs[ep.Address.Host] {
				address := config.Address{AddrPort: netip.AddrPortFrom(a, ep.Address.Port)}
				spec := c.newSpec(ep, l, address)
				if spec.hostname == "" {
					spec.hostname = ep.Address.Host
				}
				if c.cfg.Type == config.LogicalDNS {
					list = append(list, wanted{ep.Address.String(), spec})
					break
				}
				list = append(list, wanted{address.String(), spec})
			}
		}
	}
	c.setHosts(list, termsOf(c.cfg.Assignment))
}

// lookup answers the addresses of the families that dns_lookup_family asks
// for. A name that does not exist, or has no address, is a good, empty
// answer. ttl is 0 if it is not known.
func (c *Cluster) lookup(ctx context.Context, name string) (addrs []netip.Addr, ttl time.Duration, err error) {
	networks := []string{"ip6", "ip4"} // AUTO
	switch c.cfg.DNS.Family {
	case config.DNSV4Only:
		networks = []string{"ip4"}
	case config.DNSV6Only:
		networks = []string{"ip6"}
	case config.DNSV4Preferred:
		networks = []string{"ip4", "ip6"}
	case config.DNSAll:
		networks = []string{"ip"}
	case config.DNSAuto:
	}
	for _, network := range networks {
		addrs, ttl, err = c.lookupOne(ctx, network, name)
		if len(addrs) > 0 {
			return addrs, ttl, nil
		}
	}
	return nil, ttl, err
}

func (c *Cluster) lookupOne(ctx context.Context, network, name string) (addrs []netip.Addr, ttl time.Duration, err error) {
	if r, ok := c.opts.Resolver.(TTLResolver); ok {
		addrs, ttl, err = r.LookupTTL(ctx, network, name)
	} else {
		addrs, err = c.opts.Resolver.LookupNetIP(ctx, network, name)
	}
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return nil, ttl, nil
	}
	out := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if a = a.Unmap(); !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out, ttl, err
}

// nextLookup is how long to wait after that many failures in a row.
func (c *Cluster) nextLookup(failures int, ttl time.Duration) time.Duration {
	d := c.cfg.DNS
	if failures > 0 {
		base := d.FailureRefreshBase
		if base == 0 {
			base = d.RefreshRate
		}
		if d.FailureRefreshMax == 0 {
			return base
		}
		longest := min(base<<min(failures-1, 20), d.FailureRefreshMax)
		return time.Duration(c.opts.Rand()%uint64(max(longest, 1))) + time.Millisecond
	}
	next := d.RefreshRate
	if d.RespectTTL && ttl > 0 {
		next = ttl
	}
	if d.Jitter > 0 {
		next += time.Duration(c.opts.Rand() % uint64(d.Jitter))
	}
	return max(next, time.Millisecond)
}

// sleep is false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
