package relay

import (
	"fmt"
	"sync/atomic"
	"time"
)

// idleWatch ends a relay in which nothing moves. It is one timer, which looks
// at when a byte was last seen; moving a byte sets no timer. Its fields are
// guarded by relaying.mu, but for lastSeen.
type idleWatch struct {
	began    time.Time
	lastSeen atomic.Int64 // of the last byte or end, in nanoseconds since began
	timer    *time.Timer  // nil: there is no limit yet
	stopped  bool
}

// touch says that something has moved. The clock is the monotonic one: it does
// not jump, and costs half of what the time of day does.
func (w *idleWatch) touch() { w.lastSeen.Store(int64(time.Since(w.began))) }

func (w *idleWatch) silence() time.Duration {
	return time.Since(w.began) - time.Duration(w.lastSeen.Load())
}

// limit is how long it may be silent now; 0 is for ever. It is called with mu
// held.
func (r *relaying) limit() time.Duration {
	idle, half := r.opts.IdleTimeout, r.opts.HalfCloseTimeout
	if r.ended == 1 && half > 0 && (idle == 0 || half < idle) {
		return half
	}
	return idle
}

// watchIdle sets the timer to when the relay would be over if nothing moved. It
// is called with mu held, at the beginning and when a direction has ended.
func (r *relaying) watchIdle() {
	w := &r.idle
	limit := r.limit()
	if limit <= 0 || w.stopped {
		return
	}
	left := max(limit-w.silence(), 0)
	if w.timer == nil {
		w.timer = time.AfterFunc(left, r.lookIdle)
		return
	}
	w.timer.Reset(left)
}

// lookIdle is what the timer does: end the relay, or look again later.
func (r *relaying) lookIdle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	limit := r.limit()
	if limit > 0 && !r.idle.stopped && r.idle.silence() >= limit {
		r.endLocked(Idle, fmt.Errorf("nothing moved for %s", limit))
		return
	}
	r.watchIdle()
}

// stopIdle is called with mu held.
func (r *relaying) stopIdle() {
	r.idle.stopped = true
	if r.idle.timer != nil {
		r.idle.timer.Stop()
	}
}
