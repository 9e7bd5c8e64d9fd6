package pool

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"outrider/certs"
	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

type nobody struct{}

func (nobody) OnHead(*message.Head, bool) {}
func (nobody) OnData([]byte, bool)        {}
func (nobody) OnTrailers(message.Fields)  {}
func (nobody) OnReset(codec.Reset)        {}
func (nobody) OnGone(int)                 {}

type answer struct {
	s   codec.Sender
	c   *Conn
	err error
}

type waits chan answer

func (w waits) Ready(s codec.Sender, c *Conn)     { w <- answer{s: s, c: c} }
func (w waits) Failed(_ *cluster.Host, err error) { w <- answer{err: err} }
func (w waits) get(t *testing.T, what string) answer {
	t.Helper()
	select {
	case a := <-w:
		return a
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: it still waits", what)
		return answer{}
	}
}

// poolsOf is a cluster of one silent server, and pools.
func setOf(t *testing.T, change func(*config.Cluster)) (*Pools, *cluster.Set, *stats.Registry) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	limit := config.Thresholds{MaxConnections: 1024, MaxPendingRequests: 1024, MaxRequests: 1024, MaxRetries: 3}
	at := netip.MustParseAddrPort(l.Addr().String())
	cfg := &config.Cluster{
		Name: "c", ConnectTimeout: 5 * time.Second, Digest: "c-1", LBCommon: config.LBCommon{PanicThreshold: 50},
		CircuitBreakers: [2]config.Thresholds{limit, limit},
		TransportSocket: config.TransportSocket{Name: "envoy.transport_sockets.raw_buffer"},
		Assignment: &config.Assignment{Overprovisioning: 140, Localities: []*config.LocalityEndpoints{{
			Endpoints: []*config.Endpoint{{Address: config.Address{AddrPort: at}, Weight: 1}},
		}}},
	}
	change(cfg)
	p, reg := New(nil), stats.New()
	set := cluster.NewSet(cluster.Options{Stats: reg, Secrets: certs.NewStore(certs.Feeds{}), Gone: p.Gone})
	if err := set.Apply([]*config.Cluster{cfg}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = set.Run(ctx) }()
	t.Cleanup(func() { p.Close(); cancel(); <-done })
	return p, set, reg
}

func poolsOf(t *testing.T, change func(*config.Cluster)) (*Pools, *cluster.Cluster, *stats.Registry) {
	p, set, reg := setOf(t, change)
	return p, set.Get("c"), reg
}

func ask(t *testing.T, p *Pools, c *cluster.Cluster) waits {
	t.Helper()
	w := make(waits, 1)
	s, conn, _, err := p.Open(&Request{Cluster: c, Downstream: codec.HTTP11}, nobody{}, w)
	if err != nil {
		t.Fatal(err)
	}
	if s != nil {
		w <- answer{s: s, c: conn}
	}
	return w
}

func (a answer) end() {
	a.s.Reset(codec.Cancel)
	a.c.Done(cluster.Cancelled)
}

// At max_connections requests wait for a connection to become free, as in
// Envoy; they do not fail.
func TestARequestWaitsWhereNoMoreConnectionsAreAllowed(t *testing.T) {
	p, c, _ := poolsOf(t, func(cfg *config.Cluster) { cfg.CircuitBreakers[0].MaxConnections = 1 })
	first := ask(t, p, c).get(t, "the first")
	if first.err != nil {
		t.Fatal(first.err)
	}
	second := ask(t, p, c)
	select {
	case a := <-second:
		t.Fatalf("the second did not wait: %+v", a)
	case <-time.After(100 * time.Millisecond):
	}
	first.end()
	got := second.get(t, "the second")
	if got.err != nil {
		t.Fatal(got.err)
	}
	got.end()
}

// The first connection of a pool is made whatever max_connections says.
func TestTheFirstConnectionIsMadeBeyondMaxConnections(t *testing.T) {
	p, c, _ := poolsOf(t, func(cfg *config.Cluster) { cfg.CircuitBreakers[0].MaxConnections = 0 })
	a := ask(t, p, c).get(t, "the first")
	if a.err != nil {
		t.Fatal(a.err)
	}
	a.end()
}

// A request that comes to a pool whose host has gone is served all the same.
func TestARequestAtAHostThatIsGoingIsServed(t *testing.T) {
	p, c, _ := poolsOf(t, func(*config.Cluster) {})
	first := ask(t, p, c).get(t, "the first")
	if first.err != nil {
		t.Fatal(first.err)
	}
	p.Gone(first.c.Host())
	second := ask(t, p, c).get(t, "the second")
	if second.err != nil {
		t.Fatal(second.err)
	}
	first.end()
	second.end()
}

// A pool that is made for a host that has gone since it was chosen does not
// outlive its request.
func TestAPoolForAHostThatHasGoneEndsWithItsRequest(t *testing.T) {
	var there *config.Assignment
	p, set, _ := setOf(t, func(cfg *config.Cluster) {
		there, cfg.Assignment = cfg.Assignment, nil
		cfg.Type, cfg.EDS = config.EDSType, &config.EDS{ServiceName: "c"}
	})
	set.SetAssignment("c", there)
	c := set.Get("c")
	req := &Request{Cluster: c, Downstream: codec.HTTP11}
	h, err := c.Choose(&req.Choice)
	if err != nil {
		t.Fatal(err)
	}
	set.SetAssignment("c", &config.Assignment{})
	one, err := p.of(req, h)
	if err != nil {
		t.Fatal(err)
	}
	w := make(waits, 1)
	if _, _, _, err, _ := one.open(req, nobody{}, w); err != nil {
		t.Fatal(err)
	}
	a := waits(w).get(t, "the request")
	if a.err != nil {
		t.Fatal(a.err)
	}
	a.end()
	pools := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.pools) + len(p.byHost)
	}
	for deadline := time.Now().Add(10 * time.Second); pools() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the pool is still there")
		}
	}
}

func TestNothingIsOpenedAfterClose(t *testing.T) {
	p, c, _ := poolsOf(t, func(*config.Cluster) {})
	p.Close()
	if _, _, _, err := p.Open(&Request{Cluster: c}, nobody{}, make(waits, 1)); !errors.Is(err, errClosed) {
		t.Fatalf("%v, want that the proxy ends", err)
	}
	if p.start(func() {}) {
		t.Fatal("a goroutine was started after Close")
	}
}
