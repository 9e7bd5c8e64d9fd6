package relay

import (
	"errors"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"outrider/tlsmux/wait"
)

// Plain is c without TLS: a TCP or a unix connection. Any other type works as
// well, but holds a buffer while it waits.
func Plain(c net.Conn) Conn {
	p := &plain{Conn: c, wait: wait.New(c)}
	if p.wait != nil {
		p.attempt = p.readInto
	}
	return p
}

type plain struct {
	net.Conn
	wait *wait.Readable // nil if there is no descriptor

	// Of the one reader. The function is made once, for a closure in each
	// read would allocate.
	attempt func(fd uintptr) bool
	buf     *buffer // what attempt has filled; nil while nothing was there
	lazy    func(fd uintptr) bool
	into    Buffer
	n       int
	err     error
}

// CloseWrite sends a FIN.
func (p *plain) CloseWrite() error {
	if c, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return notConnected(c.CloseWrite())
	}
	return p.Conn.Close()
}

// notConnected is err, unless it only says that the peer is gone already.
func notConnected(err error) error {
	if errors.Is(err, syscall.ENOTCONN) {
		return nil
	}
	return err
}

// WaitReadable waits for a byte, the end or a failure.
func (p *plain) WaitReadable() error {
	if p.wait == nil {
		return nil
	}
	return p.wait.Wait()
}

// NetConn is the connection itself, for socket options.
func (p *plain) NetConn() net.Conn { return p.Conn }

// readPooled waits for bytes and reads them into a buffer of the pool, which is
// taken only when there is something to read: it is WaitReadable and Read with
// one system call less. The caller gives the buffer back; at io.EOF and at any
// other error there is none.
func (p *plain) readPooled() (*buffer, int, error) {
	if err := p.wait.Raw().Read(p.attempt); err != nil {
		return nil, 0, err
	}
	b := p.buf
	p.buf = nil
	return b, p.n, p.err
}

// readInto is one read(2); false, holding nothing, if there is nothing yet.
func (p *plain) readInto(fd uintptr) bool {
	p.buf = takeBuffer()
	p.n, p.err = readOnce(int(fd), p.buf[:])
	switch {
	case p.err == nil && p.n > 0:
		return true
	case p.err == nil:
		p.err = io.EOF
	}
	giveBuffer(p.buf)
	p.buf, p.n = nil, 0
	return p.err != unix.EAGAIN
}

func readOnce(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}
