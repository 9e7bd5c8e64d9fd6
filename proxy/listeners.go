package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/listener"
)

// listeners is the set of living listeners (Envoy: the listener manager).
type listeners struct {
	server *Server

	// changing lets one listener change at a time, from the comparison with what
	// is current to the swap. It is taken before every mu.
	changing sync.Mutex

	mu       sync.Mutex
	byName   map[string]*liveListener      // guarded by mu
	draining []*draining                   // guarded by mu
	refused  map[string]Refusal            // guarded by mu; by name: the last update that was refused
	stopped  []func(*config.Listener) bool // guarded by mu; which listeners accept no more

	index *listenerIndex // by address
	wait  sync.WaitGroup // everything that the set has started
}

// liveListener is one listener: its sockets and its current snapshot.
type liveListener struct {
	server  *Server
	name    string
	dynamic bool // came by LDS
	stats   *listenerStats
	limit   *listener.Limit
	sources sources // that what it has intercepted goes on from

	snap atomic.Pointer[snapshot]

	mu      sync.Mutex
	sockets []net.Listener     // guarded by mu
	stop    context.CancelFunc // guarded by mu; ends accepting
	warming *snapshot          // guarded by mu; waits for its secrets and routes
	forgo   context.CancelFunc // guarded by mu; ends the wait of warming, nil if there is none
}

// draining are the filter chains that an update has taken away, until their
// last connection is gone.
type draining struct {
	listener string
	chains   []*liveChain
	snap     *snapshot // of a removed listener; nil for single chains
	done     func()    // called at the end; nil for nothing
	since    time.Time
}

// Refusal is an update that was not taken: the version before it still works.
type Refusal struct {
	Name    string
	Version string
	When    time.Time
	Err     error
	Config  *config.Listener // nil if it could not be decoded
}

func newListeners(s *Server) *listeners {
	return &listeners{server: s, byName: map[string]*liveListener{}, refused: map[string]Refusal{}, index: newListenerIndex()}
}

func (l *liveListener) current() *snapshot { return l.snap.Load() }

// apply adds or changes one listener. On an error nothing has changed and the
// refusal is kept for the admin interface.
func (ls *listeners) apply(cfg *config.Listener, version string, dynamic bool) error {
	ls.changing.Lock()
	defer ls.changing.Unlock()
	err := ls.tryApply(cfg, version, dynamic)
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if err != nil {
		ls.refused[cfg.Name] = Refusal{Name: cfg.Name, Version: version, When: time.Now(), Err: err, Config: cfg}
		ls.server.stats.lm.createFailure.Inc()
		return err
	}
	delete(ls.refused, cfg.Name)
	return nil
}

// refuse keeps a refusal of what could not be decoded, for the admin interface.
func (ls *listeners) refuse(cfg *config.Listener, version string, err error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.refused[cfg.Name] = Refusal{Name: cfg.Name, Version: version, When: time.Now(), Err: err, Config: cfg}
}

func (ls *listeners) tryApply(cfg *config.Listener, version string, dynamic bool) error {
	ls.mu.Lock()
	old := ls.byName[cfg.Name]
	ls.mu.Unlock()
	if ls.stops(cfg) {
		return errDraining
	}
	if err := ls.checkAddress(cfg); err != nil {
		return err
	}
	if old == nil {
		return ls.add(cfg, version, dynamic)
	}
	return ls.change(old, cfg, version)
}

var errDraining = errors.New("the server is draining")

// stops says that a listener of cfg is one of those that accept no more.
func (ls *listeners) stops(cfg *config.Listener) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return slices.ContainsFunc(ls.stopped, func(which func(*config.Listener) bool) bool { return which(cfg) })
}

// checkAddress refuses a second listener on an address that is taken.
func (ls *listeners) checkAddress(cfg *config.Listener) error {
	if address, other := ls.index.owner(cfg); other != nil {
		return fmt.Errorf("listener %q: address %s is listener %q's already", cfg.Name, address, other.name)
	}
	return nil
}

