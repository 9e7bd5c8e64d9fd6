package h2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
)

// raw is the other side of a connection, frame by frame.
type raw struct {
	t     testing.TB
	nc    net.Conn
	fr    *http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
	end   chan *codec.End
	// all has next tell of SETTINGS and WINDOW_UPDATE too.
	all bool
}

func newRaw(t testing.TB, nc net.Conn) *raw {
	r := &raw{t: t, nc: nc, fr: http2.NewFramer(nc, nc), end: make(chan *codec.End, 1)}
	r.enc = hpack.NewEncoder(&r.block)
	r.fr.AllowIllegalWrites = true
	r.fr.SetMaxReadFrameSize(1 << 24)
	r.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return r
}

// rawClient is a raw client of one of our servers, after the preface.
func rawClient(t testing.TB, q codec.Requests, o Options) (*raw, codec.Server) {
	t.Helper()
	cn, sn := memoryPair(t)
	r := newRaw(t, cn)
	s := NewServer(asSide(sn), q, o)
	r.run(func() *codec.End { return s.Serve() })
	io.WriteString(cn, preface)
	r.fr.WriteSettings()
	return r, s
}

// rawServer is a raw server of one of our clients, after the preface.
func rawServer(t testing.TB, p codec.Pool, o Options) (*raw, codec.Client) {
	t.Helper()
	cn, sn := memoryPair(t)
	r := newRaw(t, sn)
	c := NewClient(asSide(cn), p, o)
	r.run(func() *codec.End { return c.Run() })
	if _, err := io.ReadFull(sn, make([]byte, len(preface))); err != nil {
		t.Fatal(err)
	}
	r.fr.WriteSettings()
	return r, c
}

func (r *raw) run(f func() *codec.End) {
	done := make(chan struct{})
	go func() { defer close(done); r.end <- f() }()
	r.t.Cleanup(func() { r.nc.Close(); <-done })
}

// headers sends a header block of names and values.
func (r *raw) headers(id uint32, end bool, kv ...string) {
	r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: r.fields(kv...), EndStream: end, EndHeaders: true})
}

func (r *raw) fields(kv ...string) []byte {
	r.block.Reset()
	for i := 0; i < len(kv); i += 2 {
		r.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	return slices.Clone(r.block.Bytes())
}

// get is a request's head, with further fields.
func (r *raw) get(id uint32, end bool, kv ...string) {
	r.headers(id, end, append([]string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "x"}, kv...)...)
}

// next is the next frame in words; SETTINGS and WINDOW_UPDATE are passed over.
func (r *raw) next() string {
	r.t.Helper()
	r.nc.SetReadDeadline(time.Now().Add(30 * time.Second))
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return "EOF"
			}
			return err.Error()
		}
		if s := r.describe(f); s != "" {
			return s
		}
	}
}

func (r *raw) describe(f http2.Frame) string {
	end := func(b bool) string {
		if b {
			return " end"
		}
		return ""
	}
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if r.all {
			return "SETTINGS"
		}
	case *http2.WindowUpdateFrame:
		if r.all {
			return fmt.Sprintf("WINDOW_UPDATE %d %d", f.StreamID, f.Increment)
		}
	case *http2.MetaHeadersFrame:
		var s []string
		for _, x := range f.Fields {
			s = append(s, x.Name+"="+x.Value)
		}
		return fmt.Sprintf("HEADERS %d %s%s", f.StreamID, strings.Join(s, " "), end(f.StreamEnded()))
	case *http2.DataFrame:
		return fmt.Sprintf("DATA %d %d%s", f.StreamID, len(f.Data()), end(f.StreamEnded()))
	case *http2.RSTStreamFrame:
		return fmt.Sprintf("RST %d %s", f.StreamID, f.ErrCode)
	case *http2.GoAwayFrame:
		return fmt.Sprintf("GOAWAY %d %s", f.LastStreamID, f.ErrCode)
	case *http2.PingFrame:
		return fmt.Sprintf("PING ack=%v %s", f.IsAck(), f.Data)
	default:
		return fmt.Sprintf("%T", f)
	}
	return ""
}

// want compares the next frames with what they should be.
func (r *raw) want(frames ...string) {
	r.t.Helper()
	for _, w := range frames {
		if got := r.next(); got != w {
			r.t.Fatalf("got frame %q, want %q", got, w)
		}
	}
}

// sync waits until all that was sent has been read.
func (r *raw) sync() {
	r.t.Helper()
	r.fr.WritePing(false, [8]byte{'s', 'y', 'n', 'c', 's', 'y', 'n', 'c'})
	r.want("PING ack=true syncsync")
}

