package relay

import (
	"io"

	"golang.org/x/sys/unix"
)

// spliceAfter is how much one read must bring before a direction turns to
// splice: below, two copies cost less than two more system calls.
const spliceAfter = bufferSize

// splice carries bytes from src to dst through a pipe in the kernel, so that
// they are never copied here, for as long as each time there are many. It
// returns nil to go on with copies, io.EOF at the end of the source.
//
// The pipe is held only while bytes are in it: it is taken when the source is
// readable, and given back when it is empty.
func (d *flow) splice(src, dst *plain) (failed, error) {
	s := d.splicing
	if s == nil {
		s = newSplicing()
		d.splicing = s
	}
	defer s.drop()
	for {
		s.n = 0
		d.parking.waiting.Store(true)
		err := src.wait.Raw().Read(s.in)
		if err := d.waited(s.n, err); err != nil {
			return reading, err
		}
		n := s.n
		switch {
		case s.err != nil:
			return reading, s.err
		case s.p == nil:
			return reading, nil // no pipe is to be had: go on with copies
		case n == 0:
			return reading, io.EOF
		}
		d.received(n)
		if err := d.drain(s, dst); err != nil {
			return writing, err
		}
		if n < spliceAfter {
			return reading, nil
		}
	}
}

// drain moves what is in the pipe to dst, and gives the pipe back.
func (d *flow) drain(s *splicing, dst *plain) error {
	for s.left = s.n; s.left > 0; s.left -= s.n {
		if err := dst.wait.Raw().Write(s.out); err != nil {
			return err
		}
		if s.err != nil {
			return s.err
		}
		d.sent(s.n)
	}
	s.giveBack()
	return nil
}

// splicing is the state of one direction's splices.
type splicing struct {
	// What RawConn calls, made once: a closure in each call would allocate.
	in, out func(fd uintptr) bool

	p    *pipe // nil while nothing is in it
	left int   // what is in it
	n    int   // what the last call has moved
	err  error
}

func newSplicing() *splicing {
	s := &splicing{}
	s.in, s.out = s.fill, s.empty
	return s
}

// fill moves what the socket has into a pipe; false if it has nothing yet.
func (s *splicing) fill(fd uintptr) bool {
	if s.p = takePipe(); s.p == nil {
		s.n, s.err = 0, nil
		return true
	}
	s.n, s.err = spliceOnce(int(fd), s.p.w, pipeSize)
	if s.err == unix.EAGAIN {
		s.giveBack()
		return false
	}
	return true
}

// empty moves what is left in the pipe to the socket; false if that is full.
func (s *splicing) empty(fd uintptr) bool {
	s.n, s.err = spliceOnce(s.p.r, int(fd), s.left)
	return s.err != unix.EAGAIN
}

// giveBack gives the empty pipe to the next.
func (s *splicing) giveBack() {
	givePipe(s.p)
	s.p = nil
}

// drop closes a pipe that may not be empty.
func (s *splicing) drop() {
	if s.p != nil {
		s.p.close()
		s.p = nil
	}
}

func spliceOnce(from, to, n int) (int, error) {
	for {
		moved, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if err != unix.EINTR {
			return int(moved), err
		}
	}
}
