package h2

import (
	"sync"
	"sync/atomic"
	"time"

	"outrider/proxy/http/codec"
	"outrider/proxy/relay"
)

// conn is what both sides of a connection have in common.
type conn struct {
	nc     relay.Conn
	o      *Options
	side   side
	outer  codec.Conn // the Server or Client that is around it
	server bool
	opened time.Time

	in     input // of the goroutine that reads
	dec    *decoder
	block  block       // the header block being decoded
	floods floodCounts // of the goroutine that reads

	active       atomic.Int32
	bytesWritten atomic.Uint64

	mu   sync.Mutex
	wake sync.Cond // what the writer waits for

	// All below are guarded by mu.
	streams map[uint32]*stream
	// lastPeer is the highest stream that the peer opened, lastTaken the
	// highest that we did not ignore, nextOwn the next that we open.
	lastPeer, lastTaken, nextOwn uint32
	requests                     uint64
	unsent                       []*stream // opened, but without a head yet
	// ourResets are the last streams that we reset: what still comes on them is
	// no mistake.
	ourResets resetRing

	out           *outBuffer // nil while nothing is to be written
	enc           *encoder
	outFrames     int   // in out and being written
	outControl    int   // those of them that answer the peer
	dataFrames    int64 // DATA frames sent
	parked        bool  // the writer waits
	ready         readyQueue
	pendingBytes  int // in streams
	sendWindow    int64
	peerWindow    int64 // the initial window of our streams at the peer
	peerStreams   uint32
	recvWindow    int64 // what the peer may still send
	credit        int   // consumed, and not given back yet
	toTell        []*stream
	freed         bool // a stream has ended, and the side is not told
	stop          error
	stopped       bool  // nothing is sent any more
	finishing     bool  // the writer writes what is there and ends
	announced     bool  // our GOAWAY with the highest stream is sent
	draining      bool  // our GOAWAY with the last stream is sent
	peerGone      bool  // the peer's GOAWAY has come
	goAway        error // what was wrong, as it said; nil for an end in order
	writeErr      error
	writerEnded   chan struct{}
	keep          keepalive
	resetsTooSoon int
	closedStreams int
}

// side is what differs between server and client.
type side interface {
	// newStream takes a header block of a stream that is not open.
	newStream(f frame, p []byte) error
	// response takes the first block of a stream of ours.
	response(s *stream, f frame, p []byte) error
	// ended says, without locks, that streams have ended.
	ended()
	// drained looks, without locks, whether it is to be said that the
	// connection takes no more.
	drained()
	// finished says, with mu held, whether the connection has nothing more to do.
	finished() bool
}

func newConn(nc relay.Conn, o Options) *conn {
	c := &conn{
		nc: nc, o: o.withDefaults(), opened: time.Now(),
		streams:     map[uint32]*stream{},
		sendWindow:  initialWindow,
		peerWindow:  initialWindow,
		peerStreams: maxStreamID,
		writerEnded: make(chan struct{}),
	}
	c.recvWindow = int64(c.o.InitialConnWindow)
	c.wake.L = &c.mu
	c.dec = newDecoder(max(defaultTableSize, c.o.HeaderTableSize), c.block.field)
	c.block.conn = c
	c.enc = newEncoder(c.o.HeaderTableSize)
	return c
}

// Protocol is HTTP/2.
func (c *conn) Protocol() codec.Protocol { return codec.HTTP2 }

// Active is how many streams are open.
func (c *conn) Active() int { return int(c.active.Load()) }

// BufferedAbove reports whether more than BufferLimit waits to be written.
func (c *conn) BufferedAbove() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.pendingBytes
	if c.out != nil {
		n += len(c.out.b)
	}
	return n > c.o.BufferLimit
}

// Close ends the connection.
func (c *conn) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopLocked(errClosed)
}

