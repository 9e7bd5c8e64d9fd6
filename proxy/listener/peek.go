package listener

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxPeek is the most that a listener filter looks at: Envoy's cap of
// max_client_hello_size.
const maxPeek = 16 << 10

// peeker looks at the first bytes of a connection without consuming them, so
// that the connection goes on as if nobody had looked. It holds a buffer only
// while bytes are there.
type peeker struct {
	raw  syscall.RawConn
	buf  *[maxPeek]byte // nil while nothing is held
	n    int            // bytes in buf
	eof  bool           // the peer will send no more
	conn net.Conn
}

//nolint:gochecknoglobals // a pool has no state of its own
var buffers = sync.Pool{New: func() any { return new([maxPeek]byte) }}

// errPeerClosed means that the client ended its direction before it sent what
// was waited for.
var errPeerClosed = errors.New("the client closed before it sent enough to choose a filter chain")

func newPeeker(c net.Conn) (*peeker, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("a connection of type %T cannot be peeked at", c)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &peeker{raw: raw, conn: c}, nil
}

// bytes are what has been peeked at so far.
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
		p.buf, p.n = nil, 0
	}
}

// discard consumes the first n bytes, which have been peeked at.
func (p *peeker) discard(n int) error {
	if _, err := io.ReadFull(p.conn, p.buf[:n]); err != nil {
		return err
	}
	p.release()
	return nil
}

// more waits until there are at least want bytes, or the peer has ended. It is
// bounded by the connection's read deadline. Having fewer than want and an
// ended peer is errPeerClosed.
func (p *peeker) more(want int) error {
	want = min(want, maxPeek)
	if p.n >= want {
		return nil
	}
	if p.eof {
		return errPeerClosed
	}
	var failed error
	err := p.raw.Read(func(fd uintptr) bool {
		n, err := p.look(int(fd))
		switch {
		case err == unix.EAGAIN:
			return false
		case err != nil:
			failed = err
			return true
		case n == 0:
			p.eof = true
			return true
		}
		// The poller tells of new bytes, but of an end only once: with bytes
		// left in the socket a later read would not show it.
		p.eof = hungUp(int(fd))
		return n >= want || p.eof
	})
	switch {
	case err != nil:
		return err
	case failed != nil:
		return failed
	case p.n < want:
		return errPeerClosed
	}
	return nil
}

// look peeks into the buffer, taking one if there is something to see.
func (p *peeker) look(fd int) (int, error) {
	if p.buf == nil {
		var one [1]byte
		if n, err := peekInto(fd, one[:]); n <= 0 || err != nil {
			return n, err
		}
		p.buf = buffers.Get().(*[maxPeek]byte)
	}
	n, err := peekInto(fd, p.buf[:])
	if n > 0 {
		p.n = n
	}
	return n, err
}

func peekInto(fd int, b []byte) (int, error) {
	for {
		n, _, err := unix.Recvfrom(fd, b, unix.MSG_PEEK)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// hungUp reports whether the peer has closed its direction.
func hungUp(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}

// until bounds the reads of p by the deadline, and by ctx; the returned
// function takes both off.
func (p *peeker) until(ctx context.Context, deadline time.Time) func() {
	p.conn.SetReadDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { p.conn.SetReadDeadline(time.Unix(1, 0)) })
	return func() {
		if stop() {
			p.conn.SetReadDeadline(time.Time{})
		}
	}
}
