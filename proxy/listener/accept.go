package listener

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"outrider/proxy/stats"
)

// Limit is how many connections may be open at once. Several acceptors may
// share one. The nil Limit has no limit.
type Limit struct {
	limit  uint64
	active atomic.Uint64
}

// NewLimit allows n connections; 0 is no limit.
func NewLimit(n uint64) *Limit {
	if n == 0 {
		return nil
	}
	return &Limit{limit: n}
}

// Acquire takes a place, if there is one.
func (l *Limit) Acquire() bool {
	if l == nil {
		return true
	}
	for {
		n := l.active.Load()
		if n >= l.limit {
			return false
		}
		if l.active.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Release gives a place back.
func (l *Limit) Release() {
	if l != nil {
		l.active.Add(^uint64(0))
	}
}

// Active is how many places are taken; 0 without a limit.
func (l *Limit) Active() uint64 {
	if l == nil {
		return 0
	}
	return l.active.Load()
}

// AcceptStats count what never became a connection: under Envoy's names, and
// ours, accept_error.
type AcceptStats struct {
	Overflow, GlobalOverflow, Errors *stats.Counter
}

// NewAcceptStats makes the counters under the scope listener.<address>.
func NewAcceptStats(listener *stats.Scope) *AcceptStats {
	return &AcceptStats{
		Overflow:       listener.Counter("downstream_cx_overflow"),
		GlobalOverflow: listener.Counter("downstream_global_cx_overflow"),
		Errors:         listener.Counter("accept_error"),
	}
}

// Acceptor accepts the connections of one listener.
type Acceptor struct {
	// Limit is the listener's, Global the process's; either may be nil. A
	// connection over one of them is closed at once.
	Limit, Global *Limit
	Stats         *AcceptStats
	Log           *slog.Logger
}

// Serve accepts from ln until accepting ends or ln is closed, closes ln, and
// returns when the last handler is done.
//
// Each connection has a handler in a goroutine of its own, with the context
// serving, and the handler closes the connection: so the end of accepting
// leaves the open connections alone, and the end of serving is what tells them.
// The handler calls done, once, when the connection has ended; it may return
// before.
// Running out of descriptors or memory makes Serve wait, not end.
func (a *Acceptor) Serve(accepting, serving context.Context, ln net.Listener, handle func(_ context.Context, _ net.Conn, done func())) {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	defer ln.Close() //nolint:errcheck // it may be closed already
	defer context.AfterFunc(accepting, func() { ln.Close() })()
	pause := burst{log: a.Log, address: ln.Addr().String()}
	for {
		c, err := ln.Accept()
		switch {
		case err == nil:
			pause.over()
			a.admit(c, &handlers, func(done func()) { handle(serving, c, done) })
		case accepting.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		default:
			a.Stats.Errors.Inc()
			pause.wait(accepting, err)
		}
	}
}

// admit runs handle in a goroutine, or closes c if there is no place for it.
func (a *Acceptor) admit(c net.Conn, handlers *sync.WaitGroup, handle func(done func())) {
	if !a.Global.Acquire() {
		a.Stats.GlobalOverflow.Inc()
		c.Close() //nolint:errcheck // it is refused
		return
	}
	if !a.Limit.Acquire() {
		a.Global.Release()
		a.Stats.Overflow.Inc()
		c.Close() //nolint:errcheck // it is refused
		return
	}
	handlers.Add(1)
	go handle(func() {
		a.Limit.Release()
		a.Global.Release()
		handlers.Done()
	})
}

// burst is a run of failed accepts. No error of accept is final: what is wrong
// is short of descriptors (EMFILE, ENFILE), of memory (ENOBUFS, ENOMEM), or the
// connection was gone before it was taken. A pause lets others free something
// and keeps us from spinning; the callers wait in the backlog.
type burst struct {
	log     *slog.Logger
	address string
	tries   int
	began   time.Time
}

// The shortest and the longest pause, before jitter. 1 s is what net/http
// takes, too.
const (
	minPause = 5 * time.Millisecond
	maxPause = time.Second
)

// next is the pause after one more failure: doubling, with jitter from a half
// up to the whole.
func (b *burst) next() time.Duration {
	d := min(minPause<<min(b.tries, 10), maxPause)
	b.tries++
	return d/2 + rand.N(d/2+1)
}

func (b *burst) wait(ctx context.Context, reason error) {
	pause := b.next()
	if b.tries == 1 {
		b.began = time.Now()
		b.log.Warn("accepting pauses", "address", b.address, "reason", reason)
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (b *burst) over() {
	if b.tries == 0 {
		return
	}
	b.log.Info("accepting again", "address", b.address, "failures", b.tries, "after", time.Since(b.began))
	b.tries = 0
}
