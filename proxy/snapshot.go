package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/filter"
	"outrider/proxy/listener"
	"outrider/proxy/match"
	"outrider/tlsmux"
)

// snapshot is one version of one listener, compiled. It is immutable: an
// update makes a new one and swaps it in.
type snapshot struct {
	cfg        *config.Listener
	filters    *listener.Filters
	table      *match.Table
	chains     map[*config.FilterChain]*liveChain
	accessLogs []filter.AccessLogger
	version    string
	updated    time.Time
	// watchesServer says that servers which speak first are waited for.
	watchesServer bool
	// intercepts says that the listener takes redirected connections.
	intercepts bool
}

// liveChain is one filter chain with what its connections share. Successive
// snapshots share it as long as the chain's configuration is the same, so that
// an update of one chain does not touch the connections of another.
type liveChain struct {
	cfg     *config.FilterChain
	tls     *tlsmux.Server // nil: plaintext
	filters *filter.Chain
	needs   []need // what comes by a stream

	// ctx is the context of all the chain's connections; cut ends them.
	ctx    context.Context //nolint:containedctx // shared by connections, made once
	cut    context.CancelCauseFunc
	active atomic.Int64 // connections
	// draining is done when connections should make no more requests: the
	// chain or its listener goes, or the server.
	draining context.Context //nolint:containedctx // likewise
	drain    context.CancelFunc
}

// compile makes a snapshot of cfg. Chains that old has unchanged are taken
// over from it.
func (s *Server) compile(cfg *config.Listener, old *snapshot, st *listenerStats, version string) (*snapshot, error) {
	snap := &snapshot{
		cfg: cfg, version: version, updated: time.Now(), chains: map[*config.FilterChain]*liveChain{},
		watchesServer: watchesServer(cfg, s.opts), intercepts: intercepts(cfg),
	}
	var err error
	if snap.filters, err = listener.Compile(cfg, listener.Deps{Stats: s.registry, Listener: st.scope, Waiting: s.waiting}); err != nil {
		return nil, fmt.Errorf("listener %q: %w", cfg.Name, err)
	}
	if snap.table, err = match.Compile(cfg.Chains, cfg.DefaultChain); err != nil {
		return nil, fmt.Errorf("listener %q: %w", cfg.Name, err)
	}
	for _, al := range cfg.AccessLogs {
		log, err := s.accessLog(al)
		if err != nil {
			return nil, fmt.Errorf("listener %q: %w", cfg.Name, err)
		}
		snap.accessLogs = append(snap.accessLogs, log)
	}
	unchanged := old.byDigest()
	for _, fc := range snap.configured() {
		live := unchanged[fc.Digest].take()
		if live == nil {
			if live, err = s.newChain(cfg, fc); err != nil {
				snap.close(old)
				return nil, fmt.Errorf("listener %q, filter chain %q: %w", cfg.Name, fc.Name, err)
			}
		}
		snap.chains[fc] = live
	}
	return snap, nil
}

func (s *Server) newChain(l *config.Listener, fc *config.FilterChain) (*liveChain, error) {
	needs := &needs{server: s, listener: l, chain: fc}
	filters, err := filter.NewChain(fc.Filters, s.filterDeps(l, needs))
	if err != nil {
		return nil, err
	}
	live := &liveChain{cfg: fc, filters: filters, needs: needs.all}
	live.ctx, live.cut = context.WithCancelCause(s.serving)
	live.draining, live.drain = context.WithCancel(live.ctx)
	if fc.TLS != nil {
		live.tls = tlsmux.NewServer(fc.TLS, s.secrets)
	}
	return live, nil
}

// configured are all chains, the default one last.
func (s *snapshot) configured() []*config.FilterChain {
	all := s.cfg.Chains
	if s.cfg.DefaultChain != nil {
		all = append(all[:len(all):len(all)], s.cfg.DefaultChain)
	}
	return all
}

// chainList is the chains of one digest: equal chains are told apart by
// nothing, so any will do.
type chainList struct{ chains []*liveChain }

func (l *chainList) take() *liveChain {
	if l == nil || len(l.chains) == 0 {
		return nil
	}
	first := l.chains[0]
	l.chains = l.chains[1:]
	return first
}

func (s *snapshot) byDigest() map[string]*chainList {
	out := map[string]*chainList{}
	if s == nil {
		return out
	}
	for _, fc := range s.configured() {
		l := out[fc.Digest]
		if l == nil {
			l = &chainList{}
			out[fc.Digest] = l
		}
		l.chains = append(l.chains, s.chains[fc])
	}
	return out
}

// gone are the chains of s that next does not have.
func (s *snapshot) gone(next *snapshot) []*liveChain {
	if s == nil {
		return nil
	}
	kept := map[*liveChain]bool{}
	if next != nil {
		for _, ch := range next.chains {
			kept[ch] = true
		}
	}
	var out []*liveChain
	for _, ch := range s.chains {
		if !kept[ch] {
			out = append(out, ch)
		}
	}
	return out
}

// waitReady waits until every secret, route configuration and filter of the
// listener is there, however long that takes: what would be replaced works. If
// ctx ends it returns what is missing.
func (s *snapshot) waitReady(ctx context.Context) error {
	for _, fc := range s.configured() {
		ch := s.chains[fc]
		if ch.tls != nil {
			if err := waitSecrets(ctx, ch.tls.Secrets()); err != nil {
				return err
			}
		}
		if err := ch.waitNeeds(ctx); err != nil {
			return err
		}
	}
	return nil
}

// notReady is why the listener cannot serve all of its chains yet: the first
// secret, route configuration or filter that has not come; nil if all are there.
func (s *snapshot) notReady() error {
	for _, fc := range s.configured() {
		ch := s.chains[fc]
		if ch.tls != nil {
			if err := ch.tls.Ready(); err != nil {
				return fmt.Errorf("filter chain %q: %w", fc.Name, err)
			}
		}
		if err := ch.missingNeeds(); err != nil {
			return fmt.Errorf("filter chain %q: %w", fc.Name, err)
		}
	}
	return nil
}

// errCut is why the connections of a removed chain end.
var errCut = errors.New("the filter chain was removed and its drain time is over")

// join counts a connection in; its context from here on is ch.ctx, and leave
// counts it out. It is false if the chain is closed already.
func (ch *liveChain) join() bool {
	if ch.active.Add(1) > 0 {
		return true
	}
	ch.active.Add(-1)
	return false
}

func (ch *liveChain) leave() { ch.active.Add(-1) }

// closed is what active is lowered by when the chain takes no more
// connections; no chain ever has as many.
const closed = 1 << 40

// closeIdle closes the chain if it has no connection.
func (ch *liveChain) closeIdle() bool {
	if !ch.active.CompareAndSwap(0, -closed) {
		return ch.active.Load() < 0
	}
	ch.free()
	return true
}

// cutOff ends the connections that are left.
func (ch *liveChain) cutOff() {
	if ch.active.Load() >= 0 {
		ch.active.Add(-closed)
	}
	ch.free()
}

func (ch *liveChain) free() {
	ch.cut(errCut)
	ch.filters.Close()
}

// close frees what a snapshot that was never used has made.
func (s *snapshot) close(taken *snapshot) {
	for _, ch := range s.gone(taken) {
		ch.closeIdle()
	}
}
