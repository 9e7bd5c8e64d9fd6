package h1

import (
	"bytes"
	"errors"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
	"outrider/proxy/relay"
)

var (
	errEarly   = errors.New("the response was complete before the request")
	errUnasked = errors.New("bytes without a request")
)

// client is the side that makes requests.
type client struct {
	*conn
	pool codec.Pool
	told bool // that it is draining; guarded by mu
}

// NewClient is the client's side of nc, which it owns from then on. A stream
// may be opened before Run.
func NewClient(nc relay.Conn, p codec.Pool, o Options) codec.Client {
	or(&o.MaxHeaderBytes, defaultResponseBytes)
	c := &client{conn: newConn(nc, o), pool: p}
	c.conn.side, c.conn.outer = c, c
	return c
}

// Run serves the connection to its end.
func (c *client) Run() *codec.End { return c.run(c.readLoop) }

// Open begins a request, if there is no other.
func (c *client) Open(r codec.Receiver) (codec.Sender, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.roomLocked() == 0 {
		return nil, codec.ErrUnavailable
	}
	s := &stream{c: c.conn, r: r, start: c.out.total}
	c.begin(s)
	return s, nil
}

// Room is 1, or 0 while there is a request and after the last.
func (c *client) Room() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.roomLocked()
}

func (c *client) roomLocked() int {
	if c.cur != nil || c.draining || c.stop != nil {
		return 0
	}
	return 1
}

// Draining reports that the connection takes no request any more.
func (c *client) Draining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining || c.stop != nil
}

// ended tells the pool.
func (c *client) ended() {
	c.pool.Freed(c)
	c.mu.Lock()
	tell := !c.told && (c.draining || c.stop != nil)
	c.told = c.told || tell
	c.mu.Unlock()
	if tell {
		c.pool.Drained(c)
	}
}

// readLoop reads until the connection ends, and says why.
func (c *client) readLoop() error {
	for {
		if c.in.len() == 0 {
			if err := c.fill(); err != nil {
				return err
			}
		}
		s, err := c.asked()
		if err != nil {
			return err
		}
		if err := c.readResponse(s); err != nil {
			return err
		}
		if err := c.after(s); err != nil {
			return err
		}
		c.tellEnded()
	}
}

// asked is the stream that bytes are for.
func (c *client) asked() (*stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.stop != nil:
		return nil, c.stop
	case c.cur == nil || !c.cur.headSent:
		c.draining = true
		return nil, c.unasked()
	}
	return c.cur, nil
}

// unasked is what an idle connection's server said: 408 Request Timeout comes
// from one that closes it.
func (c *client) unasked() error {
	line, _, _ := bytes.Cut(c.in.data(), []byte("\r\n"))
	return &unasked{string(excerpt(line))}
}

type unasked struct{ line string }

func (u *unasked) Error() string { return errUnasked.Error() + ": " + u.line }
func (u *unasked) Unwrap() error { return errUnasked }

// after ends a response: the connection goes on only if the request was through
// and nothing else has come.
func (c *client) after(s *stream) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.eof && !s.over && c.stop == nil {
		c.wait() // for our end of the tunnel
	}
	if c.in.len() > 0 && c.stop == nil {
		return c.unasked()
	}
	for c.closing && c.stop == nil {
		c.wait() // until all is written
	}
	if c.stop == nil && !s.over && !s.localDone {
		c.draining = true
		return errEarly
	}
	return c.stop
}

// readResponse gives a response to its receiver, with the informational ones
// before it.
func (c *client) readResponse(s *stream) error {
	for {
		r, err := c.readHead(s)
		if err != nil {
			return err
		}
		if r.informational {
			if s.mayGive(0) {
				s.r.OnHead(r.head, false)
			}
			continue
		}
		return c.readFinal(s, r)
	}
}

func (c *client) readFinal(s *stream, r response) error {
	c.agree(s, r)
	end := r.body == bodyNone || r.body == bodyLength && r.left == 0
	if s.mayGive(0) {
		s.r.OnHead(r.head, end)
	}
	if end {
		s.received()
		return nil
	}
	return c.readBody(s, body{kind: r.body, left: r.left})
}