func addresses(cfg *config.Listener) []config.Address {
	return append([]config.Address{cfg.Address}, cfg.Additional...)
}

func (ls *listeners) add(cfg *config.Listener, version string, dynamic bool) error {
	s := ls.server
	l := &liveListener{
		server: s, name: cfg.Name, dynamic: dynamic,
		stats: s.listenerStats(cfg), limit: listener.NewLimit(s.connectionLimit(cfg.Name)),
	}
	snap, err := s.compile(cfg, nil, l.stats, version)
	if err != nil {
		return err
	}
	l.snap.Store(snap)
	if err := l.bind(snap); err != nil {
		snap.close(nil)
		return err
	}
	ls.mu.Lock()
	ls.byName[cfg.Name] = l
	ls.mu.Unlock()
	ls.index.put(l)
	s.stats.lm.added.Inc()
	ls.serveIfStarted(l)
	if err := snap.notReady(); err != nil {
		s.log.Warn("listener is added before what it needs has come", "listener", cfg.Name, "reason", err)
	} else {
		s.log.Info("listener added", "listener", cfg.Name, "address", cfg.Address.String())
	}
	return nil
}

// change swaps in a new version of l. A version whose secrets are not there
// yet waits for them, and the old one goes on working.
func (ls *listeners) change(l *liveListener, cfg *config.Listener, version string) error {
	old := l.current()
	snap, err := ls.server.compile(cfg, old, l.stats, version)
	if err != nil {
		return err
	}
	ls.server.stats.lm.modified.Inc()
	if snap.notReady() != nil && old.notReady() == nil {
		l.warm(ls, snap)
		return nil
	}
	return ls.swap(l, snap)
}

// swap makes snap current: new connections meet it, those of chains that it
// does not have drain. On an error it frees snap. It needs changing.
func (ls *listeners) swap(l *liveListener, snap *snapshot) error {
	old := l.current()
	if rebinds(old.cfg, snap.cfg) {
		if err := l.rebind(ls, snap); err != nil {
			snap.close(old)
			return err
		}
	} else {
		ls.server.stats.lm.inPlace.Inc()
		l.snap.Store(snap)
	}
	l.mu.Lock()
	superseded := l.supersede()
	l.mu.Unlock()
	superseded.close(snap)
	ls.index.put(l)
	ls.drain(&draining{listener: l.name, chains: old.gone(snap), since: time.Now()})
	ls.server.log.Info("listener updated", "listener", l.name, "chains_draining", len(old.gone(snap)))
	return nil
}

// remove takes a listener away: it stops accepting at once, its connections
// drain.
func (ls *listeners) remove(name string) {
	ls.changing.Lock()
	defer ls.changing.Unlock()
	ls.mu.Lock()
	l := ls.byName[name]
	delete(ls.byName, name)
	delete(ls.refused, name)
	ls.mu.Unlock()
	if l == nil {
		return
	}
	l.stopAccepting()
	ls.index.remove(l)
	ls.server.stats.lm.removed.Inc()
	snap := l.current()
	l.mu.Lock()
	warming := l.supersede()
	l.mu.Unlock()
	warming.close(snap)
	ls.drain(&draining{listener: name, chains: snap.gone(nil), snap: snap, since: time.Now(), done: func() { ls.forget(l) }})
	ls.server.log.Info("listener removed", "listener", name)
}

// forget drops the metrics of a listener that is gone, unless another has its
// address, and with it its names, now.
func (ls *listeners) forget(l *liveListener) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, other := range ls.byName {
		if statName(other.current().cfg) == statName(l.current().cfg) {
			return
		}
	}
	l.stats.scope.Remove()
}

// drain waits for the chains' connections for the drain time, then cuts them.
func (ls *listeners) drain(d *draining) {
	if len(d.chains) == 0 {
		return
	}
	ls.mu.Lock()
	ls.draining = append(ls.draining, d)
	ls.mu.Unlock()
	for _, ch := range d.chains {
		ch.drain()
	}
	ls.wait.Go(func() {
		d.wait(ls.server.opts.DrainTime, ls.server.serving.Done())
		for _, ch := range d.chains {
			ch.cutOff()
		}
		if d.done != nil {
			d.done()
		}
		ls.mu.Lock()
		defer ls.mu.Unlock()
		ls.draining = slices.DeleteFunc(ls.draining, func(o *draining) bool { return o == d })
	})
}

