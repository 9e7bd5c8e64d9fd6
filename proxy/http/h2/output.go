package h2

import (
	"runtime"
	"sync"
	"time"

	"outrider/proxy/http/codec"
)

// outSize is how much the buffer takes of DATA: four records of TLS, which go
// out in one system call. Heads and answers may make it larger.
const outSize = 64 << 10

// outBuffer is what the writer writes next.
type outBuffer struct{ b []byte }

//nolint:gochecknoglobals // a pool has no state of its own
var outBuffers = sync.Pool{New: func() any { return &outBuffer{make([]byte, 0, outSize+1024)} }}

// put gives a buffer back, unless it has grown large.
func (b *outBuffer) put() {
	if cap(b.b) <= 2*outSize {
		b.b = b.b[:0]
		outBuffers.Put(b)
	}
}

// buffer is where frames are appended; mu is held, and queued is called after
// each frame.
func (c *conn) buffer() *outBuffer {
	if c.out == nil {
		c.out = outBuffers.Get().(*outBuffer)
	}
	return c.out
}

// waiting is how many bytes are in the buffer; mu is held.
func (c *conn) waiting() int {
	if c.out == nil {
		return 0
	}
	return len(c.out.b)
}

// queued counts a frame in the buffer and wakes the writer; mu is held.
func (c *conn) queued() {
	c.outFrames++
	if c.outFrames > c.o.MaxOutboundFrames && c.stop == nil {
		c.o.Stats.OutboundFlood.Inc()
		c.stopLocked(&connError{code: codeEnhanceYourCalm, what: "too many frames wait to be written", details: "http2.outbound_frames_flood", silent: true})
	}
	c.wakeWriter()
}

// queuedControl is queued for a frame that answers the peer.
func (c *conn) queuedControl() error {
	c.outControl++
	c.queued()
	if c.outControl <= c.o.MaxOutboundControlFrames {
		return nil
	}
	c.o.Stats.OutboundControl.Inc()
	return &connError{code: codeEnhanceYourCalm, what: "too many answers wait to be written", details: "http2.outbound_frames_flood", silent: true}
}

// queueReset appends RST_STREAM; mu is held.
func (c *conn) queueReset(id uint32, code errCode) {
	b := c.buffer()
	b.b = appendReset(b.b, id, code)
	c.o.Stats.TxReset.Inc()
	if err := c.queuedControl(); err != nil {
		c.stopLocked(err)
	}
}

// wakeWriter is called with mu held.
func (c *conn) wakeWriter() {
	if c.parked {
		c.parked = false
		c.wake.Signal()
	}
}

// writeData appends DATA frames for as much of p as may be sent now, and says
// how much that was. The last frame has END_STREAM if end is set and nothing is
// left. mu is held.
func (c *conn) writeData(s *stream, p []byte, end bool) int {
	sent := 0
	for {
		b := c.buffer()
		n := len(p) - sent
		n = min(n, maxFrame, int(max(0, min(s.sendWindow, c.sendWindow))), outSize-frameHeaderSize-len(b.b))
		last := end && sent+max(n, 0) == len(p)
		if n <= 0 && !(last && sent == len(p)) {
			return sent
		}
		n = max(n, 0)
		f := frame{kind: frameData, stream: s.id, length: n}
		if last {
			f.flags = flagEndStream
		}
		b.b = appendFrame(b.b, f)
		b.b = append(b.b, p[sent:sent+n]...)
		s.put += uint64(frameHeaderSize + n)
		sent += n
		s.sendWindow -= int64(n)
		c.sendWindow -= int64(n)
		c.dataFrames++
		c.queued()
		if last {
			s.localDone = true
			c.settle(s)
			return sent
		}
		if sent == len(p) {
			return sent
		}
	}
}

// makeReady has the writer look at a stream's pending data; mu is held.
func (c *conn) makeReady(s *stream) {
	if s.queued || s.over || s.pending.size == 0 || s.sendWindow <= 0 {
		return
	}
	c.ready.push(s)
	if c.sendWindow > 0 {
		c.wakeWriter()
	}
}

// movable reports whether pending data could go into the buffer; mu is held.
func (c *conn) movable() bool {
	return c.ready.first != nil && c.sendWindow > 0 && (c.out == nil || len(c.out.b) < outSize-frameHeaderSize)
}

// pump moves pending data into the buffer, a frame of each stream in turn; mu
// is held.
func (c *conn) pump() {
	for c.movable() {
		s := c.ready.pop()
		if s.over {
			continue
		}
		piece := s.pending.front()
		last := len(piece) == s.pending.size
		n := c.writeData(s, piece, last && s.ended && s.trailers == nil)
		c.moved(s, n)
		if s.pending.size > 0 && s.sendWindow > 0 {
			c.ready.push(s)
		}
	}
}

// moved books n bytes that have left what is pending; mu is held.
func (c *conn) moved(s *stream, n int) {
	if !s.over { // its end drops and books all that was pending
		s.pending.consume(n)
		c.pendingBytes -= n
		c.o.Stats.PendingSendBytes.Add(int64(-n))
	}
	s.gone += n
	c.list(s)
	if s.pending.size > 0 || s.over {
		return
	}
	if s.trailers != nil {
		c.endWith(s, s.trailers)
	}
	if s.closing && s.localDone {
		c.resetLocked(s, codeNoError)
	}
}

