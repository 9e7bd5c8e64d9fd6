package h1

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
	"outrider/proxy/relay"
)

// patience is how long a test waits for what has to come.
const patience = 20 * time.Second

// tcpPair are both ends of a TCP connection.
func tcpPair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// record is what one receiver was told, in order.
type record struct {
	mu      sync.Mutex
	s       codec.Sender
	head    *message.Head
	info    []int
	body    strings.Builder
	trailer message.Fields
	done    bool
	reset   *codec.Reset
	gone    int
	keep    bool // credit is not given back
	calls   chan struct{}
	on      func(r *record, what string)
}

func newRecord() *record { return &record{calls: make(chan struct{}, 1<<16)} }

func (r *record) told(what string) {
	if r.on != nil {
		r.on(r, what)
	}
	select {
	case r.calls <- struct{}{}:
	default:
	}
}

func (r *record) OnHead(h *message.Head, end bool) {
	r.mu.Lock()
	if h.Method == "" && h.Status < 200 && h.Status != 101 {
		r.info = append(r.info, h.Status)
	} else {
		r.head = h
	}
	r.done = r.done || end
	r.mu.Unlock()
	r.told("head")
}

func (r *record) OnData(p []byte, end bool) {
	r.mu.Lock()
	r.body.Write(p)
	r.done = r.done || end
	keep := r.keep
	r.mu.Unlock()
	if !keep {
		r.s.Consumed(len(p))
	}
	r.told("data")
}

func (r *record) OnTrailers(t message.Fields) {
	r.mu.Lock()
	r.trailer, r.done = t, true
	r.mu.Unlock()
	r.told("trailers")
}

func (r *record) OnReset(x codec.Reset) {
	r.mu.Lock()
	r.reset = &x
	r.mu.Unlock()
	r.told("reset")
}

func (r *record) OnGone(n int) {
	r.mu.Lock()
	r.gone += n
	r.mu.Unlock()
	r.told("gone")
}

// text is all that came, in one line.
func (r *record) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	if h := r.head; h != nil {
		if h.Method != "" {
			fmt.Fprintf(&b, "%s %s %s", h.Method, h.Authority, h.Path)
			if h.Scheme != "" {
				fmt.Fprintf(&b, " %s", h.Scheme)
			}
			if h.Minor10 {
				b.WriteString(" 1.0")
			}
		} else {
			fmt.Fprintf(&b, "%d", h.Status)
		}
		for _, f := range h.Fields {
			fmt.Fprintf(&b, " %s=%s", f.Name, f.Value)
		}
	}
	if r.body.Len() > 0 {
		fmt.Fprintf(&b, " body=%s", r.body.String())
	}
	for _, f := range r.trailer {
		fmt.Fprintf(&b, " trailer %s=%s", f.Name, f.Value)
	}
	if r.done {
		b.WriteString(" end")
	}
	if r.reset != nil {
		fmt.Fprintf(&b, " reset=%d %s", r.reset.Reason, r.reset.Details)
	}
	return b.String()
}

// await waits until ok.
func (r *record) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		yes := ok()
		r.mu.Unlock()
		if yes {
			return
		}
		select {
		case <-r.calls:
		case <-deadline:
			t.Fatalf("%s never came; got %s", what, r.text())
		}
	}
}

func (r *record) awaitEnd(t testing.TB) {
	t.Helper()
	r.await(t, "the end", func() bool { return r.done || r.reset != nil })
}

// app takes the requests of a server.
type app struct {
	mu       sync.Mutex
	requests []*record
	idles    int
	on       func(r *record, what string)
	came     chan *record
	no       bool // takes none
}

func newApp(on func(r *record, what string)) *app {
	return &app{on: on, came: make(chan *record, 1024)}
}

func (a *app) Request(s codec.Sender) codec.Receiver {
	if a.no {
		return nil
	}
	r := newRecord()
	r.s, r.on = s, a.on
	a.mu.Lock()
	a.requests = append(a.requests, r)
	a.mu.Unlock()
	a.came <- r
	return r
}

func (a *app) Idle() {
	a.mu.Lock()
	a.idles++
	a.mu.Unlock()
}

// next is the next request.
func (a *app) next(t testing.TB) *record {
	t.Helper()
	select {
	case r := <-a.came:
		return r
	case <-time.After(patience):
		t.Fatal("no request came")
		return nil
	}
}

// texts are all requests.
func (a *app) texts() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for _, r := range a.requests {
		out = append(out, r.text())
	}
	return out
}

// respond makes a head.
func respond(status int, fields ...string) *message.Head {
	h := message.NewHead()
	h.Status = status
	for i := 0; i+1 < len(fields); i += 2 {
		h.Fields.Add(fields[i], fields[i+1])
	}
	return h
}

