package cluster

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"outrider/certs"
	"outrider/proxy/cluster/health"
	"outrider/proxy/config"
	"outrider/proxy/stats"
)

// ramped is a cluster with slow start whose clock stands still.
type ramped struct {
	*Cluster
	now time.Time
}

func newRamped(t *testing.T, policy config.LBPolicy, slow config.SlowStart, addresses ...string) *ramped {
	t.Helper()
	r := &ramped{now: time.Unix(1000, 0)}
	opts := Options{Stats: stats.New(), Secrets: certs.NewStore(certs.Feeds{}), Rand: fixedRand(), Now: func() time.Time { return r.now }}.withDefaults()
	c, err := newCluster(cfgOf("a", func(c *config.Cluster) {
		c.LB, c.SlowStart = policy, slow
		c.Assignment = endpoints(addresses...)
	}), &opts, false)
	if err != nil {
		t.Fatal(err)
	}
	r.Cluster = c
	return r
}

// share is the part of the choices that a host gets.
func (r *ramped) share(address string) float64 {
	const picks = 20000
	n := 0
	for range picks {
		if r.pick(&Request{}, false).host.String() == address {
			n++
		}
	}
	return float64(n) / picks
}

func (r *ramped) wants(t *testing.T, what, address string, want float64) {
	t.Helper()
	if got := r.share(address); math.Abs(got-want) > 0.01 {
		t.Errorf("%s: %s has %.3f of the choices, want %.3f", what, address, got, want)
	}
}

func TestANewHostGetsItsShareSlowly(t *testing.T) {
	for _, policy := range []config.LBPolicy{config.RoundRobin, config.LeastRequestLB} {
		r := newRamped(t, policy, config.SlowStart{Window: 100 * time.Second, Aggression: 2, MinWeight: 0.1}, "10.0.0.1:80", "10.0.0.2:80")
		r.wants(t, "all are new", "10.0.0.1:80", 0.5)
		r.now = r.now.Add(101 * time.Second)
		r.assign(endpoints("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"))
		of := func(weight float64) float64 { return weight / (2 + weight) }
		r.wants(t, "just added: the least weight", "10.0.0.3:80", of(0.1))
		r.now = r.now.Add(25 * time.Second)
		r.wants(t, "after a quarter: its square root", "10.0.0.3:80", of(0.5))
		r.now = r.now.Add(74 * time.Second)
		r.wants(t, "nearly over", "10.0.0.3:80", of(math.Sqrt(0.99)))
		r.now = r.now.Add(time.Second)
		r.wants(t, "over", "10.0.0.3:80", 1.0/3)
	}
}

func TestAHostThatIsIllAtFirstStartsSlowlyWhenItIsWell(t *testing.T) {
	r := newRamped(t, config.RoundRobin, config.SlowStart{Window: 10 * time.Second, Aggression: 1, MinWeight: 0.1}, "10.0.0.1:80")
	r.now = r.now.Add(time.Minute)
	both := endpoints("10.0.0.1:80", "10.0.0.2:80")
	both.Localities[0].Endpoints[1].Health = config.Unhealthy
	r.assign(both)
	r.now = r.now.Add(time.Minute)
	r.assign(endpoints("10.0.0.1:80", "10.0.0.2:80"))
	r.wants(t, "well now", "10.0.0.2:80", 0.1/1.1)
	r.now = r.now.Add(5 * time.Second)
	r.wants(t, "after half", "10.0.0.2:80", 0.5/1.5)
}

func TestSlowStartKeepsWeights(t *testing.T) {
	r := newRamped(t, config.RoundRobin, config.SlowStart{Window: 10 * time.Second, Aggression: 1, MinWeight: 0.1}, "10.0.0.1:80")
	r.now = r.now.Add(time.Minute)
	two := endpoints("10.0.0.1:80", "10.0.0.2:80")
	two.Localities[0].Endpoints[1].Weight = 4
	r.assign(two)
	r.now = r.now.Add(5 * time.Second)
	r.wants(t, "half of 4 beside 1", "10.0.0.2:80", 2.0/3)
}

func TestSlowStartEndsWithItsSchedule(t *testing.T) {
	r := newRamped(t, config.RoundRobin, config.SlowStart{Window: 10 * time.Second, Aggression: 1, MinWeight: 0.1}, "10.0.0.1:80", "10.0.0.2:80")
	if r.slowStart(r.hostsNow()) == nil {
		t.Error("new hosts are not in slow start")
	}
	r.now = r.now.Add(11 * time.Second)
	if r.slowStart(r.hostsNow()) != nil {
		t.Error("old hosts are in slow start")
	}
}

func TestAHostThatPassesItsHealthChecksAgainStartsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probe := &fakeProbe{}
		s, _, stop := checkedSet(t, probe, func(c *config.Cluster) {
			c.SlowStart = config.SlowStart{Window: 100 * time.Second, Aggression: 1, MinWeight: 0.1}
		})
		defer stop()
		if err := s.WaitWarm(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := s.Get("a")
		h := c.hostsNow()[0]
		if got := c.slowStartPart(h); got != 0.1 {
			t.Errorf("checked for the first time: %.2f of its weight, want 0.1", got)
		}
		time.Sleep(200 * time.Second)
		if got := c.slowStartPart(h); got != 1 {
			t.Errorf("long after: %.2f of its weight, want all", got)
		}
		probe.answer(health.Result{Kind: health.Timeout})
		time.Sleep(20 * time.Second)
		if got := c.slowStartPart(h); h.Health() != UnhealthyHost || got != 1 {
			t.Errorf("%s: %.2f of its weight, want all: it is in no slow start", h.Flags(), got)
		}
		probe.answer(health.Result{})
		for h.Health() != HealthyHost {
			time.Sleep(100 * time.Millisecond)
		}
		if got := c.slowStartPart(h); got != 0.1 {
			t.Errorf("well again: %.2f of its weight, want 0.1", got)
		}
		time.Sleep(50 * time.Second)
		if got := c.slowStartPart(h); math.Abs(got-0.5) > 0.01 {
			t.Errorf("half of the window later: %.2f of its weight, want 0.5", got)
		}
	})
}
