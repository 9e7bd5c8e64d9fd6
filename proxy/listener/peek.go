package listener

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxPeek is the most that a listener filter looks at: Envoy's cap of
// max_client_hello_size.
const maxPeek = 16 << 10

// peeker looks at the first bytes of a connection without consuming them, so
// that the connection goes on as if nobody had looked. It holds no buffer while
// it waits: the bytes are in the socket.
type peeker struct {
	conn net.Conn
	raw  syscall.RawConn
	buf  *[maxPeek]byte // nil while nothing is held
	n    int            // bytes that were in the socket at the last look

	// The current attempt, for the one closure that RawConn.Read is given.
	look  func(fd uintptr) bool
	want  int
	wait  bool
	ended bool  // the peer will send no more
	err   error // of the last look
}

//nolint:gochecknoglobals // a pool has no state of its own
var buffers = sync.Pool{New: func() any { return new([maxPeek]byte) }}

// errPeerClosed means that the client ended its direction before it sent what
// was waited for.
var errPeerClosed = errors.New("the client closed before a filter chain could be chosen")

func (p *peeker) open(c net.Conn) error {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return fmt.Errorf("a connection of type %T cannot be peeked at", c)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	p.conn, p.raw, p.look = c, raw, p.attempt
	return nil
}

// bytes are what was peeked at. They are there after a success of have or
// more, until release.
func (p *peeker) bytes() []byte {
	if p.buf == nil {
		return nil
	}
	return p.buf[:p.n]
}

// release gives the buffer back. The bytes are still in the socket.
func (p *peeker) release() {
	if p.buf != nil {
		buffers.Put(p.buf)
		p.buf = nil
	}
}

// discard consumes the first n of bytes; the rest must be looked at again.
func (p *peeker) discard(n int) error {
	if _, err := io.ReadFull(p.conn, p.buf[:n]); err != nil {
		return err
	}
	p.release()
	return nil
}

// have reports whether there are want bytes now. It does not wait.
func (p *peeker) have(want int) (bool, error) { return p.read(want, false) }

// more waits until there are want bytes. If the peer ends before, it returns
// errPeerClosed; it is bounded by the connection's read deadline.
func (p *peeker) more(want int) error {
	_, err := p.read(want, true)
	return err
}

func (p *peeker) read(want int, wait bool) (bool, error) {
	p.want, p.wait, p.err = min(want, maxPeek), wait, nil
	if p.buf != nil && p.n >= p.want {
		return true, nil
	}
	err := p.raw.Read(p.look)
	if err == nil {
		err = p.err
	}
	if err != nil {
		p.release()
		return false, err
	}
	return p.n >= p.want, nil
}

// attempt looks once. To return false is to wait until the poller tells of new
// bytes or of the end.
func (p *peeker) attempt(fd uintptr) bool {
	if p.buf == nil {
		p.buf = buffers.Get().(*[maxPeek]byte)
	}
	if p.peek(int(fd)); p.err != nil || p.n >= p.want {
		return true
	}
	// With bytes left in the socket the end does not show in a read, and the
	// poller tells of it only once.
	if p.ended || hungUp(int(fd)) {
		if p.peek(int(fd)); p.err == nil && p.n < p.want { // what came between the two looks
			p.err = errPeerClosed
		}
		return true
	}
	p.release()
	return !p.wait
}

// peek fills the buffer.
func (p *peeker) peek(fd int) {
	for {
		n, _, err := unix.Recvfrom(fd, p.buf[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR: //nolint:errorlint // a bare errno
			continue
		case err == unix.EAGAIN: //nolint:errorlint // a bare errno
			p.n = 0
		case err != nil:
			p.err = err
		default:
			p.n, p.ended = n, n == 0
		}
		return
	}
}

// hungUp reports whether the peer has closed its direction.
func hungUp(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}
