package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"outrider/certs"
	"outrider/proxy/cluster/health"
	"outrider/proxy/config"
	"outrider/proxy/stats"
)

// names4 answers what it is told, or fails.
type fakeDNS struct {
	mu      sync.Mutex
	answers map[string][]netip.Addr // by network and name: "ip4 a.test"
	err     error
	asked   int
}

func (f *fakeDNS) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if f.err != nil {
		return nil, f.err
	}
	if a := f.answers[network+" "+host]; a != nil {
		return a, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (f *fakeDNS) set(err error, answers map[string][]netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.answers, f.asked = err, answers, 0
}

func (f *fakeDNS) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func ips(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func dnsCluster(typ config.ClusterType, change func(*config.Cluster)) *config.Cluster {
	return cfgOf("a", func(c *config.Cluster) {
		c.Type = typ
		c.Assignment = &config.Assignment{Localities: []*config.LocalityEndpoints{{
			Endpoints: []*config.Endpoint{{Address: config.Address{Host: "a.test", Port: 80}, Weight: 1}},
		}}}
		if change != nil {
			change(c)
		}
	})
}

func hostsOf(c *Cluster) []string {
	var out []string
	for _, h := range c.snap.Load().hosts {
		out = append(out, h.String())
	}
	return out
}

// bubble runs a Set in a synctest bubble.
func bubble(t *testing.T, opts Options, cfgs []*config.Cluster, test func(t *testing.T, s *Set)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		test(t, setOf(t, opts, cfgs...))
	})
}