// agree books what a response says about the connection and about a tunnel.
func (c *client) agree(s *stream, r response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.status = r.head.Status
	if r.close {
		s.close, c.peerGone = true, true
	}
	if s.over {
		return
	}
	switch {
	case s.kind != bodyRaw:
	case r.body == bodyRaw:
		c.out.add(s.held)
	case s.connect:
		s.close = true // what was sent may be taken for a request
	default:
		s.ended, s.localDone = true, true // the request had no body then
	}
	if s.kind == bodyRaw && s.upgrade {
		if s.owed > 0 {
			c.owing = s
		}
		s.held = nil
		if s.ended && !s.localDone {
			s.finishBody(nil)
		}
		c.wakeWriter()
	}
}

// response is what a client knows of a response's head.
type response struct {
	head          *message.Head
	body          bodyKind
	left          int64
	close         bool
	informational bool
}

// readHead reads a response's head.
func (c *client) readHead(s *stream) (response, error) {
	b := newBlock(c.o, false)
	defer b.release()
	b.noBlank = true
	var line statusLine
	err := c.readBlock(b, line.parse)
	if err != nil {
		return response{}, err
	}
	text := string(c.in.data()[:b.at])
	c.in.start += b.at
	r := response{head: message.NewHead()}
	r.head.Status, r.head.Minor10 = line.status, line.minor10
	var f framing
	r.head.Fields, f = b.fields(text, r.head.Fields, false)
	if m := r.check(c.o, s, f); m != nil {
		r.head.Release()
		return response{}, m
	}
	return r, nil
}

// statusLine is the first line of a response.
type statusLine struct {
	status  int
	minor10 bool
}

// parse takes it apart; the reason is of no interest.
func (l *statusLine) parse(line []byte) *mistake {
	if len(line) < 12 || line[8] != ' ' || !digit(line[9]) || !digit(line[10]) || !digit(line[11]) ||
		len(line) > 12 && line[12] != ' ' {
		return badFirst(line, "not a response")
	}
	switch version(line[:8]) {
	case "1.1":
	case "1.0":
		l.minor10 = true
	default:
		return badFirst(line, "not a response of HTTP/1")
	}
	if !all(valueChars, line) {
		return badFirst(line, "a reason with control characters")
	}
	l.status = int(line[9]-'0')*100 + int(line[10]-'0')*10 + int(line[11]-'0')
	if l.status < 100 {
		return badFirst(line, "a status below 100")
	}
	return nil
}

// check finds out what follows a head, or refuses it.
func (r *response) check(o *Options, s *stream, f framing) *mistake {
	status := r.head.Status
	r.informational = status < 200 && status != 101
	r.close = !f.keepsAlive(r.head.Minor10)
	if r.informational || status == 204 || status == 101 {
		return r.checkNoBody(s, f)
	}
	if s.connect && status < 300 {
		if f.encodings > 0 {
			return refused(0, detailEncoding, "transfer-encoding in the answer to CONNECT")
		}
		r.head.Fields.Del("content-length")
		r.body = bodyRaw
		return nil
	}
	chunked, m := f.checkLengths(o)
	switch {
	case m != nil:
		return m
	case chunked && r.head.Minor10:
		return refused(0, detailEncoding, "transfer-encoding in HTTP/1.0")
	case chunked && f.lengths > 0:
		r.head.Fields.Del("content-length")
	}
	switch {
	case s.head || status == 304:
	case chunked:
		r.body = bodyChunked
	case f.lengths > 0:
		r.body, r.left = bodyLength, f.length
	default:
		r.body, r.close = bodyClose, true
	}
	return nil
}

// checkNoBody is for responses that never have a body.
func (r *response) checkNoBody(s *stream, f framing) *mistake {
	switch {
	case r.head.Status == 101 && !s.upgrade:
		return refused(0, detailCodec, "101 without a request for it")
	case f.encodings > 0:
		return refused(0, detailEncodingStatus, "transfer-encoding with status %d", r.head.Status)
	case f.lengths > 1 || f.lengths == 1 && f.length != 0:
		return refused(0, detailLength, "content-length with status %d", r.head.Status)
	case f.lengths > 0:
		r.head.Fields.Del("content-length")
	}
	if r.head.Status == 101 {
		r.body = bodyRaw
	}
	return nil
}
