package hop

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/h1"
	"outrider/proxy/http/h2"
	"outrider/proxy/http/message"
	"outrider/proxy/relay"
)

// backend answers every request with a body of size bytes, HTTP/1.1 and
// HTTP/2 by prior knowledge on an address each.
func backend(b testing.TB, http2 bool, size int) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	body := make([]byte, size)
	var serving sync.WaitGroup
	var mu sync.Mutex
	var open []codec.Server
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			var s codec.Server
			if http2 {
				s = h2.NewServer(relay.Plain(c), answerer{body}, h2.Options{})
			} else {
				s = h1.NewServer(relay.Plain(c), answerer{body}, h1.Options{})
			}
			mu.Lock()
			open = append(open, s)
			mu.Unlock()
			serving.Go(func() { s.Serve() })
		}
	})
	b.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, s := range open {
			s.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	return ln.Addr().String()
}

type answerer struct{ body []byte }

func (a answerer) Request(s codec.Sender) codec.Receiver { return &answer{a.body, s} }
func (answerer) Idle()                                   {}

type answer struct {
	body []byte
	s    codec.Sender
}

func (a *answer) OnHead(h *message.Head, end bool) {
	h.Release()
	if end {
		a.send()
	}
}

func (a *answer) OnData(p []byte, end bool) {
	a.s.Consumed(len(p))
	if end {
		a.send()
	}
}

func (a *answer) OnTrailers(message.Fields) { a.send() }
func (a *answer) OnReset(codec.Reset)       {}
func (a *answer) OnGone(int)                {}

func (a *answer) send() {
	h := message.NewHead()
	h.Status = 200
	h.Fields.Add("content-type", "application/octet-stream")
	h.Fields.Add("content-length", fmt.Sprint(len(a.body)))
	a.s.SendHead(h, false)
	h.Release()
	a.s.SendData(a.body, true)
}

// load is a client with connections of streams each; a stream makes one request
// after another.
type load struct {
	b       testing.TB
	clients []codec.Client
	left    atomic.Int64 // requests to begin
	done    sync.WaitGroup
	running sync.WaitGroup

	http2     bool
	mu        sync.Mutex
	next1     map[codec.Client]func() // guarded by mu: what follows when a stream of HTTP/1 is free
	latencies []time.Duration
	failed    atomic.Pointer[string]
}

func dial(b testing.TB, addr string, http2 bool, conns int) *load {
	l := &load{b: b, http2: http2, next1: map[codec.Client]func(){}}
	for range conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		var client codec.Client
		if http2 {
			client = h2.NewClient(relay.Plain(c), l, h2.Options{})
		} else {
			client = h1.NewClient(relay.Plain(c), l, h1.Options{})
		}
		l.clients = append(l.clients, client)
		l.running.Go(func() { client.Run() })
	}
	return l
}

// Freed has an HTTP/1 connection make its next request (codec.Pool).
func (l *load) Freed(c codec.Client) {
	l.mu.Lock()
	then := l.next1[c]
	delete(l.next1, c)
	l.mu.Unlock()
	if then != nil {
		then()
	}
}

// Drained is never: nobody ends a connection here.
func (l *load) Drained(codec.Client) {}

func (l *load) close() {
	for _, c := range l.clients {
		c.Close()
	}
	l.running.Wait()
}

// run makes n requests, streams of each connection at a time.
func (l *load) run(n, streams int) {
	l.left.Store(int64(n))
	for _, c := range l.clients {
		for range streams {
			l.done.Add(1)
			go l.next(c)
		}
	}
	l.done.Wait()
	if f := l.failed.Load(); f != nil {
		l.b.Fatal(*f)
	}
}

// paced makes requests at a fixed rate for a time, each when its time has come
// whether or not the others are answered, and returns the latencies, sorted.
func (l *load) paced(rate int, d time.Duration) []time.Duration {
	l.latencies = l.latencies[:0]
	n := int(d.Seconds() * float64(rate))
	begin := time.Now()
	for i := range n {
		due := begin.Add(time.Duration(i) * time.Second / time.Duration(rate))
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
		}
		c := l.clients[i%len(l.clients)]
		for tries := 0; c.Room() == 0 && tries < len(l.clients); tries++ {
			c = l.clients[(i+tries)%len(l.clients)]
		}
		l.done.Add(1)
		l.send(c, due, func() { l.done.Done() })
	}
	l.done.Wait()
	if f := l.failed.Load(); f != nil {
		l.b.Fatal(*f)
	}
	slices.Sort(l.latencies)
	return l.latencies
}

func (l *load) next(c codec.Client) {
	if l.left.Add(-1) < 0 {
		l.done.Done()
		return
	}
	l.send(c, time.Time{}, func() { l.next(c) })
}

func (l *load) fail(text string) { l.failed.CompareAndSwap(nil, &text) }

func (l *load) send(c codec.Client, due time.Time, then func()) {
	x := &exchange{l: l, c: c, due: due, then: then}
	s, err := c.Open(x)
	if err != nil {
		l.fail("open: " + err.Error())
		l.left.Store(0)
		then()
		return
	}
	x.s = s
	h := message.NewHead()
	h.Method, h.Scheme, h.Authority, h.Path = "GET", "http", "server.example", "/api/v1/items?id=42"
	h.Fields.Add("user-agent", "bench/1.0")
	h.Fields.Add("accept", "*/*")
	s.SendHead(h, true)
	h.Release()
}

// exchange is one request.
type exchange struct {
	l    *load
	c    codec.Client
	s    codec.Sender
	due  time.Time
	then func()
}

func (x *exchange) OnHead(h *message.Head, end bool) {
	if h.Status != 200 {
		x.l.fail(fmt.Sprintf("status %d: %v", h.Status, h.Fields))
	}
	h.Release()
	if end {
		x.end()
	}
}

func (x *exchange) OnData(p []byte, end bool) {
	if x.s != nil {
		x.s.Consumed(len(p))
	}
	if end {
		x.end()
	}
}

func (x *exchange) OnTrailers(message.Fields) { x.end() }
func (x *exchange) OnGone(int)                {}

func (x *exchange) OnReset(r codec.Reset) {
	x.l.fail(fmt.Sprintf("reset: %+v", r))
	x.l.left.Store(0)
	x.end()
}

func (x *exchange) end() {
	if !x.due.IsZero() {
		d := time.Since(x.due)
		x.l.mu.Lock()
		x.l.latencies = append(x.l.latencies, d)
		x.l.mu.Unlock()
	}
	if x.l.http2 {
		x.then()
		return
	}
	x.l.mu.Lock() // a stream of HTTP/1 is only free after this call
	x.l.next1[x.c] = x.then
	x.l.mu.Unlock()
}
