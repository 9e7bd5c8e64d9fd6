package bench

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/soheilhy/cmux"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/listener"
	"outrider/proxy/match"
	"outrider/proxy/stats"
	"outrider/tlsmux"
)

// BenchmarkSniff tells TLS by a ClientHello that is in the socket already. One
// TCP connection carries one hello after another: each is written, sniffed and
// read, and ns/sniff is the sniffing alone. Ours parses the whole hello for
// server name and ALPN and consumes nothing; cmux looks at three bytes. cmux is
// as a program uses it, accept to accept; "cmux matcher" is its matcher called
// on the bare connection, without the replay that makes it usable.
func BenchmarkSniff(b *testing.B) {
	b.Run("outrider", func(b *testing.B) {
		filters, info := tlsInspector(b), &flow.Info{}
		benchSniff(b, func(c *net.TCPConn) (io.Reader, int) {
			describe(info, c)
			if err := filters.Run(b.Context(), c, info); err != nil || info.SNI != "orders.shop" {
				b.Fatal(info.SNI, err)
			}
			return c, 0
		})
	})
	b.Run("cmux", func(b *testing.B) {
		in := make(fed)
		m := cmux.New(in)
		ln := m.Match(cmux.TLS())
		var serving sync.WaitGroup
		serving.Go(func() { m.Serve() })
		benchSniff(b, func(c *net.TCPConn) (io.Reader, int) {
			in <- kept{c}
			out, err := ln.Accept()
			if err != nil {
				b.Fatal(err)
			}
			return out, 0
		})
		close(in)
		serving.Wait()
	})
	b.Run("cmux matcher", func(b *testing.B) {
		isTLS, consumed := cmux.TLS(), &counted{}
		benchSniff(b, func(c *net.TCPConn) (io.Reader, int) {
			*consumed = counted{Reader: c}
			if !isTLS(consumed) {
				b.Fatal("not TLS")
			}
			return c, consumed.n
		})
	})
}

// benchSniff has sniff look at hello after hello; it returns where to read the
// hello from, and how much of it is consumed already.
func benchSniff(b *testing.B, sniff func(*net.TCPConn) (io.Reader, int)) {
	client, server := newWire(b).pair(b)
	defer client.Close()
	defer server.Close()
	hello := clientHello(b)
	buf := make([]byte, len(hello))
	var sniffing time.Duration
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Write(hello); err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		from, consumed := sniff(server)
		sniffing += time.Since(begin)
		if _, err := io.ReadFull(from, buf[consumed:]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(sniffing.Nanoseconds())/float64(b.N), "ns/sniff")
}

func tlsInspector(b *testing.B) *listener.Filters {
	b.Helper()
	registry := stats.New()
	cfg := &config.Listener{
		FiltersTimeout: 15 * time.Second,
		Filters:        []*config.ListenerFilter{{Name: "tls", TLSInspector: &config.TLSInspector{}}},
	}
	f, err := listener.Compile(cfg, listener.Deps{
		Stats: registry, Listener: registry.Scope("listener").Tagged("envoy_listener_address", "a"),
		Waiting: listener.NewWaiting(listener.DefaultWaiting),
	})
	if err != nil {
		b.Fatal(err)
	}
	return f
}

// describe makes info that of a new connection. A connection has one whether it
// is sniffed or not, so that it is not made anew here.
func describe(info *flow.Info, c *net.TCPConn) {
	*info = flow.Info{TransportProtocol: "raw_buffer"}
	info.Local.AddrPort = c.LocalAddr().(*net.TCPAddr).AddrPort()
	info.Remote.AddrPort = c.RemoteAddr().(*net.TCPAddr).AddrPort()
	info.DirectLocal, info.DirectRemote = info.Local, info.Remote
}

// clientHello is what crypto/tls sends first.
func clientHello(b *testing.B) []byte {
	b.Helper()
	client, server := net.Pipe()
	go func() {
		tls.Client(client, &tls.Config{ServerName: "orders.shop", NextProtos: []string{"istio-peer-exchange", "istio"}}).Handshake()
	}()
	hello := make([]byte, 16<<10)
	n, err := server.Read(hello) // one record, in one write
	server.Close()
	if err != nil {
		b.Fatal(err)
	}
	return hello[:n]
}

// fed is a listener whose connections come over the channel.
type fed chan net.Conn

