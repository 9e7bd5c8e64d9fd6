package filter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/google/go-cmp/cmp"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/relay"
	"outrider/proxy/stats"
)

func TestProxyCarriesBothDirectionsToTheirEnds(t *testing.T) {
	reg, log := stats.New(), &recorder{}
	request, answer := bytes.Repeat([]byte("q"), 3<<20), bytes.Repeat([]byte("a"), 2<<20)
	address := backend(t, func(b *net.TCPConn) {
		got, _ := io.ReadAll(b) // answers only after the client has ended its direction
		if !bytes.Equal(got, request) {
			t.Errorf("the upstream received %d bytes, want %d", len(got), len(request))
		}
		_, _ = b.Write(answer)
	})
	set := clusterSet(t, reg, map[string][]string{"app": {address}}, nil)
	ch := mustChain(t, Deps{Stats: reg, Clusters: set, AccessLogs: func(*config.AccessLog) (AccessLogger, error) { return log, nil }},
		tcp("app", func(c *config.TCPProxy) { c.AccessLogs, c.FlushOnConnected = []*config.AccessLog{{}}, true }))
	s := serve(t, ch, nil)
	if _, err := s.client.Write(request); err != nil {
		t.Fatal(err)
	}
	s.client.CloseWrite()
	got, err := s.receive()
	if got != string(answer) || err != nil {
		t.Errorf("the client received %d bytes, %v; want %d", len(got), err, len(answer))
	}
	if err := s.end(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	i := s.info
	counts := [4]uint64{i.Received.Load(), i.Sent.Load(), i.UpstreamSent.Load(), i.UpstreamReceived.Load()}
	if want := [4]uint64{3 << 20, 2 << 20, 3 << 20, 2 << 20}; counts != want {
		t.Errorf("counts %v, want %v", counts, want)
	}
	cl := reg.Scope("cluster").Tagged("envoy_cluster_name", "app")
	inStats := [5]uint64{
		tcpStat(reg, "downstream_cx_total"), tcpStat(reg, "downstream_cx_rx_bytes_total"), tcpStat(reg, "downstream_cx_tx_bytes_total"),
		cl.Counter("upstream_cx_tx_bytes_total").Value(), cl.Counter("upstream_cx_rx_bytes_total").Value(),
	}
	if want := [5]uint64{1, 3 << 20, 2 << 20, 3 << 20, 2 << 20}; inStats != want {
		t.Errorf("stats %v, want %v", inStats, want)
	}
	if diff := cmp.Diff([]string{"TcpUpstreamConnected   ", "TcpConnectionEnd   "}, log.all()); diff != "" {
		t.Errorf("access log (-want +got):\n%s", diff)
	}
	if i.UpstreamCluster != "app" || i.UpstreamHost.String() != address || i.UpstreamAttempts != 1 || i.End.IsZero() {
		t.Errorf("info: cluster %q, host %s, %d attempts, end %s", i.UpstreamCluster, i.UpstreamHost, i.UpstreamAttempts, i.End)
	}
}

func TestEndWithoutUpstreamHasEnvoysFlagsAndReason(t *testing.T) {
	dead := closedPort(t)
	for name, c := range map[string]struct {
		cluster, flags, reason string
		attempts               uint32
		noRoute                uint64
	}{
		"no such cluster":  {cluster: "nope", flags: "NC", reason: "tcp_initializion_failure:3", noRoute: 1},
		"no host":          {cluster: "empty", flags: "UH", reason: "tcp_initializion_failure:1"},
		"circuit breaker":  {cluster: "full", flags: "UO", reason: "tcp_initializion_failure:2"},
		"refused":          {cluster: "dead", flags: "UF,URX", reason: "tcp_initializion_failure:0", attempts: 1},
		"refused 3 times":  {cluster: "dead", flags: "UF,URX", reason: "tcp_initializion_failure:0", attempts: 3},
		"no cluster at 3":  {cluster: "nope", flags: "NC", reason: "tcp_initializion_failure:3", noRoute: 1, attempts: 3},
		"UH is not tried":  {cluster: "empty", flags: "UH", reason: "tcp_initializion_failure:1", attempts: 3},
		"UO is not tried":  {cluster: "full", flags: "UO", reason: "tcp_initializion_failure:2", attempts: 3},
		"attempts unset":   {cluster: "dead", flags: "UF,URX", reason: "tcp_initializion_failure:0"},
		"weighted, no one": {cluster: "", flags: "NC", reason: "tcp_initializion_failure:3", noRoute: 1},
	} {
		t.Run(name, func(t *testing.T) {
			reg, log := stats.New(), &recorder{}
			set := clusterSet(t, reg, map[string][]string{"dead": {dead}, "empty": {}, "full": {dead}}, func(cl *config.Cluster) {
				if cl.Name == "full" {
					cl.CircuitBreakers[0].MaxConnections = 0
				}
			})
			ch := mustChain(t, Deps{Stats: reg, Clusters: set, AccessLogs: func(*config.AccessLog) (AccessLogger, error) { return log, nil }},
				tcp(c.cluster, func(p *config.TCPProxy) {
					p.MaxConnectAttempts, p.AccessLogs = c.attempts, []*config.AccessLog{{}}
					if c.cluster == "" {
						p.Weighted = []config.WeightedCluster{{Name: "nope", Weight: 1}}
					}
				}))
			s := serve(t, ch, nil)
			err := s.end()
			var end *flow.EndError
			if !errors.As(err, &end) || (end.Flags|s.info.Flags).String() != c.flags {
				t.Errorf("it ended with %v, flags %s; want flags %s", err, s.info.Flags, c.flags)
			}
			if diff := cmp.Diff([]string{"TcpConnectionEnd " + c.flags + "  " + c.reason}, log.all()); diff != "" {
				t.Errorf("access log (-want +got):\n%s", diff)
			}
			if got := tcpStat(reg, "downstream_cx_no_route"); got != c.noRoute {
				t.Errorf("downstream_cx_no_route %d, want %d", got, c.noRoute)
			}
			if c.cluster == "dead" {
				cl := reg.Scope("cluster").Tagged("envoy_cluster_name", "dead")
				if got := cl.Counter("upstream_cx_connect_attempts_exceeded").Value(); got != 1 || s.info.UpstreamAttempts != int(max(c.attempts, 1)) {
					t.Errorf("attempts exceeded %d, %d attempts", got, s.info.UpstreamAttempts)
				}
			}
		})
	}
}

func TestSecondAttemptServesTheConnection(t *testing.T) {
	address := backend(t, echoes)
	fake := &fakeUpstream{dial: func(_ context.Context, n int) (*leg, error) {
		if n < 3 {
			return nil, errors.New("refused")
		}
		return dialLeg(t, address)
	}}
	ch := mustChain(t, Deps{}, tcp("app", func(c *config.TCPProxy) { c.MaxConnectAttempts = 3 }))
	ch.terminal.(*tcpProxy).clusters = fake.get
	s := serve(t, ch, nil)
	s.send("early")
	s.client.CloseWrite()
	s.expect("early")
	if err := s.end(); err != nil || fake.attempts != 3 || fake.exceeded != 0 {
		t.Errorf("ended with %v after %d attempts, %d times exceeded", err, fake.attempts, fake.exceeded)
	}
	if got := s.info.Flags.String(); got != "UF" {
		t.Errorf("flags %q, want UF of the first attempts", got)
	}
}

// blocking is a connection on which nothing ever comes.
type blocking struct {
	relay.Conn
	once *sync.Once
	gone chan struct{}
}

func newBlocking() blocking { return blocking{once: &sync.Once{}, gone: make(chan struct{})} }

func (b blocking) stop() error                     { b.once.Do(func() { close(b.gone) }); return nil }
func (b blocking) Close() error                    { return b.stop() }
func (b blocking) CloseWrite() error               { return nil }
func (b blocking) SetDeadline(time.Time) error     { return b.stop() }
func (b blocking) SetReadDeadline(time.Time) error { return nil }
func (b blocking) WaitReadable() error             { <-b.gone; return errors.New("deadline") }
func (b blocking) Read([]byte) (int, error)        { <-b.gone; return 0, errors.New("deadline") }

func blockingLeg() *leg {
	b := newBlocking()
	return &leg{Conn: b, account: func(uint64, uint64) {}, ended: func() {}, close: func() { b.Close() }}
}

// timed serves a connection on which nothing moves in the bubble's time.
func timed(t *testing.T, fake *fakeUpstream, d Deps, change func(*config.TCPProxy)) (*flow.Info, time.Duration, error) {
	t.Helper()
	ch := mustChain(t, d, tcp("app", change))
	ch.terminal.(*tcpProxy).clusters = fake.get
	info, start := described(), time.Now()
	err := serveToEnd(ch, t.Context(), &Conn{Conn: newBlocking(), Info: info})
	return info, time.Since(start), err
}

func TestTimeLimitsEndTheConnection(t *testing.T) {
	half := func() uint64 { return 1 << 19 } // of the steps of the jitter
	for name, c := range map[string]struct {
		change func(*config.TCPProxy)
		dial   func(context.Context, int) (*leg, error)
		took   time.Duration
		flags  string
		reason string
		stat   string
	}{
		"idle": {
			change: func(p *config.TCPProxy) { p.IdleTimeout = time.Minute },
			took:   time.Minute, reason: "tcp_session_idle_timeout", stat: "idle_timeout",
		},
		"duration": {
			change: func(p *config.TCPProxy) { p.MaxDownstreamDuration = time.Minute },
			took:   time.Minute, flags: "DT", reason: "max_connection_duration_reached", stat: "max_downstream_connection_duration",
		},
		"duration with jitter": {
			change: func(p *config.TCPProxy) { p.MaxDownstreamDuration, p.DurationJitterPercent = time.Minute, 50 },
			took:   75 * time.Second, flags: "DT", reason: "max_connection_duration_reached", stat: "max_downstream_connection_duration",
		},
		"duration while connecting": {
			change: func(p *config.TCPProxy) { p.MaxDownstreamDuration = time.Minute },
			dial:   func(ctx context.Context, _ int) (*leg, error) { <-ctx.Done(); return nil, ctx.Err() },
			took:   time.Minute, flags: "DT", reason: "max_connection_duration_reached", stat: "max_downstream_connection_duration",
		},
		"duration in the back-off": {
			change: func(p *config.TCPProxy) {
				p.MaxDownstreamDuration, p.MaxConnectAttempts, p.BackoffBase = time.Minute, 9, time.Hour
			},
			dial: func(context.Context, int) (*leg, error) { return nil, errors.New("refused") },
			took: time.Minute, flags: "UF,DT", reason: "max_connection_duration_reached", stat: "max_downstream_connection_duration",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := stats.New()
				if c.dial == nil {
					c.dial = func(context.Context, int) (*leg, error) { return blockingLeg(), nil }
				}
				rand := half
				if strings.Contains(name, "back-off") {
					rand = func() uint64 { return uint64(time.Hour) - 1 }
				}
				fake := &fakeUpstream{dial: c.dial}
				info, took, err := timed(t, fake, Deps{Stats: reg, Rand: rand}, c.change)
				if fake.attempts != 1 {
					t.Errorf("%d attempts, want 1", fake.attempts)
				}
				if took != c.took || err == nil {
					t.Errorf("ended after %s with %v, want after %s", took, err, c.took)
				}
				if info.Flags.String() != c.flags || info.LocalCloseReason != c.reason {
					t.Errorf("flags %q, reason %q; want %q, %q", info.Flags, info.LocalCloseReason, c.flags, c.reason)
				}
				if got := tcpStat(reg, c.stat); got != 1 {
					t.Errorf("%s is %d, want 1", c.stat, got)
				}
			})
		})
	}
}

func TestBackoffDoublesUpToItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		start := time.Now()
		fake := &fakeUpstream{dial: func(context.Context, int) (*leg, error) {
			at = append(at, time.Since(start))
			return nil, errors.New("refused")
		}}
		most := func() uint64 { return 1<<63 - 1 } // modulo n it is something below n
		_, _, err := timed(t, fake, Deps{Rand: most}, func(p *config.TCPProxy) {
			p.MaxConnectAttempts, p.BackoffBase, p.BackoffMax = 5, 2*time.Second, 5*time.Second
		})
		if err == nil {
			t.Error("it ended in order")
		}
		var want []time.Duration
		var sum time.Duration
		for _, limit := range []time.Duration{0, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
			if limit > 0 {
				sum += time.Duration((1<<63 - 1) % uint64(limit))
			}
			want = append(want, sum)
		}
		if !slices.Equal(at, want) {
			t.Errorf("attempts at %v, want at %v", at, want)
		}
	})
}

func TestPeriodicAccessLogRunsUntilTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &recorder{}
		d := Deps{AccessLogs: func(*config.AccessLog) (AccessLogger, error) { return log, nil }}
		_, _, err := timed(t, &fakeUpstream{dial: func(context.Context, int) (*leg, error) { return blockingLeg(), nil }}, d,
			func(p *config.TCPProxy) {
				p.IdleTimeout, p.FlushInterval, p.AccessLogs = 25*time.Second, 10*time.Second, []*config.AccessLog{{}}
			})
		if err == nil {
			t.Error("it ended in order")
		}
		time.Sleep(time.Hour) // nothing is logged after the end
		want := []string{"TcpPeriodic   ", "TcpPeriodic   ", "TcpConnectionEnd   tcp_session_idle_timeout"}
		if diff := cmp.Diff(want, log.all()); diff != "" {
			t.Errorf("access log (-want +got):\n%s", diff)
		}
	})
}