// drainPoll is how often a draining chain is looked at: its connections are
// counted without a lock, so there is nothing to wait on.
const drainPoll = 50 * time.Millisecond

// wait returns when every chain is closed, or after limit, or on stop.
func (d *draining) wait(limit time.Duration, stop <-chan struct{}) {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	for !d.closeIdle() {
		select {
		case <-tick.C:
		case <-timeout.C:
			return
		case <-stop:
			return
		}
	}
}

// closeIdle closes the chains without connections, and reports whether that
// was all of them.
func (d *draining) closeIdle() bool {
	all := true
	for _, ch := range d.chains {
		all = ch.closeIdle() && all
	}
	return all
}

// byDestination is the listener for a restored destination: exactly its
// address, then the wildcard of its family with its port; nil if none.
// Source: Envoy's use_original_dst.
func (ls *listeners) byDestination(dst netip.AddrPort) *liveListener {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	if l := ls.index.at(dst); l != nil {
		return l
	}
	any := netip.IPv6Unspecified()
	if dst.Addr().Is4() {
		if l := ls.index.at(netip.AddrPortFrom(netip.IPv4Unspecified(), dst.Port())); l != nil {
			return l
		}
		// An IPv6 wildcard listener that takes IPv4 too.
		l := ls.index.at(netip.AddrPortFrom(any, dst.Port()))
		if l != nil && l.current().cfg.Address.IPv4Compat {
			return l
		}
		return nil
	}
	return ls.index.at(netip.AddrPortFrom(any, dst.Port()))
}

// sorted are the listeners in the order of their names.
func (ls *listeners) sorted() []*liveListener {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	out := make([]*liveListener, 0, len(ls.byName))
	for _, l := range ls.byName {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b *liveListener) int { return strings.Compare(a.name, b.name) })
	return out
}

func (ls *listeners) get(name string) *liveListener {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.byName[name]
}

// stop stops accepting on the listeners that which picks, and on those that an
// update would bring; connections go on.
func (ls *listeners) stop(which func(*config.Listener) bool) {
	ls.changing.Lock()
	defer ls.changing.Unlock()
	ls.mu.Lock()
	ls.stopped = append(ls.stopped, which)
	ls.mu.Unlock()
	for _, l := range ls.sorted() {
		if which(l.current().cfg) {
			l.stopAccepting()
			l.drainConnections()
		}
	}
}

// drainConnections does so for the listeners that which picks.
func (ls *listeners) drainConnections(which func(*config.Listener) bool) {
	for _, l := range ls.sorted() {
		if which(l.current().cfg) {
			l.drainConnections()
		}
	}
}

// drainConnections asks the clients of a listener to make no more requests on
// the connections that they have.
func (l *liveListener) drainConnections() {
	for _, ch := range l.current().chains {
		ch.drain()
	}
}

// accepts reports whether a listener that which picks accepts connections.
func (ls *listeners) accepts(which func(*config.Listener) bool) bool {
	return slices.ContainsFunc(ls.sorted(), func(l *liveListener) bool {
		return which(l.current().cfg) && len(l.bound()) > 0
	})
}

// counts are the listeners that are active, warming and draining.
func (ls *listeners) counts() (active, warming, draining int64) {
	for _, l := range ls.sorted() {
		active++
		if l.warmingSnapshot() != nil {
			warming++
		}
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, d := range ls.draining {
		if d.snap != nil {
			draining++
		}
	}
	return active, warming, draining
}

func (ls *listeners) chainsDraining() (n int64) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, d := range ls.draining {
		n += int64(len(d.chains))
	}
	return n
}

// refusals are the last refused updates, by listener.
func (ls *listeners) refusals() map[string]Refusal {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return maps.Clone(ls.refused)
}
