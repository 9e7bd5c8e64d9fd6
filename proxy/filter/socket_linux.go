package filter

import (
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socketUnder is the first of c and what it wraps that is a T.
func socketUnder[T any](c net.Conn) (found T, ok bool) {
	for {
		if found, ok = c.(T); ok {
			return found, true
		}
		wraps, wrapped := c.(interface{ NetConn() net.Conn })
		if !wrapped {
			return found, false
		}
		c = wraps.NetConn()
	}
}

// watchReset calls gone if the peer of c resets the connection, or otherwise
// cannot receive any more, before stop is called. It reads nothing: bytes and a
// FIN of the peer stay where they are, and are not a reason. stop waits until
// nothing of the watch runs; c must not be read from in between.
//
// It begins after watchAfter: most connects take less, and it costs as much as
// they do.
func watchReset(c net.Conn, gone func()) (stop func()) {
	var end func()
	started := make(chan struct{})
	timer := time.AfterFunc(watchAfter, func() {
		end = watchResetNow(c, gone)
		close(started)
	})
	return func() {
		if timer.Stop() {
			return
		}
		<-started
		end()
	}
}

// watchAfter is how long a connect may take unwatched.
const watchAfter = 5 * time.Millisecond

func watchResetNow(c net.Conn, gone func()) (stop func()) {
	sock, ok := socketUnder[syscall.Conn](c)
	if !ok {
		return func() {}
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return func() {}
	}
	var watching sync.WaitGroup
	watching.Go(func() {
		hungUp := false
		// The function is called at every event on the socket; while it is
		// false, the goroutine sleeps.
		err := raw.Read(func(fd uintptr) bool {
			hungUp = isHungUp(int(fd))
			return hungUp
		})
		if err == nil && hungUp {
			gone()
		}
	})
	return func() {
		_ = c.SetReadDeadline(time.Unix(1, 0)) // wakes the watch
		watching.Wait()
		_ = c.SetReadDeadline(time.Time{})
	}
}

// isHungUp asks for errors and for the end of both directions. A FIN alone is
// neither.
func isHungUp(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
}

// resetOnClose makes the close of a TCP socket a reset.
func resetOnClose(c net.Conn) {
	if s, ok := socketUnder[interface{ SetLinger(int) error }](c); ok {
		_ = s.SetLinger(0) // it may be closed already
	}
}