func (f fed) Accept() (net.Conn, error) {
	if c, ok := <-f; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (fed) Close() error   { return nil }
func (fed) Addr() net.Addr { return &net.TCPAddr{} }

// kept is a connection that stays open.
type kept struct{ net.Conn }

func (kept) Close() error { return nil }

// counted counts what is read.
type counted struct {
	io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// BenchmarkMatch finds the last chain of a mesh listener, which has two for
// each port and address. "scan" is the baseline: the same question asked of one
// chain after another.
func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10000} {
		chains := meshChains(n)
		table, err := match.Compile(chains, nil)
		if err != nil {
			b.Fatal(err)
		}
		want := chains[n-2]
		key := match.Key{
			Destination: netip.AddrPortFrom(want.Match.Prefixes[0].Addr(), want.Match.DestinationPort),
			Source:      netip.MustParseAddrPort("192.0.2.1:1"), DirectSource: netip.MustParseAddrPort("192.0.2.1:1"),
			Transport: "tls", ServerName: "outbound_.80_._.x", ALPNs: []string{"istio-peer-exchange", "istio"},
		}
		for _, way := range []struct {
			name string
			find func(match.Key) *config.FilterChain
		}{{"outrider", table.Find}, {"scan", func(k match.Key) *config.FilterChain { return scan(chains, k) }}} {
			b.Run(fmt.Sprintf("%s/chains=%d", way.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if got := way.find(key); got != want {
						b.Fatal(got)
					}
				}
			})
		}
	}
}

func meshChains(n int) []*config.FilterChain {
	chains := make([]*config.FilterChain, 0, n)
	for i := range n / 2 {
		address := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		mtls := config.FilterChainMatch{
			DestinationPort: uint16(1 + i), Prefixes: []netip.Prefix{netip.PrefixFrom(address, 32)},
			TransportProtocol: "tls", ApplicationProtocols: []string{"istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"},
		}
		plain := mtls
		plain.TransportProtocol, plain.ApplicationProtocols = "raw_buffer", nil
		chains = append(chains, &config.FilterChain{Name: "mtls", Match: mtls}, &config.FilterChain{Name: "plain", Match: plain})
	}
	return chains
}

// scan is enough for meshChains, where no two chains fit.
func scan(chains []*config.FilterChain, k match.Key) *config.FilterChain {
	for _, c := range chains {
		m := &c.Match
		if m.DestinationPort != k.Destination.Port() || !m.Prefixes[0].Contains(k.Destination.Addr()) || m.TransportProtocol != k.Transport {
			continue
		}
		for _, p := range m.ApplicationProtocols {
			for _, offered := range k.ALPNs {
				if p == offered {
					return c
				}
			}
		}
	}
	return nil
}

// BenchmarkHandshake is a mutual one with its TCP connection, both ends of the
// same kind, and a byte from the server after it, so that tickets are seen.
// Ours holds the peer to a SPIFFE ID; crypto/tls verifies the chain, and the
// server's DNS name. Ours remembers the chains that it has verified, so only
// its first full handshake verifies a CA's signature. Both use X25519:
// crypto/tls's own default is a post-quantum exchange, which costs more.
func BenchmarkHandshake(b *testing.B) {
	m := newMesh(b)
	for _, resumed := range []bool{false, true} {
		name := map[bool]string{false: "full", true: "resumed"}[resumed]
		b.Run(name+"/crypto-tls", func(b *testing.B) {
			cc := m.plainClient.Clone()
			if resumed {
				cc.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			}
			benchHandshake(b, resumed, m.acceptPlain, func(c net.Conn) (net.Conn, bool, error) {
				t := tls.Client(c, cc)
				err := t.Handshake()
				return t, t.ConnectionState().DidResume, err
			})
		})
		b.Run(name+"/outrider", func(b *testing.B) {
			client := m.newClient(resumed)
			benchHandshake(b, resumed, m.accept, func(c net.Conn) (net.Conn, bool, error) {
				t, err := client.Handshake(b.Context(), c, tlsmux.ClientOptions{})
				return t, err == nil && t.State().Resumed, err
			})
		})
	}
}

func benchHandshake(b *testing.B, resumed bool, server func(net.Conn) (net.Conn, error), client func(net.Conn) (net.Conn, bool, error)) {
	w := newWire(b)
	shake := func() bool {
		near, far := w.pair(b)
		defer near.Close()
		defer far.Close()
		done := make(chan error, 1)
		go func() {
			c, err := server(far)
			if err == nil {
				_, err = c.Write([]byte("x"))
			}
			done <- err
		}()
		c, did, err := client(near)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		return did
	}
	shake() // the first is always full
	b.ReportAllocs()
	for b.Loop() {
		if shake() != resumed {
			b.Fatalf("resumed is not %v", resumed)
		}
	}
}
