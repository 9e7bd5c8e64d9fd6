// Package slab has buffers of two sizes, for what is in flight: a common one,
// and a large one for connections that move much, of which there are only so
// many at once.
package slab

import (
	"sync"
	"sync/atomic"
)

// maxLarge is how many large buffers of a pool may be in use at once.
const maxLarge = 64

// Buffer is a buffer of a Pool.
type Buffer struct {
	Bytes []byte
	large bool
}

// Pool has buffers. It is safe for concurrent use.
type Pool struct {
	small, large         sync.Pool
	smallSize, largeSize int
	inUse                atomic.Int32 // large ones
}

// NewPool makes a pool of these two sizes, in bytes.
func NewPool(small, large int) *Pool {
	p := &Pool{smallSize: small, largeSize: large}
	p.small.New = func() any { return &Buffer{Bytes: make([]byte, small)} }
	p.large.New = func() any { return &Buffer{Bytes: make([]byte, large), large: true} }
	return p
}

// Get is a buffer: a large one if that is wanted and to be had.
func (p *Pool) Get(large bool) *Buffer {
	if !large {
		return p.small.Get().(*Buffer)
	}
	if p.inUse.Add(1) > maxLarge {
		p.inUse.Add(-1)
		return p.small.Get().(*Buffer)
	}
	return p.large.Get().(*Buffer)
}

// Put gives one back.
func (p *Pool) Put(b *Buffer) {
	if !b.large {
		p.small.Put(b)
		return
	}
	p.large.Put(b)
	p.inUse.Add(-1)
}
