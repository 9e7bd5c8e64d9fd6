package relay

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// pipe is a pair of descriptors with the kernel's buffer between.
type pipe struct{ r, w int }

const (
	// pipeSize is how much a pipe is asked to hold. The kernel may give less.
	pipeSize = 1024 << 10
	// maxPipes is how many there may be at a time. A direction that finds none
	// left copies, so that descriptors are not spent on what is only faster.
	maxPipes = 256
	// sparePipes is how many of them are kept with nothing in them.
	sparePipes = 32
)

//nolint:gochecknoglobals // a pool has no state of its own
var (
	spares = make(chan *pipe, sparePipes)
	pipes  atomic.Int64 // that exist
)

// takePipe is an empty pipe; nil if none is to be had.
func takePipe() *pipe {
	select {
	case p := <-spares:
		return p
	default:
		return newPipe()
	}
}

func newPipe() *pipe {
	if pipes.Add(1) > maxPipes {
		pipes.Add(-1)
		return nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		pipes.Add(-1)
		return nil // no descriptors are left: copying needs none
	}
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) // a smaller one works as well
	return &pipe{r: fds[0], w: fds[1]}
}

// givePipe keeps an empty pipe for the next, if there is room.
func givePipe(p *pipe) {
	select {
	case spares <- p:
	default:
		p.close()
	}
}

func (p *pipe) close() {
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
	pipes.Add(-1)
}
