package h1

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"outrider/proxy/http/codec"
	"outrider/proxy/relay"
)

// conn is what both sides of a connection have in common.
type conn struct {
	nc     relay.Conn
	o      *Options
	side   side
	outer  codec.Conn // the Server or Client that is around it
	server bool
	opened time.Time

	in          input // of the goroutine that reads
	headLimited bool  // there is a deadline for a head; of the same

	active       atomic.Int32
	bytesWritten atomic.Uint64

	writerEnded chan struct{}

	mu sync.Mutex

	// All below are guarded by mu.
	writer, reader sync.Cond
	parked         bool // the writer waits
	waiting        bool // the reader waits, for something other than bytes
	telling        bool // the writer calls a receiver

	cur      *stream // the open one
	requests uint64
	out      queue
	owing    *stream // has bytes that count as gone only when there is room
	changed  bool    // a stream has ended, and the side is not told

	// draining: no further stream begins. closing: there are no streams any
	// more, and the connection ends when all is written. halfClose: our
	// direction ends then.
	draining, closing, halfClose bool
	stop                         error // why the connection ends
	stopped                      bool  // nothing is sent any more
	finishing                    bool  // the writer writes what is there, and ends
	peerGone                     bool  // the peer said that it closes
	eof                          bool  // the peer's end of a tunnel has come
	writeErr                     error
}

// side is what differs between server and client.
type side interface {
	// ended says, without locks, that a stream has ended, or that the
	// connection takes no more.
	ended()
}

func newConn(nc relay.Conn, o Options) *conn {
	c := &conn{nc: nc, o: o.withDefaults(), opened: time.Now(), writerEnded: make(chan struct{})}
	c.writer.L, c.reader.L = &c.mu, &c.mu
	return c
}

// Protocol is that of a server's open request, HTTP/1.1 if there is none.
func (c *conn) Protocol() codec.Protocol {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cur != nil && c.cur.minor10 {
		return codec.HTTP10
	}
	return codec.HTTP11
}

// Active is how many streams are open: one at most.
func (c *conn) Active() int { return int(c.active.Load()) }

// BufferedAbove reports whether more than BufferLimit waits to be written.
func (c *conn) BufferedAbove() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.size > c.o.BufferLimit
}

// Close ends the connection.
func (c *conn) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopLocked(errClosed)
}

// stopLocked has the goroutine that reads end the connection. mu is held.
func (c *conn) stopLocked(why error) {
	if c.stop == nil {
		c.stop = why
		_ = c.nc.SetReadDeadline(longAgo())
		c.wakeReader()
	}
}

// longAgo is a deadline that has passed.
func longAgo() time.Time { return time.Unix(1, 0) }

// wakeReader is called with mu held.
func (c *conn) wakeReader() {
	if c.waiting {
		c.waiting = false
		c.reader.Signal()
	}
}

// wakeWriter is called with mu held.
func (c *conn) wakeWriter() {
	if c.parked {
		c.parked = false
		c.writer.Signal()
	}
}

// wait has the reader wait until something has changed. mu is held.
func (c *conn) wait() {
	c.waiting = true
	for c.waiting {
		c.reader.Wait()
	}
}

// begin makes s the open stream; mu is held.
func (c *conn) begin(s *stream) {
	c.cur = s
	c.requests++
	c.active.Store(1)
}

// settle ends s if both of its messages are through; mu is held.
func (c *conn) settle(s *stream) {
	if s.over || !s.localDone || !s.remoteDone {
		return
	}
	c.forget(s)
	if s.close || c.draining {
		c.closeLater()
	}
}

// forget makes s no stream any more; mu is held. If the caller is not the
// reader, it wakes the writer, which tells.
func (c *conn) forget(s *stream) {
	s.over = true
	c.cur = nil
	c.active.Store(0)
	c.changed = true
	c.wakeReader()
}

// closeLater ends the connection when all is written; mu is held.
func (c *conn) closeLater() {
	if c.closing || c.stop != nil {
		return
	}
	c.draining, c.closing = true, true
	_ = c.nc.SetWriteDeadline(fromNow(closingTime))
	c.wakeWriter()
}

// tellEnded tells the side, once, what has changed. No lock is held.
func (c *conn) tellEnded() {
	c.mu.Lock()
	tell := c.changed
	c.changed = false
	c.mu.Unlock()
	if tell {
		c.side.ended()
	}
}

// awaitCredit waits until the receiver has passed on enough of what it was
// given.
func (c *conn) awaitCredit(s *stream) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	high := min(max(highMark, 1), max(c.o.BufferLimit, 1))
	if s.unconsumed < high {
		return c.stop
	}
	s.starved = true
	for s.unconsumed > high/2 && c.stop == nil && !s.muted {
		c.wait()
	}
	s.starved = false
	return c.stop
}

// highMark is how many bytes a receiver may have without saying that they have
// gone on.
const highMark = 64 << 10

// readBody gives a body to the stream's receiver, and its end.
func (c *conn) readBody(s *stream, b body) error {
	for {
		if err := c.awaitCredit(s); err != nil {
			return err
		}
		if c.in.len() == 0 {
			if err := c.fill(); err != nil {
				return c.bodyEnded(s, b, err)
			}
		}
		data, over, m := b.take(&c.in)
		if over && b.kind != bodyChunked {
			s.giveLast(data)
			return nil
		}
		if over && c.noTrailers() {
			s.giveLast(data)
			return nil
		}
		if len(data) > 0 {
			s.give(data)
		}
		if m != nil {
			return m
		}
		if over {
			return c.readTrailers(s)
		}
	}
}

// bodyEnded is the end of the connection within a body, which is the body's end
// if nothing else is.
func (c *conn) bodyEnded(s *stream, b body, err error) error {
	switch {
	case !isEnd(err):
		return err
	case b.kind != bodyClose && b.kind != bodyRaw:
		return io.ErrUnexpectedEOF
	}
	c.mu.Lock()
	s.close, c.eof = true, b.kind == bodyRaw
	c.mu.Unlock()
	s.giveLast(nil)
	return nil
}

// noTrailers takes the empty line after the last chunk, if that is there.
func (c *conn) noTrailers() bool {
	if p := c.in.data(); len(p) >= 2 && p[0] == '\r' && p[1] == '\n' {
		c.in.start += 2
		return true
	}
	return false
}

// readTrailers gives the trailers, or only the end, to the stream's receiver.
func (c *conn) readTrailers(s *stream) error {
	b := newBlock(c.o, true)
	defer b.release()
	b.drop = !c.o.EnableTrailers
	err := c.readBlock(b, nil)
	if err != nil {
		return err
	}
	if len(b.spans) == 0 {
		c.in.start += b.at
		s.giveLast(nil)
		return nil
	}
	text := string(c.in.data()[:b.at])
	c.in.start += b.at
	t, _ := b.fields(text, nil, false)
	s.giveTrailers(t)
	return nil
}
