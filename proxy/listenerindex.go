package proxy

import (
	"net/netip"
	"slices"
	"sync"

	"outrider/proxy/config"
)

// listenerIndex finds listeners by their addresses. A change costs what the
// changed listener has, not what all have.
type listenerIndex struct {
	mu sync.RWMutex
	// All are guarded by mu. Several listeners that do not bind may have one
	// address; the first has it.
	routes  map[netip.AddrPort][]*liveListener
	claimed map[string]*liveListener // addresses of listeners that bind
	entries map[*liveListener]indexed
	// intercepting are those that take redirected connections; swapped whole,
	// and never read while it changes.
	intercepting []interceptor
}

// indexed is what stands in the index for one listener.
type indexed struct {
	routes  []netip.AddrPort
	claimed []string
}

func newListenerIndex() *listenerIndex {
	return &listenerIndex{
		routes: map[netip.AddrPort][]*liveListener{}, claimed: map[string]*liveListener{}, entries: map[*liveListener]indexed{},
	}
}

// put makes l findable as its current snapshot says, and not as one before did.
func (x *listenerIndex) put(l *liveListener) {
	snap := l.current()
	var entry indexed
	for _, a := range addresses(snap.cfg) {
		if a.AddrPort.IsValid() {
			entry.routes = append(entry.routes, a.AddrPort)
		}
	}
	entry.claimed = claims(snap.cfg)
	bound := l.addrPorts()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.drop(l)
	for _, a := range entry.routes {
		x.routes[a] = append(x.routes[a], l)
	}
	for _, a := range entry.claimed {
		x.claimed[a] = l
	}
	if snap.intercepts {
		x.intercepting = append(slices.Clone(x.intercepting), interceptor{l, bound})
	}
	x.entries[l] = entry
}

// remove makes l not findable.
func (x *listenerIndex) remove(l *liveListener) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.drop(l)
}

// drop needs mu.
func (x *listenerIndex) drop(l *liveListener) {
	entry, there := x.entries[l]
	if !there {
		return
	}
	delete(x.entries, l)
	for _, a := range entry.routes {
		left := slices.DeleteFunc(slices.Clone(x.routes[a]), func(o *liveListener) bool { return o == l })
		if len(left) == 0 {
			delete(x.routes, a)
		} else {
			x.routes[a] = left
		}
	}
	for _, a := range entry.claimed {
		if x.claimed[a] == l {
			delete(x.claimed, a)
		}
	}
	if slices.ContainsFunc(x.intercepting, func(i interceptor) bool { return i.liveListener == l }) {
		x.intercepting = slices.DeleteFunc(slices.Clone(x.intercepting), func(i interceptor) bool { return i.liveListener == l })
	}
}

// claims are the addresses that nobody else may bind.
func claims(cfg *config.Listener) []string {
	if cfg.NoBind {
		return nil
	}
	var out []string
	for _, a := range addresses(cfg) {
		if a.AddrPort.Port() != 0 {
			out = append(out, a.String())
		}
	}
	return out
}

// owner is the listener, of another name than cfg's, that has an address that
// cfg would bind; nil if none.
func (x *listenerIndex) owner(cfg *config.Listener) (address string, l *liveListener) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, a := range claims(cfg) {
		if l := x.claimed[a]; l != nil && l.name != cfg.Name {
			return a, l
		}
	}
	return "", nil
}

// at is the listener of exactly that address; nil if there is none.
func (x *listenerIndex) at(a netip.AddrPort) *liveListener {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if all := x.routes[a]; len(all) > 0 {
		return all[0]
	}
	return nil
}

// interceptors are those that take redirected connections; not to be changed.
func (x *listenerIndex) interceptors() []interceptor {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.intercepting
}
