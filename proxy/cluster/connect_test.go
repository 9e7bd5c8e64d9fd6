package cluster

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cfgOf is a cluster with what the decoder's defaults put in.
func cfgOf(name string, change func(*config.Cluster)) *config.Cluster {
	limit := config.Thresholds{MaxConnections: 1024, MaxPendingRequests: 1024, MaxRequests: 1024, MaxRetries: 3}
	cfg := &config.Cluster{
		Name: name, ConnectTimeout: 5 * time.Second, Digest: name + "-1",
		CircuitBreakers: [2]config.Thresholds{limit, limit},
		LBCommon:        config.LBCommon{PanicThreshold: 50},
		RingHash:        config.RingHash{Min: 1024, Max: 8388608},
		TransportSocket: config.TransportSocket{Name: "envoy.transport_sockets.raw_buffer"},
		DNS:             config.DNS{RefreshRate: 5 * time.Second, FailureRefreshBase: 5 * time.Second},
	}
	if change != nil {
		change(cfg)
	}
	return cfg
}

func endpoints(addresses ...string) *config.Assignment {
	l := &config.LocalityEndpoints{}
	for _, a := range addresses {
		l.Endpoints = append(l.Endpoints, &config.Endpoint{Address: config.Address{AddrPort: netip.MustParseAddrPort(a)}, Weight: 1})
	}
	return &config.Assignment{Localities: []*config.LocalityEndpoints{l}, Overprovisioning: 140}
}

// fixedRand counts up: random choices that are the same at every run.
func fixedRand() func() uint64 {
	var mu sync.Mutex
	source := rand.NewPCG(1, 2)
	return func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		return source.Uint64()
	}
}

// setOf runs a Set with cfgs until the test ends.
func setOf(t *testing.T, opts Options, cfgs ...*config.Cluster) *Set {
	t.Helper()
	if opts.Stats == nil {
		opts.Stats = stats.New()
	}
	if opts.Secrets == nil {
		opts.Secrets = certs.NewStore(certs.Feeds{})
	}
	if opts.Rand == nil {
		opts.Rand = fixedRand()
	}
	s := NewSet(opts)
	if err := s.Apply(cfgs); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return s
}

// echo serves a loopback address until the test ends.
func echo(t *testing.T) string {
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
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wait.Wait()
	})
	return l.Addr().String()
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func counter(o Options, cluster, name string) uint64 {
	return o.Stats.Scope("cluster").Tagged("envoy_cluster_name", cluster).Counter(name).Value()
}

func gauge(o Options, cluster, name string) int64 {
	return o.Stats.Scope("cluster").Tagged("envoy_cluster_name", cluster).Gauge(name).Value()
}

func TestConnectRelaysAndCountsTheConnection(t *testing.T) {
	address := echo(t)
	opts := Options{Stats: stats.New()}
	s := setOf(t, opts, cfgOf("a", func(c *config.Cluster) { c.Assignment = endpoints(address) }))
	info := &flow.Info{}
	conn, err := s.Get("a").Connect(t.Context(), Request{Info: info})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("hi")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2)
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "hi" {
		t.Fatalf("read %q, %v", buf, err)
	}
	if got := info.UpstreamHost.String(); got != address {
		t.Errorf("UpstreamHost %s, want %s", got, address)
	}
	if got, want := info.UpstreamLocal.String(), conn.LocalAddr().String(); got != want {
		t.Errorf("UpstreamLocal %s, want %s", got, want)
	}
	if n := gauge(opts, "a", "upstream_cx_active"); n != 1 {
		t.Errorf("upstream_cx_active %d while open, want 1", n)
	}
	conn.Account(2, 2)
	conn.EndedByPeer()
	conn.Close()
	conn.Close()
	for name, want := range map[string]uint64{
		"upstream_cx_total": 1, "upstream_cx_destroy": 1, "upstream_cx_destroy_remote": 1, "upstream_cx_destroy_local": 0,
		"upstream_cx_rx_bytes_total": 2, "upstream_rq_total": 1,
	} {
		if got := counter(opts, "a", name); got != want {
			t.Errorf("%s %d, want %d", name, got, want)
		}
	}
	if n := gauge(opts, "a", "upstream_cx_active"); n != 0 {
		t.Errorf("upstream_cx_active %d after the end, want 0", n)
	}
}

