package cluster

import (
	"testing"
	"time"

	"outrider/certs"
	"outrider/proxy/config"
)

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
