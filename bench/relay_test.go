package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/proxy/relay"
	"outrider/tlsmux"
)

// shaker makes of a TCP connection what is spoken over it.
type shaker func(net.Conn) (net.Conn, error)

func bare(c net.Conn) (net.Conn, error) { return c, nil }

// mesh is two workloads that know each other, a and b, for which the proxy is b
// where it accepts and a where it dials.
type mesh struct {
	plainServer, plainClient *tls.Config
	server                   *tlsmux.Server
	newClient                func(resume bool) *tlsmux.Client
	dial                     shaker
}

func newMesh(tb testing.TB) *mesh {
	tb.Helper()
	root, err := ca.New("root")
	must(tb, err)
	roots, err := certs.ParseRoots(root.RootPEM())
	must(tb, err)
	const idA, idB, dnsB = "spiffe://prod/a", "spiffe://prod/b", "b.example"
	a, b := issue(tb, root, ca.Leaf{ID: idA}), issue(tb, root, ca.Leaf{ID: idB, DNS: []string{dnsB}})
	pool := x509.NewCertPool()
	pool.AddCert(root.Cert)
	curves := []tls.CurveID{tls.X25519, tls.CurveP256}
	common := func(own *certs.KeyPair, peer string) tlsmux.CommonConfig {
		return tlsmux.CommonConfig{
			Certificates: []certs.Ref{{Inline: &certs.Secret{Version: "1", KeyPair: own}}},
			Validation: &certs.Validation{Roots: roots, SANs: []certs.SANMatcher{
				{Type: certs.SANURI, Match: certs.StringMatcher{Kind: certs.MatchExact, Pattern: peer}},
			}},
			Curves: curves,
		}
	}
	m := &mesh{
		plainServer: &tls.Config{Certificates: []tls.Certificate{b.TLS}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, CurvePreferences: curves},
		plainClient: &tls.Config{Certificates: []tls.Certificate{a.TLS}, RootCAs: pool, ServerName: dnsB, CurvePreferences: curves},
		server:      tlsmux.NewServer(&tlsmux.ServerConfig{CommonConfig: common(b, idA), RequireClientCertificate: true}, certs.NewStore(certs.Feeds{})),
	}
	m.newClient = func(resume bool) *tlsmux.Client {
		cfg := &tlsmux.ClientConfig{CommonConfig: common(a, idB), SNI: dnsB}
		if resume {
			cfg.MaxSessionKeys = 1
		}
		return tlsmux.NewClient(cfg, certs.NewStore(certs.Feeds{}))
	}
	client := m.newClient(false)
	m.dial = func(c net.Conn) (net.Conn, error) {
		return client.Handshake(context.Background(), c, tlsmux.ClientOptions{})
	}
	return m
}

