package cluster

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"outrider/proxy/cluster/health"
	"outrider/proxy/config"
	"outrider/proxy/stats"
)

// outlierDefaults is what the decoder puts in for outlier_detection: {}.
func outlierDefaults() *config.Outlier {
	return &config.Outlier{
		Consecutive5xx: 5, ConsecutiveGateway: 5, ConsecutiveLocal: 5, EnforcingConsecutive5xx: 100, EnforcingConsecutiveLocal: 100,
		Interval: 10 * time.Second, BaseEjection: 30 * time.Second, MaxEjection: 300 * time.Second, MaxEjectionPercent: 50,
		EnforcingSuccessRate: 100, SuccessRateMinHosts: 5, SuccessRateRequestVolume: 100, SuccessRateStdevFactor: 1900,
		FailurePercentageThreshold: 85, FailurePercentageMinHosts: 5, FailurePercentageVolume: 50,
		EnforcingLocalSuccessRate: 100, SuccessfulCheckUnejects: true,
	}
}

// outlierSet runs a Set with one cluster of n hosts.
func outlierSet(t *testing.T, n int, change func(*config.Outlier)) (*Cluster, Options) {
	t.Helper()
	opts := Options{Stats: stats.New()}
	cfg := cfgOf("a", func(c *config.Cluster) {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf("10.0.0.%d:80", i+1))
		}
		c.Assignment = endpoints(list...)
		c.Outlier = outlierDefaults()
		if change != nil {
			change(c.Outlier)
		}
	})
	return setOf(t, opts, cfg).Get("a"), opts
}

func fail(c *Cluster, h *Host, times int) {
	for range times {
		c.outlier.failed(h)
	}
}

func ejectedHosts(c *Cluster) []string {
	var out []string
	for _, h := range c.snap.Load().hosts {
		if h.has(failedOutlier) {
			out = append(out, h.String())
		}
	}
	return out
}

func TestFiveFailuresInARowEject(t *testing.T) {
	for _, split := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, opts := outlierSet(t, 4, func(o *config.Outlier) { o.SplitExternalLocal = split })
			h := c.snap.Load().hosts[2]
			fail(c, h, 4)
			c.outlier.connected(h)
			fail(c, h, 4)
			if got := ejectedHosts(c); got != nil {
				t.Fatalf("split %v: ejected %v after no five failures in a row", split, got)
			}
			fail(c, h, 1)
			if got, want := ejectedHosts(c), []string{"10.0.0.3:80"}; !slices.Equal(got, want) {
				t.Fatalf("split %v: ejected %v, want %v", split, got, want)
			}
			name := "consecutive_5xx"
			if split {
				name = "consecutive_local_origin_failure"
			}
			if n := counter(opts, "a", "outlier_detection.ejections_enforced_"+name); n != 1 {
				t.Errorf("split %v: ejections_enforced_%s %d, want 1", split, name, n)
			}
			if n := gauge(opts, "a", "membership_healthy"); n != 3 {
				t.Errorf("split %v: membership_healthy %d, want 3", split, n)
			}
		})
	}
}

func TestEjectionsGrowAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, opts := outlierSet(t, 4, nil)
		h := c.snap.Load().hosts[0]
		time.Sleep(time.Millisecond) // not at a tick
		for _, want := range []time.Duration{30 * time.Second, 60 * time.Second, 90 * time.Second} {
			fail(c, h, 5)
			start := time.Now()
			time.Sleep(want - time.Second)
			if !h.has(failedOutlier) {
				t.Fatalf("taken back after less than %s", want)
			}
			for h.has(failedOutlier) {
				time.Sleep(time.Second)
			}
			if got := time.Since(start); got < want || got > want+11*time.Second {
				t.Errorf("ejected for %s, want %s and at most an interval more", got, want)
			}
		}
		if n := gauge(opts, "a", "outlier_detection.ejections_active"); n != 0 {
			t.Errorf("ejections_active %d, want 0", n)
		}
		// Good behaviour wears the growth off.
		time.Sleep(time.Minute)
		fail(c, h, 5)
		time.Sleep(41 * time.Second)
		if h.has(failedOutlier) {
			t.Error("still ejected after 41 s though it had behaved well")
		}
	})
}

func TestNoMoreThanMaxEjectionPercentAreEjected(t *testing.T) {
	for _, test := range []struct {
		name    string
		percent uint32
		always  bool
		want    int
	}{
		{"half of four", 50, false, 2},
		{"ten percent of four is none", 10, false, 0},
		{"unless one always is", 10, true, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, opts := outlierSet(t, 4, func(o *config.Outlier) { o.MaxEjectionPercent, o.AlwaysEjectOne = test.percent, test.always })
				for _, h := range c.snap.Load().hosts {
					fail(c, h, 5)
				}
				if got := ejectedHosts(c); len(got) != test.want {
					t.Errorf("ejected %v, want %d", got, test.want)
				}
				if n := counter(opts, "a", "outlier_detection.ejections_overflow"); n == 0 {
					t.Error("ejections_overflow 0")
				}
			})
		})
	}
}

func TestSuccessRateOutlierIsEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, opts := outlierSet(t, 6, func(o *config.Outlier) { o.EnforcingConsecutive5xx = 0 })
		for i, h := range c.snap.Load().hosts {
			for n := range 200 {
				if i == 5 && n%2 == 0 {
					c.outlier.failed(h)
				} else {
					c.outlier.connected(h)
				}
			}
		}
		time.Sleep(10*time.Second + time.Millisecond)
		if got, want := ejectedHosts(c), []string{"10.0.0.6:80"}; !slices.Equal(got, want) {
			t.Errorf("ejected %v, want %v", got, want)
		}
		if n := counter(opts, "a", "outlier_detection.ejections_enforced_success_rate"); n != 1 {
			t.Errorf("ejections_enforced_success_rate %d, want 1", n)
		}
		d := c.Describe()
		if got := d.Hosts[5].SuccessRate; got != 50 {
			t.Errorf("success rate shown %v, want 50", got)
		}
		if d.SuccessRateAverage < 91 || d.SuccessRateAverage > 92 {
			t.Errorf("average shown %v, want 91.67", d.SuccessRateAverage)
		}
	})
}

func TestFailurePercentageEjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := outlierSet(t, 6, func(o *config.Outlier) {
			o.EnforcingConsecutive5xx, o.EnforcingSuccessRate, o.EnforcingFailurePercentage = 0, 0, 100
		})
		for i, h := range c.snap.Load().hosts {
			for n := range 60 {
				if i == 0 && n%10 != 0 {
					c.outlier.failed(h)
				} else {
					c.outlier.connected(h)
				}
			}
		}
		time.Sleep(10*time.Second + time.Millisecond)
		if got, want := ejectedHosts(c), []string{"10.0.0.1:80"}; !slices.Equal(got, want) {
			t.Errorf("ejected %v, want %v", got, want)
		}
	})
}

func TestActiveHealthCheckTakesAnEjectedHostBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probe := &fakeProbe{}
		s, _, stop := checkedSet(t, probe, func(c *config.Cluster) {
			c.Outlier = outlierDefaults()
			c.Outlier.MaxEjectionPercent = 100
		})
		defer stop()
		if err := s.WaitWarm(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := s.Get("a")
		h := c.snap.Load().hosts[0]
		fail(c, h, 5)
		if !h.has(failedOutlier) {
			t.Fatal("not ejected")
		}
		probe.answer(health.Result{})
		time.Sleep(11 * time.Second)
		if h.has(failedOutlier) {
			t.Error("still ejected after a successful health check")
		}
	})
}