func TestRoundRobinMeetsEveryHost(t *testing.T) {
	hosts := []string{echo(t), echo(t), echo(t)}
	s := setOf(t, Options{}, cfgOf("a", func(c *config.Cluster) { c.Assignment = endpoints(hosts...) }))
	got := map[string]int{}
	for range 6 {
		conn, err := s.Get("a").Connect(t.Context(), Request{})
		if err != nil {
			t.Fatal(err)
		}
		got[conn.Host().String()]++
		conn.Close()
	}
	for _, h := range hosts {
		if got[h] != 2 {
			t.Errorf("host %s met %d times in 6, want 2", h, got[h])
		}
	}
}

func TestConnectErrorsCarryTheirFlag(t *testing.T) {
	closed := closedPort(t)
	for _, test := range []struct {
		name string
		cfg  *config.Cluster
		want flow.ResponseFlags
		stat string
	}{
		{"no endpoints", cfgOf("a", nil), flow.NoHealthyUpstream, "upstream_cx_none_healthy"},
		{"nobody listens", cfgOf("a", func(c *config.Cluster) { c.Assignment = endpoints(closed) }),
			flow.UpstreamConnectionFailure, "upstream_cx_connect_fail"},
		{"no connections allowed", cfgOf("a", func(c *config.Cluster) {
			c.Assignment = endpoints(closed)
			c.CircuitBreakers[0].MaxConnections = 0
		}), flow.UpstreamOverflow, "upstream_cx_overflow"},
		{"no pending allowed", cfgOf("a", func(c *config.Cluster) {
			c.Assignment = endpoints(closed)
			c.CircuitBreakers[0].MaxPendingRequests = 0
		}), flow.UpstreamOverflow, "upstream_rq_pending_overflow"},
		{"everything dropped", cfgOf("a", func(c *config.Cluster) {
			c.Assignment = endpoints(closed)
			c.Assignment.DropOverload = []config.Drop{{Category: "x", PPM: 1_000_000}}
		}), flow.UpstreamOverflow, "upstream_rq_drop_overload"},
		{"no original destination", cfgOf("a", func(c *config.Cluster) {
			c.Type, c.LB = config.OriginalDstType, config.ClusterProvided
		}), flow.NoHealthyUpstream, "upstream_cx_none_healthy"},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := Options{Stats: stats.New()}
			s := setOf(t, opts, test.cfg)
			_, err := s.Get("a").Connect(t.Context(), Request{})
			var end *flow.EndError
			if !errors.As(err, &end) || end.Flags != test.want {
				t.Fatalf("error %v, want flags %s", err, test.want)
			}
			if n := counter(opts, "a", test.stat); n != 1 {
				t.Errorf("%s %d, want 1", test.stat, n)
			}
			for _, name := range []string{"upstream_cx_active", "upstream_rq_pending_active", "upstream_rq_active"} {
				if n := gauge(opts, "a", name); n != 0 {
					t.Errorf("%s %d after the failure, want 0", name, n)
				}
			}
			if n := s.Get("a").breakers[0].cx.active.Load(); n != 0 {
				t.Errorf("circuit breaker holds %d connections, want 0", n)
			}
		})
	}
}

func TestConnectTimeoutCoversASilentHost(t *testing.T) {
	opts := Options{Stats: stats.New()}
	// A listener whose queue is full answers no SYN.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := cfgOf("a", func(c *config.Cluster) {
		c.Assignment = endpoints(l.Addr().String())
		c.ConnectTimeout = time.Nanosecond
	})
	s := setOf(t, opts, c)
	_, err = s.Get("a").Connect(t.Context(), Request{})
	var connect *ConnectError
	if !errors.As(err, &connect) || !connect.Timeout {
		t.Fatalf("error %v, want a timeout", err)
	}
	if n := counter(opts, "a", "upstream_cx_connect_timeout"); n != 1 {
		t.Errorf("upstream_cx_connect_timeout %d, want 1", n)
	}
}

