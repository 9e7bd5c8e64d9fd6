package h2

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"outrider/proxy/relay"
)

// readSize holds four records of TLS, and the largest frame in any case.
const readSize = 64 << 10

//nolint:gochecknoglobals // a pool has no state of its own
var readBuffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// input is what was read and not taken apart yet. It has a buffer only while
// there is something in it.
type input struct {
	buf        *[readSize]byte
	start, end int
	bytes      uint64
	at         time.Time    // when bytes last came; the reader's
	last       atomic.Int64 // the same for others, in nanoseconds of Unix time; 0 is never
}

func (in *input) len() int { return in.end - in.start }

// drop gives an empty buffer back.
func (in *input) drop() {
	if in.buf != nil {
		readBuffers.Put(in.buf)
	}
	in.buf, in.start, in.end = nil, 0, 0
}

// Take is room to read into, behind what is in it (relay.Buffer).
func (in *input) Take() []byte {
	switch {
	case in.buf == nil:
		in.buf = readBuffers.Get().(*[readSize]byte)
	case in.start > 0:
		in.end = copy(in.buf[:], in.buf[in.start:in.end])
		in.start = 0
	}
	return in.buf[in.end:]
}

// Drop gives an empty buffer back (relay.Buffer).
func (in *input) Drop() {
	if in.len() == 0 {
		in.drop()
	}
}

// lastRead is when bytes last came; zero if none did.
func (in *input) lastRead() time.Time {
	if n := in.last.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

// need makes n bytes available and returns them; n is not above readSize.
func (c *conn) need(n int) ([]byte, error) {
	in := &c.in
	for in.len() < n {
		if err := c.fill(); err != nil {
			if err == io.EOF && in.len() > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return in.buf[in.start : in.start+n], nil
}

// fill reads at least one byte.
func (c *conn) fill() error {
	in := &c.in
	c.tellEnded()
	var n int
	var err error
	if in.len() == 0 {
		in.drop()
		n, err = relay.ReadLazy(c.nc, in)
	} else {
		n, err = c.nc.Read(in.Take())
	}
	if n > 0 {
		in.end += n
		in.bytes += uint64(n)
		in.at = time.Now()
		in.last.Store(in.at.UnixNano())
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return c.readFailure(err)
}

// readFailure is why the connection ends: what stopped it, if that was us.
func (c *conn) readFailure(err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop != nil {
		return c.stop
	}
	return err
}

// readLoop reads until the connection ends, and says why.
func (c *conn) readLoop() error {
	if c.server {
		if err := c.readPreface(); err != nil {
			return err
		}
	}
	first := true
	for {
		f, p, err := c.readFrame()
		if err != nil {
			return err
		}
		if first && (f.kind != frameSettings || f.has(flagAck)) {
			return connErrorf(codeProtocol, "the first frame is of type %d, not SETTINGS", f.kind)
		}
		first = false
		if err := c.take(f, p); err != nil {
			return err
		}
	}
}

func (c *conn) readPreface() error {
	for i := range len(preface) {
		b, err := c.need(i + 1)
		if err != nil {
			return err
		}
		if b[i] != preface[i] {
			return connErrorf(codeProtocol, "%q is not the beginning of HTTP/2", b[:i+1])
		}
	}
	c.in.start += len(preface)
	return nil
}

// readFrame reads a whole frame. The payload is good until the next call.
func (c *conn) readFrame() (frame, []byte, error) {
	b, err := c.need(frameHeaderSize)
	if err != nil {
		return frame{}, nil, err
	}
	f := parseFrame(b)
	if f.length > maxFrame {
		return f, nil, connErrorf(codeFrameSize, "a frame of %d bytes, of type %d", f.length, f.kind)
	}
	if b, err = c.need(frameHeaderSize + f.length); err != nil {
		return f, nil, err
	}
	c.in.start += len(b)
	return f, b[frameHeaderSize:], nil
}
