package h1

import (
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"outrider/proxy/http/codec"
)

var (
	errClosed = errors.New("closed by us")
	errDone   = errors.New("the last message is through")
	errReset  = errors.New("the stream was reset")
	errShort  = errors.New("a body was shorter than its content-length")
)

const (
	// flushTime is how long what is buffered may take to go out when a
	// connection ends before its time.
	flushTime = time.Second
	// closingTime is how long each 64 KiB may take of the last messages.
	closingTime = 30 * time.Second
)

func fromNow(d time.Duration) time.Time { return time.Now().Add(d) }

// isEnd reports whether err is the end of the peer's direction.
func isEnd(err error) bool { return errors.Is(err, io.EOF) }

// run serves the connection: read reads until it ends.
func (c *conn) run(read func() error) *codec.End {
	go c.writeLoop()
	return c.finish(read())
}

// finish ends the connection for err: tells the stream that is open, has the
// writer write what is there, and closes.
func (c *conn) finish(err error) *codec.End {
	var m *mistake
	errors.As(err, &m)
	end := c.end(err)
	c.mu.Lock()
	s := c.cur
	if m != nil && c.server {
		c.answer(s, m)
	}
	if c.stop == nil {
		c.stop = err
	}
	if s != nil || !c.closing || end.By != codec.ByFIN { // else all is complete, and may take its time
		_ = c.nc.SetWriteDeadline(flushDeadline(end.By))
	}
	c.stopped, c.finishing, c.draining = true, true, true
	c.changed = c.changed || !c.server // the pool hears of the end in any case
	tell := s != nil && s.r != nil && !s.muted && !s.over
	if s != nil {
		c.forget(s)
		s.muted = true
		if c.owing == s {
			c.owing = nil
		}
	}
	for c.telling {
		c.wait()
	}
	c.wakeWriter()
	c.mu.Unlock()
	if m != nil && c.server && c.o.Mistake != nil {
		c.o.Mistake(m.status, m.details)
	}
	if tell {
		s.r.OnReset(resetOf(c.server, err, m, end))
	}
	c.tellEnded()
	<-c.writerEnded
	if end.By == codec.ByUs && c.server && !errors.Is(err, errClosed) {
		c.linger()
	}
	c.in.drop()
	_ = c.nc.Close()
	end.BytesWritten = c.bytesWritten.Load()
	return end
}

func resetOf(server bool, err error, m *mistake, end *codec.End) codec.Reset {
	r := codec.Reset{Reason: codec.Closed, Remote: end.By != codec.ByUs, Err: end.Err, End: end}
	if m != nil {
		r.Reason, r.Details, r.Err = codec.ProtocolError, m.details, m
	}
	switch {
	case errors.Is(err, errEarly):
		r.Reason, r.Remote = codec.NoError, true
	case errors.Is(err, io.ErrUnexpectedEOF) && !server:
		// As Envoy has it: its codec, not the connection, finds the end too early.
		r.Reason, r.Remote, r.Details = codec.ProtocolError, false, detailCodec
	}
	return r
}

// answer puts the answer to a mistake into the buffer, if nothing else was said
// yet; mu is held.
func (c *conn) answer(s *stream, m *mistake) {
	if m.status == 0 || s != nil && (s.headSent || s.muted) || c.stopped {
		return
	}
	text := m.text()
	c.status(m.status, false)
	c.field("content-length", strconv.Itoa(len(text)))
	if text != "" {
		c.field("content-type", "text/plain")
	}
	c.field("connection", "close")
	c.out.text("\r\n")
	c.out.text(text)
}

// flushDeadline is until when the writer may write.
func flushDeadline(by codec.Closer) time.Time {
	if by == codec.ByRST || by == codec.ByTimeout {
		return longAgo()
	}
	return fromNow(flushTime)
}

// linger ends our direction and waits for the peer to end its own, so that
// nothing that it sends makes the kernel throw away what we said last.
func (c *conn) linger() {
	if c.o.CloseDelay < 0 || c.nc.CloseWrite() != nil {
		return
	}
	_ = c.nc.SetReadDeadline(fromNow(c.o.CloseDelay))
	c.in.drop()
	buf := readBuffers.Get().(*[readSize]byte)
	defer readBuffers.Put(buf)
	for {
		if _, err := c.nc.Read(buf[:]); err != nil {
			return
		}
	}
}

// end is how the connection ended.
func (c *conn) end(err error) *codec.End {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := &codec.End{
		By: closer(err), BytesRead: c.in.bytes, BytesWritten: c.bytesWritten.Load(),
		Requests: c.requests, Opened: c.opened, LastRead: c.in.lastRead(), At: time.Now(), GoAway: c.peerGone,
	}
	if e.By == codec.ByFIN && c.writeErr != nil && closer(c.writeErr) == codec.ByRST {
		e.By, err = codec.ByRST, c.writeErr // the kernel told the writer, and tells it once
	}
	if err != io.EOF && !errors.Is(err, errClosed) && !errors.Is(err, errDone) {
		e.Err = err
	}
	return e
}

// closer tells from an error who ended a connection.
func closer(err error) codec.Closer {
	var m *mistake
	var errno syscall.Errno
	switch {
	case ours(err), errors.Is(err, net.ErrClosed), errors.As(err, &m):
		return codec.ByUs
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return codec.ByFIN
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return codec.ByRST
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &errno):
		return codec.ByTimeout
	}
	return codec.ByTLS
}

// ours reports whether it was us who ended the connection.
func ours(err error) bool {
	for _, e := range []error{errClosed, errDone, errReset, errShort, errEarly, errUnasked} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
