package relay

import (
	"context"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Lot watches the sockets of the relays in which nothing moves. It is safe for
// concurrent use.
type Lot struct {
	spawn func(func())
	after time.Duration
	epoll *os.File
	raw   syscall.RawConn
	fd    int

	mu     sync.Mutex
	parked map[uint64]*relaying // guarded by mu; by the number of their ticket
	next   uint64               // guarded by mu
	closed bool                 // guarded by mu
}

// NewLot makes a Lot for relays that are quiet for so long; 0 is a second.
// spawn runs what it gets in a goroutine of its own.
func NewLot(after time.Duration, spawn func(func())) (*Lot, error) {
	if after <= 0 {
		after = parkAfter
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // for the runtime to wait for it
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	l := &Lot{spawn: spawn, after: after, epoll: os.NewFile(uintptr(fd), "epoll"), fd: fd, parked: map[uint64]*relaying{}}
	if l.raw, err = l.epoll.SyscallConn(); err != nil {
		l.epoll.Close()
		return nil, err
	}
	return l, nil
}

// Run watches until ctx ends. Then what is parked goes on, and nothing is parked
// any more.
func (l *Lot) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { l.epoll.SetReadDeadline(time.Unix(1, 0)) })()
	events := make([]unix.EpollEvent, 256)
	for {
		n := 0
		err := l.raw.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events, 0)
			return n > 0 || err != nil && err != unix.EINTR
		})
		if err != nil {
			l.close()
			l.epoll.Close()
			return nil //nolint:nilerr // it is the deadline
		}
		for _, e := range events[:max(n, 0)] {
			if r := l.find(number(e)); r != nil {
				r.unpark()
			}
		}
	}
}

func (l *Lot) close() {
	l.mu.Lock()
	l.closed = true
	all := make([]*relaying, 0, len(l.parked))
	for _, r := range l.parked {
		all = append(all, r)
	}
	l.mu.Unlock()
	for _, r := range all {
		r.unpark()
	}
}

// Parked is how many relays are parked.
func (l *Lot) Parked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.parked)
}

func (l *Lot) find(number uint64) *relaying {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.parked[number]
}

// park watches both sockets; r.mu is held.
func (l *Lot) park(r *relaying) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return os.ErrClosed
	}
	l.next++
	t := &r.parking.ticket
	t.number = l.next
	if err := l.control(t.down, unix.EPOLL_CTL_ADD, t.number); err != nil {
		return err
	}
	if err := l.control(t.up, unix.EPOLL_CTL_ADD, t.number); err != nil {
		l.control(t.down, unix.EPOLL_CTL_DEL, 0) //nolint:errcheck // it was just added
		return err
	}
	l.parked[t.number] = r
	return nil
}

// leave ends that; r.mu is held.
func (l *Lot) leave(r *relaying) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &r.parking.ticket
	delete(l.parked, t.number)
	l.control(t.down, unix.EPOLL_CTL_DEL, 0) //nolint:errcheck // a closed socket is watched no more
	l.control(t.up, unix.EPOLL_CTL_DEL, 0)   //nolint:errcheck // likewise
}

// control changes what epoll does with a socket. An event comes once.
func (l *Lot) control(socket syscall.RawConn, op int, number uint64) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(number), Pad: int32(number >> 32)}
	var failed error
	if err := socket.Control(func(fd uintptr) { failed = unix.EpollCtl(l.fd, op, int(fd), &event) }); err != nil {
		return err
	}
	return os.NewSyscallError("epoll_ctl", failed)
}

// number is the ticket that an event is of.
func number(e unix.EpollEvent) uint64 { return uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32 }
