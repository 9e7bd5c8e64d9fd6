package proxy

import (
	"container/heap"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"outrider/certs"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
	"outrider/tlsmux"
)

// PeerOptions say which open connections are ended because their peer would not
// be let in any more. The zero value ends none, as Envoy does.
type PeerOptions struct {
	// Expired: a certificate of the peer's chain has ended. RootRemoved: its
	// root is not trusted any more. Revoked: it is on a revocation list.
	Expired, RootRemoved, Revoked bool
	// Grace is how long such a connection goes on, and Jitter the longest time
	// that is added to it at random, so that not all end at once.
	Grace, Jitter time.Duration
}

func (o PeerOptions) any() bool { return o.Expired || o.RootRemoved || o.Revoked }

// delay is the grace with its jitter.
func (o PeerOptions) delay() time.Duration {
	if o.Jitter <= 0 {
		return o.Grace
	}
	return o.Grace + rand.N(o.Jitter)
}

// peers are the open connections whose peers are watched, in the order in which
// they are to end and by the bundle that their peers were verified with. There
// is nothing to it unless an option asks for it.
type peers struct {
	opts  PeerOptions
	ended map[string]*stats.Counter // by details
	wake  chan struct{}             // one element: run must look again

	mu      sync.Mutex
	due     dueLegs                   // guarded by mu
	bundles map[*certs.Handle]*bundle // guarded by mu
}

// bundle is a secret of roots with the legs whose peers it was that vouched
// for.
type bundle struct {
	legs    map[*leg]bool // guarded by peers.mu
	watched bool          // of peers.run alone
}

// leg is one side of a connection that speaks TLS. Its fields below are guarded
// by peers.mu.
type leg struct {
	state *tlsmux.State
	side  string
	end   context.CancelCauseFunc

	expiry time.Time // when it ends for its peer's time; zero for never
	lost   time.Time // when it ends because nobody vouches for its peer; zero if somebody does
	at     time.Time // the earlier of the two
	index  int       // in due; -1 if it is not there
	gone   bool
}

// The details of connections that were ended for their peer's sake.
const (
	detailsExpired     = "peer_certificate_expired"
	detailsRootRemoved = "peer_root_removed"
	detailsRevoked     = "peer_certificate_revoked"
)

func newPeers(opts PeerOptions, r *stats.Registry) *peers {
	p := &peers{opts: opts, wake: make(chan struct{}, 1), bundles: map[*certs.Handle]*bundle{}, ended: map[string]*stats.Counter{}}
	if !opts.any() {
		return p
	}
	for _, details := range []string{detailsExpired, detailsRootRemoved, detailsRevoked} {
		p.ended[details] = r.Scope("outrider").Scope("connection_ended").Counter(details)
	}
	return p
}

// connection is one connection while its peers are watched.
type connection struct {
	*peers
	ctx  context.Context //nolint:containedctx // of the connection, which ends with it
	end  context.CancelCauseFunc
	info *flow.Info
	own  []*leg
}

// watch makes a connection's context, which ends with a *flow.EndError when a
// peer of it is not to be served any more.
func (p *peers) watch(ctx context.Context, info *flow.Info) *connection {
	c := &connection{peers: p, ctx: ctx, info: info}
	if p.opts.any() {
		c.ctx, c.end = context.WithCancelCause(ctx)
		c.add(info.Downstream, "downstream")
	}
	return c
}

// upstream begins to watch the upstream's peer, when there is one.
func (c *connection) upstream() {
	if c.opts.any() {
		c.add(c.info.Upstream, "upstream")
	}
}

func (c *connection) add(state *tlsmux.State, side string) {
	if state == nil || state.Root == nil {
		return // plaintext, or nothing that was verified
	}
	l := &leg{state: state, side: side, end: c.end, index: -1}
	if c.opts.Expired && !state.PeerUntil.IsZero() {
		l.expiry = state.PeerUntil.Add(c.opts.delay())
	}
	c.own = append(c.own, l)
	c.enter(l)
	// The bundle may have changed between the handshake and now.
	if loss, _ := c.standing(l); loss != "" {
		c.lose(l)
	}
}

// done ends the watch.
func (c *connection) done() {
	if c.end == nil {
		return
	}
	c.mu.Lock()
	for _, l := range c.own {
		c.leave(l)
	}
	c.mu.Unlock()
	c.end(nil)
}

// enter begins to watch l.
func (p *peers) enter(l *leg) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.schedule(l)
	h := l.state.Bundle()
	if h == nil || !p.opts.RootRemoved && !p.opts.Revoked {
		return
	}
	b := p.bundles[h]
	if b == nil {
		b = &bundle{legs: map[*leg]bool{}}
		p.bundles[h] = b
		p.look()
	}
	b.legs[l] = true
}

// leave forgets l; mu is held.
func (p *peers) leave(l *leg) {
	l.gone = true
	if l.index >= 0 {
		heap.Remove(&p.due, l.index)
	}
	if b := p.bundles[l.state.Bundle()]; b != nil {
		delete(b.legs, l)
	}
}

// lose plans the end of l, if it is not planned yet.
func (p *peers) lose(l *leg) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !l.gone && l.lost.IsZero() {
		l.lost = time.Now().Round(0).Add(p.opts.delay())
		p.schedule(l)
	}
}

