package cluster

import (
	"fmt"
	"math"
	"net/netip"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/stats"
)

// place is a locality with hosts of the given health.
func place(zone string, priority, weight uint32, health ...config.HealthStatus) *config.LocalityEndpoints {
	l := &config.LocalityEndpoints{Locality: config.Locality{Zone: zone}, Priority: priority, Weight: weight}
	for i, h := range health {
		a := netip.MustParseAddrPort(fmt.Sprintf("10.%d.%d.%d:80", priority, zone[0], i+1))
		l.Endpoints = append(l.Endpoints, &config.Endpoint{Address: config.Address{AddrPort: a}, Health: h, Weight: 1})
	}
	return l
}

// unrun is a cluster that nothing runs for: pick needs nothing else.
func unrun(t *testing.T, cfg *config.Cluster) *Cluster {
	t.Helper()
	opts := Options{Stats: stats.New(), Secrets: certs.NewStore(certs.Feeds{}), Rand: fixedRand()}.withDefaults()
	c, err := newCluster(cfg, &opts, false)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLoadFollowsPrioritiesAndHealth(t *testing.T) {
	const h, u, d = config.Healthy, config.Unhealthy, config.Degraded
	for _, test := range []struct {
		name   string
		places []*config.LocalityEndpoints
		change func(*config.Cluster)
		want   map[string]float64 // share by priority/zone/health
	}{
		{"the first priority takes all", []*config.LocalityEndpoints{place("a", 0, 0, h, h), place("a", 1, 0, h)}, nil,
			map[string]float64{"0a healthy": 1}},
		{"half of it takes 70 percent", []*config.LocalityEndpoints{place("a", 0, 0, h, u), place("a", 1, 0, h)}, nil,
			map[string]float64{"0a healthy": 0.7, "1a healthy": 0.3}},
		{"degraded hosts take the rest", []*config.LocalityEndpoints{place("a", 0, 0, h, d)}, nil,
			map[string]float64{"0a healthy": 0.7, "0a /degraded_eds_health": 0.3}},
		{"panic takes all hosts", []*config.LocalityEndpoints{place("a", 0, 0, h, u, u, u)}, nil,
			map[string]float64{"0a healthy": 0.25, "0a /failed_eds_health": 0.75}},
		{"no panic where the rest carries the load", []*config.LocalityEndpoints{place("a", 0, 0, h, u, u, u), place("a", 1, 0, h)}, nil,
			map[string]float64{"0a healthy": 0.35, "1a healthy": 0.65}},
		{"no panic at a threshold of 0", []*config.LocalityEndpoints{place("a", 0, 0, h, u, u, u)},
			func(c *config.Cluster) { c.LBCommon.PanicThreshold = 0 }, map[string]float64{"0a healthy": 1}},
		{"locality weights", []*config.LocalityEndpoints{place("a", 0, 3, h), place("b", 0, 1, h, h)},
			func(c *config.Cluster) { c.LBCommon.LocalityWeighted = true },
			map[string]float64{"0a healthy": 0.75, "0b healthy": 0.25}},
		{"locality weights with half of one gone", []*config.LocalityEndpoints{place("a", 0, 1, h, u), place("b", 0, 1, h, h)},
			func(c *config.Cluster) { c.LBCommon.LocalityWeighted = true },
			map[string]float64{"0a healthy": 0.7 / 1.7, "0b healthy": 1 / 1.7}},
		{"ring hash with locality weights", []*config.LocalityEndpoints{place("a", 0, 3, h), place("b", 0, 1, h, h)},
			func(c *config.Cluster) {
				c.LBCommon.LocalityWeighted, c.LB = true, config.RingHashLB
				c.RingHash.Min = 65536
			}, map[string]float64{"0a healthy": 0.75, "0b healthy": 0.25}},
		{"maglev leaves out the unhealthy", []*config.LocalityEndpoints{place("a", 0, 0, h, h, u)},
			func(c *config.Cluster) { c.LB = config.MaglevLB }, map[string]float64{"0a healthy": 1}},
		{"random", []*config.LocalityEndpoints{place("a", 0, 0, h), place("b", 0, 0, h, h, h)},
			func(c *config.Cluster) { c.LB = config.Random }, map[string]float64{"0a healthy": 0.25, "0b healthy": 0.75}},
		{"least request", []*config.LocalityEndpoints{place("a", 0, 0, h), place("b", 0, 0, h, h, h)},
			func(c *config.Cluster) { c.LB = config.LeastRequestLB }, map[string]float64{"0a healthy": 0.25, "0b healthy": 0.75}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := unrun(t, cfgOf("a", func(c *config.Cluster) {
				c.Assignment = &config.Assignment{Localities: test.places}
				if test.change != nil {
					test.change(c)
				}
			}))
			const picks = 20000
			got := map[string]float64{}
			for range picks {
				host := c.pick(&Request{}, false).host
				got[fmt.Sprintf("%d%s %s", host.spec.Load().priority(), host.Locality().Zone, host.Flags())] += 1.0 / picks
			}
			for key := range got {
				if _, expected := test.want[key]; !expected {
					t.Errorf("share of %q %.3f, want none", key, got[key])
				}
			}
			for key, want := range test.want {
				if math.Abs(got[key]-want) > 0.03 {
					t.Errorf("share of %q %.3f, want %.3f", key, got[key], want)
				}
			}
		})
	}
}

