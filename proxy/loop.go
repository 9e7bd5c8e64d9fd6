package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// A listener that takes intercepted connections sends them on to where they
// were going. One that was going to the listener itself would come back, be sent
// on again, and so on.

// intercepts reports whether a listener gets its destinations from the kernel.
func intercepts(cfg *config.Listener) bool {
	return !cfg.NoBind && (cfg.Transparent || slices.ContainsFunc(cfg.Filters, func(f *config.ListenerFilter) bool { return f.OriginalDst != nil }))
}

// loops is why a connection would come back to where it was accepted; nil if it
// would not.
//
// A restored destination that is one of our own intercepting listeners is
// always a loop. So is a connection by a socket with which one goes on that this
// listener has accepted, whichever listener served it: what the proxy sends is
// redirected to the proxy. A connection to such a listener that was not
// redirected is one
// under Options.LoopGuard only: it is what a test without redirection does, and
// Envoy serves it.
func (l *liveListener) loops(snap *snapshot, info *flow.Info) error {
	if !snap.intercepts {
		return nil
	}
	if !info.LocalRestored {
		if l.server.opts.LoopGuard {
			return fmt.Errorf("loop: %s was called itself: it takes redirected connections, and this one was not redirected", info.DirectLocal)
		}
		return nil
	}
	if l.sources.has(info.DirectRemote.AddrPort, info.Local.AddrPort) {
		return fmt.Errorf("loop: %s is this proxy's own connection to %s: the redirection does not leave out what the proxy sends", info.DirectRemote, info.Local)
	}
	if owner := l.server.listeners.interceptorAt(info.Local.AddrPort); owner != nil {
		return fmt.Errorf("loop: the original destination %s is the address of listener %q, which takes redirected connections", info.Local, owner.name)
	}
	return nil
}

// refuseLoop counts a connection that loops, and says why it ends.
func (l *liveListener) refuseLoop(info *flow.Info, reason error) error {
	l.stats.loopRefused.Inc()
	info.TerminationDetails = "loop_detected"
	return flow.End(flow.StageLoop, flow.NoRouteFound, reason)
}

// interceptor is an intercepting listener with the addresses that it is bound
// to.
type interceptor struct {
	*liveListener
	bound []netip.AddrPort
}

// addrPorts are the addresses of l's sockets, or without sockets those that
// they would have.
func (l *liveListener) addrPorts() []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range l.bound() {
		if tcp, ok := a.(*net.TCPAddr); ok {
			out = append(out, netipUnmap(tcp.AddrPort()))
		}
	}
	if len(out) == 0 {
		for _, a := range addresses(l.current().cfg) {
			out = append(out, a.AddrPort)
		}
	}
	return out
}

// interceptorAt is the intercepting listener that has the address dst on this
// machine; nil if none has.
func (ls *listeners) interceptorAt(dst netip.AddrPort) *liveListener {
	for _, one := range ls.index.interceptors() {
		for _, a := range one.bound {
			if a == dst || a.Port() == dst.Port() && a.Addr().IsUnspecified() && ls.server.ownAddresses.has(dst.Addr()) {
				return one.liveListener
			}
		}
	}
	return nil
}

// ownAddresses are the addresses of this machine. The zero value is ready.
type ownAddresses struct {
	mu     sync.Mutex
	known  map[netip.Addr]bool // guarded by mu
	looked time.Time           // guarded by mu
}

// addressesAge is how old the list may be: addresses come and go with
// interfaces.
const addressesAge = 5 * time.Second

func (o *ownAddresses) has(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == nil || time.Since(o.looked) > addressesAge {
		o.known, o.looked = interfaceAddresses(), time.Now()
	}
	return o.known[a.Unmap().WithZone("")]
}

// interfaceAddresses is empty where the system does not tell.
func interfaceAddresses() map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return out
	}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out[p.Addr().Unmap().WithZone("")] = true
		}
	}
	return out
}