// list has the writer call a stream's receiver; mu is held.
func (c *conn) list(s *stream) {
	if !s.listed {
		s.listed = true
		c.toTell = append(c.toTell, s)
	}
}

// writeLoop writes what is in the buffer, until the connection is finished.
func (c *conn) writeLoop() {
	defer close(c.writerEnded)
	c.mu.Lock()
	for {
		for !c.hasWork() {
			if c.finishing {
				c.mu.Unlock()
				return
			}
			c.parked = true
			c.wake.Wait()
			c.gather()
		}
		c.pump()
		out := c.out
		c.out = nil
		frames, control := c.outFrames, c.outControl
		c.mu.Unlock()
		c.tell()
		err := c.write(out)
		c.mu.Lock()
		c.outFrames -= frames
		c.outControl -= control
		if err != nil {
			c.broken(err)
		}
		c.stopIfThrough()
	}
}

// gather lets the goroutines run that are ready, where there are several
// streams: what they have to send goes with what woke the writer, in one record
// and one write(2). mu is held, but not meanwhile.
func (c *conn) gather() {
	if len(c.streams) > 1 {
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
}

// hasWork is called with mu held.
func (c *conn) hasWork() bool {
	return c.out != nil || len(c.toTell) > 0 || c.freed || c.movable() && !c.stopped
}

// write writes the buffer and gives it back.
func (c *conn) write(out *outBuffer) error {
	if out == nil {
		return nil
	}
	n, err := c.nc.Write(out.b)
	c.bytesWritten.Add(uint64(n))
	out.put()
	return err
}

// broken stops all sending. What the peer has sent is still read, but not for
// long. mu is held.
func (c *conn) broken(err error) {
	if c.writeErr == nil {
		c.writeErr = err
	}
	c.stopped = true
	if c.out != nil {
		c.out.put()
		c.out = nil
	}
	if c.stop == nil && !c.finishing {
		c.stop = err
		c.nc.SetReadDeadline(time.Now().Add(c.o.CloseDelay))
	}
}

// tell calls the receivers that have to hear something. It is the writer's.
func (c *conn) tell() {
	c.mu.Lock()
	for len(c.toTell) > 0 {
		s := c.toTell[len(c.toTell)-1]
		c.toTell = c.toTell[:len(c.toTell)-1]
		s.listed = false
		n, refused := s.gone, s.refused
		s.gone, s.refused = 0, false
		if s.r == nil { // attach lists it again
			s.gone = n
			continue
		}
		if s.muted || n == 0 && !refused {
			continue
		}
		s.telling = true
		c.mu.Unlock()
		if refused {
			s.r.OnReset(codec.Reset{Reason: codec.Refused, Err: codec.ErrUnavailable})
		} else {
			s.r.OnGone(n)
		}
		c.mu.Lock()
		s.telling = false
		if late := s.late; late != nil {
			s.late = nil
			c.mu.Unlock()
			s.r.OnReset(*late)
			c.mu.Lock()
		}
	}
	c.mu.Unlock()
	c.tellEnded()
}

// chunk is a piece of pending data, one frame long.
type chunk struct {
	next       *chunk
	start, end int
	b          [maxFrame]byte
}

//nolint:gochecknoglobals // a pool has no state of its own
var chunkPool = sync.Pool{New: func() any { return new(chunk) }}

// chunks are bytes in the order they came.
type chunks struct {
	first, last *chunk
	size        int
}

func (q *chunks) add(p []byte) {
	q.size += len(p)
	for len(p) > 0 {
		if q.last == nil || q.last.end == maxFrame {
			k := chunkPool.Get().(*chunk)
			k.next, k.start, k.end = nil, 0, 0
			if q.last == nil {
				q.first = k
			} else {
				q.last.next = k
			}
			q.last = k
		}
		n := copy(q.last.b[q.last.end:], p)
		q.last.end += n
		p = p[n:]
	}
}

// front are bytes of the beginning; there must be some.
func (q *chunks) front() []byte { return q.first.b[q.first.start:q.first.end] }

// consume drops n bytes, no more than front had.
func (q *chunks) consume(n int) {
	q.size -= n
	k := q.first
	if k == nil {
		return
	}
	if k.start += n; k.start < k.end {
		return
	}
	if q.first = k.next; q.first == nil {
		q.last = nil
	}
	chunkPool.Put(k)
}

func (q *chunks) drop() {
	for q.first != nil {
		k := q.first
		q.first = k.next
		chunkPool.Put(k)
	}
	*q = chunks{}
}

// readyQueue are streams with data that could be sent.
type readyQueue struct{ first, last *stream }

func (q *readyQueue) push(s *stream) {
	s.queued, s.next = true, nil
	if q.last == nil {
		q.first = s
	} else {
		q.last.next = s
	}
	q.last = s
}

func (q *readyQueue) pop() *stream {
	s := q.first
	if q.first = s.next; q.first == nil {
		q.last = nil
	}
	s.next, s.queued = nil, false
	return s
}
