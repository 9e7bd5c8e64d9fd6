package h1

import (
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
	"outrider/proxy/relay"
)

// askText is a request as a browser or a mesh makes it.
const askText = "GET /api/v1/orders/4711?fields=all HTTP/1.1\r\nHost: orders.shop.svc.cluster.local:8080\r\n" +
	"User-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nX-Request-Id: 5f1b0c2e-7c1e-4b8e-9d0a-0f6b1d1e2c3d\r\n" +
	"X-Forwarded-Proto: https\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"

// quick answers each request at once.
type quick struct{ body []byte }

func (q *quick) Request(s codec.Sender) codec.Receiver { return &quickStream{q, s} }
func (q *quick) Idle()                                 {}

type quickStream struct {
	q *quick
	s codec.Sender
}

func (q *quickStream) OnHead(h *message.Head, end bool) {
	h.Release()
	if !end {
		return
	}
	r := message.NewHead()
	r.Status = 200
	r.Fields.Add("content-length", "100")
	r.Fields.Add("content-type", "text/plain")
	r.Fields.Add("date", "Mon, 23 Nov 2026 18:18:30 GMT")
	r.Fields.Add("server", "envoy")
	q.s.SendHead(r, false)
	r.Release()
	q.s.SendData(q.q.body, true)
}
func (q *quickStream) OnData(p []byte, _ bool)   { q.s.Consumed(len(p)) }
func (q *quickStream) OnTrailers(message.Fields) {}
func (q *quickStream) OnReset(codec.Reset)       {}
func (q *quickStream) OnGone(int)                {}

// loop makes b.N requests over nc, one after another.
func loop(b *testing.B, nc net.Conn, size int) {
	b.Helper()
	b.ReportAllocs()
	buf := make([]byte, size)
	out := []byte(askText)
	before := cpuTime(b)
	for b.Loop() {
		if _, err := nc.Write(out); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(nc, buf); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
	nc.Close()
}

// cpuTime is what the process has used, with its load.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

const quickSize = len("HTTP/1.1 200 OK\r\ncontent-length: 100\r\ncontent-type: text/plain\r\ndate: Mon, 23 Nov 2026 18:18:30 GMT\r\nserver: envoy\r\n\r\n") + 100

func BenchmarkServer(b *testing.B) {
	c, s := tcpPair(b)
	done := make(chan struct{})
	go func() {
		NewServer(relay.Plain(s), &quick{make([]byte, 100)}, Options{}).Serve()
		close(done)
	}()
	loop(b, c, quickSize)
	<-done
}

// BenchmarkServerNetHTTP is the baseline: the same from net/http.
func BenchmarkServerNetHTTP(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	body := make([]byte, 100)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Server", "envoy")
		w.Write(body)
	})}
	go srv.Serve(l)
	defer srv.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	loop(b, c, quickSize)
}

// BenchmarkServerManyConnections is 32 connections at once.
func BenchmarkServerManyConnections(b *testing.B) {
	manyConnections(b, func(c net.Conn) {
		NewServer(relay.Plain(c), &quick{make([]byte, 100)}, Options{}).Serve()
	})
}

// BenchmarkServerManyConnectionsNetHTTP is the baseline.
func BenchmarkServerManyConnectionsNetHTTP(b *testing.B) {
	body := make([]byte, 100)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Server", "envoy")
		w.Write(body)
	})}
	manyConnections(b, func(c net.Conn) { _ = srv.Serve(&one{c: c}) })
}

// one is a listener of one connection.
type one struct{ c net.Conn }

func (o *one) Accept() (net.Conn, error) {
	if c := o.c; c != nil {
		o.c = nil
		return c, nil
	}
	return nil, net.ErrClosed
}
func (o *one) Close() error   { return nil }
func (o *one) Addr() net.Addr { return &net.TCPAddr{} }

