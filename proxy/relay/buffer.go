package relay

import "outrider/tlsmux/slab"

// bufferSize is that of a direction while bytes are in flight: four TLS
// records of the largest size, which go out in one write.
const bufferSize = 64 << 10

// largeSize is that of a direction whose last read filled its buffer.
const largeSize = 4 * bufferSize

// buffers have a byte more, for wait.Buffer.
//
//nolint:gochecknoglobals // a pool has no state of its own
var buffers = slab.NewPool(bufferSize+1, largeSize+1)

// room is a buffer while there is something in it.
type room struct {
	taken *slab.Buffer
	many  bool // the last read filled a buffer
}

// Take takes a buffer from the pool (wait.Buffer).
func (r *room) Take() []byte {
	r.taken = buffers.Get(r.many)
	return r.taken.Bytes[:len(r.taken.Bytes)-1]
}

// Drop gives it back (wait.Buffer).
func (r *room) Drop() {
	buffers.Put(r.taken)
	r.taken = nil
}

// read is what n bytes were read into.
func (r *room) read(n int) []byte {
	r.many = n >= bufferSize
	return r.taken.Bytes[:n]
}