func TestStrictDNSFollowsTheNameAndKeepsTheLastGoodAnswer(t *testing.T) {
	dns := &fakeDNS{answers: map[string][]netip.Addr{"ip4 a.test": ips("10.0.0.1", "10.0.0.2")}}
	opts := Options{Resolver: dns, Stats: stats.New()}
	bubble(t, opts, []*config.Cluster{dnsCluster(config.StrictDNS, nil)}, func(t *testing.T, s *Set) {
		if err := s.WaitWarm(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := s.Get("a")
		if got, want := hostsOf(c), []string{"10.0.0.1:80", "10.0.0.2:80"}; !slices.Equal(got, want) {
			t.Fatalf("hosts %v, want %v", got, want)
		}
		kept := c.snap.Load().hosts[1]
		dns.set(nil, map[string][]netip.Addr{"ip4 a.test": ips("10.0.0.2", "10.0.0.3")})
		time.Sleep(5*time.Second + time.Millisecond)
		if got, want := hostsOf(c), []string{"10.0.0.2:80", "10.0.0.3:80"}; !slices.Equal(got, want) {
			t.Fatalf("hosts %v after the refresh, want %v", got, want)
		}
		if c.snap.Load().hosts[0] != kept {
			t.Error("10.0.0.2 lost its identity")
		}
		dns.set(errors.New("server misbehaving"), nil)
		time.Sleep(time.Minute)
		if got, want := hostsOf(c), []string{"10.0.0.2:80", "10.0.0.3:80"}; !slices.Equal(got, want) {
			t.Errorf("hosts %v during an outage, want %v", got, want)
		}
		if n := counter(opts, "a", "update_failure"); n == 0 {
			t.Error("update_failure 0 during an outage")
		}
		dns.set(nil, nil)
		time.Sleep(5 * time.Second)
		if got := hostsOf(c); len(got) != 0 {
			t.Errorf("hosts %v of a name that is gone, want none", got)
		}
	})
}

func TestLogicalDNSIsOneHostWhoseAddressMoves(t *testing.T) {
	dns := &fakeDNS{answers: map[string][]netip.Addr{"ip4 a.test": ips("10.0.0.1", "10.0.0.2")}}
	bubble(t, Options{Resolver: dns}, []*config.Cluster{dnsCluster(config.LogicalDNS, nil)}, func(t *testing.T, s *Set) {
		if err := s.WaitWarm(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := s.Get("a")
		h := c.snap.Load().hosts[0]
		dns.set(nil, map[string][]netip.Addr{"ip4 a.test": ips("10.0.0.9")})
		time.Sleep(6 * time.Second)
		if got := c.snap.Load().hosts; len(got) != 1 || got[0] != h {
			t.Fatalf("hosts %v, want the same one", got)
		}
		if got, want := h.String(), "10.0.0.9:80"; got != want {
			t.Errorf("address %s, want %s", got, want)
		}
	})
}

func TestDNSFamilies(t *testing.T) {
	both := map[string][]netip.Addr{
		"ip4 a.test": ips("10.0.0.1"), "ip6 a.test": ips("2001:db8::1"), "ip a.test": ips("10.0.0.1", "2001:db8::1"),
	}
	only4 := map[string][]netip.Addr{"ip4 a.test": ips("10.0.0.1")}
	for _, test := range []struct {
		name    string
		family  config.DNSFamily
		answers map[string][]netip.Addr
		want    []string
	}{
		{"auto takes IPv6", config.DNSAuto, both, []string{"[2001:db8::1]:80"}},
		{"auto falls back to IPv4", config.DNSAuto, only4, []string{"10.0.0.1:80"}},
		{"v4 only", config.DNSV4Only, both, []string{"10.0.0.1:80"}},
		{"v6 only", config.DNSV6Only, only4, nil},
		{"v4 preferred", config.DNSV4Preferred, both, []string{"10.0.0.1:80"}},
		{"all", config.DNSAll, both, []string{"10.0.0.1:80", "[2001:db8::1]:80"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dns := &fakeDNS{answers: test.answers}
			cfg := dnsCluster(config.StrictDNS, func(c *config.Cluster) { c.DNS.Family = test.family })
			bubble(t, Options{Resolver: dns}, []*config.Cluster{cfg}, func(t *testing.T, s *Set) {
				if err := s.WaitWarm(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := hostsOf(s.Get("a")); !slices.Equal(got, test.want) {
					t.Errorf("hosts %v, want %v", got, test.want)
				}
			})
		})
	}
}

func TestFailedLookupsBackOff(t *testing.T) {
	dns := &fakeDNS{err: errors.New("no")}
	cfg := dnsCluster(config.StrictDNS, func(c *config.Cluster) {
		c.DNS.FailureRefreshBase, c.DNS.FailureRefreshMax = time.Second, 10*time.Second
	})
	bubble(t, Options{Resolver: dns}, []*config.Cluster{cfg}, func(t *testing.T, s *Set) {
		if err := s.WaitWarm(t.Context()); err != nil {
			t.Fatal("a failed lookup must not hold up the start: ", err)
		}
		time.Sleep(10 * time.Minute)
		// At most 10 s apart, 5 s in the mean, two families each: about 240.
		if n := dns.count(); n < 120 || n > 480 {
			t.Errorf("%d lookups in 10 minutes, want about 240", n)
		}
	})
}

func TestChangedClusterTakesOverOnlyWhenWarm(t *testing.T) {
	dns := &fakeDNS{answers: map[string][]netip.Addr{"ip4 a.test": ips("10.0.0.1")}}
	before := cfgOf("a", func(c *config.Cluster) { c.Assignment = endpoints("10.0.0.7:80") })
	same := cfgOf("same", func(c *config.Cluster) { c.Assignment = endpoints("10.0.0.8:80") })
	bubble(t, Options{Resolver: slow{dns, time.Second}}, []*config.Cluster{before, same}, func(t *testing.T, s *Set) {
		old, unchanged := s.Get("a"), s.Get("same")
		after := dnsCluster(config.StrictDNS, func(c *config.Cluster) { c.Digest = "a-2" })
		if err := s.Apply([]*config.Cluster{after, same}); err != nil {
			t.Fatal(err)
		}
		if s.Get("a") != old || s.Warm() {
			t.Fatal("the new cluster is in use before its names are resolved")
		}
		if err := s.WaitWarm(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got, want := hostsOf(s.Get("a")), []string{"10.0.0.1:80"}; !slices.Equal(got, want) {
			t.Errorf("hosts %v, want %v", got, want)
		}
		if s.Get("same") != unchanged {
			t.Error("an unchanged cluster was replaced")
		}
		if old.acquire() {
			t.Error("the replaced cluster still takes connections")
		}
	})
}

// slow is a resolver that takes its time.
type slow struct {
	Resolver
	delay time.Duration
}

func (s slow) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	time.Sleep(s.delay)
	return s.Resolver.LookupNetIP(ctx, network, host)
}

func edsCluster(timeout time.Duration) *config.Cluster {
	return cfgOf("a", func(c *config.Cluster) {
		c.Type = config.EDSType
		c.EDS = &config.EDS{ServiceName: "svc", Source: &certs.Source{Path: "x", InitialFetchTimeout: timeout}}
	})
}

func TestEDSIsWarmAfterAssignmentOrTimeout(t *testing.T) {
	t.Run("assignment", func(t *testing.T) {
		bubble(t, Options{}, []*config.Cluster{edsCluster(0)}, func(t *testing.T, s *Set) {
			time.Sleep(time.Hour)
			if s.Warm() {
				t.Fatal("warm without an assignment, though initial_fetch_timeout is 0")
			}
			s.SetAssignment("svc", endpoints("10.0.0.1:80"))
			if !s.Warm() {
				t.Error("not warm after the assignment")
			}
		})
	})
	t.Run("timeout", func(t *testing.T) {
		bubble(t, Options{}, []*config.Cluster{edsCluster(15 * time.Second)}, func(t *testing.T, s *Set) {
			time.Sleep(14 * time.Second)
			if s.Warm() {
				t.Fatal("warm before initial_fetch_timeout")
			}
			time.Sleep(2 * time.Second)
			if !s.Warm() {
				t.Error("not warm after initial_fetch_timeout")
			}
		})
	})
	t.Run("assignment that came before the cluster", func(t *testing.T) {
		bubble(t, Options{}, nil, func(t *testing.T, s *Set) {
			s.SetAssignment("svc", endpoints("10.0.0.1:80"))
			if err := s.Update(edsCluster(0)); err != nil {
				t.Fatal(err)
			}
			if got := hostsOf(s.Get("a")); len(got) != 1 {
				t.Errorf("hosts %v, want one", got)
			}
		})
	})
}

func TestEDSHostsKeepTheirIdentityAndDrainByHealth(t *testing.T) {
	bubble(t, Options{}, []*config.Cluster{edsCluster(0)}, func(t *testing.T, s *Set) {
		s.SetAssignment("svc", endpoints("10.0.0.1:80", "10.0.0.2:80"))
		h := s.Get("a").snap.Load().hosts[1]
		a := endpoints("10.0.0.2:80", "10.0.0.3:80")
		a.Localities[0].Endpoints[0].Health = config.Draining
		a.Localities[0].Endpoints[0].Weight = 7
		s.SetAssignment("svc", a)
		got := s.Get("a").snap.Load()
		if got.hosts[0] != h {
			t.Error("10.0.0.2 lost its identity")
		}
		if h.Flags() != "/eds_status_draining" || got.healthy != 1 {
			t.Errorf("flags %s, %d healthy, want /eds_status_draining, 1", h.Flags(), got.healthy)
		}
	})
}

func TestStaleAssignmentIsDropped(t *testing.T) {
	bubble(t, Options{}, []*config.Cluster{edsCluster(0)}, func(t *testing.T, s *Set) {
		a := endpoints("10.0.0.1:80")
		a.StaleAfter = time.Minute
		s.SetAssignment("svc", a)
		time.Sleep(59 * time.Second)
		if n := len(hostsOf(s.Get("a"))); n != 1 {
			t.Fatalf("%d hosts before endpoint_stale_after, want 1", n)
		}
		time.Sleep(2 * time.Second)
		if n := len(hostsOf(s.Get("a"))); n != 0 {
			t.Errorf("%d hosts after endpoint_stale_after, want 0", n)
		}
	})
}

// fakeProbe answers what the test says.
type fakeProbe struct {
	mu     sync.Mutex
	result health.Result
	checks int
}

func (p *fakeProbe) Check(context.Context, health.Dial) health.Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checks++
	return p.result
}
func (p *fakeProbe) Close() {}

func (p *fakeProbe) answer(r health.Result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result, p.checks = r, 0
}

func (p *fakeProbe) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.checks
}

// checked is a Set with one health-checked cluster, whose checks probe
// answers. It is not running yet.
func checkedSet(t *testing.T, probe health.Probe, change func(*config.Cluster)) (*Set, Options, func()) {
	t.Helper()
	opts := Options{Stats: stats.New(), Secrets: certs.NewStore(certs.Feeds{}), Rand: fixedRand()}
	s := NewSet(opts)
	cfg := cfgOf("a", func(c *config.Cluster) {
		c.Assignment = endpoints("10.0.0.1:80")
		c.HealthChecks = []*config.HealthCheck{{
			Timeout: time.Second, Interval: 10 * time.Second, HealthyThreshold: 2, UnhealthyThreshold: 3,
			UnhealthyInterval: 20 * time.Second, UnhealthyEdge: time.Second, HealthyEdge: 2 * time.Second,
			NoTrafficInterval: time.Minute, TCP: &config.TCPHealthCheck{},
		}}
		if change != nil {
			change(c)
		}
	})
	if err := s.Apply([]*config.Cluster{cfg}); err != nil {
		t.Fatal(err)
	}
	if s.Warm() {
		t.Fatal("warm before the first health check")
	}
	s.Get("a").health.newProbe = func(*config.HealthCheck, health.Target) health.Probe { return probe }
	s.Get("a").traffic().cxTotal.Inc() // the cluster has had traffic
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	return s, opts, func() {
		cancel()
		<-done
	}
}

func TestFirstHealthCheckDecidesAtOnceThenThresholdsDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probe := &fakeProbe{}
		s, opts, stop := checkedSet(t, probe, nil)
		defer stop()
		if err := s.WaitWarm(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := s.Get("a")
		h := c.snap.Load().hosts[0]
		if h.Flags() != "healthy" || gauge(opts, "a", "membership_healthy") != 1 {
			t.Fatalf("flags %s after the first success, want healthy", h.Flags())
		}
		probe.answer(health.Result{Kind: health.Timeout})
		// The next check is 10 s after the first, two more follow at the edge
		// interval.
		time.Sleep(11500 * time.Millisecond)
		if h.Flags() != "healthy" {
			t.Fatalf("flags %s after 2 failures of 3, want healthy", h.Flags())
		}
		time.Sleep(time.Second)
		if want := "/failed_active_hc/active_hc_timeout"; h.Flags() != want {
			t.Fatalf("flags %s after 3 failures, want %s", h.Flags(), want)
		}
		if n := gauge(opts, "a", "health_check.healthy"); n != 0 {
			t.Errorf("health_check.healthy %d, want 0", n)
		}
		probe.answer(health.Result{})
		time.Sleep(21 * time.Second)
		if !h.has(failedActiveHC) {
			t.Fatal("healthy after 1 success of 2")
		}
		time.Sleep(2 * time.Second)
		if h.Flags() != "healthy" {
			t.Errorf("flags %s after 2 successes, want healthy", h.Flags())
		}
		if n := counter(opts, "a", "health_check.network_failure"); n != 3 {
			t.Errorf("network_failure %d, want 3", n)
		}
	})
}