func TestBytesOfOpenConnectionsAreCountedWhileTheyLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := stats.New()
		var received, sent uint64
		l := newLedger()
		defer l.close()
		info := &flow.Info{}
		scope := newTCPStats(reg.Scope("tcp").Tagged("envoy_tcp_prefix", "p"))
		leave := l.enter(&entry{info: info, rx: scope.rxBytes, tx: scope.txBytes, account: func(rx, tx uint64) { received += rx; sent += tx }})
		info.Received.Add(5)
		info.UpstreamReceived.Add(7)
		time.Sleep(accountEvery + time.Second)
		synctest.Wait()
		if got := tcpStat(reg, "downstream_cx_rx_bytes_total"); got != 5 || received != 7 {
			t.Errorf("%d bytes received, %d from the upstream; want 5 and 7", got, received)
		}
		info.Sent.Add(2)
		time.Sleep(accountEvery)
		synctest.Wait()
		if got := tcpStat(reg, "downstream_cx_tx_bytes_total"); got != 2 {
			t.Errorf("%d bytes sent after the second interval, want 2", got)
		}
		info.Received.Add(1)
		leave()
		if rx, tx := tcpStat(reg, "downstream_cx_rx_bytes_total"), tcpStat(reg, "downstream_cx_tx_bytes_total"); rx != 6 || tx != 2 || sent != 0 {
			t.Errorf("at the end %d and %d, want 6 and 2", rx, tx)
		}
		if l.timer != nil {
			t.Error("a timer runs with no connection open")
		}
	})
}

