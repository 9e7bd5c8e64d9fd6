package h2

import (
	"slices"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
	"outrider/proxy/relay"
)

// client is the side that makes requests.
type client struct {
	*conn
	pool codec.Pool
	told bool // that it is draining; guarded by mu
}

// NewClient is the client's side of nc, which it owns from then on. It says
// nothing before Run, but streams may be opened already.
func NewClient(nc relay.Conn, p codec.Pool, o Options) codec.Client {
	c := &client{conn: newConn(nc, o), pool: p}
	c.conn.side, c.conn.outer, c.conn.nextOwn = c, c, 1
	c.begin()
	return c
}

// Run serves the connection to its end.
func (c *client) Run() *codec.End { return c.run() }

// Open begins a request.
func (c *client) Open(r codec.Receiver) (codec.Sender, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.roomLocked() == 0 {
		return nil, codec.ErrUnavailable
	}
	c.pingIfIdle()
	s := &stream{c: c.conn, r: r, declared: -1}
	c.unsent = append(c.unsent, s)
	c.add(s)
	return s, nil
}

// Room is how many streams may be opened now.
func (c *client) Room() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.roomLocked()
}

func (c *client) roomLocked() int {
	if c.goneLocked() {
		return 0
	}
	return max(0, int(min(c.o.MaxConcurrentStreams, c.peerStreams))-c.Active())
}

// goneLocked reports whether the connection takes no request any more.
func (c *conn) goneLocked() bool {
	return c.peerGone || c.stop != nil || c.stopped || c.nextOwn > maxStreamID
}

// Draining reports whether the connection takes no request any more.
func (c *client) Draining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.goneLocked()
}

// assign gives a stream its number, with its head; mu is held. It is false if
// the connection takes no request any more: the receiver is told later.
func (c *conn) assign(s *stream, h *message.Head) bool {
	c.unsent = slices.DeleteFunc(c.unsent, func(x *stream) bool { return x == s })
	if c.goneLocked() {
		c.forget(s)
		s.refused = true
		c.list(s)
		c.wakeWriter()
		return false
	}
	s.id = c.nextOwn
	c.nextOwn += 2
	c.requests++
	c.streams[s.id] = s
	s.sendWindow, s.recvWindow = c.peerWindow, int64(c.o.InitialStreamWindow)
	s.noBody = h.Method == "HEAD"
	s.connect = h.Method == "CONNECT"
	if up := h.Fields.Value("upgrade"); up != "" && h.Method == "GET" {
		s.upgrade = up
	}
	return true
}

// ended tells the pool.
func (c *client) ended() {
	c.pool.Freed(c)
	c.drained()
}

// drained tells the pool, once, that the connection takes no more.
func (c *client) drained() {
	c.mu.Lock()
	tell := !c.told && c.goneLocked()
	c.told = c.told || tell
	c.stopIfThrough()
	c.mu.Unlock()
	if tell {
		c.pool.Drained(c)
	}
}

func (c *client) finished() bool {
	return (c.peerGone || c.nextOwn > maxStreamID) && c.Active() == 0
}

// newStream takes a block of a stream that is gone, or was never there.
func (c *client) newStream(f frame, p []byte) error {
	c.mu.Lock()
	idle := c.idle(f.stream)
	c.mu.Unlock()
	if idle || f.stream%2 == 0 {
		return connErrorf(codeProtocol, "HEADERS on stream %d, which is not ours", f.stream)
	}
	return c.decode(discarded, p)
}

// response takes a response's head, or an informational one.
func (c *client) response(s *stream, f frame, p []byte) error {
	if err := c.decode(responseHead, p); err != nil {
		return err
	}
	b, end := &c.block, f.has(flagEndStream)
	head := b.head
	b.head = nil
	if b.over {
		head.Release()
		c.overLimits(s)
		return nil
	}
	informational := head.Status < 200
	switch {
	case head.Status == 0:
		b.refuse(detailMessaging, "a response without :status")
	case informational && end:
		b.refuse(detailMessaging, "an informational response that ends the stream")
	}
	muted := false
	if b.bad == "" {
		muted = c.begun(s, head, end)
	}
	if b.bad != "" {
		head.Release()
		return c.malformed(s, b.bad, b.what)
	}
	if muted {
		head.Release()
		return nil
	}
	s.r.OnHead(head, end)
	return nil
}

// begun books a head of a response. It reports whether nobody wants it.
func (c *client) begun(s *stream, h *message.Head, end bool) (muted bool) {
	b := &c.block
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.Status < 200 {
		return s.muted
	}
	s.gotHead, s.declared = true, b.declared
	s.noBody = s.noBody || h.Status == 204 || h.Status == 304
	if s.connect && h.Status < 300 {
		s.declared = -1
	}
	if end && !s.countBody(0, true) {
		b.refuse(detailHeader, "content-length without a body")
		return s.muted
	}
	if s.upgrade != "" && h.Status == 200 {
		h.Status = 101
		h.Fields.Set("upgrade", s.upgrade)
		h.Fields.Set("connection", "upgrade")
	}
	s.remoteDone = end
	c.settle(s)
	return s.muted
}
