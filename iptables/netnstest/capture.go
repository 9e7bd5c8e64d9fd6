package netnstest

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Capture is every byte that passed an interface, both ways, as frames.
type Capture struct {
	mu     sync.Mutex
	frames [][]byte      // guarded by mu
	more   chan struct{} // guarded by mu; closed by the next frame
}

// Frames are those seen so far.
func (c *Capture) Frames() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.frames)
}

// Wait waits until there is a frame that fits, no longer than patience, and
// reports whether there was.
func (c *Capture) Wait(fits func(frame []byte) bool) bool {
	late := time.NewTimer(patience)
	defer late.Stop()
	for seen := 0; ; {
		c.mu.Lock()
		frames, more := c.frames[seen:], c.more
		c.mu.Unlock()
		if slices.ContainsFunc(frames, fits) {
			return true
		}
		seen += len(frames)
		select {
		case <-more:
		case <-late.C:
			return false
		}
	}
}

// Capture begins to record what passes an interface of the host, and ends with
// the test. A frame is recorded before whoever it is for can have read it.
func (h *Host) Capture(t testing.TB, name string) *Capture {
	t.Helper()
	c := &Capture{more: make(chan struct{})}
	fd := -1
	err := h.Do(func() (err error) {
		fd, err = packetSocket(name)
		return err
	})
	if err != nil {
		t.Fatalf("host %s: capture on %s: %v", h.Name, name, err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { c.read(fd, stop) })
	t.Cleanup(func() {
		close(stop)
		wg.Wait()
		unix.Close(fd)
	})
	return c
}

// ringBytes is the socket's buffer: a burst that the reader is too slow for.
const ringBytes = 16 << 20

func packetSocket(name string) (int, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return -1, err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, ringBytes),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: int64(50 * time.Millisecond / time.Microsecond)}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}))
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	return fd, nil
}

// read records until stop is closed, and what came before that.
func (c *Capture) read(fd int, stop <-chan struct{}) {
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == nil {
			c.add(slices.Clone(buf[:n]))
			continue
		}
		select {
		case <-stop:
			return
		default:
		}
	}
}

func (c *Capture) add(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = append(c.frames, frame)
	close(c.more)
	c.more = make(chan struct{})
}
