package hcm

import (
	"time"
)

// deadline is one thing that a request may take too long for.
type deadline int

const (
	idleDeadline     deadline = iota // stream_idle_timeout, or the route's idle_timeout
	requestDeadline                  // request_timeout: until the request has come
	durationDeadline                 // max_stream_duration
	responseDeadline                 // the route's timeout
	tryDeadline                      // per_try_timeout
	tryIdleDeadline                  // per_try_idle_timeout
	retryDeadline                    // the back-off before the next attempt
	logDeadline                      // access_log_flush_interval
	deadlines
)

// clock has the deadlines of one request. It has no timer: the connection has
// one for all of its requests, which is only touched when a deadline comes
// before those that were there.
type clock struct {
	s *stream
	sweepLink
	event   time.Time // when what happens now began; zero: nobody has asked
	touched time.Time // when bytes last moved
	idle    time.Duration
	at      [deadlines]time.Time // zero: none
}

// now is when what happens now began: to ask the system for the time for each
// of the ten times that a request notes costs a tenth of the request.
func (c *clock) now() time.Time {
	if c.event.IsZero() {
		c.event = time.Now()
	}
	return c.event
}

// touchNow notes that bytes moved.
func (c *clock) touchNow() time.Time {
	c.touched = c.now()
	return c.touched
}

// start sets what the connection manager's configuration asks for.
func (c *clock) start() {
	cfg := c.s.m.cfg
	c.setIdle(cfg.StreamIdleTimeout)
	if d := cfg.RequestTimeout; d > 0 && !c.s.requestEnd {
		c.set(requestDeadline, c.touched.Add(d))
	}
	if d := cfg.LogInterval; d > 0 {
		c.set(logDeadline, c.touched.Add(d))
	}
	if d := cfg.Common.MaxStreamTime; d > 0 {
		c.set(durationDeadline, c.s.info.Start.Add(d))
	}
}

// routeIdle puts the route's idle_timeout in the place of the manager's.
func (c *clock) routeIdle() {
	if r := c.s.found.Route; r != nil && r.Action != nil && r.Action.IdleTimeout != nil {
		c.setIdle(*r.Action.IdleTimeout)
	}
}

func (c *clock) setIdle(d time.Duration) {
	c.idle = d
	if d <= 0 {
		c.clear(idleDeadline)
		return
	}
	c.set(idleDeadline, c.touched.Add(d))
}

func (c *clock) requestDone() { c.clear(requestDeadline) }

// set sets a deadline.
func (c *clock) set(d deadline, at time.Time) {
	c.at[d] = at
	c.s.conn.wakeAt(at)
}

func (c *clock) clear(d deadline) { c.at[d] = time.Time{} }

func (c *clock) stop() {
	c.at = [deadlines]time.Time{}
	c.s.conn.forget(c.s)
}

// check runs what is due, and returns when to check again; zero for never. The
// stream's lock is not held.
func (s *stream) check(now time.Time) time.Time {
	s.lock()
	defer s.unlock()
	c := &s.clock
	for d := range deadlines {
		at := c.at[d]
		if s.over || at.IsZero() || at.After(now) {
			continue
		}
		if d == idleDeadline {
			if next := c.touched.Add(c.idle); next.After(now) {
				c.at[d] = next
				continue
			}
		}
		if d == tryIdleDeadline {
			if next := c.touched.Add(s.router.tryIdle()); next.After(now) {
				c.at[d] = next
				continue
			}
		}
		c.clear(d)
		s.expired(d)
	}
	var next time.Time
	if s.over {
		return next
	}
	for _, at := range c.at {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// sweep is the connection's timer.
type sweep struct {
	timer *time.Timer
	at    time.Time // when it fires; zero: it does not
	first *stream   // of those whose deadlines are looked at
}

// sweepLink is a stream's place among those, guarded by the connection's lock.
type sweepLink struct{ prev, next *stream }

// remember has the stream's deadlines looked at.
func (cn *conn) remember(s *stream) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	s.clock.next = cn.sweep.first
	if s.clock.next != nil {
		s.clock.next.clock.prev = s
	}
	cn.sweep.first = s
}

func (cn *conn) forget(s *stream) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	link := &s.clock.sweepLink
	switch {
	case link.prev != nil:
		link.prev.clock.next = link.next
	case cn.sweep.first == s:
		cn.sweep.first = link.next
	}
	if link.next != nil {
		link.next.clock.prev = link.prev
	}
	*link = sweepLink{}
}

// wakeAt has the timer fire at that time or before.
func (cn *conn) wakeAt(at time.Time) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	w := &cn.sweep
	if cn.ended || !w.at.IsZero() && !at.Before(w.at) {
		return
	}
	w.at = at
	d := max(time.Until(at), 0)
	if w.timer == nil {
		w.timer = time.AfterFunc(d, cn.checkAll)
		return
	}
	w.timer.Reset(d)
}

// checkAll looks at all requests, and sets the timer for the next deadline.
func (cn *conn) checkAll() {
	cn.mu.Lock()
	cn.sweep.at = time.Time{}
	var all []*stream
	for s := cn.sweep.first; s != nil; s = s.clock.next {
		all = append(all, s)
	}
	cn.mu.Unlock()
	now := time.Now()
	var next time.Time
	for _, s := range all {
		if at := s.check(now); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if !next.IsZero() {
		cn.wakeAt(next)
	}
}
