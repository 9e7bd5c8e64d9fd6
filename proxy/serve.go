package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"time"

	"outrider/proxy/filter"
	"outrider/proxy/flow"
	"outrider/proxy/listener"
	"outrider/proxy/match"
	"outrider/proxy/relay"
)

// serve takes one accepted connection through its whole path. Read this first:
// everything else in the proxy is one of its stages.
//
// The connection keeps the snapshot of its listener that it began with,
// whatever is pushed meanwhile. The owner is the listener that it belonged to
// in the end: another than l if it was handed off. What is due at the end of the
// connection is added to t, which after errGoesOn somebody else finishes.
func (l *liveListener) serve(ctx context.Context, c net.Conn, info *flow.Info, t *tail) (owner *liveListener, err error) {
	snap := l.current()
	info.Listener = snap.cfg.Name
	if snap.intercepts {
		own := &passage{in: &l.sources}
		info.UpstreamSocket = own.add
		t.add(own.end)
	}
	watch := l.watchServer(ctx, snap, info)
	t.add(watch.close)
	first, err := watch.sniff(func(s listener.Server) (bool, error) { return snap.filters.RunWatching(ctx, c, info, s) })
	if err != nil {
		return l, flow.End(flow.StageListenerFilter, 0, err)
	}
	if reason := l.loops(snap, info); reason != nil {
		return l, l.refuseLoop(info, reason)
	}
	watch.settled(first)
	if next := l.handOff(snap, info); next != nil {
		return next.takeOver(ctx, c, info, t)
	}
	chain := snap.find(info)
	for chain != nil && !chain.join() { // closed while we were looking: an update is in
		next := l.current()
		if next == snap {
			return l, flow.End(flow.StageMatch, 0, errRemoved)
		}
		snap = next
		chain = snap.find(info)
	}
	if chain == nil {
		l.stats.noFilterChainMatch.Inc()
		info.TerminationDetails = "filter_chain_not_found"
		return l, flow.End(flow.StageMatch, flow.NoRouteFound, errors.New(describeNoMatch(info)))
	}
	t.add(chain.leave)
	info.FilterChain = chain.cfg.Name
	ahead := watch.take(chain)
	if err := l.hold(chain, info); err != nil {
		return l, err
	}
	if err := chain.awaitNeeds(); err != nil {
		return l, err
	}
	side, err := chain.accept(c, info, l.stats)
	if err != nil {
		chain.filters.Refused(info)
		return l, flow.End(flow.StageTLS, 0, err)
	}
	live := l.server.peers.watch(chain.ctx, info)
	t.add(live.done)
	conn := &filter.Conn{Conn: side, Info: info, Ahead: ahead, Connected: live.upstream, Draining: chain.draining}
	chain.filters.Serve(live.ctx, conn, func(err error) { t.finish(l, err) })
	return l, errGoesOn
}

// errRemoved is why a connection ends that its listener accepted last.
var errRemoved = errors.New("the listener was removed")

// handOff is the listener that a restored destination belongs to
// (use_original_dst), or nil to go on here.
func (l *liveListener) handOff(snap *snapshot, info *flow.Info) *liveListener {
	if !snap.cfg.UseOriginalDst || !info.LocalRestored {
		return nil
	}
	if next := l.server.listeners.byDestination(info.Local.AddrPort); next != l {
		return next
	}
	return nil
}

// takeOver serves a connection that another listener accepted.
func (l *liveListener) takeOver(ctx context.Context, c net.Conn, info *flow.Info, t *tail) (*liveListener, error) {
	if !l.limit.Acquire() {
		l.stats.overflow.Inc()
		return l, flow.End(flow.StageAccept, flow.UpstreamOverflow, fmt.Errorf("listener %q is at its connection limit", l.name))
	}
	t.add(l.limit.Release)
	t.add(l.stats.open())
	return l.serve(ctx, c, info, t)
}

// find is the chain that info meets; nil if none.
func (s *snapshot) find(info *flow.Info) *liveChain {
	return s.chains[s.table.Find(matchKey(info))]
}

func matchKey(info *flow.Info) match.Key {
	return match.Key{
		Destination:  info.Local.AddrPort,
		Source:       info.Remote.AddrPort,
		DirectSource: info.DirectRemote.AddrPort,
		ServerName:   info.SNI,
		Transport:    info.TransportProtocol,
		ALPNs:        info.ALPNs,
	}
}

