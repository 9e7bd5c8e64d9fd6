package compressor

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// writer compresses. Flush lets out all that was written; Close ends the
// stream; Reset begins another one.
type writer interface {
	io.WriteCloser
	Flush() error
	Reset(w io.Writer)
}

// library makes writers of one kind, and keeps those that are done.
type library struct {
	encoding string // content-encoding
	pool     sync.Pool
}

// zstdWindow bounds the memory of a stream; it is Envoy's window at level 3.
const zstdWindow = 2 << 20

// newLibrary is gzip (level 0 is its default) or zstd.
func newLibrary(name string, level int) (*library, error) {
	l := &library{encoding: name}
	var open func() (writer, error)
	switch name {
	case "gzip":
		if level == 0 {
			level = gzip.DefaultCompression
		}
		open = func() (writer, error) { return gzip.NewWriterLevel(nil, level) }
	case "zstd":
		open = func() (writer, error) {
			return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
				zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow))
		}
	default:
		return nil, fmt.Errorf("compressor library %q is not known", name)
	}
	first, err := open()
	if err != nil {
		return nil, fmt.Errorf("compressor library %s at level %d: %w", name, level, err)
	}
	l.pool.Put(first)
	l.pool.New = func() any {
		w, _ := open() // it has worked before
		return w
	}
	return l, nil
}

// stream is a message that is compressed.
type stream struct {
	library *library
	w       writer
	out     bytes.Buffer
}

func (l *library) open() *stream {
	s := &stream{library: l, w: l.pool.Get().(writer)}
	s.w.Reset(&s.out)
	return s
}

// write compresses p and lets it out at once, for it may be a while until there
// is more. What is returned is good until the next call.
func (s *stream) write(p []byte, end bool) ([]byte, error) {
	s.out.Reset()
	if _, err := s.w.Write(p); err != nil {
		return nil, err
	}
	var err error
	switch {
	case end:
		err = s.w.Close()
	case len(p) > 0:
		err = s.w.Flush()
	}
	return s.out.Bytes(), err
}

// release gives the writer back, which nobody may use after.
func (s *stream) release() {
	s.w.Reset(io.Discard)
	s.library.pool.Put(s.w)
	s.w = nil
}