func TestFailTrafficOnPanicHasNobody(t *testing.T) {
	c := unrun(t, cfgOf("a", func(c *config.Cluster) {
		c.Assignment = &config.Assignment{Localities: []*config.LocalityEndpoints{
			place("a", 0, 0, config.Healthy, config.Unhealthy, config.Unhealthy, config.Unhealthy)}}
		c.LBCommon.FailOnPanic = true
	}))
	if got := c.pick(&Request{}, false); got.host != nil || !got.panicked {
		t.Errorf("picked %v in panic, want nobody", got.host)
	}
}

func TestHashSticksToAHost(t *testing.T) {
	for _, policy := range []config.LBPolicy{config.RingHashLB, config.MaglevLB} {
		c := unrun(t, cfgOf("a", func(c *config.Cluster) {
			c.LB = policy
			c.Assignment = endpoints("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80")
		}))
		seen := map[*Host]bool{}
		for hash := range uint64(64) {
			hash *= 0x9e3779b97f4a7c15
			req := &Request{Hash: hash, HasHash: true}
			first := c.pick(req, false).host
			seen[first] = true
			for range 5 {
				if again := c.pick(req, false).host; again != first {
					t.Fatalf("policy %d: hash %d met %s, then %s", policy, hash, first, again)
				}
			}
			if other := c.pick(&Request{Hash: hash, HasHash: true, Tried: []*Host{first}}, false).host; policy == config.MaglevLB && other == first {
				// A retry may meet the same host again, but not as a rule.
				t.Logf("hash %d: a retry met the same host", hash)
			}
		}
		if len(seen) != 4 {
			t.Errorf("policy %d: 64 hashes met %d hosts, want 4", policy, len(seen))
		}
	}
}

func TestHashKeyIsMetadataHostnameOrAddress(t *testing.T) {
	c := unrun(t, cfgOf("a", func(c *config.Cluster) {
		c.LB, c.LBCommon.HashByHostname = config.MaglevLB, true
		c.Assignment = endpoints("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")
		e := c.Assignment.Localities[0].Endpoints
		e[0].Hostname = "one"
		e[1].Hostname = "two"
		e[1].Metadata = map[string]*structpb.Struct{"envoy.lb": label("hash_key", "key")}
	}))
	for i, want := range []string{"one", "key", "10.0.0.3:80"} {
		if got := c.hashKey(c.snap.Load().hosts[i]); got != want {
			t.Errorf("host %d: hash key %q, want %q", i, got, want)
		}
	}
}

func TestTriedHostsAreAvoided(t *testing.T) {
	c := unrun(t, cfgOf("a", func(c *config.Cluster) { c.Assignment = endpoints("10.0.0.1:80", "10.0.0.2:80") }))
	for range 10 {
		first := c.pick(&Request{}, false).host
		if second := c.pick(&Request{Tried: []*Host{first}}, false).host; second == first {
			t.Errorf("met %s again though it was tried", first)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for name, policy := range map[string]config.LBPolicy{"round robin": config.RoundRobin, "maglev": config.MaglevLB, "least": config.LeastRequestLB} {
		b.Run(name, func(b *testing.B) {
			opts := Options{Stats: stats.New(), Secrets: certs.NewStore(certs.Feeds{})}.withDefaults()
			c, err := newCluster(cfgOf("a", func(c *config.Cluster) {
				c.LB = policy
				c.Assignment = endpoints("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")
			}), &opts, false)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				req := &Request{Hash: 1, HasHash: true}
				for pb.Next() {
					c.pick(req, false)
				}
			})
		})
	}
}
