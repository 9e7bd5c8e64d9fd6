package listener

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"outrider/proxy/stats"
)

// Limit is how many connections may be open at once. Several acceptors may
// share one. The nil Limit has no limit.
type Limit struct {
	limit  int64
	active atomic.Int64
}

// NewLimit allows n connections; 0 is no limit.
func NewLimit(n uint64) *Limit {
	if n == 0 {
		return nil
	}
	return &Limit{limit: int64(n)}
}

// Acquire takes a place, if there is one.
func (l *Limit) Acquire() bool {
	if l == nil {
		return true
	}
	if l.active.Add(1) > l.limit {
		l.active.Add(-1)
		return false
	}
	return true
}

// Release gives a place back.
func (l *Limit) Release() {
	if l != nil {
		l.active.Add(-1)
	}
}

// AcceptStats count what never became a connection, under Envoy's names, and
// ours: accept_error.
type AcceptStats struct {
	Overflow, GlobalOverflow, Errors *stats.Counter
}

// NewAcceptStats makes the counters under a listener's scope.
func NewAcceptStats(listener *stats.Scope) *AcceptStats {
	return &AcceptStats{
		Overflow:       listener.Counter("downstream_cx_overflow"),
		GlobalOverflow: listener.Counter("downstream_global_cx_overflow"),
		Errors:         listener.Counter("accept_error"),
	}
}

// Acceptor accepts the connections of one listener.
type Acceptor struct {
	// Limit is the listener's, Global the process's; either may be nil.
	Limit, Global *Limit
	Stats         *AcceptStats
	Log           *slog.Logger
	// Handle serves one connection, in a goroutine of its own, and closes it.
	Handle func(net.Conn)
}

// Serve accepts from ln until ctx ends or ln is closed, and returns when the
// last handler has returned. It closes ln. Running out of file descriptors or
// memory makes it wait, not end.
func (a *Acceptor) Serve(ctx context.Context, ln net.Listener) {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	pause := backoff{}
	for {
		c, err := ln.Accept()
		switch {
		case err == nil:
			pause.reset()
			a.admit(c, &handlers)
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			ln.Close()
			return
		case temporary(err):
			a.Stats.Errors.Inc()
			wait := pause.next()
			if pause.tries == 1 {
				a.Log.Warn("accepting pauses", "address", ln.Addr().String(), "reason", err, "for", wait)
			}
			sleep(ctx, wait)
		default:
			a.Stats.Errors.Inc()
			a.Log.Error("accepting failed", "address", ln.Addr().String(), "reason", err)
			sleep(ctx, pause.next())
		}
	}
}

// admit hands c to a goroutine, or closes it if there is no place.
func (a *Acceptor) admit(c net.Conn, handlers *sync.WaitGroup) {
	if !a.Global.Acquire() {
		a.Stats.GlobalOverflow.Inc()
		c.Close()
		return
	}
	if !a.Limit.Acquire() {
		a.Global.Release()
		a.Stats.Overflow.Inc()
		c.Close()
		return
	}
	handlers.Go(func() {
		defer a.Global.Release()
		defer a.Limit.Release()
		a.Handle(c)
	})
}

// temporary reports whether accepting may succeed later.
func temporary(err error) bool {
	for _, e := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EPERM, syscall.EPROTO,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// backoff is the wait after a failed accept: jittered, doubling.
type backoff struct{ tries int }

// The shortest and the longest wait.
const (
	minPause = 5 * time.Millisecond
	maxPause = time.Second
)

func (b *backoff) next() time.Duration {
	d := min(minPause<<min(b.tries, 10), maxPause)
	b.tries++
	return d/2 + rand.N(d/2+1)
}

func (b *backoff) reset() { b.tries = 0 }

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
