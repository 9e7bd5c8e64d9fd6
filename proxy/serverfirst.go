package proxy

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/filter"
	"outrider/proxy/flow"
	"outrider/proxy/listener"
)

// In MySQL, SMTP, FTP and others it is the server that speaks first. Behind a
// listener that tells TLS from plaintext by the client's first bytes both would
// wait for ever, so while a client is silent the server that a plaintext client
// would get is connected to and listened to. docs/server-first.md says it all.

// The times of a silent client, from when it was accepted.
const (
	// defaultServerFirstWait is how long a client may be silent before the
	// server is dialled. A client that speaks first does so with the segment
	// that ends the TCP handshake, or a moment later.
	defaultServerFirstWait = 50 * time.Millisecond
	// knownShare is the part of that time after which a server is dialled that
	// is known to speak first: 10 ms of the default. Not at once, for on the
	// same host its greeting may be faster than the ClientHello of a client that
	// has it on its way; and servers do not like to be dialled in vain (MySQL:
	// max_connect_errors).
	knownShare = 5
	// knownTLSWait is how long a client may be silent at least whose address has
	// spoken TLS to the server: one whose hello was lost sends it again after
	// 200 ms at the earliest (Linux's TCP_RTO_MIN). knownTLSWaits is the same in
	// waits.
	knownTLSWait  = 300 * time.Millisecond
	knownTLSWaits = 4
	// watchLimit is how long a server has to say something. Those that make
	// their clients wait (greet delays of mail servers, name lookups) do so for
	// some seconds.
	watchLimit = time.Minute
	// maxWatched bounds the connections that are made ahead at the same time.
	maxWatched = 1024
)

// serverFirst is what the connections of a server share about servers that
// speak first.
type serverFirst struct {
	wait     time.Duration
	watching *listener.Limit
	memory   *serverMemory
}

func newServerFirst(o Options) *serverFirst {
	wait := o.ServerFirstWait
	if wait <= 0 {
		wait = defaultServerFirstWait
	}
	return &serverFirst{wait: wait, watching: listener.NewLimit(maxWatched), memory: newServerMemory()}
}

// watchesServer reports whether a listener does all this: one that looks for
// TLS, takes plaintext, and is not there for what goes out.
func watchesServer(cfg *config.Listener, o Options) bool {
	if o.NoServerFirst || cfg.NoServerFirst || cfg.Direction == config.Outbound {
		return false
	}
	sniffs := slices.ContainsFunc(cfg.Filters, func(f *config.ListenerFilter) bool { return f.TLSInspector != nil })
	plain := func(c *config.FilterChain) bool {
		return c.TLS == nil && slices.ContainsFunc(c.Filters, func(f *config.NetworkFilter) bool { return f.TCPProxy != nil })
	}
	return sniffs && (slices.ContainsFunc(cfg.Chains, plain) || cfg.DefaultChain != nil && plain(cfg.DefaultChain))
}

// serverWatch watches the server of one connection. It is a listener.Server.
type serverWatch struct {
	l    *liveListener
	snap *snapshot
	info *flow.Info
	ctx  context.Context //nolint:containedctx // of the one connection

	running sync.WaitGroup
	cancel  context.CancelFunc // nil: nothing is watched
	chain   *liveChain         // that the server was found by
	ahead   *filter.Ahead
}

// watchServer is for a connection that has just been accepted; nil if its
// listener does no such thing.
func (l *liveListener) watchServer(ctx context.Context, snap *snapshot, info *flow.Info) *serverWatch {
	if !snap.watchesServer {
		return nil
	}
	return &serverWatch{l: l, snap: snap, info: info, ctx: ctx}
}

// sniff runs the listener filters, and ends the watch. What w has is complete
// then, and first says that it is the server that spoke.
func (w *serverWatch) sniff(run func(listener.Server) (bool, error)) (first bool, err error) {
	if w == nil {
		_, err = run(nil)
		return false, err
	}
	defer w.stop()
	return run(w)
}

// stop ends the watch, and waits for it.
func (w *serverWatch) stop() {
	if w.cancel != nil {
		w.cancel()
		w.running.Wait()
	}
}

// Patience is how long the client may be silent before the server is dialled.
func (w *serverWatch) Patience() time.Duration { return w.l.server.serverFirst.patience(w.info) }

func (s *serverFirst) patience(info *flow.Info) time.Duration {
	switch s.memory.recall(info) {
	case speaksFirst:
		return s.wait / knownShare
	case speaksTLS:
		return max(knownTLSWait, knownTLSWaits*s.wait)
	}
	return s.wait
}

