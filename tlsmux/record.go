package tlsmux

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"outrider/tlsmux/slab"
)

// records is the connection beneath TLS, as records: of crypto/tls during the
// handshake, and after it of a layer13 or of crypto/tls again. crypto/tls makes
// one system call for each record; records makes one for as many as there are:
//
//   - it reads ahead into a pooled buffer, and hands crypto/tls never more than
//     the record it asks for, so that what is left over stays here, where an
//     empty buffer goes back to the pool, and not in crypto/tls, which keeps its
//     own for ever;
//   - while corked it collects written records, and writes them at once.
//
// An idle connection holds no buffer of it. One that waits for the rest of a
// record holds what has come of it: crypto/tls does, or part.
type records struct {
	net.Conn
	raw syscall.RawConn // nil: no descriptor of our own kind, plain reads

	// Reading side; used by one reader at a time.
	taken      *slab.Buffer // nil while empty
	buf        []byte       // that of taken
	start, end int          // of what is buffered
	many       bool         // the last read filled the buffer
	// part has the first partLen bytes of a record while a layer13 waits for
	// the others; nil else.
	part       *[maxRecord]byte
	partLen    int
	head       [recordHeaderSize]byte
	have, sent int  // bytes of head that have come, and been handed out
	left       int  // bytes of the current record's body not handed out yet
	nonblock   bool // fail with errWouldBlock rather than wait
	dry        bool // the last read took all that the socket had
	poll       func(fd uintptr) bool
	pollN      int
	pollErr    error
	broken     error // the socket told its failure, and tells it once

	// over says that a layer13 has the records: crypto/tls reads what was made
	// for it, given, and nothing else.
	over  bool
	given []byte

	closing atomic.Bool // writes are tried once and never wait
	mu      sync.Mutex
	corked  bool   // guarded by mu
	out     []byte // guarded by mu; written while corked
	failed  error  // guarded by mu; records are lost, so nothing may follow
}

// readAhead holds four records of the largest size; its sibling for writing
// holds what a 64 KiB write makes.
const readAhead = 4 * maxRecord

// readFurther is for connections on which that was full the last time: a system
// call that finds more costs less for each byte.
const readFurther = 4 * readAhead

// Sizes of RFC 8446, sections 5.1 and 5.2.
const (
	recordHeaderSize = 5
	maxPlaintext     = 16 << 10
	recordOverhead   = 256
	maxRecord        = recordHeaderSize + maxPlaintext + recordOverhead
)

//nolint:gochecknoglobals // pools have no state of their own
var (
	readBuffers  = slab.NewPool(readAhead, readFurther)
	writeBuffers = slab.NewPool(readAhead, readFurther)
	partBuffers  = sync.Pool{New: func() any { return new([maxRecord]byte) }}
)

// errWouldBlock is temporary in crypto/tls's eyes: it keeps its state, and the
// next read goes on.
type errWouldBlock struct{}

func (errWouldBlock) Error() string   { return "no whole record is there yet" }
func (errWouldBlock) Timeout() bool   { return false }
func (errWouldBlock) Temporary() bool { return true }

// newRecords reads from the descriptor only where that is all there is: a
// wrapped connection may hold bytes that the descriptor has no more.
func newRecords(c net.Conn) *records {
	r := &records{Conn: c}
	var sc syscall.Conn
	switch c := c.(type) {
	case *net.TCPConn:
		sc = c
	case *net.UnixConn:
		sc = c
	default:
		return r
	}
	if raw, err := sc.SyscallConn(); err == nil {
		r.raw, r.poll = raw, r.tryRead
	}
	return r
}