func TestResetIsPassedOnAsReset(t *testing.T) {
	reset, heard := make(chan error, 1), make(chan struct{})
	address := backend(t, func(b *net.TCPConn) {
		first := make([]byte, 5)
		_, _ = io.ReadFull(b, first)
		if string(first) == "reset" {
			_ = b.SetLinger(0)
			return
		}
		close(heard)
		_, err := io.Copy(io.Discard, b)
		reset <- err
	})
	set := clusterSet(t, stats.New(), map[string][]string{"app": {address}}, nil)
	ch := mustChain(t, Deps{Clusters: set}, tcp("app", nil))

	s := serve(t, ch, nil)
	s.send("reset")
	if _, err := s.receive(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client of an upstream that resets reads %v, want a reset", err)
	}
	if err := s.end(); err == nil || s.info.Flags.String() != "UR" {
		t.Errorf("it ended with %v, flags %q; want UR", err, s.info.Flags)
	}

	s = serve(t, ch, nil)
	s.send("hello")
	<-heard
	_ = s.client.SetLinger(0)
	s.client.Close()
	if err := <-reset; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the upstream of a client that resets reads %v, want a reset", err)
	}
	if err := s.end(); err == nil || s.info.Flags != 0 {
		t.Errorf("it ended with %v, flags %q; want an error and no flags", err, s.info.Flags)
	}
}

