package h1

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"outrider/proxy/relay"
)

// readSize holds four records of TLS.
const readSize = 64 << 10

//nolint:gochecknoglobals // a pool has no state of its own
var readBuffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// input is what was read and not taken yet. It has a buffer only while there is
// something in it.
type input struct {
	pooled     *[readSize]byte
	buf        []byte // pooled, or one of its own for a head that is larger
	start, end int
	bytes      uint64
	last       atomic.Int64 // when bytes last came, in nanoseconds of Unix time; 0 is never
}

func (in *input) len() int { return in.end - in.start }

// consumed is how many bytes were taken.
func (in *input) consumed() uint64 { return in.bytes - uint64(in.len()) }

// data is what is there. It is good until the next fill.
func (in *input) data() []byte { return in.buf[in.start:in.end] }

// drop gives the buffer back, with what is in it.
func (in *input) drop() {
	if in.pooled != nil {
		readBuffers.Put(in.pooled)
	}
	in.pooled, in.buf, in.start, in.end = nil, nil, 0, 0
}

// lastRead is when bytes last came; zero if none did.
func (in *input) lastRead() time.Time {
	if n := in.last.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

// Take makes room behind what is there (relay.Buffer).
func (in *input) Take() []byte {
	switch {
	case in.buf == nil:
		in.pooled = readBuffers.Get().(*[readSize]byte)
		in.buf = in.pooled[:]
	case in.start > 0 && in.end == len(in.buf):
		in.end = copy(in.buf, in.data())
		in.start = 0
	case in.end == len(in.buf):
		larger := make([]byte, 2*len(in.buf))
		n := copy(larger, in.data())
		in.drop()
		in.buf, in.end = larger, n
	}
	return in.buf[in.end:]
}

// Drop gives an empty buffer back (relay.Buffer).
func (in *input) Drop() {
	if in.len() == 0 {
		in.drop()
	}
}

// fill reads at least one byte. It blocks holding no buffer if there is nothing
// in it.
func (c *conn) fill() error {
	in := &c.in
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
		in.last.Store(time.Now().UnixNano())
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
	switch {
	case c.stop != nil:
		return c.stop
	case c.writeErr != nil:
		return c.writeErr
	case c.headLimited:
		return refused(408, detailTimeout, "the head has not come within %s", c.o.HeadTimeout)
	}
	return err
}

// limitHead sets the deadline of a head that has come in part.
func (c *conn) limitHead(b *block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop == nil {
		_ = c.nc.SetReadDeadline(fromNow(b.timeout))
		c.headLimited = true
	}
	b.timeout = 0
}

// unlimitHead takes it back.
func (c *conn) unlimitHead() {
	if !c.headLimited {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headLimited = false
	if c.stop == nil {
		_ = c.nc.SetReadDeadline(time.Time{})
	}
}

// readBlock takes a head or trailers; first is called with the first line. It
// returns how many bytes the block has, which are at the beginning of the data.
func (c *conn) readBlock(b *block, first func(line []byte) *mistake) error {
	for {
		at, m := b.feed(c.in.data())
		if m != nil {
			return m
		}
		switch at {
		case complete:
			return nil
		case blankLine:
			c.in.start += b.at
			b.at, b.seen = 0, 0
		case firstLine:
			if m := first(c.in.data()[:b.first]); m != nil {
				return m
			}
		case needMore:
			if b.timeout > 0 && c.in.len() > 0 {
				c.limitHead(b)
			}
			if err := c.fill(); err != nil {
				if err == io.EOF && c.in.len() > 0 {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
		}
	}
}
