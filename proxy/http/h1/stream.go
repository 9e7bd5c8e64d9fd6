package h1

import (
	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
)

// stream is one request and its response. It is the Sender of our side.
type stream struct {
	c *conn
	r codec.Receiver

	// Guarded by c.mu, all below.

	// What was asked, which decides how a response is framed.
	head, connect, upgrade, minor10 bool
	// close: the connection ends with the stream.
	close bool

	headSent   bool
	ended      bool // the last call was made
	localDone  bool // our message is in the buffer
	remoteDone bool
	muted      bool // the receiver has reset it, and hears nothing more
	over       bool // the connection knows it no more

	kind   bodyKind // of what is sent
	left   int64    // of a body by length
	held   []byte   // of a tunnel that the peer has not agreed to yet
	start  uint64   // what had been put into the buffer before
	began  uint64   // what had been taken of the input before
	taken  uint64   // of the input, for this stream
	put    uint64   // into the buffer, by this stream
	status int      // of the response

	unconsumed int  // given to the receiver
	starved    bool // the reader waits for less of that
	owed       int  // to be told as gone
}

// Conn is the connection.
func (s *stream) Conn() codec.Conn { return s.c.outer }

// dead reports whether nothing may be sent any more; mu is held.
func (s *stream) dead() bool { return s.over || s.ended || s.muted || s.c.stopped }

// SendHead puts a head into the buffer.
func (s *stream) SendHead(h *message.Head, end bool) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.dead() || s.headSent {
		return
	}
	switch {
	case !c.server:
		s.sendRequest(h, end)
	case h.Status < 200 && h.Status != 101:
		c.informational(s, h)
	default:
		s.sendResponse(h, end)
	}
	s.put = c.out.total - s.start
	c.wakeWriter()
}

// SendData puts p into the buffer, whatever there is in it already.
func (s *stream) SendData(p []byte, end bool) int {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.dead() || !s.headSent {
		return len(p)
	}
	before := c.out.size
	s.encodeData(p)
	if end {
		s.finishBody(nil)
	}
	s.put = c.out.total - s.start
	c.wakeWriter()
	if c.out.size == before || len(s.held) > 0 {
		return s.goneHeld(len(p))
	}
	if c.stopped {
		return len(p)
	}
	gone := min(len(p), max(c.o.BufferLimit-before, 0))
	if rest := len(p) - gone; rest > 0 {
		s.owed += rest
		c.owing = s
	}
	return gone
}

// goneHeld is for data that did not go into the buffer: what is held is owed,
// anything else is dropped. mu is held.
func (s *stream) goneHeld(n int) int {
	if len(s.held) == 0 {
		return n
	}
	s.owed += n
	return 0
}

// SendTrailers ends the message.
func (s *stream) SendTrailers(t message.Fields) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.dead() || !s.headSent {
		return
	}
	s.finishBody(t)
	s.put = c.out.total - s.start
	c.wakeWriter()
}

// Wire is codec.Metered, of a server's stream.
func (s *stream) Wire() (received, sent uint64) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.taken, s.put
}

// Reset ends the stream, and with it the connection.
func (s *stream) Reset(r codec.Reason) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.muted || s.over {
		return
	}
	s.muted = true
	if s.owed = 0; c.owing == s {
		c.owing = nil
	}
	if !s.localDone && !c.server { // a client's peer sees what there is of a response, as Envoy's does
		c.out.discard(s.start)
	}
	c.forget(s)
	if c.server && (r == codec.NoError || s.localDone) {
		c.closeLater()
		return
	}
	if !c.server && !s.headSent { // the server knows nothing of it
		c.requests--
		c.wakeWriter()
		return
	}
	c.draining = true
	c.stopLocked(errReset)
}

// Consumed lets the reader go on.
func (s *stream) Consumed(n int) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.unconsumed -= min(n, s.unconsumed)
	if s.starved && s.unconsumed <= min(highMark, c.o.BufferLimit)/2 {
		c.wakeReader()
	}
}

// The reader's calls of the receiver.

// give hands on a part of the body.
func (s *stream) give(p []byte) {
	if s.mayGive(len(p)) {
		s.r.OnData(p, false)
	}
}

// giveLast hands on the last part of the body.
func (s *stream) giveLast(p []byte) {
	if s.mayGive(len(p)) {
		s.r.OnData(p, true)
	}
	s.received()
}

func (s *stream) giveTrailers(t message.Fields) {
	if s.mayGive(0) {
		s.r.OnTrailers(t)
	}
	s.received()
}

// mayGive books n bytes for the receiver, if it still wants any.
func (s *stream) mayGive(n int) bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.taken = s.c.in.consumed() - s.began
	if s.muted || s.over {
		return false
	}
	s.unconsumed += n
	return true
}

// received notes that all of the peer's message was handed on.
func (s *stream) received() {
	c := s.c
	c.mu.Lock()
	s.remoteDone = true
	if !c.server && c.in.len() > 0 { // nobody asked for more, so nobody may ask again
		c.draining = true
	}
	c.settle(s)
	c.mu.Unlock()
}
