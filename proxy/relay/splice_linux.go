package relay

import (
	"errors"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// spliceAfter is how much one read must bring before a direction turns to
// splice: below, two copies cost less than two more system calls.
const spliceAfter = bufferSize

// pipeSize is how much a pipe is asked to hold. The kernel may give less.
const pipeSize = 256 << 10

// splice carries a plaintext direction through a pipe in the kernel, so that
// its bytes are never copied here. It is false, with nothing done, if either
// side is not a socket of ours.
//
// A direction begins with copies, and takes a pipe only while reads fill a
// whole buffer: an idle connection holds neither.
func (d *flow) splice() (done, failedRead bool, err error) {
	src, dst := socketOf(d.src), socketOf(d.dst)
	if src == nil || dst == nil {
		return false, false, nil
	}
	for {
		if err := d.src.WaitReadable(); err != nil {
			return true, true, err
		}
		more, failedRead, err := d.spliceBurst(src, dst)
		if err != nil || !more {
			return true, failedRead, err
		}
	}
}

func socketOf(c Conn) syscall.RawConn {
	if p, ok := c.(*plain); ok && p.wait != nil {
		return p.wait.Raw()
	}
	return nil
}

// spliceBurst carries what is there: one buffer by copying, and if that was
// full, the rest by splice until the source is silent.
func (d *flow) spliceBurst(src, dst syscall.RawConn) (more, failedRead bool, err error) {
	n, err := d.copyOnce()
	switch {
	case err == io.EOF:
		return false, false, nil
	case err != nil:
		var w *writeError
		if errors.As(err, &w) {
			return false, false, w.err
		}
		return false, true, err
	case n < spliceAfter:
		return true, false, nil
	}
	p, err := takePipe()
	if err != nil {
		return true, false, nil // no descriptors left: go on copying
	}
	more, failedRead, err = d.drain(p, src, dst)
	p.giveBack(err == nil)
	return more, failedRead, err
}

// writeError tells a failed write from a failed read.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }

// copyOnce reads one buffer and writes it.
func (d *flow) copyOnce() (int, error) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	n, err := d.src.Read(buf[:])
	if n > 0 {
		d.touch()
		add(d.in, n)
		if werr := d.write(buf[:n]); werr != nil {
			return n, &writeError{werr}
		}
	}
	return n, err
}

// pipe is a pair of descriptors with the kernel's buffer between. The two
// functions are made once, for a closure in each call would allocate.
type pipe struct {
	r, w    int
	in, out func(fd uintptr) bool
	left    int // what out has to move
	n       int // what in or out has moved
	err     error
}

// pipes are kept for the next burst, of any relay.
//
//nolint:gochecknoglobals // a pool has no state of its own
var pipes = make(chan *pipe, 32)

func takePipe() (*pipe, error) {
	select {
	case p := <-pipes:
		return p, nil
	default:
		return newPipe()
	}
}

// giveBack keeps p if it is empty and there is room.
func (p *pipe) giveBack(empty bool) {
	if empty {
		select {
		case pipes <- p:
			return
		default:
		}
	}
	p.close()
}

func newPipe() (*pipe, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) // a smaller one works as well
	p := &pipe{r: fds[0], w: fds[1]}
	p.in = func(fd uintptr) bool {
		p.n, p.err = spliceOnce(int(fd), p.w, pipeSize)
		return true
	}
	p.out = func(fd uintptr) bool {
		p.n, p.err = spliceOnce(p.r, int(fd), p.left)
		return p.err != unix.EAGAIN
	}
	return p, nil
}

func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// drain moves bytes from src through p to dst until src is silent for now
// (more) or has ended.
func (d *flow) drain(p *pipe, src, dst syscall.RawConn) (more, failedRead bool, err error) {
	for {
		n, err := p.fillFrom(src)
		switch {
		case err == unix.EAGAIN:
			return true, false, nil
		case err != nil:
			return false, true, err
		case n == 0:
			return false, false, nil
		}
		d.touch()
		add(d.in, n)
		if err := d.empty(p, dst, n); err != nil {
			return false, false, err
		}
	}
}

// fillFrom moves what src has into the empty pipe; EAGAIN if it has nothing.
func (p *pipe) fillFrom(src syscall.RawConn) (int, error) {
	if err := src.Read(p.in); err != nil {
		return 0, err
	}
	return p.n, p.err
}

// empty moves n bytes from the pipe to dst, waiting where it must.
func (d *flow) empty(p *pipe, dst syscall.RawConn, n int) error {
	for p.left = n; p.left > 0; p.left -= p.n {
		if err := dst.Write(p.out); err != nil {
			return err
		}
		if p.err != nil {
			return p.err
		}
		add(d.out, p.n)
		d.touch()
	}
	return nil
}

func spliceOnce(from, to, n int) (int, error) {
	for {
		moved, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if err != unix.EINTR {
			return int(moved), err
		}
	}
}
