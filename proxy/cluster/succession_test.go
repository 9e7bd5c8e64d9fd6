package cluster

import (
	"testing"
	"testing/synctest"
	"time"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/stats"
	"outrider/tlsmux"
)

// demanding is an EDS cluster of that digest with TLS, whose roots are a secret
// of that name.
func demanding(digest, secret string) *config.Cluster {
	c := edsCluster(15 * time.Second)
	c.Digest = digest
	if secret != "" {
		ref := certs.Ref{Name: secret, Source: &certs.Source{ADS: true}}
		c.TransportSocket = config.TransportSocket{Name: "tls", TLS: &config.UpstreamTLS{
			CommonConfig: tlsmux.CommonConfig{ValidationRef: &ref},
		}}
	}
	return c
}

func TestAClusterIsNotReplacedByOneWhoseSecretIsMissing(t *testing.T) {
	secrets := certs.NewStore(certs.Feeds{})
	bubble(t, Options{Secrets: secrets}, []*config.Cluster{demanding("1", "")}, func(t *testing.T, s *Set) {
		s.SetAssignment("svc", endpoints("10.0.0.1:80"))
		old := s.Get("a")
		if err := s.Update(demanding("2", "roots")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if s.Get("a") != old || len(s.Warming()) != 1 {
			t.Fatal("the cluster was replaced by one that cannot connect")
		}
		secrets.Get(certs.Ref{Name: "roots", Source: &certs.Source{ADS: true}}).Publish(&certs.Secret{Name: "roots", Version: "1", Validation: &certs.Validation{}})
		synctest.Wait()
		if s.Get("a") == old || len(s.Warming()) != 0 {
			t.Error("the update did not come into use when its secret came")
		}
	})
}

func TestAClusterIsNotReplacedByOneWhoseEndpointsDoNotCome(t *testing.T) {
	elsewhere := func() *config.Cluster {
		c := edsCluster(15 * time.Second)
		c.Digest, c.EDS = "2", &config.EDS{ServiceName: "other", Source: c.EDS.Source}
		return c
	}
	bubble(t, Options{}, []*config.Cluster{edsCluster(15 * time.Second)}, func(t *testing.T, s *Set) {
		s.SetAssignment("svc", endpoints("10.0.0.1:80"))
		old := s.Get("a")
		if err := s.Update(elsewhere()); err != nil {
			t.Fatal(err)
		}
		s.NoAssignment("other")
		time.Sleep(time.Hour)
		if s.Get("a") != old {
			t.Fatal("the cluster was replaced by one without endpoints")
		}
		s.SetAssignment("other", endpoints("10.0.0.2:80"))
		if s.Get("a") == old {
			t.Error("the update did not come into use when its endpoints came")
		}
	})
}

func TestChangeEachTakesWhatIsRight(t *testing.T) {
	s := setOf(t, Options{}, cfgOf("a", nil), cfgOf("gone", nil))
	before := s.Get("a")
	wrong := func(name string) *config.Cluster {
		return cfgOf(name, func(c *config.Cluster) { c.Digest, c.HealthChecks = "2", make([]*config.HealthCheck, 2) })
	}
	refused := s.ChangeEach([]*config.Cluster{wrong("a"), cfgOf("b", nil), cfgOf("twice", nil), cfgOf("twice", nil)}, []string{"gone"})
	if len(refused) != 2 || refused["a"] == nil || refused["twice"] == nil {
		t.Errorf("refused %v, want a and twice", refused)
	}
	if s.Get("a") != before || s.Get("b") == nil || s.Get("twice") != nil || s.Get("gone") != nil {
		t.Errorf("the set is %v, want the old a, and b", s.All())
	}
	end := s.Change([]*config.Cluster{wrong("a"), cfgOf("c", nil)}, nil)
	if end == nil || s.Get("c") != nil {
		t.Errorf("Change with a mistake: %v, and c is %v", end, s.Get("c"))
	}
}

func TestEndpointsAreAskedForWhileAClusterWantsThem(t *testing.T) {
	asked := map[string]int{}
	ask := func(e *config.EDS) func() {
		asked[e.ServiceName]++
		return func() { asked[e.ServiceName]-- }
	}
	reg := stats.New()
	bubble(t, Options{Endpoints: ask, Stats: reg}, []*config.Cluster{edsCluster(0)}, func(t *testing.T, s *Set) {
		if asked["svc"] != 1 {
			t.Errorf("asked %v, want svc once", asked)
		}
		next := edsCluster(0)
		next.Digest = "2"
		if err := s.Update(next); err != nil {
			t.Fatal(err)
		}
		if asked["svc"] != 2 {
			t.Errorf("while the new version warms: asked %v, want twice", asked)
		}
		s.SetAssignment("svc", endpoints("10.0.0.1:80"))
		if asked["svc"] != 1 {
			t.Errorf("after it took over: asked %v, want once", asked)
		}
		s.RefuseAssignment("svc")
		s.FailAssignment("svc")
		scope := reg.Scope("cluster").Tagged("envoy_cluster_name", "a")
		if r, f := scope.Counter("update_rejected").Value(), scope.Counter("update_failure").Value(); r != 1 || f != 1 {
			t.Errorf("rejected %d, failed %d, want 1 and 1", r, f)
		}
		s.Remove("a")
		s.DropAssignment("svc")
		if asked["svc"] != 0 {
			t.Errorf("after the removal: asked %v", asked)
		}
		if err := s.Update(edsCluster(0)); err != nil {
			t.Fatal(err)
		}
		if s.Warm() {
			t.Error("endpoints that were dropped are used again")
		}
	})
}

func TestAServiceMayBeDroppedByTheAssignmentThatReplacesIt(t *testing.T) {
	var s *Set
	ask := func(e *config.EDS) func() { return func() { s.DropAssignment(e.ServiceName) } }
	s = setOf(t, Options{Endpoints: ask}, edsCluster(0))
	s.SetAssignment("svc", endpoints("10.0.0.1:80"))
	next := edsCluster(0)
	next.Digest, next.EDS = "2", &config.EDS{ServiceName: "other", Source: next.EDS.Source}
	if err := s.Update(next); err != nil {
		t.Fatal(err)
	}
	s.SetAssignment("other", endpoints("10.0.0.2:80")) // the old one is retired in here
	if s.Get("a").cfg != next {
		t.Error("the update is not in use")
	}
}
