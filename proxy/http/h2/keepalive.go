package h2

import (
	"math/rand/v2"
	"time"
)

// keepalive asks a silent peer whether it is there. Its fields are guarded by
// conn.mu.
type keepalive struct {
	send, timeout *time.Timer
	waiting       bool // for an answer
	over          bool
}

var errKeepalive error = &connError{code: codeCancel, what: "the peer did not answer a ping", silent: true}

func (c *conn) startKeepalive() {
	if c.o.KeepaliveTimeout <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep.timeout = time.AfterFunc(time.Hour, c.pingTimeout)
	c.keep.timeout.Stop()
	if c.o.KeepaliveInterval > 0 {
		c.keep.send = time.AfterFunc(c.keepaliveInterval(), func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.ping()
		})
	}
}

func (c *conn) stopKeepalive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep.over = true
	if c.keep.timeout != nil {
		c.keep.timeout.Stop()
	}
	if c.keep.send != nil {
		c.keep.send.Stop()
	}
}

// keepaliveInterval is the interval with its jitter.
func (c *conn) keepaliveInterval() time.Duration {
	d := c.o.KeepaliveInterval
	if j := int64(float64(d) * c.o.KeepaliveJitterPercent / 100); j > 0 {
		d += time.Duration(rand.Int64N(j))
	}
	return d
}

// ping sends a ping unless one is on its way; mu is held.
func (c *conn) ping() {
	if c.keep.over || c.keep.waiting || c.stopped || c.keep.timeout == nil {
		return
	}
	c.keep.waiting = true
	b := c.buffer()
	b.b = appendPing(b.b, 0, []byte("outrider"))
	c.queued()
	c.keep.timeout.Reset(c.o.KeepaliveTimeout)
}

// pingIfIdle pings before a stream of a connection that has been silent; mu is
// held.
func (c *conn) pingIfIdle() {
	if c.o.KeepaliveIdle <= 0 {
		return
	}
	last := c.in.lastRead()
	if last.IsZero() {
		last = c.opened
	}
	if time.Since(last) > c.o.KeepaliveIdle {
		c.ping()
	}
}

// heard is called for each frame: whoever sends is there, only the answer to
// the ping may be behind what comes.
func (c *conn) heard(f frame) {
	if c.o.KeepaliveTimeout <= 0 || f.kind == framePing {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keep.waiting && !c.keep.over && c.keep.timeout != nil {
		c.keep.timeout.Reset(c.o.KeepaliveTimeout)
	}
}

func (c *conn) pingAnswered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.keep.waiting || c.keep.over {
		return
	}
	c.keep.waiting = false
	c.keep.timeout.Stop()
	if c.keep.send != nil {
		c.keep.send.Reset(c.keepaliveInterval())
	}
}

func (c *conn) pingTimeout() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.keep.waiting || c.keep.over {
		return
	}
	c.o.Stats.KeepaliveTimeout.Inc()
	c.stopLocked(errKeepalive)
}