func TestAnAnswerThatSaysUnhealthyNeedsNoThreshold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probe := &fakeProbe{}
		s, _, stop := checkedSet(t, probe, nil)
		defer stop()
		if err := s.WaitWarm(t.Context()); err != nil {
			t.Fatal(err)
		}
		h := s.Get("a").snap.Load().hosts[0]
		probe.answer(health.Result{Kind: health.Active, Retriable: true})
		time.Sleep(10*time.Second + time.Millisecond)
		if h.Flags() != "healthy" {
			t.Fatalf("flags %s after one retriable answer, want healthy", h.Flags())
		}
		probe.answer(health.Result{Kind: health.Active})
		time.Sleep(time.Second)
		if want := "/failed_active_hc"; h.Flags() != want {
			t.Errorf("flags %s, want %s", h.Flags(), want)
		}
	})
}

func TestIdleClusterIsCheckedSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probe := &fakeProbe{}
		s, _, stop := checkedSet(t, probe, nil)
		defer stop()
		// As though it had had no traffic.
		s.Get("a").trafficNow.Store(newTraffic(stats.New().Scope("idle")))
		synctest.Wait()
		probe.answer(health.Result{})
		time.Sleep(5*time.Minute + time.Second)
		if n := probe.count(); n != 5 {
			t.Errorf("%d checks in 5 minutes without traffic, want 5", n)
		}
	})
}

