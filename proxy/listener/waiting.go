package listener

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
)

// Waiting bounds how many connections wait in listener filters at once, for
// those have cost us a descriptor and proved nothing yet. When it is full the
// one that has waited longest is shed. Envoy has no such bound. The nil Waiting
// has none either.
type Waiting struct {
	limit int

	mu     sync.Mutex
	oldest *waiter // guarded by mu; a list in the order of arrival
	newest *waiter // guarded by mu
	count  int     // guarded by mu
}

// DefaultWaiting is how many connections may be waiting: 8192 goroutines of
// some 10 KiB, with their sockets.
const DefaultWaiting = 8192

// ErrShed is why a connection ended that had waited longest when there were
// too many.
var ErrShed = errors.New("too many connections wait to be told apart, and this one waited longest")

// NewWaiting allows limit connections at once; at least one.
func NewWaiting(limit int) *Waiting { return &Waiting{limit: max(limit, 1)} }

// Count is how many connections wait now.
func (w *Waiting) Count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// waiter is one place. The nil waiter is never shed.
type waiter struct {
	conn net.Conn
	all  *Waiting
	shed atomic.Bool

	before, after *waiter // guarded by all.mu
	out           bool    // guarded by all.mu
}

// enter takes a place for c, and sheds the oldest if that is one too many.
func (w *Waiting) enter(c net.Conn) *waiter {
	if w == nil {
		return nil
	}
	one := &waiter{conn: c, all: w}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count >= w.limit {
		oldest := w.oldest
		w.remove(oldest)
		oldest.shed.Store(true)
		giveUp(oldest.conn) // within mu: not after leave
	}
	one.before = w.newest
	if w.newest != nil {
		w.newest.after = one
	} else {
		w.oldest = one
	}
	w.newest = one
	w.count++
	return one
}

// leave gives the place back. After it the connection is not shed any more.
func (one *waiter) leave() {
	if one == nil {
		return
	}
	one.all.mu.Lock()
	defer one.all.mu.Unlock()
	if !one.out {
		one.all.remove(one)
	}
}

func (one *waiter) wasShed() bool { return one != nil && one.shed.Load() }

// remove takes one out of the list; mu is held.
func (w *Waiting) remove(one *waiter) {
	if one.before != nil {
		one.before.after = one.after
	} else {
		w.oldest = one.after
	}
	if one.after != nil {
		one.after.before = one.before
	} else {
		w.newest = one.before
	}
	one.before, one.after, one.out = nil, nil, true
	w.count--
}