func TestClientThatResetsWhileTheUpstreamIsConnectedEndsTheDial(t *testing.T) {
	for _, sends := range []string{"", "data"} {
		dialling := make(chan struct{})
		fake := &fakeUpstream{dial: func(ctx context.Context, _ int) (*leg, error) {
			close(dialling)
			select {
			case <-ctx.Done():
				return nil, fmt.Errorf("dial: %w", ctx.Err())
			case <-time.After(10 * time.Second):
				return nil, errors.New("the dial was not given up")
			}
		}}
		ch := mustChain(t, Deps{}, tcp("app", func(c *config.TCPProxy) { c.MaxConnectAttempts = 5 }))
		ch.terminal.(*tcpProxy).clusters = fake.get
		s := serve(t, ch, nil)
		s.send(sends)
		<-dialling
		_ = s.client.SetLinger(0)
		s.client.Close()
		if err := s.end(); !errors.Is(err, errClientLeft) || s.info.Flags.String() != "DC" || fake.attempts != 1 {
			t.Errorf("after %q: ended with %v, flags %q, %d attempts", sends, err, s.info.Flags, fake.attempts)
		}
	}
}

func TestClientThatHalfClosesWhileTheUpstreamIsConnectedIsServed(t *testing.T) {
	address := backend(t, echoes)
	proceed := make(chan struct{})
	fake := &fakeUpstream{dial: func(ctx context.Context, _ int) (*leg, error) {
		select {
		case <-proceed:
		case <-ctx.Done():
			t.Error("the dial was given up")
		}
		return dialLeg(t, address)
	}}
	ch := mustChain(t, Deps{}, tcp("app", nil))
	ch.terminal.(*tcpProxy).clusters = fake.get
	s := serve(t, ch, nil)
	s.send("request")
	s.client.CloseWrite()
	time.AfterFunc(50*time.Millisecond, func() { close(proceed) }) // long after the FIN
	s.expect("request")
	if err := s.end(); err != nil {
		t.Error(err)
	}
}

func TestEndOfTheContextEndsTheConnection(t *testing.T) {
	connected := make(chan struct{})
	address := backend(t, func(b *net.TCPConn) { close(connected); _, _ = io.Copy(io.Discard, b) })
	ch := mustChain(t, Deps{Clusters: clusterSet(t, stats.New(), map[string][]string{"app": {address}}, nil)}, tcp("app", nil))
	s := serve(t, ch, nil)
	<-connected
	s.cancel()
	if err := s.end(); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v, want the context's end", err)
	}
	for name, f := range map[string]*config.NetworkFilter{
		"echo":            echoFilter(),
		"direct response": {Name: "d", DirectResponse: &config.DirectResponse{Body: []byte("x")}},
	} {
		s := serve(t, mustChain(t, Deps{}, f), nil)
		s.cancel()
		if err := s.end(); name == "echo" && err == nil {
			t.Errorf("%s ended in order", name)
		}
	}
}