func TestRemovedHostStaysUntilItsHealthChecksFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probe := &fakeProbe{}
		s, _, stop := checkedSet(t, probe, func(c *config.Cluster) {
			c.Type, c.Assignment = config.EDSType, nil
			c.EDS = &config.EDS{ServiceName: "svc"}
		})
		defer stop()
		s.SetAssignment("svc", endpoints("10.0.0.1:80", "10.0.0.2:80"))
		synctest.Wait()
		s.SetAssignment("svc", endpoints("10.0.0.1:80"))
		c := s.Get("a")
		if got := c.snap.Load().hosts[1].Flags(); got != "/pending_dynamic_removal" {
			t.Fatalf("flags %s of a removed healthy host, want /pending_dynamic_removal", got)
		}
		probe.answer(health.Result{Kind: health.Active})
		time.Sleep(time.Minute)
		if got, want := hostsOf(c), []string{"10.0.0.1:80"}; !slices.Equal(got, want) {
			t.Errorf("hosts %v after the removed one failed, want %v", got, want)
		}
	})
}

func TestHealthEventsAreJSONLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "hc.log")
		probe := &fakeProbe{}
		s, _, stop := checkedSet(t, probe, func(c *config.Cluster) { c.HealthChecks[0].EventLogPath = path })
		if err := s.WaitWarm(t.Context()); err != nil {
			t.Fatal(err)
		}
		probe.answer(health.Result{Kind: health.Active, Status: 503})
		time.Sleep(11 * time.Second)
		stop()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		if len(lines) != 2 {
			t.Fatalf("%d events, want 2: %s", len(lines), b)
		}
		var added, ejected healthEvent
		if err := errors.Join(json.Unmarshal([]byte(lines[0]), &added), json.Unmarshal([]byte(lines[1]), &ejected)); err != nil {
			t.Fatal(err)
		}
		if added.AddHealthy == nil || !added.AddHealthy.FirstCheck || added.Host.Socket.Port != 80 {
			t.Errorf("first event %s", lines[0])
		}
		if ejected.Eject == nil || ejected.Eject.Type != "ACTIVE" || ejected.Eject.Status != 503 {
			t.Errorf("second event %s", lines[1])
		}
	})
}