func ask(method, path string, fields ...string) *message.Head {
	h := message.NewHead()
	h.Method, h.Path, h.Authority = method, path, "a"
	for i := 0; i+1 < len(fields); i += 2 {
		h.Fields.Add(fields[i], fields[i+1])
	}
	return h
}

// ok answers each request, when it has come, with a 200 without a body.
func ok(r *record, _ string) {
	r.mu.Lock()
	done := r.done
	r.mu.Unlock()
	if done {
		r.s.SendHead(respond(200), true)
	}
}

const okText = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"

// served is a server on one end of a connection, and the other end.
type served struct {
	t   testing.TB
	nc  *net.TCPConn
	br  *bufio.Reader
	srv codec.Server
	end chan *codec.End
}

func serve(t testing.TB, r codec.Requests, o Options) *served {
	t.Helper()
	c, s := tcpPair(t)
	v := &served{t: t, nc: c, br: bufio.NewReader(c), srv: NewServer(relay.Plain(s), r, o), end: make(chan *codec.End, 1)}
	_ = c.SetDeadline(time.Now().Add(patience))
	done := make(chan struct{})
	go func() { v.end <- v.srv.Serve(); close(done) }()
	t.Cleanup(func() { c.Close(); <-done })
	return v
}

func (v *served) write(s string) {
	v.t.Helper()
	if _, err := io.WriteString(v.nc, s); err != nil {
		v.t.Fatal(err)
	}
}

// read reads exactly what is expected.
func (v *served) read(want string) {
	v.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(v.br, got)
	if string(got) != want {
		v.t.Fatalf("read %q (%v), want %q", got[:n], err, want)
	}
}

// rest is everything up to the end.
func (v *served) rest() string {
	v.t.Helper()
	b, err := io.ReadAll(v.br)
	if err != nil {
		v.t.Errorf("after %q: %v", b, err)
	}
	return string(b)
}

func (v *served) ended() *codec.End {
	v.t.Helper()
	select {
	case e := <-v.end:
		return e
	case <-time.After(patience):
		v.t.Fatal("the server never ended")
		return nil
	}
}

// owner is a Client's pool.
type owner struct {
	mu             sync.Mutex
	freed, drained int
	room           int // at the last Freed
	changed        chan struct{}
}

func newOwner() *owner { return &owner{changed: make(chan struct{}, 1024)} }

func (p *owner) Freed(c codec.Client) {
	p.mu.Lock()
	p.freed++
	p.room = c.Room()
	p.mu.Unlock()
	p.changed <- struct{}{}
}

func (p *owner) Drained(codec.Client) {
	p.mu.Lock()
	p.drained++
	p.mu.Unlock()
	p.changed <- struct{}{}
}

// called is a client on one end of a connection, and the other end.
type called struct {
	t   testing.TB
	nc  *net.TCPConn
	br  *bufio.Reader
	cl  codec.Client
	own *owner
	end chan *codec.End
}

func call(t testing.TB, o Options) *called {
	t.Helper()
	c, s := tcpPair(t)
	v := &called{t: t, nc: s, br: bufio.NewReader(s), own: newOwner(), end: make(chan *codec.End, 1)}
	v.cl = NewClient(relay.Plain(c), v.own, o)
	_ = s.SetDeadline(time.Now().Add(patience))
	done := make(chan struct{})
	go func() { v.end <- v.cl.Run(); close(done) }()
	t.Cleanup(func() { s.Close(); <-done })
	return v
}

func (v *called) open() *record {
	v.t.Helper()
	r := newRecord()
	s, err := v.cl.Open(r)
	if err != nil {
		v.t.Fatal(err)
	}
	r.s = s
	return r
}

// awaitRoom waits until another request may be made.
func (v *called) awaitRoom() {
	v.t.Helper()
	for v.cl.Room() == 0 {
		select {
		case <-v.own.changed:
		case <-time.After(patience):
			v.t.Fatal("there is never room again")
		}
	}
}

func (v *called) read(want string) {
	v.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(v.br, got)
	if string(got) != want {
		v.t.Fatalf("read %q (%v), want %q", got[:n], err, want)
	}
}

func (v *called) write(s string) {
	v.t.Helper()
	if _, err := io.WriteString(v.nc, s); err != nil {
		v.t.Fatal(err)
	}
}

func (v *called) ended() *codec.End {
	v.t.Helper()
	select {
	case e := <-v.end:
		return e
	case <-time.After(patience):
		v.t.Fatal("the client never ended")
		return nil
	}
}