// stopLocked has the goroutine that reads end the connection. mu is held.
func (c *conn) stopLocked(why error) {
	if c.stop == nil {
		c.stop = why
		c.nc.SetReadDeadline(longAgo())
	}
}

// longAgo is a deadline that has passed.
func longAgo() time.Time { return time.Unix(1, 0) }

// begin queues what every connection begins with, before anything else.
func (c *conn) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.buffer()
	if !c.server {
		b.b = append(b.b, preface...)
	}
	settings := []setting{
		{settingTableSize, c.o.HeaderTableSize},
		{settingMaxStreams, c.o.MaxConcurrentStreams},
		{settingInitialWindow, c.o.InitialStreamWindow},
	}
	if c.o.AllowConnect {
		settings = append(settings, setting{settingConnectProtocol, 1})
	}
	if !c.server {
		settings = append(settings, setting{settingEnablePush, 0})
	}
	b.b = appendSettings(b.b, settings)
	if more := c.o.InitialConnWindow - initialWindow; more > 0 {
		b.b = appendWindowUpdate(b.b, 0, int(more))
	}
}

// run serves the connection to its end.
func (c *conn) run() *codec.End {
	go c.writeLoop()
	c.startKeepalive()
	err := c.readLoop()
	c.stopKeepalive()
	return c.finish(err)
}

// forget takes a stream from the connection; mu is held.
func (c *conn) forget(s *stream) {
	if s.over {
		return
	}
	s.over = true
	if s.id != 0 {
		delete(c.streams, s.id)
	}
	c.pendingBytes -= s.pending.size
	if s.pending.size > 0 {
		c.o.Stats.PendingSendBytes.Add(int64(-s.pending.size))
	}
	s.pending.drop()
	c.active.Add(-1)
	c.o.Stats.StreamsActive.Dec()
	c.closedStreams++
	c.freed = true
}

// settle forgets a stream that is through in both directions; mu is held.
func (c *conn) settle(s *stream) {
	if s.localDone && s.remoteDone {
		c.forget(s)
	}
}

// add counts a new stream; mu is held.
func (c *conn) add(s *stream) {
	c.active.Add(1)
	c.o.Stats.StreamsActive.Inc()
	if s.id != 0 {
		c.streams[s.id] = s
	}
}

// tellEnded tells the side of streams that have ended, and looks whether the
// connection is through. No lock is held.
func (c *conn) tellEnded() {
	c.mu.Lock()
	freed := c.freed
	c.freed = false
	c.mu.Unlock()
	if !freed {
		return
	}
	c.side.ended()
	c.mu.Lock()
	c.stopIfThrough()
	c.mu.Unlock()
}

// stopIfThrough ends a connection that takes no more once its last stream has
// ended and all is written, however long that takes the peer; mu is held.
func (c *conn) stopIfThrough() {
	if c.outFrames == 0 && !c.stopped && c.side.finished() {
		c.stopLocked(errDrained)
	}
}

// reset ends a stream for its receiver. It is called by the goroutine that
// reads, without locks.
func (c *conn) reset(s *stream, r codec.Reset) {
	c.mu.Lock()
	if s.over {
		c.mu.Unlock()
		return
	}
	muted := s.muted
	s.muted = true
	c.giveBackAll(s)
	c.forget(s)
	if s.telling {
		s.late = &r
		muted = true
	}
	c.mu.Unlock()
	if !muted && s.r != nil {
		s.r.OnReset(r)
	}
}

// resetRing holds the last streams that we reset.
type resetRing struct {
	ids  []uint32
	next int
}

// ringSize bounds what is remembered of a connection's resets.
const ringSize = 256

func (r *resetRing) add(id uint32) {
	if len(r.ids) < ringSize {
		r.ids = append(r.ids, id)
		return
	}
	r.ids[r.next] = id
	r.next = (r.next + 1) % ringSize
}

func (r *resetRing) has(id uint32) bool {
	for _, x := range r.ids {
		if x == id {
			return true
		}
	}
	return false
}