func TestCircuitBreakerOpensAtItsLimitAndCloses(t *testing.T) {
	opts := Options{Stats: stats.New()}
	address := echo(t)
	s := setOf(t, opts, cfgOf("a", func(c *config.Cluster) {
		c.Assignment = endpoints(address)
		c.CircuitBreakers[0].MaxConnections, c.CircuitBreakers[0].TrackRemaining = 1, true
	}))
	first, err := s.Get("a").Connect(t.Context(), Request{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("a").Connect(t.Context(), Request{}); err == nil {
		t.Fatal("a second connection was made over a limit of 1")
	}
	open, left := gauge(opts, "a", "circuit_breakers.default.cx_open"), gauge(opts, "a", "circuit_breakers.default.remaining_cx")
	if open != 1 || left != 0 {
		t.Errorf("cx_open %d, remaining_cx %d at the limit, want 1, 0", open, left)
	}
	first.Close()
	open, left = gauge(opts, "a", "circuit_breakers.default.cx_open"), gauge(opts, "a", "circuit_breakers.default.remaining_cx")
	if open != 0 || left != 1 {
		t.Errorf("cx_open %d, remaining_cx %d below the limit, want 0, 1", open, left)
	}
	second, err := s.Get("a").Connect(t.Context(), Request{})
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

func TestOriginalDestinationIsTheHost(t *testing.T) {
	address := echo(t)
	port := netip.MustParseAddrPort(address).Port()
	opts := Options{Stats: stats.New()}
	s := setOf(t, opts,
		cfgOf("a", func(c *config.Cluster) { c.Type, c.LB = config.OriginalDstType, config.ClusterProvided }),
		cfgOf("b", func(c *config.Cluster) {
			c.Type, c.LB = config.OriginalDstType, config.ClusterProvided
			c.OriginalDst.PortOverride = port
			c.Bind.Source = netip.MustParseAddrPort("127.0.0.6:0")
		}))
	for name, dst := range map[string]string{"a": address, "b": "127.0.0.1:1"} {
		conn, err := s.Get(name).Connect(t.Context(), Request{OriginalDst: netip.MustParseAddrPort(dst)})
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.Host().String(); got != address {
			t.Errorf("cluster %s: host %s, want %s", name, got, address)
		}
		if name == "b" {
			if got := conn.LocalAddr().(*net.TCPAddr).IP.String(); got != "127.0.0.6" {
				t.Errorf("source %s, want 127.0.0.6", got)
			}
		}
		conn.Close()
	}
	// Two sweeps: the first forgets that the host was used.
	c := s.Get("a")
	c.original.sweepOnce(c)
	if n := gauge(opts, "a", "membership_total"); n != 1 {
		t.Errorf("membership_total %d in the interval of the connection, want 1", n)
	}
	c.original.sweepOnce(c)
	if n := gauge(opts, "a", "membership_total"); n != 0 {
		t.Errorf("membership_total %d an interval later, want 0", n)
	}
}

func TestSourceAddressIsOfTheDestinationsFamily(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("127.0.0.6:0"), netip.MustParseAddrPort("[::6]:0")
	d := &dialer{bind: config.BindConfig{Source: v4, Extra: []netip.AddrPort{v6}}}
	if got := d.sourceFor(netip.MustParseAddr("10.0.0.1")); got != v4 {
		t.Errorf("source for IPv4 %s, want %s", got, v4)
	}
	if got := d.sourceFor(netip.MustParseAddr("2001:db8::1")); got != v6 {
		t.Errorf("source for IPv6 %s, want %s", got, v6)
	}
	only4 := &dialer{bind: config.BindConfig{Source: v4}}
	if got := only4.sourceFor(netip.MustParseAddr("2001:db8::1")); got.IsValid() {
		t.Errorf("source for IPv6 without one %s, want none", got)
	}
}

func TestSecondAddressIsTriedWhenTheFirstRefuses(t *testing.T) {
	good, bad := echo(t), closedPort(t)
	s := setOf(t, Options{}, cfgOf("a", func(c *config.Cluster) {
		c.Assignment = endpoints(bad)
		c.Assignment.Localities[0].Endpoints[0].Additional = []config.Address{{AddrPort: netip.MustParseAddrPort(good)}}
	}))
	conn, err := s.Get("a").Connect(t.Context(), Request{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.RemoteAddr().String(); got != good {
		t.Errorf("connected to %s, want %s", got, good)
	}
}

func TestExplainAnswersWhatConnectDoes(t *testing.T) {
	hosts := []string{echo(t), echo(t)}
	s := setOf(t, Options{}, cfgOf("a", func(c *config.Cluster) {
		c.Assignment = endpoints(hosts...)
		c.SocketMatches = []config.TransportSocketMatch{
			{Name: "mtls", Match: label("tlsMode", "istio"), Socket: config.TransportSocket{TLS: &config.UpstreamTLS{}}},
			{Name: "plain", Match: label()},
		}
	}))
	for range 4 {
		first, again := s.Get("a").Explain(Request{}), s.Get("a").Explain(Request{})
		conn, err := s.Get("a").Connect(t.Context(), Request{})
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.Host().String(); got != first.Host || got != again.Host {
			t.Errorf("Connect chose %s, Explain said %s and %s", got, first.Host, again.Host)
		}
		conn.Close()
		if first.Socket != "plain" || first.Trials[0].Label != "tlsMode" || first.Trials[0].Want != `"istio"` {
			t.Errorf("explanation %+v, want plain after tlsMode failed", first)
		}
	}
}