// regain takes that back.
func (p *peers) regain(l *leg) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !l.gone && !l.lost.IsZero() {
		l.lost = time.Time{}
		p.schedule(l)
	}
}

// schedule puts l where it belongs in due; mu is held.
func (p *peers) schedule(l *leg) {
	l.at = l.expiry
	if l.at.IsZero() || !l.lost.IsZero() && l.lost.Before(l.at) {
		l.at = l.lost
	}
	switch {
	case l.at.IsZero() && l.index >= 0:
		heap.Remove(&p.due, l.index)
	case l.at.IsZero():
	case l.index >= 0:
		heap.Fix(&p.due, l.index)
	default:
		heap.Push(&p.due, l)
	}
	if l.index == 0 {
		p.look()
	}
}

// look has run look again.
func (p *peers) look() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// longestWait bounds a wait for an end: timers stand still while the machine
// sleeps, certificates do not.
const longestWait = 10 * time.Second

// run ends connections until ctx ends.
func (p *peers) run(ctx context.Context) error {
	if !p.opts.any() {
		return nil
	}
	var bundles sync.WaitGroup
	defer bundles.Wait()
	timer := time.NewTimer(longestWait)
	defer timer.Stop()
	for {
		for h, b := range p.unwatched() {
			bundles.Go(func() { p.follow(ctx, h, b) })
		}
		timer.Reset(p.endDue())
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-timer.C:
		}
	}
}

// unwatched are the bundles that are new since the last call.
func (p *peers) unwatched() map[*certs.Handle]*bundle {
	p.mu.Lock()
	defer p.mu.Unlock()
	fresh := map[*certs.Handle]*bundle{}
	for h, b := range p.bundles {
		if !b.watched {
			b.watched, fresh[h] = true, b
		}
	}
	return fresh
}

// follow holds the peers of a bundle against each version of it, until ctx
// ends or there have been none for a while.
func (p *peers) follow(ctx context.Context, h *certs.Handle, b *bundle) {
	idle := time.NewTicker(longestWait)
	defer idle.Stop()
	for {
		changed := h.Changed() // before the look: what changes meanwhile is looked at again
		p.mu.Lock()
		legs := slices.Collect(maps.Keys(b.legs))
		p.mu.Unlock()
		for _, l := range legs {
			if loss, _ := p.standing(l); loss != "" {
				p.lose(l)
			} else {
				p.regain(l)
			}
		}
		select {
		case <-changed:
		case <-idle.C:
			if p.forget(h, b) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// forget drops a bundle that vouches for nobody.
func (p *peers) forget(h *certs.Handle, b *bundle) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(b.legs) > 0 {
		return false
	}
	delete(p.bundles, h)
	return true
}

// standing is what is to end l for its bundle's sake, as details; "" if it may
// go on.
func (p *peers) standing(l *leg) (details string, why error) {
	if !p.opts.RootRemoved && !p.opts.Revoked {
		return "", nil
	}
	loss, failure := l.state.Standing(time.Now())
	switch {
	case loss == tlsmux.RootRemoved && p.opts.RootRemoved:
		return detailsRootRemoved, failure
	case loss == tlsmux.Revoked && p.opts.Revoked:
		return detailsRevoked, failure
	}
	return "", nil
}

// endDue ends the connections whose time has come, and returns how long to wait
// for the next.
func (p *peers) endDue() time.Duration {
	for {
		l, wait := p.next(time.Now())
		if l == nil {
			return min(wait, longestWait)
		}
		p.dismiss(l)
	}
}

// next is the first leg that is due; nil if there is none yet, and then how
// long that may be.
func (p *peers) next(now time.Time) (*leg, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.due) == 0 {
		return nil, longestWait
	}
	if wait := p.due[0].at.Sub(now.Round(0)); wait > 0 {
		return nil, wait
	}
	return p.due[0], 0
}

// dismiss ends l, unless its root has come back.
func (p *peers) dismiss(l *leg) {
	details, why := p.standing(l)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch expired := !l.expiry.IsZero() && !l.expiry.After(time.Now()); {
	case l.gone:
		return
	case expired:
		details = detailsExpired
		why = fmt.Errorf("the peer, who presented %s, is not served any more: its certificate, or one above it, expired at %s",
			l.state.PeerName(), l.state.PeerUntil.UTC().Format(time.RFC3339))
	case details == "":
		l.lost = time.Time{}
		p.schedule(l)
		return
	}
	p.leave(l)
	p.ended[details].Inc()
	l.end(&flow.EndError{Stage: flow.StageRelay, Flags: flow.LocalReset, Details: details, Err: fmt.Errorf("%s: %w", l.side, why)})
}

// dueLegs is a heap, the next to end first.
type dueLegs []*leg

func (d dueLegs) Len() int           { return len(d) }
func (d dueLegs) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d dueLegs) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}

// Push is heap's.
func (d *dueLegs) Push(x any) {
	l := x.(*leg) //nolint:errcheck // heap.Push gives what we gave it
	l.index = len(*d)
	*d = append(*d, l)
}

// Pop is heap's.
func (d *dueLegs) Pop() any {
	last := len(*d) - 1
	l := (*d)[last]
	(*d)[last] = nil
	*d, l.index = (*d)[:last], -1
	return l
}