// recorder is a Receiver that writes down what it hears.
type recorder struct {
	codec.Sender
	mu     sync.Mutex
	log    []string
	resets []codec.Reset
	bytes  int
	gone   int
	keep   bool // does not say Consumed
	onHead func(*recorder, *message.Head, bool)
	onData func(*recorder, []byte, bool)
	more   chan struct{}
}

func newRecorder() *recorder { return &recorder{more: make(chan struct{}, 1)} }

func (r *recorder) note(format string, args ...any) {
	r.mu.Lock()
	r.log = append(r.log, fmt.Sprintf(format, args...))
	r.mu.Unlock()
	select {
	case r.more <- struct{}{}:
	default:
	}
}

func (r *recorder) OnHead(h *message.Head, end bool) {
	if h.Status != 0 {
		r.note("head %d %v end=%v", h.Status, told(h.Fields), end)
	} else {
		r.note("head %s %s %s %s %v end=%v", h.Method, h.Scheme, h.Authority, h.Path, told(h.Fields), end)
	}
	if r.onHead != nil {
		r.onHead(r, h, end)
	}
	h.Release()
}

func (r *recorder) OnData(p []byte, end bool) {
	r.mu.Lock()
	r.bytes += len(p)
	r.mu.Unlock()
	r.note("data %d end=%v", len(p), end)
	if r.onData != nil {
		r.onData(r, p, end)
	}
	if !r.keep {
		r.Consumed(len(p))
	}
}

func (r *recorder) OnTrailers(t message.Fields) { r.note("trailers %v", told(t)) }

// told is names and values alone.
func told(f message.Fields) (out []struct{ Name, Value string }) {
	for i := range f {
		out = append(out, struct{ Name, Value string }{f[i].Name, f[i].Value})
	}
	return out
}

func (r *recorder) OnReset(x codec.Reset) {
	r.mu.Lock()
	r.resets = append(r.resets, x)
	r.mu.Unlock()
	r.note("reset %d %s", x.Reason, x.Details)
}

func (r *recorder) OnGone(n int) {
	r.mu.Lock()
	r.gone += n
	r.mu.Unlock()
	r.note("gone")
}

// wait waits until the log satisfies ok, which may look at all that is counted.
func (r *recorder) wait(t testing.TB, what string, ok func(log []string) bool) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		r.mu.Lock()
		log := slices.Clone(r.log)
		done := ok(log)
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-r.more:
		case <-timeout:
			t.Fatalf("no %s in %q", what, log)
		}
	}
}

// waitFor waits until the log has a line.
func (r *recorder) waitFor(t testing.TB, line string) {
	t.Helper()
	r.wait(t, line, func(log []string) bool { return slices.Contains(log, line) })
}

func (r *recorder) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// recording is a Requests whose receivers are recorders.
type recording struct {
	mu    sync.Mutex
	all   []*recorder
	idles int
	made  func(*recorder)
	came  chan *recorder
}

func newRecording(made func(*recorder)) *recording {
	return &recording{made: made, came: make(chan *recorder, 10000)}
}

func (q *recording) Request(s codec.Sender) codec.Receiver {
	r := newRecorder()
	r.Sender = s
	if q.made != nil {
		q.made(r)
	}
	q.mu.Lock()
	q.all = append(q.all, r)
	q.mu.Unlock()
	q.came <- r
	return r
}

func (q *recording) Idle() {
	q.mu.Lock()
	q.idles++
	q.mu.Unlock()
}

// echoing answers each request at its end with 200 and "ok", but for those of
// the path /hold, whose body it does not consume either.
func echoing(r *recorder) {
	answer := func() {
		sendHead(r, 200, false)
		r.SendData([]byte("ok"), true)
	}
	r.onHead = func(_ *recorder, h *message.Head, end bool) {
		if r.keep = h.Path == "/hold"; end && !r.keep {
			answer()
		}
	}
	r.onData = func(_ *recorder, _ []byte, end bool) {
		if end && !r.keep {
			answer()
		}
	}
}

func sendHead(s codec.Sender, status int, end bool, kv ...string) {
	h := message.NewHead()
	h.Status = status
	for i := 0; i < len(kv); i += 2 {
		h.Fields.Add(kv[i], kv[i+1])
	}
	s.SendHead(h, end)
	h.Release()
}

func sendRequest(s codec.Sender, method string, end bool, kv ...string) {
	h := message.NewHead()
	h.Method, h.Scheme, h.Authority, h.Path = method, "http", "x", "/"
	for i := 0; i < len(kv); i += 2 {
		h.Fields.Add(kv[i], kv[i+1])
	}
	s.SendHead(h, end)
	h.Release()
}

// open opens a stream of a client with a recorder.
func open(t testing.TB, c codec.Client) *recorder {
	t.Helper()
	r := newRecorder()
	s, err := c.Open(r)
	if err != nil {
		t.Fatal(err)
	}
	r.Sender = s
	return r
}