func describeNoMatch(info *flow.Info) string {
	return fmt.Sprintf("no filter chain for destination %s, source %s, transport %q, server name %q, protocols %v",
		info.Local, info.Remote, info.TransportProtocol, info.SNI, info.ALPNs)
}

// accept is the chain's transport socket: TLS is terminated and the peer
// verified, plaintext goes on as it is because the chain says so.
func (ch *liveChain) accept(c net.Conn, info *flow.Info, st *listenerStats) (relay.Conn, error) {
	if ch.tls == nil {
		return relay.Plain(c), nil
	}
	ctx := ch.ctx
	if t := ch.cfg.ConnectTimeout; t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t)
		defer cancel()
	}
	conn, err := ch.tls.Handshake(ctx, c)
	if err != nil {
		st.tls.Failed(err)
		if ctx.Err() == context.DeadlineExceeded {
			st.socketTimeout.Inc()
		}
		info.DownstreamFailure = err.Error()
		return nil, err
	}
	info.HandshakeDone = time.Now()
	info.Downstream = conn.State()
	st.tls.Handshake(conn.State())
	return conn, nil
}

// handle is what the accept loop calls: it owns the connection, and a panic in
// here ends this connection alone. It may return before the connection has
// ended, which done is told.
func (l *liveListener) handle(ctx context.Context, c net.Conn, done func()) {
	info := l.server.newInfo(c)
	t := &tail{}
	t.add(done)
	t.add(l.stats.open())
	t.add(func() {
		c.Close()
		info.End = time.Now()
		t.owner.finish(info, t.err)
	})
	if owner, err := l.guarded(ctx, c, info, t); err != errGoesOn { //nolint:errorlint // it is never wrapped
		t.finish(owner, err)
	}
}

// errGoesOn says that a connection is not over, though the function that served
// it is: nothing moves on it, and it needs no goroutine.
var errGoesOn = errors.New("the connection goes on")

// tail is what is due when a connection has ended, the last first. One goroutine
// at a time has it.
type tail struct {
	due   []func()
	owner *liveListener
	err   error
}

func (t *tail) add(f func()) { t.due = append(t.due, f) }

// finish does it, once.
func (t *tail) finish(owner *liveListener, err error) {
	due := t.due
	t.due, t.owner, t.err = nil, owner, err
	for _, f := range slices.Backward(due) {
		f()
	}
}

// guarded is serve with a panic turned into an error.
func (l *liveListener) guarded(ctx context.Context, c net.Conn, info *flow.Info, t *tail) (owner *liveListener, err error) {
	defer func() {
		if p := recover(); p != nil {
			l.server.panicked(p)
			owner, err = l, flow.End(flow.StageRelay, 0, fmt.Errorf("internal error: %v", p))
		}
	}()
	return l.serve(ctx, c, info, t)
}

// panicked is called where a panic is recovered.
func (s *Server) panicked(p any) {
	s.stats.panics.Inc()
	s.log.Error("connection panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}

// spawn goes on with a connection that was quiet. What panics there has no
// other connection to do with.
func (s *Server) spawn(f func()) {
	go func() {
		defer func() {
			if p := recover(); p != nil {
				s.panicked(p)
			}
		}()
		f()
	}()
}

// finish tells how the connection ended: one log line, one entry in each
// access log of the listener, one counter.
func (l *liveListener) finish(info *flow.Info, err error) {
	l.stats.length.Record(uint64(info.End.Sub(info.Start).Milliseconds()))
	var end *flow.EndError
	if errors.As(err, &end) {
		l.server.expired.tell(err)
		info.Flags.Set(end.Flags)
		l.server.stats.ended(end.Stage)
		l.server.log.LogAttrs(context.Background(), slog.LevelInfo, "connection refused or broken",
			slog.Uint64("connection_id", info.ID), slog.String("listener", info.Listener),
			slog.String("filter_chain", info.FilterChain), slog.String("remote", info.Remote.String()),
			slog.String("local", info.Local.String()), slog.String("stage", string(end.Stage)),
			slog.String("reason", end.Err.Error()))
	}
	for _, log := range l.current().accessLogs {
		log.Log(info, filter.EventNotSet)
	}
}
