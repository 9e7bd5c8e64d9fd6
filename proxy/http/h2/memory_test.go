package h2

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipe is one direction of a connection in memory, with a buffer.
type pipe struct {
	mu       sync.Mutex
	cond     sync.Cond
	b        []byte
	start    int
	closed   bool
	deadline bool
	limit    int

	writeDeadline     bool
	timer, writeTimer *time.Timer
}

func newPipe() *pipe {
	p := &pipe{limit: 256 << 10}
	p.cond.L = &p.mu
	return p
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.start == len(p.b) && !p.closed && !p.deadline {
		p.cond.Wait()
	}
	if p.deadline {
		return 0, os.ErrDeadlineExceeded
	}
	if p.start == len(p.b) {
		return 0, io.EOF
	}
	if b == nil {
		return 0, nil
	}
	n := copy(b, p.b[p.start:])
	if p.start += n; p.start == len(p.b) {
		p.b, p.start = p.b[:0], 0
	}
	p.cond.Broadcast()
	return n, nil
}

func (p *pipe) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.b)-p.start > p.limit && !p.closed && !p.writeDeadline {
		p.cond.Wait()
	}
	if p.writeDeadline {
		return 0, os.ErrDeadlineExceeded
	}
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	p.b = append(p.b, b...)
	p.cond.Broadcast()
	return len(b), nil
}

func (p *pipe) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cond.Broadcast()
}

// memoryConn is a connection in memory, and a relay.Conn.
type memoryConn struct{ in, out *pipe }

func (c *memoryConn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *memoryConn) Write(b []byte) (int, error) { return c.out.write(b) }
func (c *memoryConn) WaitReadable() error         { _, err := c.in.read(nil); return err }
func (c *memoryConn) Close() error {
	c.SetReadDeadline(time.Time{})
	c.SetWriteDeadline(time.Time{})
	c.in.close()
	c.out.close()
	return nil
}
func (c *memoryConn) CloseWrite() error    { c.out.close(); return nil }
func (c *memoryConn) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (c *memoryConn) RemoteAddr() net.Addr { return &net.TCPAddr{} }
func (c *memoryConn) SetDeadline(t time.Time) error {
	return c.SetReadDeadline(t)
}

func (c *memoryConn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(t)
	return nil
}

func (c *memoryConn) SetWriteDeadline(t time.Time) error {
	c.out.setWriteDeadline(t)
	return nil
}

func (p *pipe) setDeadline(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
	}
	p.deadline = !t.IsZero() && !t.After(time.Now())
	if !t.IsZero() && !p.deadline {
		p.timer = time.AfterFunc(time.Until(t), func() { p.passed(&p.deadline) })
	}
	p.cond.Broadcast()
}

func (p *pipe) setWriteDeadline(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writeTimer != nil {
		p.writeTimer.Stop()
	}
	p.writeDeadline = !t.IsZero() && !t.After(time.Now())
	if !t.IsZero() && !p.writeDeadline {
		p.writeTimer = time.AfterFunc(time.Until(t), func() { p.passed(&p.writeDeadline) })
	}
	p.cond.Broadcast()
}

func (p *pipe) passed(which *bool) {
	p.mu.Lock()
	*which = true
	p.mu.Unlock()
	p.cond.Broadcast()
}