// Read gives bytes of the current record only.
func (r *records) Read(p []byte) (int, error) {
	if r.over {
		return r.readGiven(p)
	}
	for r.have < recordHeaderSize {
		if r.start == r.end {
			if err := r.fill(); err != nil {
				return r.atEnd(p, err)
			}
		}
		n := copy(r.head[r.have:], r.buf[r.start:r.end])
		r.have += n
		r.consume(n)
		r.left = int(binary.BigEndian.Uint16(r.head[3:]))
	}
	n := copy(p, r.head[r.sent:])
	r.sent += n
	if n == 0 && r.start == r.end {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	if r.sent == recordHeaderSize && r.start < r.end {
		m := copy(p[n:], r.buf[r.start:min(r.end, r.start+r.left)])
		r.left -= m
		r.consume(m)
		n += m
	}
	if r.sent == recordHeaderSize && r.left == 0 {
		r.have, r.sent = 0, 0
	}
	return n, nil
}

func (r *records) readGiven(p []byte) (int, error) {
	n := copy(p, r.given)
	r.given = r.given[n:]
	if n == 0 {
		return 0, errWouldBlock{}
	}
	return n, nil
}

// atEnd hands out what is less than a header when no more comes: crypto/tls
// judges it.
func (r *records) atEnd(p []byte, err error) (int, error) {
	if err == io.EOF && r.sent < r.have {
		n := copy(p, r.head[r.sent:r.have])
		r.sent += n
		return n, nil
	}
	return 0, err
}

// consume drops n buffered bytes, and the buffer with the last.
func (r *records) consume(n int) {
	r.start += n
	if r.start == r.end {
		r.drop()
	}
}

func (r *records) drop() {
	if r.taken != nil {
		readBuffers.Put(r.taken)
		r.taken, r.buf, r.start, r.end = nil, nil, 0, 0
	}
}

// next is the next record, header included, if all of it is buffered; else
// nil. It stays where it is until consume.
func (r *records) next() []byte {
	n := r.end - r.start
	if n < recordHeaderSize {
		return nil
	}
	b := r.buf[r.start:r.end]
	if whole := recordHeaderSize + int(binary.BigEndian.Uint16(b[3:])); whole <= n {
		return b[:whole:whole]
	}
	return nil
}

// header is that of the next record; nil if less has come.
func (r *records) header() []byte {
	if r.end-r.start < recordHeaderSize {
		return nil
	}
	return r.buf[r.start : r.start+recordHeaderSize]
}

// fill adds at least one byte to what is buffered, which must be less than a
// record, holding no more than that while it waits.
func (r *records) fill() error {
	if r.broken != nil {
		return r.broken
	}
	if r.nonblock && r.dry {
		return errWouldBlock{}
	}
	if r.raw == nil {
		return r.fillPlain()
	}
	if err := r.raw.Read(r.poll); err != nil {
		return err
	}
	switch {
	case r.pollErr == unix.EAGAIN:
		r.dry = true
		return errWouldBlock{}
	case r.pollErr != nil:
		r.broken = &net.OpError{Op: "read", Net: r.LocalAddr().Network(), Source: r.LocalAddr(), Addr: r.RemoteAddr(), Err: os.NewSyscallError("read", r.pollErr)}
		return r.broken
	case r.pollN == 0:
		r.dry = false // the end is to be seen again, whether we wait or not
		return io.EOF
	}
	r.end += r.pollN
	r.dry = r.end < len(r.buf)
	r.many = r.end >= readAhead
	return nil
}

// tryRead is one read(2). It is false, holding no more than the part of a
// record, if the socket has nothing and we may wait.
func (r *records) tryRead(fd uintptr) bool {
	r.take()
	for {
		r.pollN, r.pollErr = unix.Read(int(fd), r.buf[r.end:])
		if r.pollErr != unix.EINTR {
			break
		}
	}
	if r.pollErr != nil || r.pollN == 0 {
		r.shrink()
	}
	return r.pollErr != unix.EAGAIN || r.nonblock
}

// take makes room behind what is buffered.
func (r *records) take() {
	switch {
	case r.buf == nil:
		r.taken = readBuffers.Get(r.many)
		r.buf = r.taken.Bytes
		if r.part != nil {
			r.start, r.end = 0, copy(r.buf, r.part[:r.partLen])
			partBuffers.Put(r.part)
			r.part, r.partLen = nil, 0
		}
	case r.start > 0:
		r.start, r.end = 0, copy(r.buf, r.buf[r.start:r.end])
	}
}

// shrink gives the buffer back, and keeps what is in it.
func (r *records) shrink() {
	if r.start < r.end {
		r.part = partBuffers.Get().(*[maxRecord]byte)
		r.partLen = copy(r.part[:], r.buf[r.start:r.end])
	}
	r.drop()
}

// buffered reports whether there are bytes that have not been handed on.
func (r *records) buffered() bool { return r.start < r.end || r.part != nil }

// fillPlain is for connections without a descriptor. It holds a buffer while
// it waits, and cannot tell what is there without waiting.
func (r *records) fillPlain() error {
	if r.nonblock {
		return errWouldBlock{}
	}
	r.take()
	n, err := r.Conn.Read(r.buf[r.end:])
	r.end += n
	r.dry = true
	if n > 0 {
		return nil
	}
	r.shrink()
	if err == io.EOF {
		r.dry = false
	}
	return err
}

// hasRecord reports whether the rest of a record is here, so that it can be
// decrypted without asking the socket.
func (r *records) hasRecord() bool {
	n := r.end - r.start
	switch {
	case r.have == recordHeaderSize:
		return n >= r.left
	case r.have > 0 || n < recordHeaderSize:
		return false
	}
	return n >= recordHeaderSize+int(binary.BigEndian.Uint16(r.buf[r.start+3:]))
}

// await waits, without a buffer, until bytes have come, the peer has ended
// (which Read says), or the socket or its deadline fails.
func (r *records) await() error {
	if r.start < r.end {
		return nil
	}
	if err := r.fill(); err != nil && err != io.EOF {
		return err
	}
	return nil
}

// Write collects while corked.
func (r *records) Write(p []byte) (int, error) {
	if r.closing.Load() {
		return r.writeOnce(p)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.corked {
		r.out = append(r.out, p...)
		return len(p), nil
	}
	return r.send(p)
}

// send writes; mu is held. After a failure nothing is written any more, for
// the peer would see records missing.
func (r *records) send(p []byte) (int, error) {
	if r.failed != nil {
		return 0, r.failed
	}
	n, err := r.Conn.Write(p)
	r.failed = err
	return n, err
}

// writeOnce is the close_notify of a connection that is closed at once: it
// goes out if there is room, as Envoy does it. Nobody waits for a peer that
// does not read.
func (r *records) writeOnce(p []byte) (int, error) {
	if !r.mu.TryLock() {
		return 0, errWouldBlock{}
	}
	defer r.mu.Unlock()
	return r.tryWrite(p)
}

// tryWrite writes what there is room for, and the end follows; mu is held.
func (r *records) tryWrite(p []byte) (int, error) {
	if r.raw == nil || r.failed != nil {
		return r.send(p)
	}
	return r.trySend(p)
}

// sendLast writes what a FIN follows at once, which then goes in the same
// segment; mu is held.
func (r *records) sendLast(p []byte) error {
	if r.raw != nil && r.failed == nil {
		switch n, err := r.trySend(p); {
		case err == nil && n == len(p):
			return nil
		case err == nil:
			p = p[n:]
		case !errors.Is(err, unix.EAGAIN):
			r.failed = err
			return err
		}
	}
	_, err := r.send(p)
	return err
}

// trySend is one send(2), which does not wait. A segment goes out with what
// follows: a FIN.
func (r *records) trySend(p []byte) (n int, err error) {
	var failed error
	if err := r.raw.Write(func(fd uintptr) bool {
		n, failed = unix.SendmsgN(int(fd), p, nil, nil, unix.MSG_DONTWAIT|unix.MSG_MORE)
		return true
	}); err != nil {
		return 0, err
	}
	return max(n, 0), failed
}

// cork collects writes until uncork. Only one goroutine may cork.
func (r *records) cork() *slab.Buffer {
	buf := writeBuffers.Get(false)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.corked, r.out = true, buf.Bytes[:0]
	return buf
}

// uncork writes what was collected, in one system call.
func (r *records) uncork(buf *slab.Buffer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer writeBuffers.Put(buf)
	out := r.out
	r.corked, r.out = false, nil
	if len(out) == 0 {
		return nil
	}
	_, err := r.send(out)
	return err
}
