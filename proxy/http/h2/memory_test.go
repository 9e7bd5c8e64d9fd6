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
	for len(p.b) > p.limit && !p.closed {
		p.cond.Wait()
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

// memoryConn is a connection in memory. Its deadlines know only the past and
// the future; it is a relay.Conn.
type memoryConn struct{ in, out *pipe }

func (c *memoryConn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *memoryConn) Write(b []byte) (int, error) { return c.out.write(b) }
func (c *memoryConn) WaitReadable() error         { _, err := c.in.read(nil); return err }
func (c *memoryConn) Close() error                { c.in.close(); c.out.close(); return nil }
func (c *memoryConn) CloseWrite() error           { c.out.close(); return nil }
func (c *memoryConn) LocalAddr() net.Addr         { return &net.TCPAddr{} }
func (c *memoryConn) RemoteAddr() net.Addr        { return &net.TCPAddr{} }
func (c *memoryConn) SetDeadline(t time.Time) error {
	return c.SetReadDeadline(t)
}

func (c *memoryConn) SetReadDeadline(t time.Time) error {
	c.in.mu.Lock()
	c.in.deadline = !t.IsZero() && t.Before(time.Now())
	c.in.mu.Unlock()
	c.in.cond.Broadcast()
	return nil
}

func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }
