package h2

import (
	"bytes"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
)

// strict is a Receiver that panics if the connection breaks the interface's
// promises.
type strict struct {
	codec.Sender
	client        bool
	head, end     bool
	reset         bool
	calls         atomic.Int32
	bytes, window int
}

func (s *strict) enter(what string) func() {
	if s.calls.Add(1) != 1 {
		panic("two calls at once: " + what)
	}
	if s.reset || s.end {
		panic(what + " after the end")
	}
	return func() { s.calls.Add(-1) }
}

func (s *strict) OnHead(h *message.Head, end bool) {
	defer s.enter("OnHead")()
	if s.head {
		panic("a second head")
	}
	for _, f := range h.Fields {
		if !validName(f.Name) || !all(f.Value, inValue) || trimmed(f.Value) != f.Value {
			panic(fmt.Sprintf("field %q: %q", f.Name, f.Value))
		}
	}
	if s.client {
		s.head = h.Status >= 200 || h.Status == 101
		s.end = end
		h.Release()
		return
	}
	s.head, s.end = true, end
	if h.Method == "" || h.Authority == "" {
		panic("a request without method or authority")
	}
	path := h.Path
	h.Release()
	sendHead(s, 200, false, "a", "b")
	switch len(path) % 4 {
	case 0:
		s.SendData(make([]byte, 100_000), true)
	case 1:
		s.SendTrailers(fieldsOf("c", "d"))
	case 2:
		s.Reset(codec.Cancel)
	}
}

func (s *strict) OnData(p []byte, end bool) {
	defer s.enter("OnData")()
	if !s.head || len(p) == 0 && !end {
		panic("data without head or bytes")
	}
	if s.bytes += len(p); s.bytes > s.window {
		panic("more data than the window")
	}
	s.end = end
	if len(p)%2 == 0 {
		s.Consumed(len(p))
		s.bytes -= len(p)
	}
}

func (s *strict) OnTrailers(message.Fields) {
	defer s.enter("OnTrailers")()
	if !s.head {
		panic("trailers without head")
	}
	s.end = true
}

func (s *strict) OnReset(codec.Reset) {
	if s.reset {
		panic("OnReset twice")
	}
	s.reset = true
}

func (s *strict) OnGone(n int) {
	if n <= 0 {
		panic("OnGone of nothing")
	}
}

type strictServer struct{}

func (strictServer) Request(s codec.Sender) codec.Receiver {
	return &strict{Sender: s, window: fuzzWindow}
}
func (strictServer) Idle() {}

// fuzzWindow is the receive window of the fuzzed connections.
const fuzzWindow = 65535

func fuzzOptions(flags uint8) Options {
	return Options{
		InitialStreamWindow: fuzzWindow, InitialConnWindow: fuzzWindow, MaxConcurrentStreams: 8,
		StreamErrorsOnly: flags&1 != 0, AllowConnect: flags&2 != 0, CloseDelay: time.Millisecond,
	}
}

// feed gives bytes to a connection, whose answers it throws away, and waits for
// its end.
func feed(t *testing.T, nc *memoryConn, data []byte, run func() *codec.End) {
	nc.out.limit = 1 << 30
	read := make(chan struct{})
	go func() { defer close(read); io.Copy(io.Discard, nc) }()
	ended := make(chan *codec.End, 1)
	go func() { ended <- run() }()
	nc.Write(data)
	nc.CloseWrite()
	select {
	case end := <-ended:
		if end.BytesRead > uint64(len(data)) {
			t.Errorf("%d bytes were read of %d", end.BytesRead, len(data))
		}
	case <-time.After(20 * time.Second):
		panic("the connection does not end")
	}
	<-read
}

