package relay

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"outrider/tlsmux/wait"
)

// Plain is c without TLS: a TCP or a unix connection. Any other type works as
// well, but holds a buffer while it waits.
func Plain(c net.Conn) Conn {
	return &plain{Conn: c, wait: wait.New(c)}
}

type plain struct {
	net.Conn
	wait *wait.Readable // nil if there is no descriptor

	// Of the one reader. The function is made once, for a closure in each
	// read would allocate.
	lazy func(fd uintptr) bool
	into Buffer
	n    int
	err  error
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

func readOnce(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}