func manyConnections(b *testing.B, serve func(net.Conn)) {
	const n = 32
	conns := make(chan net.Conn, n)
	for range n {
		c, s := tcpPair(b)
		go serve(s)
		conns <- c
	}
	out := []byte(askText)
	b.ReportAllocs()
	b.SetParallelism(n)
	before := cpuTime(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		c := <-conns
		defer func() { conns <- c }()
		buf := make([]byte, quickSize)
		for pb.Next() {
			if _, err := c.Write(out); err != nil {
				b.Error(err)
				return
			}
			if _, err := io.ReadFull(c, buf); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// bridge is the smallest proxy: each request of a server goes to one client.
type bridge struct {
	up          codec.Client
	freed, gone chan struct{}
}

func (b *bridge) Drained(codec.Client) { close(b.gone) }
func (b *bridge) Freed(codec.Client) {
	select {
	case b.freed <- struct{}{}:
	default:
	}
}

func (b *bridge) Request(s codec.Sender) codec.Receiver {
	l := &link{b: b}
	l.down.l, l.up.l = l, l
	l.down.to = s
	return &l.down
}
func (b *bridge) Idle() {}

type link struct {
	b        *bridge
	down, up half
}

// half receives from the stream of to, and sends to that of the other half.
type half struct {
	l  *link
	to codec.Sender
}

func (h *half) other() *half {
	if h == &h.l.down {
		return &h.l.up
	}
	return &h.l.down
}

func (h *half) OnHead(m *message.Head, end bool) {
	if h == &h.l.down {
		up, err := h.l.b.up.Open(&h.l.up)
		for err != nil && !h.l.b.up.Draining() {
			select { // the client's reader has not come back yet
			case <-h.l.b.freed:
			case <-h.l.b.gone:
			}
			up, err = h.l.b.up.Open(&h.l.up)
		}
		if err != nil {
			m.Release()
			h.to.Reset(codec.Refused)
			return
		}
		h.l.up.to = up
	}
	h.other().to.SendHead(m, end)
	m.Release()
}

func (h *half) OnData(p []byte, end bool) {
	if n := h.other().to.SendData(p, end); n > 0 {
		h.to.Consumed(n)
	}
}
func (h *half) OnTrailers(t message.Fields) { h.other().to.SendTrailers(t) }
func (h *half) OnGone(n int)                { h.other().to.Consumed(n) }
func (h *half) OnReset(r codec.Reset) {
	if to := h.other().to; to != nil {
		to.Reset(codec.Cancel)
	}
}

// startHop puts a bridge between a connection and a server at its other end.
func startHop(t testing.TB, app codec.Requests, o Options) net.Conn {
	t.Helper()
	down, dc := tcpPair(t)
	uc, us := tcpPair(t)
	br := &bridge{freed: make(chan struct{}, 1), gone: make(chan struct{})}
	cl := NewClient(relay.Plain(uc), br, o)
	br.up = cl
	ended := make(chan struct{}, 3)
	go func() { NewServer(relay.Plain(us), app, o).Serve(); ended <- struct{}{} }()
	go func() { cl.Run(); ended <- struct{}{} }()
	go func() {
		NewServer(relay.Plain(dc), br, o).Serve()
		cl.Close()
		ended <- struct{}{}
	}()
	t.Cleanup(func() {
		down.Close()
		for range 3 {
			<-ended
		}
	})
	return down
}

// BenchmarkHop is a request through a server and a client to another server.
func BenchmarkHop(b *testing.B) {
	loop(b, startHop(b, &quick{make([]byte, 100)}, Options{}), quickSize)
}

// BenchmarkParse is a head without a connection.
func BenchmarkParse(b *testing.B) {
	c := newConn(&script{}, Options{})
	in := []byte(askText)
	b.ReportAllocs()
	for b.Loop() {
		c.in.Take()
		c.in.end = copy(c.in.buf, in)
		c.in.start = 0
		r, err := c.readRequest()
		if err != nil {
			b.Fatal(err)
		}
		r.head.Release()
	}
}

// BenchmarkEncode is a response's head without a connection.
func BenchmarkEncode(b *testing.B) {
	c := newConn(&script{}, Options{})
	h := respond(200, "content-length", "100", "content-type", "text/plain", "date", "Mon, 23 Nov 2026 18:18:30 GMT",
		"server", "envoy", "x-envoy-upstream-service-time", "1", "vary", "accept-encoding", "cache-control", "no-store")
	b.ReportAllocs()
	for b.Loop() {
		s := &stream{c: c}
		c.cur = s
		s.sendResponse(h, false)
		c.out.discard(0)
	}
}

// BenchmarkDownload is 1 MiB through a hop.
func BenchmarkDownload(b *testing.B) {
	body := make([]byte, 64<<10)
	nc := startHop(b, &large{body}, Options{})
	b.SetBytes(1 << 20)
	const head = len("HTTP/1.1 200 OK\r\ncontent-length: 1048576\r\n\r\n")
	loop(b, nc, head+1<<20)
}

// large answers with 1 MiB.
type large struct{ piece []byte }

func (l *large) Request(s codec.Sender) codec.Receiver { return &largeStream{quickStream{nil, s}, l} }
func (l *large) Idle()                                 {}

type largeStream struct {
	quickStream
	l *large
}

func (l *largeStream) OnHead(h *message.Head, _ bool) {
	h.Release()
	l.s.SendHead(respond(200, "content-length", "1048576"), false)
	for i := range 16 {
		l.s.SendData(l.l.piece, i == 15)
	}
}

// BenchmarkServerTLS is BenchmarkServer over TLS.
func BenchmarkServerTLS(b *testing.B) {
	ours, peer, socket := tlsPair(b)
	_ = socket.SetDeadline(time.Time{})
	done := make(chan struct{})
	go func() {
		NewServer(ours, &quick{make([]byte, 100)}, Options{}).Serve()
		close(done)
	}()
	loop(b, peer, quickSize)
	<-done
}
