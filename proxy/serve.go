package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
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
// in the end: another than l if it was handed off.
func (l *liveListener) serve(ctx context.Context, c net.Conn, info *flow.Info) (owner *liveListener, err error) {
	snap := l.current()
	info.Listener = snap.cfg.Name
	if snap.intercepts {
		own := &passage{in: &l.sources}
		info.UpstreamSocket = own.add
		defer own.end()
	}
	watch := l.watchServer(ctx, snap, info)
	defer watch.close()
	first, err := watch.sniff(func(s listener.Server) (bool, error) { return snap.filters.RunWatching(ctx, c, info, s) })
	if err != nil {
		return l, flow.End(flow.StageListenerFilter, 0, err)
	}
	if reason := l.loops(snap, info); reason != nil {
		return l, l.refuseLoop(info, reason)
	}
	watch.settled(first)
	if next := l.handOff(snap, info); next != nil {
		return next.takeOver(ctx, c, info)
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
	defer chain.leave()
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
	defer live.done()
	conn := &filter.Conn{Conn: side, Info: info, Ahead: ahead, Connected: live.upstream, Draining: chain.draining}
	return l, chain.filters.Serve(live.ctx, conn)
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
func (l *liveListener) takeOver(ctx context.Context, c net.Conn, info *flow.Info) (*liveListener, error) {
	if !l.limit.Acquire() {
		l.stats.overflow.Inc()
		return l, flow.End(flow.StageAccept, flow.UpstreamOverflow, fmt.Errorf("listener %q is at its connection limit", l.name))
	}
	defer l.limit.Release()
	defer l.stats.open()()
	return l.serve(ctx, c, info)
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
// here ends this connection alone.
func (l *liveListener) handle(ctx context.Context, c net.Conn) {
	info := l.server.newInfo(c)
	defer l.stats.open()()
	owner, err := l.guarded(ctx, c, info)
	c.Close()
	info.End = time.Now()
	owner.finish(info, err)
}

// guarded is serve with a panic turned into an error.
func (l *liveListener) guarded(ctx context.Context, c net.Conn, info *flow.Info) (owner *liveListener, err error) {
	defer func() {
		if p := recover(); p != nil {
			l.server.stats.panics.Inc()
			l.server.log.Error("connection panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			owner, err = l, flow.End(flow.StageRelay, 0, fmt.Errorf("internal error: %v", p))
		}
	}()
	return l.serve(ctx, c, info)
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
