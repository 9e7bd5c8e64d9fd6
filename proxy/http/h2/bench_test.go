package h2

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
	"outrider/proxy/relay"
	"outrider/proxy/stats"
)

// answering is a server of small answers.
type answering struct{ body []byte }

func (a *answering) Request(s codec.Sender) codec.Receiver { return &answer{s, a.body} }
func (a *answering) Idle()                                 {}

type answer struct {
	s    codec.Sender
	body []byte
}

func (a *answer) OnHead(h *message.Head, end bool) {
	h.Release()
	if end {
		a.reply()
	}
}

func (a *answer) reply() {
	h := message.NewHead()
	h.Status = 200
	h.Fields.Add("content-type", "application/grpc")
	h.Fields.Add("x-envoy-upstream-service-time", "1")
	h.Fields.Add("server", "outrider")
	a.s.SendHead(h, false)
	h.Release()
	a.s.SendData(a.body, false)
	a.s.SendTrailers(message.Fields{{Name: "grpc-status", Value: "0"}})
}

func (a *answer) OnData(p []byte, end bool) {
	a.s.Consumed(len(p))
	if end {
		a.reply()
	}
}
func (a *answer) OnTrailers(message.Fields) { a.reply() }
func (a *answer) OnReset(codec.Reset)       {}
func (a *answer) OnGone(int)                {}

// asking makes requests one after another on one stream each, and counts down.
type asking struct {
	c    codec.Client
	s    codec.Sender
	left *atomic.Int64
	done *sync.WaitGroup
	body []byte
}

func (a *asking) ask() {
	if a.left.Add(-1) < 0 {
		a.done.Done()
		return
	}
	s, err := a.c.Open(a)
	if err != nil {
		panic(err)
	}
	a.s = s
	h := message.NewHead()
	h.Method, h.Scheme, h.Path, h.Authority = "POST", "http", "/shop.Orders/Get", "orders.shop.svc:8443"
	h.Fields.Add("content-type", "application/grpc")
	h.Fields.Add("te", "trailers")
	h.Fields.Add("user-agent", "grpc-go/1.80.0")
	h.Fields.Add("x-request-id", "6b1d3f3e-1f0b-4f5c-9a37-6a3d8f8f0a11")
	h.Fields.Add("x-forwarded-proto", "http")
	s.SendHead(h, false)
	h.Release()
	s.SendData(a.body, true)
}

func (a *asking) OnHead(h *message.Head, _ bool) { h.Release() }
func (a *asking) OnData(p []byte, end bool) {
	a.s.Consumed(len(p))
	if end {
		a.ask()
	}
}
func (a *asking) OnTrailers(message.Fields) { a.ask() }
func (a *asking) OnReset(codec.Reset)       { a.done.Done() }
func (a *asking) OnGone(int)                {}

// cpu is the processor time of the process.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func reportCPU(b *testing.B, began time.Duration) {
	b.ReportMetric(float64(cpu()-began)/float64(b.N)/1e3, "µs-cpu/op")
}

// memoryPair is a connection within the process, without a system call.
func memoryPair(testing.TB) (client, server net.Conn) {
	a, b := newPipe(), newPipe()
	return &memoryConn{in: a, out: b}, &memoryConn{in: b, out: a}
}

// tlsConns is tlsPair without the socket.
func tlsConns(tb testing.TB) (client, server net.Conn) {
	client, server, _ = tlsPair(tb)
	return client, server
}

// BenchmarkRequests is of small requests with a body of 128 bytes, answered
// with head, body and trailers: client and server in one process.
func BenchmarkRequests(b *testing.B) {
	body := make([]byte, 128)
	for _, load := range []struct {
		name           string
		conns, streams int
	}{{"1x1", 1, 1}, {"1x16", 1, 16}, {"8x16", 8, 16}} {
		for name, pair := range map[string]func(testing.TB) (net.Conn, net.Conn){"memory": memoryPair, "loopback": tcpPair, "tls": tlsConns} {
			b.Run(load.name+"/"+name, func(b *testing.B) { benchOurs(b, pair, load.conns, load.streams, body) })
		}
		b.Run(load.name+"/net-http", func(b *testing.B) { benchStandard(b, load.conns, load.streams, body) })
	}
}

func benchOurs(b *testing.B, pair func(testing.TB) (net.Conn, net.Conn), conns, streams int, body []byte) {
	b.ReportAllocs()
	var ended sync.WaitGroup
	var clients []codec.Client
	for range conns {
		cn, sn := pair(b)
		cl := NewClient(asSide(cn), &pool{}, Options{})
		sv := NewServer(asSide(sn), &answering{body}, Options{})
		ended.Go(func() { cl.Run() })
		ended.Go(func() { sv.Serve() })
		clients = append(clients, cl)
	}
	ask(b, clients, streams, body)
	for _, cl := range clients {
		cl.Close()
	}
	ended.Wait()
}

