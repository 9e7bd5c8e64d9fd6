package h2

import (
	"slices"
	"time"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
)

// stream is one request and its response. It is the Sender of our side.
type stream struct {
	c *conn
	r codec.Receiver // set before the stream can be found

	// Of the goroutine that reads.
	gotHead  bool  // the message's head has come, no informational one
	declared int64 // its content-length; -1 is none
	received int64

	// Guarded by c.mu, all below.
	id uint32 // 0 of a request whose head is not sent yet
	// noBody says that the peer's message has no body whatever its
	// content-length says: the answer to HEAD.
	noBody  bool
	connect bool
	// upgrade is the protocol of an extended CONNECT, which the receiver sees
	// as HTTP/1's upgrade.
	upgrade string
	began   time.Time // of a client's request: when its head was read

	headSent   bool // our head is in the buffer
	ended      bool // the last call was made
	localDone  bool // our END_STREAM is in the buffer
	remoteDone bool
	muted      bool // the receiver has reset it and hears nothing more
	over       bool // the connection knows it no more
	closing    bool // reset once what waits is in the buffer

	taken, put uint64 // bytes of frames that have come, and that were put into the buffer

	sendWindow int64
	recvWindow int64
	unconsumed int // given to the receiver
	credit     int // consumed, not given back to the peer yet

	pending  chunks
	trailers message.Fields // to follow what is pending
	next     *stream        // in the ready queue
	queued   bool
	gone     int  // bytes to tell the receiver of
	listed   bool // in c.toTell
	refused  bool // to be told that it was refused
	telling  bool // the writer calls the receiver
	late     *codec.Reset
}

// SendHead writes a head.
func (s *stream) SendHead(h *message.Head, end bool) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.over || s.ended || s.muted || c.stopped || s.headSent {
		return
	}
	if s.id == 0 && !c.assign(s, h) {
		return
	}
	s.ended = end
	if h.Status == 0 || h.Status >= 200 || h.Status == 101 {
		s.headSent = true
	}
	before := c.waiting()
	c.encodeHead(s, h, end)
	s.put += uint64(c.waiting() - before)
	if end {
		s.localDone = true
		c.settle(s)
	}
	c.wakeWriter()
}

// SendData sends what the windows and the buffer have room for, and keeps the
// rest.
func (s *stream) SendData(p []byte, end bool) int {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.over || s.ended || s.muted || c.stopped || !s.headSent {
		return len(p)
	}
	s.ended = end
	n := 0
	if s.pending.size == 0 {
		n = c.writeData(s, p, end)
	}
	if rest := p[n:]; len(rest) > 0 {
		s.pending.add(rest)
		c.pendingBytes += len(rest)
		c.o.Stats.PendingSendBytes.Add(int64(len(rest)))
		c.makeReady(s)
	}
	c.wakeWriter()
	return n
}

// SendTrailers ends the message.
func (s *stream) SendTrailers(t message.Fields) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.over || s.ended || s.muted || c.stopped || !s.headSent {
		return
	}
	s.ended = true
	if s.pending.size > 0 {
		s.trailers = slices.Clone(t)
		return
	}
	c.endWith(s, t)
	c.wakeWriter()
}

// endWith writes the end of a message: its trailers, or an empty frame if it
// has none (as Envoy does). mu is held.
func (c *conn) endWith(s *stream, t message.Fields) {
	before := c.waiting()
	if len(t) == 0 || !c.encodeTrailers(s, t) {
		b := c.buffer()
		b.b = appendFrame(b.b, frame{kind: frameData, flags: flagEndStream, stream: s.id})
		c.queued()
	}
	s.put += uint64(c.waiting() - before)
	s.localDone = true
	c.settle(s)
}

// Wire is codec.Metered.
func (s *stream) Wire() (received, sent uint64) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.taken, s.put
}

// Reset ends the stream.
func (s *stream) Reset(r codec.Reason) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.muted {
		return
	}
	s.muted = true
	c.giveBackAll(s)
	if s.over {
		return
	}
	if r == codec.NoError && s.ended && !s.localDone {
		s.closing = true // what is complete is sent first
		return
	}
	c.resetLocked(s, codeOf(r))
}

// resetLocked sends RST_STREAM and forgets the stream; mu is held.
func (c *conn) resetLocked(s *stream, code errCode) {
	if s.id == 0 {
		c.unsent = slices.DeleteFunc(c.unsent, func(x *stream) bool { return x == s })
	} else if !c.stopped {
		c.queueReset(s.id, code)
		c.ourResets.add(s.id)
	}
	c.forget(s)
	c.wakeWriter()
}

func codeOf(r codec.Reason) errCode {
	switch r {
	case codec.NoError:
		return codeNoError
	case codec.InternalError:
		return codeInternal
	case codec.ProtocolError:
		return codeProtocol
	case codec.Refused:
		return codeRefusedStream
	case codec.ConnectError:
		return codeConnect
	case codec.Overload:
		return codeEnhanceYourCalm
	case codec.Cancel, codec.Closed, codec.RemoteOther:
	}
	return codeCancel
}

// Consumed gives credit back to the peer.
func (s *stream) Consumed(n int) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if n = min(n, s.unconsumed); n <= 0 {
		return
	}
	s.unconsumed -= n
	c.giveBack(s, n)
}

// Conn is the connection.
func (s *stream) Conn() codec.Conn { return s.c.outer }

// giveBack returns n bytes of both windows to the peer; mu is held.
func (c *conn) giveBack(s *stream, n int) {
	c.giveBackConn(n)
	if s.over || s.remoteDone || c.stopped {
		return
	}
	if s.credit += n; s.credit < int(c.o.InitialStreamWindow)/2 {
		return
	}
	s.recvWindow += int64(s.credit)
	b := c.buffer()
	b.b = appendWindowUpdate(b.b, s.id, s.credit)
	s.credit = 0
	c.queued()
	c.wakeWriter()
}

// giveBackConn returns n bytes of the connection's window; mu is held.
func (c *conn) giveBackConn(n int) {
	if c.credit += n; c.credit < int(c.o.InitialConnWindow)/2 || c.stopped {
		return
	}
	c.recvWindow += int64(c.credit)
	b := c.buffer()
	b.b = appendWindowUpdate(b.b, 0, c.credit)
	c.credit = 0
	c.queued()
	c.wakeWriter()
}

// giveBackAll returns what a receiver will not consume any more to the
// connection's window; mu is held.
func (c *conn) giveBackAll(s *stream) {
	if s.unconsumed > 0 {
		c.giveBackConn(s.unconsumed)
		s.unconsumed = 0
	}
}