func issue(tb testing.TB, root *ca.CA, l ca.Leaf) *certs.KeyPair {
	tb.Helper()
	leaf, err := root.Issue(l)
	must(tb, err)
	pair, err := certs.ParseKeyPair(leaf.ChainPEM, leaf.KeyPEM)
	must(tb, err)
	return pair
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func (m *mesh) accept(c net.Conn) (net.Conn, error) {
	return m.server.Handshake(context.Background(), c)
}

func (m *mesh) acceptPlain(c net.Conn) (net.Conn, error) {
	t := tls.Server(c, m.plainServer)
	return t, t.Handshake()
}

func (m *mesh) dialPlain(c net.Conn) (net.Conn, error) {
	t := tls.Client(c, m.plainClient)
	return t, t.Handshake()
}

// wire makes TCP connections over loopback, one at a time.
type wire struct{ net.Listener }

func newWire(tb testing.TB) wire {
	tb.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	must(tb, err)
	tb.Cleanup(func() { ln.Close() })
	return wire{ln}
}

// pair is both ends of a connection. Closing them resets it, for thousands of
// ports in TIME_WAIT would slow down what follows.
func (w wire) pair(tb testing.TB) (near, far *net.TCPConn) {
	tb.Helper()
	dialed, err := net.Dial("tcp4", w.Addr().String())
	must(tb, err)
	accepted, err := w.Accept()
	must(tb, err)
	near, far = dialed.(*net.TCPConn), accepted.(*net.TCPConn)
	must(tb, errors.Join(near.SetLinger(0), far.SetLinger(0)))
	return near, far
}

// join is a pair with both handshakes done.
func (w wire) join(tb testing.TB, client, server shaker) (near, far net.Conn) {
	tb.Helper()
	n, f := w.pair(tb)
	done := make(chan error, 1)
	go func() {
		var err error
		far, err = server(f)
		done <- err
	}()
	near, err := client(n)
	must(tb, errors.Join(err, <-done))
	return near, far
}

// proxy carries bytes both ways until both have ended.
type proxy func(down, up net.Conn)

// copying is the simplest proxy in Go.
func copying(down, up net.Conn) {
	var back sync.WaitGroup
	back.Go(func() { copyOne(down, up) })
	copyOne(up, down)
	back.Wait()
}

func copyOne(to, from net.Conn) {
	io.Copy(to, from)
	to.(interface{ CloseWrite() error }).CloseWrite()
}

func relaying(down, up net.Conn) {
	relay.Run(context.Background(), side(down), side(up), relay.Options{IdleTimeout: time.Hour})
}

func side(c net.Conn) relay.Conn {
	if c, ok := c.(relay.Conn); ok {
		return c
	}
	return relay.Plain(c)
}

// BenchmarkRelay is the throughput of one connection, from the client to the
// server. "direct" has no proxy between them; the peers are always crypto/tls.
func BenchmarkRelay(b *testing.B) {
	m, w := newMesh(b), newWire(b)
	for _, l := range []struct {
		name                      string
		client, server            shaker // the peers
		acceptPlain, dialPlain    shaker // the proxy with io.Copy
		accept, dial              shaker // ours
		directClient, directServe shaker
	}{
		{"raw-raw", bare, bare, bare, bare, bare, bare, bare, bare},
		{"tls-raw", m.dialPlain, bare, m.acceptPlain, bare, m.accept, bare, m.dialPlain, m.acceptPlain},
		{"raw-tls", bare, m.acceptPlain, bare, m.dialPlain, bare, m.dial, m.dialPlain, m.acceptPlain},
	} {
		b.Run(l.name+"/direct", func(b *testing.B) {
			client, server := w.join(b, l.directClient, l.directServe)
			drive(b, client, server)
		})
		b.Run(l.name+"/io.Copy", func(b *testing.B) {
			client, down := w.join(b, l.client, l.acceptPlain)
			up, server := w.join(b, l.dialPlain, l.server)
			through(b, copying, client, down, up, server)
		})
		b.Run(l.name+"/outrider", func(b *testing.B) {
			client, down := w.join(b, l.client, l.accept)
			up, server := w.join(b, l.dial, l.server)
			through(b, relaying, client, down, up, server)
		})
	}
}

func through(b *testing.B, p proxy, client, down, up, server net.Conn) {
	var proxying sync.WaitGroup
	proxying.Go(func() { p(down, up) })
	drive(b, client, server)
	proxying.Wait()
	down.Close()
	up.Close()
}

// drive writes into one end as fast as the other reads, and closes both.
func drive(b *testing.B, from, to net.Conn) {
	const chunk = 1 << 20
	msg, got := make([]byte, chunk), make([]byte, chunk)
	var writing sync.WaitGroup
	writing.Go(func() {
		for {
			if _, err := from.Write(msg); err != nil {
				return
			}
		}
	})
	b.SetBytes(chunk)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.ReadFull(to, got); err != nil {
			b.Fatal(err)
		}
	}
	to.Close()
	from.SetDeadline(time.Unix(1, 0)) // before Close, which waits for a Write over TLS
	writing.Wait()
	from.Close()
}

// BenchmarkIdleConnection is the memory of the process that a proxied TLS
// connection holds while nothing moves, after 1 KiB each way: heap and stacks
// in use, in bytes per connection, with the number of connections in the
// metric's name. The four sockets of each are open before, and the client's TLS
// is thrown away, so that only the proxy is left in it.
func BenchmarkIdleConnection(b *testing.B) {
	m, n := newMesh(b), idleConnections()
	for _, way := range []struct {
		name   string
		accept shaker
		proxy  proxy
	}{{"io.Copy", m.acceptPlain, copying}, {"outrider", m.accept, relaying}} {
		b.Run(way.name, func(b *testing.B) {
			for b.Loop() {
				held := idle(b, n, m.dialPlain, way.accept, way.proxy)
				b.ReportMetric(float64(held)/float64(n), fmt.Sprintf("B/conn@%d", n))
			}
		})
	}
}

// idleConnections is how many the descriptors allow, of which each connection
// takes four: 10,000, or 2,000.
func idleConnections() int {
	const many, few, others = 10_000, 2_000, 100
	want := uint64(4*many + others)
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return few
	}
	if limit.Cur >= want || syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: want, Max: max(want, limit.Max)}) == nil {
		return many
	}
	return few
}

type link struct{ client, down, up, server *net.TCPConn }

func (l *link) close() {
	for _, c := range []*net.TCPConn{l.client, l.server, l.down, l.up} {
		c.Close()
	}
}

// idle is what n connections through p hold.
func idle(b *testing.B, n int, dial, accept shaker, p proxy) int64 {
	w, links := newWire(b), make([]link, n)
	for i := range links {
		l := &links[i]
		l.client, l.down = w.pair(b)
		l.up, l.server = w.pair(b)
	}
	var proxies sync.WaitGroup
	before := inUse()
	for i := range links {
		l := &links[i]
		proxies.Go(func() {
			down, err := accept(l.down)
			if err != nil {
				b.Error(err)
				l.close()
				return
			}
			p(down, l.up)
		})
		exchange(b, l, dial)
	}
	held := inUse() - before
	for i := range links {
		links[i].close()
	}
	proxies.Wait()
	return held
}

// exchange sends 1 KiB to the server and back.
func exchange(b *testing.B, l *link, dial shaker) {
	client, err := dial(l.client)
	must(b, err)
	msg := make([]byte, 1<<10)
	for _, hop := range []struct {
		from io.Writer
		to   io.Reader
	}{{client, l.server}, {l.server, client}} {
		_, err := hop.from.Write(msg)
		must(b, err)
		_, err = io.ReadFull(hop.to, msg)
		must(b, err)
	}
}

func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
