package h2

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"outrider/proxy/http/codec"
)

var (
	errClosed  = errors.New("closed by us")
	errDrained = errors.New("drained")
)

// flushTime is how long what is buffered may take to go out when a connection
// ends.
const flushTime = time.Second

// streamError resets one stream for a mistake of the peer, and tells its
// receiver.
func (c *conn) streamError(s *stream, code errCode, detail, what string) {
	c.resetFor(s, codec.Reset{Reason: codec.ProtocolError, Code: uint32(code), Details: detail, Err: &connError{what: what}})
}

// resetFor resets one stream with r.Code, and tells its receiver of r.
func (c *conn) resetFor(s *stream, r codec.Reset) {
	c.mu.Lock()
	if s.over {
		c.mu.Unlock()
		return
	}
	c.queueReset(s.id, errCode(r.Code))
	c.ourResets.add(s.id)
	c.mu.Unlock()
	c.reset(s, r)
}

// finish ends the connection for err: tells the streams, has the writer write
// what is there, and closes.
func (c *conn) finish(err error) *codec.End {
	var mistake *connError
	errors.As(err, &mistake)
	end := c.end(err)
	c.mu.Lock()
	if mistake != nil && !mistake.silent && !c.stopped {
		b := c.buffer()
		b.b = appendGoAway(b.b, c.lastTaken, mistake.code, mistake.what)
		c.o.Stats.GoAwaySent.Inc()
	}
	if c.stop == nil {
		c.stop = err
	}
	c.stopped, c.finishing = true, true
	c.nc.SetWriteDeadline(flushDeadline(end.By, mistake))
	open := append([]*stream(nil), c.unsent...)
	for _, s := range c.streams {
		open = append(open, s)
	}
	c.unsent = nil
	c.wakeWriter()
	c.mu.Unlock()
	r := codec.Reset{Reason: codec.Closed, Remote: end.By != codec.ByUs, Err: end.Err, End: end}
	if mistake != nil {
		r.Reason, r.Details, r.Code = codec.ProtocolError, mistake.detail(), uint32(mistake.code)
	}
	for _, s := range open {
		c.reset(s, r)
	}
	c.tellEnded()
	c.side.drained()
	<-c.writerEnded
	if mistake != nil && !mistake.silent || errors.Is(err, errDrained) {
		c.linger()
	}
	c.nc.Close()
	end.BytesWritten = c.bytesWritten.Load()
	return end
}

// flushDeadline is until when the writer may write.
func flushDeadline(by codec.Closer, mistake *connError) time.Time {
	if mistake != nil && mistake.silent || by == codec.ByRST || by == codec.ByTimeout {
		return longAgo()
	}
	return time.Now().Add(flushTime)
}

// linger ends our direction and waits for the peer to end its own, so that
// nothing that it sends makes the kernel throw away what we said last.
func (c *conn) linger() {
	if c.o.CloseDelay == 0 || c.nc.CloseWrite() != nil {
		return
	}
	c.nc.SetReadDeadline(time.Now().Add(c.o.CloseDelay))
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
	if err == io.EOF && c.goAway != nil {
		err = c.goAway
	}
	if err != io.EOF && !errors.Is(err, errClosed) && !errors.Is(err, errDrained) {
		e.Err = err
	}
	return e
}

// closer tells from an error who ended a connection.
func closer(err error) codec.Closer {
	var mistake *connError
	var errno syscall.Errno
	switch {
	case errors.Is(err, errClosed), errors.Is(err, errDrained), errors.Is(err, net.ErrClosed), errors.As(err, &mistake):
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
