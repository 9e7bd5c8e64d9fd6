package relay

import "sync"

// bufferSize is that of a direction while bytes are in flight: four TLS
// records of the largest size, which go out in one write.
const bufferSize = 64 << 10

type buffer [bufferSize]byte

//nolint:gochecknoglobals // a pool has no state of its own
var buffers = sync.Pool{New: func() any { return new(buffer) }}

func takeBuffer() *buffer  { return buffers.Get().(*buffer) }
func giveBuffer(b *buffer) { buffers.Put(b) }
