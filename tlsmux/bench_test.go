package tlsmux

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"outrider/certs"
)

// plainConfigs are what crypto/tls alone does for the same mesh: each verifies
// the other, the client's name is checked by nobody.
func plainConfigs(m *mesh) (server, client *tls.Config) {
	pool := x509.NewCertPool()
	pool.AddCert(m.root.cert)
	server = &tls.Config{Certificates: []tls.Certificate{m.b.pair().TLS}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, CurvePreferences: defaultCurves()}
	client = &tls.Config{Certificates: []tls.Certificate{m.a.pair().TLS}, RootCAs: pool, ServerName: "b.example", CurvePreferences: defaultCurves()}
	return server, client
}

// greet runs both handshakes and sends a byte, so that tickets are seen.
func greet(b *testing.B, server, client func(net.Conn) (net.Conn, error)) {
	near, far := tcpPair(b)
	done := make(chan error, 1)
	go func() {
		c, err := server(far)
		if err == nil {
			_, err = c.Write([]byte("x"))
		}
		done <- err
	}()
	c, err := client(near)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	near.Close()
	far.Close()
}

func shakePlain(t *tls.Conn) (net.Conn, error) { return t, t.Handshake() }

func BenchmarkHandshake(b *testing.B) {
	m := newMesh(b)
	for _, resumed := range []bool{false, true} {
		name := map[bool]string{false: "full", true: "resumed"}[resumed]
		b.Run(name+"/crypto-tls", func(b *testing.B) {
			sc, cc := plainConfigs(m)
			if resumed {
				cc.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			}
			b.ReportAllocs()
			for b.Loop() {
				greet(b, func(c net.Conn) (net.Conn, error) { return shakePlain(tls.Server(c, sc)) }, func(c net.Conn) (net.Conn, error) { return shakePlain(tls.Client(c, cc)) })
			}
		})
		b.Run(name+"/outrider", func(b *testing.B) {
			cc := m.clientConfig()
			if !resumed {
				cc.MaxSessionKeys = 0
			}
			s, c := NewServer(m.serverConfig(), noFeeds()), NewClient(cc, noFeeds())
			b.ReportAllocs()
			for b.Loop() {
				greet(b, func(n net.Conn) (net.Conn, error) { return s.Handshake(context.Background(), n) },
					func(n net.Conn) (net.Conn, error) { return c.Handshake(context.Background(), n, ClientOptions{}) })
			}
		})
	}
}

func BenchmarkBulk(b *testing.B) {
	const chunk = 1 << 20
	run := func(b *testing.B, write, read net.Conn) {
		msg, buf := make([]byte, 64<<10), make([]byte, 64<<10)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				if _, err := write.Write(msg); err != nil {
					return
				}
			}
		}()
		b.SetBytes(chunk)
		b.ReportAllocs()
		for b.Loop() {
			for got := 0; got < chunk; {
				n, err := read.Read(buf)
				if err != nil {
					b.Fatal(err)
				}
				got += n
			}
		}
		read.SetDeadline(time.Unix(1, 0))
		write.SetDeadline(time.Unix(1, 0))
		<-done
	}
	// both ends are the same, so that the ratio is that of a hop
	b.Run("crypto-tls", func(b *testing.B) {
		sc, cc := plainConfigs(newMesh(b))
		sc.DynamicRecordSizingDisabled, cc.DynamicRecordSizingDisabled = true, true
		near, far := tcpPair(b)
		s, c := tls.Server(far, sc), tls.Client(near, cc)
		go s.Handshake()
		if err := c.Handshake(); err != nil {
			b.Fatal(err)
		}
		run(b, s, c)
	})
	b.Run("outrider", func(b *testing.B) {
		m := newMesh(b)
		got := shakeHands(b, NewClient(m.clientConfig(), noFeeds()), NewServer(m.serverConfig(), noFeeds()), ClientOptions{})
		if got.clientErr != nil {
			b.Fatal(got.clientErr)
		}
		run(b, got.server, got.client)
	})
}

func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	sans := make([]certs.SANMatcher, 0, 20)
	for range 19 {
		sans = append(sans, exactURI("spiffe://prod/nobody"))
	}
	p := newPolicy(&certs.Validation{Roots: roots(w.root), SANs: append(sans, exactURI("spiffe://prod/a"))}, nil)
	q := question{chain: w.i2good.chain(), side: Downstream, now: w.now}
	b.Run("cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := p.judge(q); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("anew", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p.cache.entries = nil
			if err := p.judge(q); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkIdle is what a connection holds while nothing happens, both its
// ends, the stacks of its two waiting goroutines included; after a first small
// message each way, and after 64 KiB each way.
func BenchmarkIdle(b *testing.B) {
	const pairs = 200
	m := newMesh(b)
	sc, cc := plainConfigs(m)
	s, c := NewServer(m.serverConfig(), noFeeds()), NewClient(m.clientConfig(), noFeeds())
	kinds := map[string]func(near, far net.Conn) (client, server net.Conn){
		"crypto-tls": func(near, far net.Conn) (net.Conn, net.Conn) {
			server, client := tls.Server(far, sc), tls.Client(near, cc)
			go server.Handshake()
			if err := client.Handshake(); err != nil {
				b.Fatal(err)
			}
			return client, server
		},
		"outrider": func(near, far net.Conn) (net.Conn, net.Conn) {
			done := make(chan *Conn, 1)
			go func() {
				conn, err := s.Handshake(context.Background(), far)
				if err != nil {
					b.Error(err)
				}
				done <- conn
			}()
			client, err := c.Handshake(context.Background(), near, ClientOptions{})
			if err != nil {
				b.Fatal(err)
			}
			return client, <-done
		},
	}
	for name, connect := range kinds {
		for size, n := range map[string]int{"small": 100, "64KiB": 64 << 10} {
			b.Run(name+"/"+size, func(b *testing.B) {
				for b.Loop() {
					b.ReportMetric(idle(b, pairs, n, connect)/pairs, "B/pair")
				}
			})
		}
	}
}

func idle(b *testing.B, pairs, size int, connect func(near, far net.Conn) (client, server net.Conn)) float64 {
	var all []net.Conn
	done := make(chan struct{})
	before := inUse()
	for range pairs {
		near, far := tcpPair(b)
		client, server := connect(near, far)
		talk(b, client, server, size)
		talk(b, server, client, size)
		for _, c := range []net.Conn{client, server} {
			all = append(all, c)
			go func() { waitIdle(c); done <- struct{}{} }()
		}
	}
	time.Sleep(50 * time.Millisecond)
	used := inUse() - before
	for _, c := range all {
		c.SetReadDeadline(time.Unix(1, 0))
		<-done
	}
	for _, c := range all {
		c.Close()
	}
	return float64(used)
}

// waitIdle waits as a relay does: ours without a buffer, crypto/tls with 32 KiB
// as in io.Copy.
func waitIdle(c net.Conn) {
	if w, ok := c.(*Conn); ok {
		w.WaitReadable()
		return
	}
	c.Read(make([]byte, 32<<10))
}

func talk(b *testing.B, from, to net.Conn, size int) {
	go from.Write(make([]byte, size))
	if _, err := io.ReadFull(to, make([]byte, size)); err != nil {
		b.Fatal(err)
	}
}

func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