// Watch dials the server of the chain that info meets as it is: without TLS.
func (w *serverWatch) Watch(done func(bool)) bool {
	chain, ahead, _ := w.l.aheadOf(w.snap, w.info)
	if ahead == nil || !w.l.server.serverFirst.watching.Acquire() {
		return false
	}
	w.chain, w.ahead = chain, ahead
	ctx, cancel := context.WithCancel(w.ctx)
	w.cancel = cancel
	w.l.stats.serverFirstDialed.Inc()
	w.running.Go(func() {
		defer w.l.server.serverFirst.watching.Release()
		done(w.listen(ctx))
	})
	return true
}

// aheadOf is where a plaintext client would go, and by which chain; nil with
// the reason if plaintext would not be let in.
func (l *liveListener) aheadOf(snap *snapshot, info *flow.Info) (*liveChain, *filter.Ahead, string) {
	if next := l.handOff(snap, info); next != nil {
		return nil, nil, fmt.Sprintf("listener %q takes the connection", next.name)
	}
	if reason := l.loops(snap, info); reason != nil {
		return nil, nil, reason.Error()
	}
	chain := snap.find(info)
	switch {
	case chain == nil:
		return nil, nil, "plaintext meets no filter chain"
	case chain.tls != nil:
		return nil, nil, "plaintext meets a filter chain that terminates TLS"
	}
	ahead, reason := chain.filters.Ahead(info)
	return chain, ahead, reason
}

// listen connects, and reports whether the server has spoken while nobody else
// has. A panic in here is no reason to end more than this.
func (w *serverWatch) listen(ctx context.Context) (spoke bool) {
	s := w.l.server
	defer func() {
		if p := recover(); p != nil {
			s.stats.panics.Inc()
			s.log.Error("connection made ahead panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			spoke = false
		}
	}()
	var err error
	if time.Now().Before(s.start.Add(s.opts.Hold)) {
		err = s.waitCluster(ctx, w.ahead.Cluster())
	}
	if err == nil {
		err = w.ahead.Connect(ctx)
	}
	if err == nil {
		err = w.firstByte(ctx)
	}
	switch {
	case err == nil:
		return true
	case ctx.Err() != nil: // the client was first
		return false
	}
	w.l.stats.serverFirstFailed.Inc()
	s.log.Debug("server does not speak first", "connection_id", w.info.ID, "cluster", w.ahead.Cluster(), "reason", err)
	w.ahead.Close()
	return false
}

// errSilent is why a server is not listened to any longer.
var errSilent = fmt.Errorf("it said nothing for %s", watchLimit)

func (w *serverWatch) firstByte(ctx context.Context) error {
	limited, cancel := context.WithTimeoutCause(ctx, watchLimit, errSilent)
	defer cancel()
	err := w.ahead.FirstByte(limited)
	if err != nil && limited.Err() != nil {
		return context.Cause(limited)
	}
	return err
}

// settled notes what the sniff has found, for the next client of that server.
func (w *serverWatch) settled(first bool) {
	if w == nil {
		return
	}
	memory := w.l.server.serverFirst.memory
	switch {
	case first:
		memory.found(w.info)
		w.l.stats.serverFirst.Inc()
		w.info.SetMetadata("outrider", "server_first", structpb.NewBoolValue(true))
	case w.info.TransportProtocol == "tls":
		memory.spokeTLS(w.info)
	}
}

// take is the connection for one that goes on by chain; nil if there is none
// for it, and then one that was made for another is closed.
func (w *serverWatch) take(chain *liveChain) *filter.Ahead {
	if w == nil {
		return nil
	}
	if w.chain != chain {
		w.close()
		return nil
	}
	return w.ahead
}

// close closes what was not used.
func (w *serverWatch) close() {
	if w != nil && w.ahead.Connected() {
		w.l.stats.serverFirstUnused.Inc()
		w.ahead.Close()
	}
}

// explainServerFirst says what becomes of a client that says nothing; "" on a
// listener where it is waited for alone.
func (l *liveListener) explainServerFirst(snap *snapshot, info *flow.Info) string {
	if !snap.watchesServer || info.TransportProtocol == "tls" {
		return ""
	}
	_, ahead, reason := l.aheadOf(snap, info)
	if ahead == nil {
		return "a silent client is waited for, and no server is dialled: " + reason
	}
	return fmt.Sprintf("for a silent client cluster %q is dialled after %s: if it speaks first, the connection is plaintext",
		ahead.Cluster(), l.server.serverFirst.patience(info))
}
