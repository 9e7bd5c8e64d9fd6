package filter

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"outrider/certs"
	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/relay"
	"outrider/proxy/stats"
	"outrider/tlsmux"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a TCP connection over loopback, both ends closed with the test.
func pair(t testing.TB) (client, server *net.TCPConn) {
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
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// session is a connection that a chain serves.
type session struct {
	t      *testing.T
	client *net.TCPConn
	info   *flow.Info
	cancel context.CancelFunc
	result chan error
}

func infoOf(down *net.TCPConn) *flow.Info {
	info := &flow.Info{ID: 1, Start: time.Now(), TransportProtocol: "raw_buffer"}
	info.Remote.AddrPort = down.RemoteAddr().(*net.TCPAddr).AddrPort()
	info.Local.AddrPort = down.LocalAddr().(*net.TCPAddr).AddrPort()
	info.DirectRemote, info.DirectLocal = info.Remote, info.Local
	return info
}

// serve runs a connection through ch, as the server does.
func serve(t *testing.T, ch *Chain, change func(*flow.Info)) *session {
	t.Helper()
	client, down := pair(t)
	s := &session{t: t, client: client, info: infoOf(down), result: make(chan error, 1)}
	if change != nil {
		change(s.info)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.cancel = cancel
	go func() {
		err := serveToEnd(ch, ctx, &Conn{Conn: relay.Plain(down), Info: s.info})
		down.Close()
		s.result <- err
	}()
	t.Cleanup(func() {
		cancel()
		client.Close()
	})
	return s
}

func (s *session) send(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.client, text); err != nil {
		s.t.Fatal(err)
	}
}

// receive reads to the end of the stream.
func (s *session) receive() (string, error) {
	b, err := io.ReadAll(s.client)
	return string(b), err
}

func (s *session) expect(want string) {
	s.t.Helper()
	if got, err := s.receive(); got != want || err != nil {
		s.t.Errorf("the client received %q, %v; want %q", got, err, want)
	}
}

func (s *session) end() error {
	s.t.Helper()
	select {
	case err := <-s.result:
		return err
	case <-time.After(20 * time.Second):
		s.t.Fatal("the connection does not end")
		return nil
	}
}

// recorder is an access log.
type recorder struct {
	mu      sync.Mutex
	entries []string // guarded by mu
}

func (r *recorder) Log(info *flow.Info, event AccessEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, event.String()+" "+info.Flags.String()+" "+info.TerminationDetails+" "+info.LocalCloseReason)
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.entries...)
}

// clusterSet runs STATIC clusters until the test ends.
func clusterSet(t *testing.T, reg *stats.Registry, byName map[string][]string, change func(*config.Cluster)) *cluster.Set {
	t.Helper()
	limit := config.Thresholds{MaxConnections: 1024, MaxPendingRequests: 1024, MaxRequests: 1024, MaxRetries: 3}
	var cfgs []*config.Cluster
	for name, addresses := range byName {
		l := &config.LocalityEndpoints{}
		for _, a := range addresses {
			l.Endpoints = append(l.Endpoints, &config.Endpoint{Address: config.Address{AddrPort: netip.MustParseAddrPort(a)}, Weight: 1})
		}
		cfg := &config.Cluster{
			Name: name, Digest: name, ConnectTimeout: 5 * time.Second,
			CircuitBreakers: [2]config.Thresholds{limit, limit}, LBCommon: config.LBCommon{PanicThreshold: 50},
			Assignment:      &config.Assignment{Localities: []*config.LocalityEndpoints{l}, Overprovisioning: 140},
			TransportSocket: config.TransportSocket{Name: "envoy.transport_sockets.raw_buffer"},
		}
		if change != nil {
			change(cfg)
		}
		cfgs = append(cfgs, cfg)
	}
	set := cluster.NewSet(cluster.Options{Stats: reg, Secrets: certs.NewStore(certs.Feeds{})})
	if err := set.Apply(cfgs); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- set.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return set
}

// backend serves each connection with handle until the test ends.
func backend(t *testing.T, handle func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wait.Wait()
	})
	return l.Addr().String()
}

func echoes(c *net.TCPConn) { _, _ = io.Copy(c, c) }

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func mustChain(t testing.TB, d Deps, filters ...*config.NetworkFilter) *Chain {
	t.Helper()
	ch, err := NewChain(filters, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ch.Close)
	return ch
}

func echoFilter() *config.NetworkFilter {
	return &config.NetworkFilter{Name: "echo", Echo: &config.Echo{}}
}

func tcp(name string, change func(*config.TCPProxy)) *config.NetworkFilter {
	cfg := &config.TCPProxy{StatPrefix: "p", Cluster: name, MaxConnectAttempts: 1, IdleTimeout: time.Hour}
	if change != nil {
		change(cfg)
	}
	return &config.NetworkFilter{Name: "tcp", TCPProxy: cfg}
}

func tcpStat(reg *stats.Registry, name string) uint64 {
	return reg.Scope("tcp").Tagged("envoy_tcp_prefix", "p").Counter(name).Value()
}

// withALPN is the TLS state of a connection that has negotiated a protocol.
func withALPN(alpn string) *tlsmux.State { return &tlsmux.State{ALPN: alpn} }

// serveToEnd is Serve that waits for the end.
func serveToEnd(ch *Chain, ctx context.Context, c *Conn) error { //nolint:revive // the chain is what serves
	ended := make(chan error, 1)
	ch.Serve(ctx, c, func(err error) { ended <- err })
	return <-ended
}