// BenchmarkBridge is BenchmarkRequests through a proxy: two codecs more, and two
// sockets.
func BenchmarkBridge(b *testing.B) {
	for _, load := range []struct {
		name           string
		conns, streams int
	}{{"1x1", 1, 1}, {"8x16", 8, 16}} {
		b.Run(load.name, func(b *testing.B) {
			b.ReportAllocs()
			body := make([]byte, 128)
			var ended sync.WaitGroup
			var clients []codec.Client
			for range load.conns {
				a1, b1 := tcpPair(b)
				a2, b2 := tcpPair(b)
				cl := NewClient(asSide(a1), &pool{}, Options{})
				sv := NewServer(asSide(b2), &answering{body}, Options{})
				wait, _, _ := startBridge(b, b1, a2, Options{})
				ended.Go(func() { cl.Run() })
				ended.Go(func() { sv.Serve() })
				ended.Go(func() { wait() })
				clients = append(clients, cl)
			}
			ask(b, clients, load.streams, body)
			for _, cl := range clients {
				cl.Close()
			}
			ended.Wait()
		})
	}
}

// ask makes b.N requests.
func ask(b *testing.B, clients []codec.Client, streams int, body []byte) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var done sync.WaitGroup
	b.ResetTimer()
	began := cpu()
	for _, cl := range clients {
		for range streams {
			done.Add(1)
			(&asking{c: cl, left: &left, done: &done, body: body}).ask()
		}
	}
	done.Wait()
	b.StopTimer()
	reportCPU(b, began)
}

func benchStandard(b *testing.B, conns, streams int, body []byte) {
	b.ReportAllocs()
	addr := standardServer(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("content-type", "application/grpc")
		w.Header().Set("trailer", "grpc-status")
		w.Write(body)
		w.Header().Set("grpc-status", "0")
	}))
	var left atomic.Int64
	left.Store(int64(b.N))
	var done sync.WaitGroup
	var clients []*http.Client
	for range conns {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { nc.Close() })
		clients = append(clients, standardClient(b, nc))
	}
	b.ResetTimer()
	began := cpu()
	for _, c := range clients {
		for range streams {
			done.Go(func() {
				for left.Add(-1) >= 0 {
					req, _ := http.NewRequestWithContext(context.Background(), "POST", "http://x/shop.Orders/Get", &oneBody{body, 0})
					req.ContentLength = -1
					req.Header.Set("content-type", "application/grpc")
					req.Header.Set("te", "trailers")
					req.Header.Set("x-request-id", "6b1d3f3e-1f0b-4f5c-9a37-6a3d8f8f0a11")
					resp, err := c.Do(req)
					if err != nil {
						b.Error(err)
						return
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		}
	}
	done.Wait()
	b.StopTimer()
	reportCPU(b, began)
}

type oneBody struct {
	b []byte
	n int
}

func (o *oneBody) Read(p []byte) (int, error) {
	if o.n == len(o.b) {
		return 0, io.EOF
	}
	n := copy(p, o.b[o.n:])
	o.n += n
	return n, nil
}

func (o *oneBody) Close() error { return nil }

// BenchmarkBulk is of one stream that carries as much as it can through a
// bridge.
func BenchmarkBulk(b *testing.B) {
	const size = 1 << 20
	chunk := make([]byte, 64<<10)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range size / len(chunk) {
			w.Write(chunk)
		}
	})
	b.SetBytes(size)
	c := throughBridge(b, h, Options{})
	began := cpu()
	for range b.N {
		resp, err := c.Get("http://x/")
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, bufio.NewReaderSize(resp.Body, 64<<10))
		resp.Body.Close()
		if n != size || err != nil {
			b.Fatal(n, err)
		}
	}
	reportCPU(b, began)
}

// BenchmarkIdleMemory reports the bytes that a server's connection holds after
// its requests, without the socket's own.
func BenchmarkIdleMemory(b *testing.B) {
	const conns = 500
	o := Options{Stats: NewStats(stats.New().Root())}
	for range b.N {
		var ended sync.WaitGroup
		var clients []net.Conn
		var sides []relay.Conn
		for range conns {
			client, server := tcpPair(b)
			clients = append(clients, client)
			sides = append(sides, asSide(server))
		}
		raws := make([]*raw, conns)
		for i := range raws {
			raws[i] = newRaw(b, clients[i])
		}
		before := inUse()
		for i, side := range sides {
			ended.Go(func() { NewServer(side, &answering{[]byte("ok")}, o).Serve() })
			io.WriteString(clients[i], preface)
			raws[i].fr.WriteSettings()
			raws[i].get(1, true, "user-agent", "curl/8.0", "x-request-id", "6b1d3f3e-1f0b-4f5c-9a37-6a3d8f8f0a11")
		}
		for _, r := range raws {
			r.next()
			r.next()
			r.next()
		}
		b.ReportMetric(float64(inUse()-before)/conns, "B/conn")
		for _, c := range clients {
			c.Close()
		}
		ended.Wait()
	}
}

func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
