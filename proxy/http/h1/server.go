package h1

import (
	"errors"

	"outrider/proxy/http/codec"
	"outrider/proxy/relay"
)

// Refuser is what a codec.Requests may be besides: it answers what the codec
// refuses. Refuse is Request for such a request: there is no OnHead, and all of
// it counts as received. With nil the codec answers. The connection ends after
// the response.
type Refuser interface {
	Refuse(s codec.Sender, r Refusal) codec.Receiver
}

// Mistaken is what the receiver of a request may be besides: it answers a
// mistake in the rest of that request, which counts as received then. With false,
// and where the response has begun already, the codec answers if it can, and
// resets the stream. The connection ends after the response.
type Mistaken interface {
	OnMistake(r Refusal) bool
}

// Refusal is what the codec would answer to a mistake of the client.
type Refusal struct {
	Status int
	// Details are Envoy's response code details.
	Details string
	// Body is the text of the answer.
	Body string
	// Timeout says that nothing was wrong, but that it took too long.
	Timeout bool
	// Err says what was wrong.
	Err error
}

// server is the side that takes requests.
type server struct {
	*conn
	requests codec.Requests
}

// NewServer is the server's side of nc, which it owns from then on.
//
// A request without Host has the Authority "", and is for r to refuse. Idle is
// called by the goroutine that reads or by the one that writes, whichever sees
// the end first.
func NewServer(nc relay.Conn, r codec.Requests, o Options) codec.Server {
	s := &server{newConn(nc, o), r}
	s.conn.side, s.conn.outer, s.conn.server = s, s, true
	return s
}

// Serve serves the connection to its end.
func (s *server) Serve() *codec.End { return s.run(s.readLoop) }

// Drain has the next response say that the connection closes; final closes it
// at once if there is no request.
func (s *server) Drain(final bool) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	if final && c.cur == nil && !c.stopped {
		c.closeLater()
	}
}

func (s *server) ended() {
	if s.Active() == 0 {
		s.requests.Idle()
	}
}

// readLoop reads until the connection ends, and says why.
func (s *server) readLoop() error {
	for {
		if err := s.turn(); err != nil {
			return err
		}
		if err := s.serveRequest(); err != nil {
			return err
		}
	}
}

// turn waits until the response before is written, but for what the buffer may
// hold, and there are bytes of another request.
func (s *server) turn() error {
	c := s.conn
	for {
		c.tellEnded()
		c.mu.Lock()
		for (c.in.len() > 0 || c.eof) && c.busy() && c.stop == nil {
			c.wait()
		}
		free, stop := !c.busy(), c.stop
		c.mu.Unlock()
		switch {
		case stop != nil:
			return stop
		case free && c.in.len() > 0:
			c.tellEnded()
			return nil
		}
		if err := c.fill(); err != nil {
			return err
		}
	}
}

// busy reports whether no further request may begin; mu is held.
func (c *conn) busy() bool {
	return c.cur != nil || c.closing || c.owing != nil || c.out.size > c.o.BufferLimit
}

// serveRequest takes one request.
func (s *server) serveRequest() error {
	c := s.conn
	began := c.in.consumed()
	r, err := c.readRequest()
	if err != nil {
		return s.refuse(err)
	}
	if c.requestsOver() {
		r.head.Release()
		return s.turn()
	}
	st := &stream{
		c: c, head: r.head.Method == "HEAD", connect: r.head.Method == "CONNECT",
		upgrade: r.upgrade, minor10: r.head.Minor10, close: r.close,
		began: began, taken: c.in.consumed() - began,
	}
	end := r.body == bodyNone && !r.upgrade
	s.begin(st)
	if !st.receive(s.requests.Request(st)) {
		r.head.Release()
		return &mistake{status: 503, what: "the request was not taken"}
	}
	st.r.OnHead(r.head, end)
	switch {
	case end:
		st.received()
		return nil
	case r.upgrade:
		return s.readUpgrade(st)
	}
	return s.mistaken(st, c.readBody(st, body{kind: r.body, left: r.left}))
}

// mistaken has the receiver answer a mistake, if it does that.
func (s *server) mistaken(st *stream, err error) error {
	var m *mistake
	r, ok := st.r.(Mistaken)
	if !ok || !errors.As(err, &m) || !st.mayGive(0) || !st.endWith() || !r.OnMistake(m.refusal()) {
		return err
	}
	s.conn.o.Log.Debug("request refused in its body", "status", m.status, "details", m.details, "error", err)
	st.received()
	return nil
}

// endWith has the connection end with the stream, unless its response has begun
// already.
func (s *stream) endWith() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.close = s.close || !s.headSent
	return !s.headSent
}

// receive sets the receiver, and reports whether there is one. What was sent
// before may be gone by now.
func (s *stream) receive(r codec.Receiver) bool {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.r = r; c.owing == s {
		c.wakeWriter()
	}
	return r != nil
}

// requestsOver reports whether the connection was closing when a request came.
func (c *conn) requestsOver() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

func (s *server) begin(st *stream) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	st.start = s.conn.out.total
	s.conn.begin(st)
}

// readUpgrade waits for the response: after a 101 all that comes is raw, after
// any other the request had no body.
func (s *server) readUpgrade(st *stream) error {
	c := s.conn
	for {
		c.mu.Lock()
		for c.in.len() > 0 && !st.headSent && !st.muted && c.stop == nil {
			c.wait()
		}
		answered, tunnel, muted, stop := st.headSent, st.tunnel(), st.muted, c.stop
		c.mu.Unlock()
		switch {
		case stop != nil:
			return stop
		case muted:
			return nil
		case answered && tunnel:
			return c.readBody(st, body{kind: bodyRaw})
		case answered:
			st.giveLast(nil)
			return nil
		}
		if err := c.fill(); err != nil {
			return err
		}
	}
}

// refuse answers a mistake that is no request yet.
func (s *server) refuse(err error) error {
	c := s.conn
	var m *mistake
	if !errors.As(err, &m) {
		return err
	}
	c.o.Log.Debug("request refused", "status", m.status, "details", m.details, "error", err)
	f, ok := s.requests.(Refuser)
	if !ok {
		return m
	}
	st := &stream{c: c, close: true, remoteDone: true}
	s.begin(st)
	if !st.receive(f.Refuse(st, m.refusal())) {
		return m
	}
	return nil
}