func TestWeightsShareConnections(t *testing.T) {
	var n uint64
	counting := func() uint64 { n++; return n - 1 }
	r, err := newRoute(&config.TCPProxy{Cluster: "ignored", Weighted: []config.WeightedCluster{{Name: "a", Weight: 3}, {Name: "zero"}, {Name: "b", Weight: 1}, {Name: "c", Weight: 4}}})
	if err != nil {
		t.Fatal(err)
	}
	info := described()
	info.SetState(clusterState, "ignored too")
	got := map[string]int{}
	for range 400 {
		got[r.pick(info, counting())]++
	}
	if diff := cmp.Diff(map[string]int{"a": 150, "b": 50, "c": 200}, got); diff != "" {
		t.Errorf("connections (-want +got):\n%s", diff)
	}
	want := []ClusterShare{{Cluster: "a", Share: .375}, {Cluster: "zero"}, {Cluster: "b", Share: .125}, {Cluster: "c", Share: .5}}
	if diff := cmp.Diff(want, r.shares(info)); diff != "" {
		t.Errorf("shares (-want +got):\n%s", diff)
	}
	for _, bad := range []config.TCPProxy{{}, {Weighted: []config.WeightedCluster{{Name: "a"}}}} {
		if _, err := newRoute(&bad); err == nil {
			t.Errorf("no error for %+v", bad)
		}
	}
}

func TestHashPolicyAndDestinationReachTheCluster(t *testing.T) {
	info := described()
	info.SetState("user", "alice")
	for name, c := range map[string]struct {
		change   func(*config.TCPProxy)
		restored bool
		remote   flow.Addr
		hash     uint64
		has      bool
	}{
		"none":                 {remote: info.Remote},
		"source ip":            {change: func(p *config.TCPProxy) { p.HashSourceIP = true }, remote: info.Remote, hash: xxhash.Sum64String("10.0.0.7"), has: true},
		"source is a socket":   {change: func(p *config.TCPProxy) { p.HashSourceIP = true }, remote: flow.Addr{Path: "@x"}},
		"filter state":         {change: func(p *config.TCPProxy) { p.HashFilterState = "user" }, remote: info.Remote, hash: xxhash.Sum64String("alice"), has: true},
		"filter state missing": {change: func(p *config.TCPProxy) { p.HashFilterState = "nope" }, remote: info.Remote},
		"restored destination": {restored: true, remote: info.Remote},
	} {
		fake := &fakeUpstream{dial: func(context.Context, int) (*leg, error) { return nil, errors.New("refused") }}
		ch := mustChain(t, Deps{}, tcp("app", c.change))
		ch.terminal.(*tcpProxy).clusters = fake.get
		info.Remote, info.LocalRestored = c.remote, c.restored
		_ = serveToEnd(ch, t.Context(), &Conn{Conn: newBlocking(), Info: info})
		req := fake.requests[0]
		if req.Hash != c.hash || req.HasHash != c.has {
			t.Errorf("%s: hash %d, %v; want %d, %v", name, req.Hash, req.HasHash, c.hash, c.has)
		}
		want := netip.AddrPort{}
		if c.restored {
			want = info.Local.AddrPort
		}
		if req.OriginalDst != want {
			t.Errorf("%s: original destination %s, want %s", name, req.OriginalDst, want)
		}
		if v := ch.Explain(info)[0].Clusters[0]; v.Hash != c.hash || v.HasHash != c.has {
			t.Errorf("%s: explained with hash %d, %v", name, v.Hash, v.HasHash)
		}
	}
}
