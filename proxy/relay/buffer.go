package relay

import "sync"

// bufferSize is that of a direction while bytes are in flight: four TLS
// records of the largest size, which go out in one write.
const bufferSize = 64 << 10

// buffer has a byte more, for wait.Buffer.
type buffer [bufferSize + 1]byte

//nolint:gochecknoglobals // a pool has no state of its own
var buffers = sync.Pool{New: func() any { return new(buffer) }}

// room is a buffer while there is something in it.
type room struct{ buf *buffer }

// Take takes a buffer from the pool (wait.Buffer).
func (r *room) Take() []byte {
	r.buf = buffers.Get().(*buffer)
	return r.buf[:bufferSize]
}

// Drop gives it back (wait.Buffer).
func (r *room) Drop() {
	buffers.Put(r.buf)
	r.buf = nil
}