// seeds are frames that a peer may send.
func seeds(response bool) [][]byte {
	var b, block bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	fr.AllowIllegalWrites = true
	enc := hpack.NewEncoder(&block)
	fields := func(kv ...string) []byte {
		block.Reset()
		for i := 0; i < len(kv); i += 2 {
			enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
		}
		return bytes.Clone(block.Bytes())
	}
	head := func() []byte {
		if response {
			return fields(":status", "200", "content-length", "3", "a", "b")
		}
		return fields(":method", "POST", ":scheme", "http", ":path", "/abc", ":authority", "x", "cookie", "a", "cookie", "b")
	}
	var out [][]byte
	add := func(f func()) {
		b.Reset()
		fr.WriteSettings(http2.Setting{ID: 4, Val: 70000}, http2.Setting{ID: 1, Val: 100})
		f()
		out = append(out, bytes.Clone(b.Bytes()))
	}
	add(func() {
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head(), EndHeaders: true})
		fr.WriteData(1, false, []byte("ab"))
		fr.WriteDataPadded(1, true, []byte("c"), make([]byte, 5))
	})
	add(func() {
		h := head()
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h[:2], PadLength: 3, Priority: http2.PriorityParam{StreamDep: 3}})
		fr.WriteContinuation(1, true, h[2:])
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fields("t", "u"), EndHeaders: true, EndStream: true})
	})
	add(func() {
		for id := uint32(1); id < 21; id += 2 {
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head(), EndHeaders: true, EndStream: id%4 == 1})
			fr.WriteData(id, false, make([]byte, 3))
			fr.WriteWindowUpdate(id, 100)
			fr.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		fr.WriteWindowUpdate(0, 1<<20)
		fr.WritePing(false, [8]byte{})
		fr.WritePing(true, [8]byte{})
		fr.WriteSettings(http2.Setting{ID: 4, Val: 0})
		fr.WriteSettingsAck()
		fr.WriteGoAway(3, 0, []byte("x"))
		fr.WriteRawFrame(0x42, 0xff, 1, []byte("x"))
		fr.WritePriority(5, http2.PriorityParam{StreamDep: 1})
	})
	return out
}

// Whatever a client sends, the server does not panic or hang, keeps to the
// interface, and gives no receiver more than the window.
func FuzzServer(f *testing.F) {
	for _, s := range seeds(false) {
		f.Add(uint8(0), s)
		f.Add(uint8(3), s)
	}
	f.Fuzz(func(t *testing.T, flags uint8, data []byte) {
		cn, sn := memoryPair(t)
		s := NewServer(sn.(*memoryConn), strictServer{}, fuzzOptions(flags))
		if flags&4 == 0 {
			data = append([]byte(preface), data...)
		}
		feed(t, cn.(*memoryConn), data, s.Serve)
		if s.Active() != 0 {
			t.Errorf("%d streams are open after the end", s.Active())
		}
	})
}

// Whatever a server sends, the client does not panic or hang, and keeps to the
// interface.
func FuzzClient(f *testing.F) {
	for _, s := range seeds(true) {
		f.Add(uint8(0), s)
		f.Add(uint8(3), s)
	}
	f.Fuzz(func(t *testing.T, flags uint8, data []byte) {
		cn, sn := memoryPair(t)
		c := NewClient(cn.(*memoryConn), &pool{}, fuzzOptions(flags))
		var all []*strict
		for i := range 6 {
			r := &strict{client: true, window: fuzzWindow}
			s, err := c.Open(r)
			if err != nil {
				t.Fatal(err)
			}
			r.Sender = s
			all = append(all, r)
			switch i % 3 {
			case 0:
				sendRequest(s, "GET", true)
			case 1:
				sendRequest(s, "POST", false)
				s.SendData(make([]byte, 70_000), true)
			case 2:
				sendRequest(s, "GET", false, "upgrade", "websocket")
			}
		}
		feed(t, sn.(*memoryConn), data, c.Run)
		if c.Active() != 0 || !c.Draining() || c.Room() != 0 {
			t.Errorf("after the end: %d streams, draining %v, room %d", c.Active(), c.Draining(), c.Room())
		}
		for i, r := range all {
			if !r.reset && !(r.head && r.end) {
				t.Errorf("stream %d heard no end", i)
			}
		}
	})
}
