package cluster

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/stats"
)

// fakeDNS answers what it is told, or fails.
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
