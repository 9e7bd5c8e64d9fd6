package h1

import "sync"

// outSize is how much leaves in one write at most.
const outSize = 64 << 10

// piece is a part of what waits to be written.
type piece struct {
	next *piece
	n    int
	b    [outSize]byte
}

//nolint:gochecknoglobals // a pool has no state of its own
var pieces = sync.Pool{New: func() any { return new(piece) }}

// queue is what waits to be written.
type queue struct {
	first, last *piece
	size        int    // bytes that wait, with those that are being written
	total       uint64 // bytes that were ever put in
	writing     int    // of size, those that are being written
}

// add copies p.
func (q *queue) add(p []byte) {
	q.size += len(p)
	q.total += uint64(len(p))
	for len(p) > 0 {
		t := q.tail()
		n := copy(t.b[t.n:], p)
		t.n += n
		p = p[n:]
	}
}

func (q *queue) text(s string) {
	if t := q.tail(); outSize-t.n >= len(s) {
		t.n += copy(t.b[t.n:], s)
		q.size += len(s)
		q.total += uint64(len(s))
		return
	}
	q.add([]byte(s))
}

// room are n bytes to write to, which fill puts into the queue: in the last
// piece, if they fit into it.
func (q *queue) room(n int) []byte {
	if t := q.tail(); outSize-t.n >= n {
		return t.b[t.n : t.n+n]
	}
	return make([]byte, n)
}

// fill puts what room gave into the queue.
func (q *queue) fill(b []byte) {
	t := q.last
	if outSize-t.n < len(b) || &t.b[t.n] != &b[0] {
		q.add(b)
		return
	}
	t.n += len(b)
	q.size += len(b)
	q.total += uint64(len(b))
}

// tail is the last piece, which has room.
func (q *queue) tail() *piece {
	if q.last != nil && q.last.n < outSize {
		return q.last
	}
	p := pieces.Get().(*piece)
	p.next, p.n = nil, 0
	if q.last == nil {
		q.first = p
	} else {
		q.last.next = p
	}
	q.last = p
	return p
}

// take takes the first piece out, to be written; its bytes still count until
// written is called. nil if there is none.
func (q *queue) take() *piece {
	p := q.first
	if p == nil {
		return nil
	}
	if q.first = p.next; q.first == nil {
		q.last = nil
	}
	q.writing = p.n
	return p
}

// written gives a piece back.
func (q *queue) written(p *piece) {
	q.size -= q.writing
	q.writing = 0
	pieces.Put(p)
}

// discard takes out what was put in since total was from, as far as it is not
// being written.
func (q *queue) discard(from uint64) {
	keep := q.size - q.writing - int(q.total-from)
	if keep < 0 {
		keep = 0
	}
	var last *piece
	for p := q.first; p != nil; {
		next := p.next
		switch {
		case keep == 0:
			q.size -= p.n
			pieces.Put(p)
		default:
			q.size -= p.n - min(p.n, keep)
			p.n = min(p.n, keep)
			keep -= p.n
			p.next = nil
			if last == nil {
				q.first = p
			} else {
				last.next = p
			}
			last = p
		}
		p = next
	}
	if q.last = last; last == nil {
		q.first = nil
	}
}

// writeLoop writes what is in the queue, until the connection is finished.
func (c *conn) writeLoop() {
	defer close(c.writerEnded)
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for !c.hasWork() {
			if c.finishing {
				return
			}
			c.parked = true
			c.writer.Wait()
		}
		c.tell()
		if p := c.out.take(); p != nil {
			c.write(p)
		}
		if c.out.first == nil {
			c.emptied()
		}
	}
}

// hasWork is called with mu held.
func (c *conn) hasWork() bool {
	return c.out.first != nil || c.changed || c.owesNow() ||
		!c.finishing && (c.halfClose || c.closing && c.stop == nil)
}

// owesNow reports whether there is room again for what is owed; mu is held.
func (c *conn) owesNow() bool {
	return c.owing != nil && c.owing.r != nil && c.out.size <= c.o.BufferLimit
}

// tell calls those who have to hear something; mu is held, but not while they
// are called.
func (c *conn) tell() {
	if s := c.owing; s != nil && c.owesNow() {
		n := s.owed
		s.owed, c.owing = 0, nil
		if n > 0 && !s.muted {
			c.telling = true
			c.mu.Unlock()
			s.r.OnGone(n)
			c.mu.Lock()
			c.telling = false
			c.wakeReader()
		}
	}
	if c.changed {
		c.changed = false
		c.mu.Unlock()
		c.side.ended()
		c.mu.Lock()
	}
}

// write writes one piece; mu is held, but not while it writes.
func (c *conn) write(p *piece) {
	stopped := c.writeErr != nil
	if c.closing && !c.finishing {
		_ = c.nc.SetWriteDeadline(fromNow(closingTime))
	}
	c.mu.Unlock()
	var err error
	if !stopped {
		var n int
		n, err = c.nc.Write(p.b[:p.n])
		c.bytesWritten.Add(uint64(n))
	}
	c.mu.Lock()
	c.out.written(p)
	c.wakeReader()
	if err != nil {
		c.broken(err)
	}
}

// emptied is called when all is written; mu is held.
func (c *conn) emptied() {
	if c.halfClose && !c.finishing {
		c.halfClose = false
		c.mu.Unlock()
		_ = c.nc.CloseWrite()
		c.mu.Lock()
	}
	if c.closing && c.out.first == nil {
		c.stopLocked(errDone)
	}
}

// broken stops all sending. What a server has sent before it closed is still
// read, but not for long. mu is held.
func (c *conn) broken(err error) {
	if c.writeErr == nil {
		c.writeErr = err
	}
	c.stopped, c.draining = true, true
	c.out.discard(0)
	switch {
	case c.finishing:
	case c.server || c.eof:
		c.stopLocked(err)
	case c.stop == nil:
		_ = c.nc.SetReadDeadline(fromNow(flushTime))
	}
}
