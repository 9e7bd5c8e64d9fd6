package tlsmux

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// records is the connection beneath a tls.Conn. crypto/tls makes one system
// call for each record; records makes one for as many as there are:
//
//   - it reads ahead into a pooled buffer, and hands crypto/tls never more than
//     the record it asks for, so that what is left over stays here, where an
//     empty buffer goes back to the pool, and not in crypto/tls, which keeps its
//     own for ever;
//   - while corked it collects written records, and writes them at once.
//
// An idle connection holds no buffer of it.
type records struct {
	net.Conn
	raw syscall.RawConn // nil: no descriptor, plain reads

	// Reading side; used by one reader at a time.
	buf        *[readAhead]byte // nil while empty
	start, end int              // of what is buffered
	left       int              // of the current record, header included, not handed out yet
	nonblock   bool             // fail with errWouldBlock rather than wait
	dry        bool             // the last read took all that the socket had
	poll       func(fd uintptr) bool
	pollN      int
	pollErr    error

	mu     sync.Mutex
	corked bool   // guarded by mu
	out    []byte // guarded by mu; written while corked
}

// readAhead holds four records of the largest size; its sibling for writing
// holds what a 64 KiB write makes.
const readAhead = 4 * (recordHeaderSize + maxPlaintext + recordOverhead)

// Sizes of RFC 8446, sections 5.1 and 5.2.
const (
	recordHeaderSize = 5
	maxPlaintext     = 16 << 10
	recordOverhead   = 256
)

//nolint:gochecknoglobals // pools have no state of their own
var (
	readBuffers  = sync.Pool{New: func() any { return new([readAhead]byte) }}
	writeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, readAhead); return &b }}
)

// errWouldBlock is temporary in crypto/tls's eyes: it keeps its state, and the
// next read goes on.
type errWouldBlock struct{}

func (errWouldBlock) Error() string   { return "no whole record is there yet" }
func (errWouldBlock) Timeout() bool   { return false }
func (errWouldBlock) Temporary() bool { return true }

func newRecords(c net.Conn) *records {
	r := &records{Conn: c}
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			r.raw = raw
			r.poll = r.tryRead
		}
	}
	return r
}

// Read gives bytes of the current record only.
func (r *records) Read(p []byte) (int, error) {
	if r.left == 0 {
		for r.end-r.start < recordHeaderSize {
			if err := r.fill(); err != nil {
				return r.atEnd(p, err)
			}
		}
		length := binary.BigEndian.Uint16(r.buf[r.start+3:])
		r.left = recordHeaderSize + int(length)
	}
	for r.start == r.end {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p[:min(len(p), r.left)], r.buf[r.start:r.end])
	r.start += n
	r.left -= n
	r.releaseIfEmpty()
	return n, nil
}

// atEnd hands out what is less than a header when no more comes: crypto/tls
// judges it.
func (r *records) atEnd(p []byte, err error) (int, error) {
	if n := r.end - r.start; n > 0 && err == io.EOF {
		n = copy(p, r.buf[r.start:r.end])
		r.start += n
		r.releaseIfEmpty()
		return n, nil
	}
	return 0, err
}

func (r *records) releaseIfEmpty() {
	if r.start == r.end && r.buf != nil {
		readBuffers.Put(r.buf)
		r.buf, r.start, r.end = nil, 0, 0
	}
}

// fill adds at least one byte to the buffer, taking one only when there is
// something to put into it.
func (r *records) fill() error {
	if r.nonblock && r.dry {
		return errWouldBlock{}
	}
	if r.raw == nil {
		return r.fillBlocking()
	}
	if r.buf != nil {
		r.compact()
	}
	if err := r.raw.Read(r.poll); err != nil {
		return err
	}
	switch {
	case r.pollErr == unix.EAGAIN:
		r.dry = true
		return errWouldBlock{}
	case r.pollErr != nil:
		return r.pollErr
	case r.pollN == 0:
		return io.EOF
	}
	r.end += r.pollN
	r.dry = r.end < readAhead
	return nil
}

// tryRead is one read(2). It is false, holding nothing, if the socket has
// nothing and we may wait.
func (r *records) tryRead(fd uintptr) bool {
	fresh := r.buf == nil
	if fresh {
		r.buf = readBuffers.Get().(*[readAhead]byte)
	}
	for {
		r.pollN, r.pollErr = unix.Read(int(fd), r.buf[r.end:])
		if r.pollErr != unix.EINTR {
			break
		}
	}
	if fresh && (r.pollErr != nil || r.pollN == 0) {
		readBuffers.Put(r.buf)
		r.buf = nil
	}
	return r.pollErr != unix.EAGAIN || r.nonblock
}

// compact makes room behind what is buffered.
func (r *records) compact() {
	if r.start > 0 {
		r.end = copy(r.buf[:], r.buf[r.start:r.end])
		r.start = 0
	}
}

// fillBlocking is for connections without a descriptor.
func (r *records) fillBlocking() error {
	if r.buf == nil {
		r.buf = readBuffers.Get().(*[readAhead]byte)
	}
	r.compact()
	n, err := r.Conn.Read(r.buf[r.end:])
	r.end += n
	r.dry = true
	if n > 0 {
		return nil
	}
	r.releaseIfEmpty()
	return err
}

// buffered reports whether bytes are here that the socket does not have any
// more.
func (r *records) buffered() bool { return r.end > r.start }

// waitReadable waits until bytes are buffered.
func (r *records) waitReadable() error {
	if r.buffered() {
		return nil
	}
	return r.fill()
}

// Write collects while corked.
func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.corked {
		r.out = append(r.out, p...)
		return len(p), nil
	}
	return r.Conn.Write(p)
}

// cork collects writes until uncork. Only one goroutine may cork.
func (r *records) cork() *[]byte {
	buf := writeBuffers.Get().(*[]byte)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.corked, r.out = true, (*buf)[:0]
	return buf
}

// uncork writes what was collected, in one system call.
func (r *records) uncork(buf *[]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.out
	r.corked, r.out = false, nil
	var err error
	if len(out) > 0 {
		_, err = r.Conn.Write(out)
	}
	*buf = out[:0]
	if cap(out) <= 2*readAhead {
		writeBuffers.Put(buf)
	}
	return err
}
