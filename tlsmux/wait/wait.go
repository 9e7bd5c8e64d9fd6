// Package wait waits for a socket without holding a buffer for what may come.
package wait

import (
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Readable waits for a socket to become readable, without a buffer. It is for
// one goroutine at a time.
type Readable struct {
	raw   syscall.RawConn
	check func(fd uintptr) bool // made once: a closure for each wait would allocate
	one   [1]byte
	err   error
}

// New is the Readable of c; nil if c has no descriptor.
func New(c net.Conn) *Readable {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	w := &Readable{raw: raw}
	w.check = w.readable
	return w
}

// Wait returns nil when there is a byte or the end of the stream, or the
// failure of the socket: looking takes a pending error off it, so a Read
// afterwards would not see it.
func (w *Readable) Wait() error {
	w.err = nil
	if err := w.raw.Read(w.check); err != nil {
		return err
	}
	return w.err
}

// readable peeks at one byte. The system call is made directly, for
// unix.Recvfrom allocates an address.
func (w *Readable) readable(fd uintptr) bool {
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

// Raw is the socket's descriptor.
func (w *Readable) Raw() syscall.RawConn { return w.raw }

// Buffer is room that a reader asks for when there is something to read.
type Buffer interface {
	// Take is the room to read into. It is called when there may be something.
	// What its capacity has beyond its length may be written over, but is not
	// read into: TLS has a byte more in each record than it hands on.
	Take() []byte
	// Drop says that nothing was read into what Take gave.
	Drop()
}
