package healthcheck_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/http/filter/healthcheck"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

var onPath = []config.HeaderMatcher{{Name: ":path", String: &certs.StringMatcher{Pattern: "/hc"}}}

// made is a filter with a healthy proxy whose clusters are "two" and "none";
// one host of "two" is not healthy.
func made(t *testing.T, reg *stats.Registry, cfg config.HTTPHealthCheckFilter, failing bool) filter.Factory {
	t.Helper()
	d := filtertest.Deps(reg)
	d.Clusters = filtertest.StaticClusters(t, reg, map[string]int{"two": 2, "none": 0}, nil)
	reg.Scope("cluster").Tagged("envoy_cluster_name", "two").Gauge("membership_healthy").Set(1)
	d.Node = &config.Node{Cluster: "us"}
	d.Failing = func() bool { return failing }
	cfg.Headers = onPath
	f, err := healthcheck.New(&config.HTTPFilter{Config: &cfg}, d)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestHealthChecksAreAnswered(t *testing.T) {
	least := func(name string, percent float64) config.HTTPHealthCheckFilter {
		return config.HTTPHealthCheckFilter{MinHealthy: map[string]float64{name: percent}}
	}
	for name, c := range map[string]struct {
		cfg     config.HTTPHealthCheckFilter
		failing bool
		status  int // 0: it goes on
		details string
		counter string // beside request_total, and ok or failed
	}{
		"healthy":                       {status: 200, details: "health_check_ok"},
		"told to fail":                  {failing: true, status: 503, details: "health_check_failed"},
		"passed through":                {cfg: config.HTTPHealthCheckFilter{PassThrough: true}},
		"told to fail and pass through": {cfg: config.HTTPHealthCheckFilter{PassThrough: true}, failing: true, status: 503, details: "health_check_failed"},
		"enough hosts are healthy":      {cfg: least("two", 50), status: 200, details: "health_check_ok_cluster_healthy"},
		"too few hosts are healthy":     {cfg: least("two", 50.1), status: 503, details: "health_check_failed_cluster_unhealthy", counter: "failed_cluster_unhealthy"},
		"a cluster without hosts":       {cfg: least("none", 0.1), status: 503, details: "health_check_failed_cluster_empty", counter: "failed_cluster_empty"},
		"a cluster that needs no hosts": {cfg: least("none", 0), status: 200, details: "health_check_ok_cluster_healthy"},
		"a cluster that is not there":   {cfg: least("other", 0), status: 503, details: "health_check_failed_no_cluster_found", counter: "failed_cluster_not_found"},
		"clusters do not count if failing": {
			cfg: least("two", 0), failing: true, status: 503, details: "health_check_failed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			reg := stats.New()
			s := filtertest.New(t).Start(made(t, reg, c.cfg, c.failing))
			s.RequestHead(filtertest.Request("GET", "/hc"), true)
			if !s.Info().HTTP.HealthCheck {
				t.Error("the request is not known as a health check")
			}
			counters := map[string]uint64{"request_total": 1, "ok": 1}
			switch c.status {
			case 0:
				counters = nil
			case 503:
				counters = map[string]uint64{"request_total": 1, "failed": 1}
			}
			if c.counter != "" {
				counters[c.counter] = 1
			}
			if diff := cmp.Diff(counters, filtertest.Counters(t, reg, "http.test.health_check.")); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
			if c.status == 0 {
				if s.Up.Head == nil {
					t.Errorf("replied %+v, want it to go on", s.Replied)
				}
				return
			}
			want := &filter.Reply{Status: c.status, Details: c.details}
			headers := message.Fields{{Name: "x-envoy-upstream-healthchecked-cluster", Value: "us"}}
			if c.status != 200 {
				want.Flags = flow.FailedLocalHealthCheck
			}
			if c.failing {
				headers.Add("x-envoy-immediate-health-check-fail", "true")
			}
			if diff := cmp.Diff(want, s.Replied); diff != "" {
				t.Errorf("reply (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(headers, s.Down.Head.Fields); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheBodyOfAHealthCheckIsDropped(t *testing.T) {
	for name, end := range map[string]func(*filtertest.Stream){
		"with data":     func(s *filtertest.Stream) { s.RequestData("b", true) },
		"with trailers": func(s *filtertest.Stream) { s.RequestTrailers("a", "b") },
	} {
		s := filtertest.New(t).Start(made(t, stats.New(), config.HTTPHealthCheckFilter{}, false))
		s.RequestHead(filtertest.Request("POST", "/hc"), false)
		s.RequestData("a", false)
		if s.Replied != nil || len(s.HeldRequest()) > 0 {
			t.Errorf("%s: replied %+v before the end, held %q", name, s.Replied, s.HeldRequest())
		}
		if end(s); s.Replied == nil || s.Up.Head != nil {
			t.Errorf("%s: replied %+v, want an answer", name, s.Replied)
		}
	}
}

func TestOtherRequestsGoOn(t *testing.T) {
	for failing, want := range map[bool]string{false: "", true: "true"} {
		s := filtertest.New(t).Start(made(t, stats.New(), config.HTTPHealthCheckFilter{}, failing))
		s.RequestHead(filtertest.Request("POST", "/other"), false)
		s.RequestData("a", true)
		s.ResponseHead(filtertest.Response(200), true)
		h := s.Down.Head
		if s.Up.Head == nil || h.Value("x-envoy-immediate-health-check-fail") != want || h.Fields.Has("x-envoy-upstream-healthchecked-cluster") || s.Info().HTTP.HealthCheck {
			t.Errorf("failing %v: passed %+v and %+v", failing, s.Up, h)
		}
	}
}

func TestTheUpstreamsAnswerIsKeptToTheEndOfItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := stats.New()
		f := made(t, reg, config.HTTPHealthCheckFilter{PassThrough: true, CacheTime: time.Second}, false)
		ask := func() *filtertest.Stream {
			s := filtertest.New(t).Start(f)
			s.RequestHead(filtertest.Request("GET", "/hc"), true)
			return s
		}
		s := ask()
		if s.Up.Head == nil {
			t.Fatal("the first one was answered")
		}
		time.Sleep(900 * time.Millisecond)
		s.ResponseHead(filtertest.Response(207, "x-envoy-degraded", ""), true)
		want := &filter.Reply{Status: 207, Details: "health_check_cached", Fields: message.Fields{{Name: "x-envoy-degraded"}}}
		if diff := cmp.Diff(want, ask().Replied); diff != "" {
			t.Errorf("the second reply (-want +got):\n%s", diff)
		}
		time.Sleep(100 * time.Millisecond)
		if s = ask(); s.Up.Head == nil {
			t.Fatalf("replied %+v in the next interval", s.Replied)
		}
		s.ResponseHead(filtertest.Response(500), true)
		want = &filter.Reply{Status: 500, Details: "health_check_cached", Flags: flow.FailedLocalHealthCheck}
		if diff := cmp.Diff(want, ask().Replied); diff != "" {
			t.Errorf("the reply after a failure (-want +got):\n%s", diff)
		}
		counters := map[string]uint64{"request_total": 2, "cached_response": 2, "degraded": 1, "ok": 1, "failed": 1}
		if diff := cmp.Diff(counters, filtertest.Counters(t, reg, "http.test.health_check.")); diff != "" {
			t.Errorf("counters (-want +got):\n%s", diff)
		}
	})
}
