package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

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

// peers are the open connections whose peers are watched. There is nothing to
// it unless an option asks for it.
type peers struct {
	opts  PeerOptions
	log   *slog.Logger
	ended map[string]*stats.Counter // by details

	mu   sync.Mutex
	legs map[*leg]bool // guarded by mu
}

// leg is one side of a connection that speaks TLS. Its fields belong to look.
type leg struct {
	state  *tlsmux.State
	side   string
	id     uint64
	end    context.CancelCauseFunc
	seen   uint64    // the bundle's revision that the peer was last held against
	due    time.Time // when it ends; zero if nothing is wrong
	reason *peerError
}

// peerError is why a connection ends: %CONNECTION_TERMINATION_DETAILS% is its
// details.
type peerError struct {
	details string
	err     error
}

func (e *peerError) Error() string { return e.err.Error() }
func (e *peerError) Unwrap() error { return e.err }

// The details of connections that were ended for their peer's sake.
const (
	detailsExpired     = "peer_certificate_expired"
	detailsRootRemoved = "peer_root_removed"
	detailsRevoked     = "peer_certificate_revoked"
)

func newPeers(opts PeerOptions, log *slog.Logger, r *stats.Registry) *peers {
	p := &peers{opts: opts, log: log, legs: map[*leg]bool{}, ended: map[string]*stats.Counter{}}
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

// watch makes a connection's context, which ends when a peer of it is not to be
// served any more.
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
	l := &leg{state: state, side: side, id: c.info.ID, end: c.end}
	c.own = append(c.own, l)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.legs[l] = true
}

// done ends the watch. If it was what ended the connection, the reason is in
// info and in the error.
func (c *connection) done(err error) error {
	if c.end == nil {
		return err
	}
	c.mu.Lock()
	for _, l := range c.own {
		delete(c.legs, l)
	}
	c.mu.Unlock()
	var why *peerError
	if errors.As(context.Cause(c.ctx), &why) {
		c.info.TerminationDetails = why.details
		err = flow.End(flow.StageRelay, 0, why)
	}
	c.end(nil)
	return err
}

// lookEvery is how often all peers are looked at. A look at one is two
// comparisons, unless its bundle has changed.
const lookEvery = time.Second

// run looks at the peers until ctx ends.
func (p *peers) run(ctx context.Context) error {
	if !p.opts.any() {
		return nil
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			p.look(time.Now())
		}
	}
}

// look ends the connections whose time has come, and finds those that have
// none any more.
func (p *peers) look(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.legs {
		switch reason := p.reason(l, now); {
		case reason == nil:
			l.due, l.reason = time.Time{}, nil
			continue
		case l.reason == nil || l.reason.details != reason.details:
			l.reason, l.due = reason, now.Add(p.opts.Grace)
			if p.opts.Jitter > 0 {
				l.due = l.due.Add(rand.N(p.opts.Jitter))
			}
		}
		if now.Before(l.due) {
			continue
		}
		p.log.Info("connection is ended for its peer's sake", "connection_id", l.id, "side", l.side, "why", l.reason.details, "reason", l.reason.Error())
		p.ended[l.reason.details].Inc()
		l.end(l.reason)
		delete(p.legs, l)
	}
}

// reason is why a leg's peer would not be let in now; nil if it would, or if no
// option asks.
func (p *peers) reason(l *leg, now time.Time) *peerError {
	if until := l.state.PeerUntil; p.opts.Expired && !until.IsZero() && now.After(until) {
		return &peerError{detailsExpired, fmt.Errorf("the certificate of the %s peer %s, or one above it, expired at %s", l.side, l.state.PeerID, until.UTC().Format(time.RFC3339))}
	}
	bundle := l.state.Bundle()
	if bundle == nil || !p.opts.RootRemoved && !p.opts.Revoked {
		return nil
	}
	revision := bundle.Revision()
	if l.seen == revision {
		if l.reason != nil && l.reason.details != detailsExpired {
			return l.reason
		}
		return nil
	}
	l.seen = revision
	loss, why := l.state.Standing(now)
	switch {
	case loss == tlsmux.RootRemoved && p.opts.RootRemoved:
		return &peerError{detailsRootRemoved, fmt.Errorf("the %s %w", l.side, why)}
	case loss == tlsmux.Revoked && p.opts.Revoked:
		return &peerError{detailsRevoked, fmt.Errorf("the %s %w", l.side, why)}
	}
	return nil
}
