package relay

import (
	"errors"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Plain is c without TLS: a TCP or a unix connection. Any other type works as
// well, but holds a buffer while it waits.
func Plain(c net.Conn) Conn {
	return &plain{Conn: c, wait: NewWaiter(c)}
}

type plain struct {
	net.Conn
	wait *Waiter // nil if there is no descriptor
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

// Waiter waits for a socket to become readable, without a buffer. It is for
// one goroutine at a time.
type Waiter struct {
	raw   syscall.RawConn
	check func(fd uintptr) bool // made once: a closure for each wait would allocate
	one   [1]byte
	err   error
}

// NewWaiter is the Waiter of c; nil if c has no descriptor.
func NewWaiter(c net.Conn) *Waiter {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	w := &Waiter{raw: raw}
	w.check = w.readable
	return w
}

// Wait returns nil when there is a byte or the end of the stream, or the
// failure of the socket: looking takes a pending error off it, so a Read
// afterwards would not see it.
func (w *Waiter) Wait() error {
	w.err = nil
	if err := w.raw.Read(w.check); err != nil {
		return err
	}
	return w.err
}

// readable peeks at one byte. The system call is made directly, for
// unix.Recvfrom allocates an address.
func (w *Waiter) readable(fd uintptr) bool {
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&w.one)), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		case 0:
		default:
			w.err = errno
		}
		return true
	}
}
