package h2

import (
	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
	"outrider/proxy/relay"
)

// server is the side that takes requests.
type server struct {
	*conn
	requests codec.Requests
}

// NewServer is the server's side of nc, which it owns from then on. It says
// nothing before Serve.
func NewServer(nc relay.Conn, r codec.Requests, o Options) codec.Server {
	s := &server{newConn(nc, o), r}
	s.conn.side, s.conn.outer, s.conn.server = s, s, true
	s.begin()
	return s
}

// Serve serves the connection to its end.
func (s *server) Serve() *codec.End { return s.run() }

// Drain announces the end with GOAWAY: first with the highest stream there is,
// in the end with the last that was taken.
func (s *server) Drain(final bool) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped || c.draining {
		return
	}
	if !final {
		if !c.announced {
			c.announced = true
			b := c.buffer()
			b.b = appendGoAway(b.b, maxStreamID, codeNoError, "")
			c.queued()
			c.o.Stats.GoAwayGracefulSent.Inc()
		}
		return
	}
	c.draining = true
	b := c.buffer()
	b.b = appendGoAway(b.b, c.lastTaken, codeNoError, "")
	c.queued()
	c.o.Stats.GoAwaySent.Inc() // the writer looks whether that was all
}

func (s *server) ended() {
	if s.Active() == 0 {
		s.requests.Idle()
	}
}

// drained is of no meaning to a server: the client's GOAWAY is about streams of
// ours, and there are none.
func (s *server) drained() {}

func (s *server) finished() bool { return s.draining && s.Active() == 0 }

// response is never called: each stream of a server begins with its head.
func (s *server) response(*stream, frame, []byte) error { return nil }

// newStream takes a request.
func (s *server) newStream(f frame, p []byte) error {
	c := s.conn
	if f.stream%2 == 0 {
		return connErrorf(codeProtocol, "a request on stream %d", f.stream)
	}
	c.mu.Lock()
	closed := f.stream <= c.lastPeer
	known := closed && (f.stream > c.lastTaken || c.ourResets.has(f.stream))
	ignored := c.draining || c.stop != nil
	c.lastPeer = max(c.lastPeer, f.stream)
	if !closed && !ignored {
		c.lastTaken = f.stream
	}
	c.mu.Unlock()
	switch {
	case closed && !known:
		return connErrorf(codeStreamClosed, "HEADERS on closed stream %d", f.stream)
	case closed, ignored:
		return c.decode(discarded, p)
	}
	if err := c.decode(requestHead, p); err != nil {
		return err
	}
	return s.request(f)
}

// request begins the request that is in the block.
func (s *server) request(f frame) error {
	c, b, end := s.conn, &s.conn.block, f.has(flagEndStream)
	if c.Active() >= int(c.o.MaxConcurrentStreams) {
		b.head.Release()
		c.o.Stats.StreamRefusedErrors.Inc()
		c.refuse(f.stream)
		return nil
	}
	head := b.head
	b.checkRequest()
	b.head = nil
	if end && b.declared > 0 {
		b.refuse(detailHeader, "content-length without a body")
	}
	st := c.accept(f.stream, head, end)
	r := s.requests.Request(st)
	if r == nil {
		head.Release()
		st.Reset(codec.Refused)
		return nil
	}
	c.attach(st, r)
	switch {
	case b.over:
		head.Release()
		c.overLimits(st)
		return nil
	case b.bad != "":
		head.Release()
		return c.malformed(st, b.bad, b.what)
	}
	if b.protocol != "" {
		asUpgrade(head, b.protocol)
	}
	r.OnHead(head, end)
	return nil
}

// attach gives a stream its receiver, which may have sent something already.
func (c *conn) attach(s *stream, r codec.Receiver) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.r = r
	if s.gone > 0 {
		c.list(s)
		c.wakeWriter()
	}
}

// accept makes the stream of a request.
func (c *conn) accept(id uint32, h *message.Head, end bool) *stream {
	st := &stream{
		c: c, id: id, gotHead: true, remoteDone: end, began: c.in.at, recvWindow: int64(c.o.InitialStreamWindow),
		connect: h.Method == "CONNECT", upgrade: c.block.protocol, declared: c.block.declared,
		taken: uint64(c.block.wire),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	st.sendWindow = c.peerWindow
	c.requests++
	c.add(st)
	return st
}

// asUpgrade makes an extended CONNECT what HTTP/1 says instead.
func asUpgrade(h *message.Head, protocol string) {
	h.Method = "GET"
	h.Fields.Set("upgrade", protocol)
	h.Fields.Set("connection", "upgrade")
}

// refuse resets a stream that nobody knows.
func (c *conn) refuse(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queueReset(id, codeRefusedStream)
	c.ourResets.add(id)
}
