package cluster

import (
	"context"
	"encoding/json"
	"errors"
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
		removed := c.snap.Load().hosts[1]
		if got := removed.Flags(); got != "/pending_dynamic_removal" {
			t.Fatalf("flags %s of a removed healthy host, want /pending_dynamic_removal", got)
		}
		s.SetAssignment("svc", endpoints("10.0.0.1:80", "10.0.0.2:80"))
		if got := removed.Flags(); got != "healthy" {
			t.Fatalf("flags %s of a host that came back, want healthy", got)
		}
		s.SetAssignment("svc", endpoints("10.0.0.1:80"))
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
