package fault_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/filter/fault"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/stats"
)

const million = 1_000_000

func start(t *testing.T, reg *stats.Registry, cfg *config.HTTPFault, overrides ...*config.FilterOverride) *filtertest.Stream {
	t.Helper()
	f, err := fault.New(&config.HTTPFilter{Name: "faults", Config: cfg}, filtertest.Deps(reg))
	if err != nil {
		t.Fatal(err)
	}
	s := filtertest.New(t)
	s.ClusterIs, s.Overriding = "c", overrides
	return s.Start(f)
}

func pointer[T any](v T) *T { return &v }

func TestRequestsAreAborted(t *testing.T) {
	fixed := &config.FaultAbort{Status: 418, PPM: million, Unit: 10_000}
	asked := &config.FaultAbort{ByHeader: true, PPM: 500_000, Unit: 10_000}
	for name, c := range map[string]struct {
		cfg     config.HTTPFault
		over    *config.HTTPFault
		headers []string
		random  uint64
		want    *filter.Reply // of which Status and GRPC count; nil: it goes on
	}{
		"always":                           {cfg: config.HTTPFault{Abort: fixed}, random: million - 1, want: &filter.Reply{Status: 418}},
		"with a gRPC status":               {cfg: config.HTTPFault{Abort: &config.FaultAbort{GRPC: pointer[uint32](5), PPM: million}}, want: &filter.Reply{Status: 200, GRPC: pointer[uint32](5)}},
		"by chance":                        {cfg: config.HTTPFault{Abort: &config.FaultAbort{Status: 503, PPM: 300}}, random: 299, want: &filter.Reply{Status: 503}},
		"by chance, not this one":          {cfg: config.HTTPFault{Abort: &config.FaultAbort{Status: 503, PPM: 300}}, random: 300},
		"as a header asks":                 {cfg: config.HTTPFault{Abort: asked}, headers: []string{"x-envoy-fault-abort-request", "599"}, want: &filter.Reply{Status: 599}},
		"as a header asks for gRPC":        {cfg: config.HTTPFault{Abort: asked}, headers: []string{"x-envoy-fault-abort-grpc-request", "0", "x-envoy-fault-abort-request", "500"}, want: &filter.Reply{Status: 200, GRPC: pointer[uint32](0)}},
		"a header without a status":        {cfg: config.HTTPFault{Abort: asked}, headers: []string{"x-envoy-fault-abort-request", "600"}},
		"no header asks":                   {cfg: config.HTTPFault{Abort: asked}},
		"a header lowers the chance":       {cfg: config.HTTPFault{Abort: asked}, headers: []string{"x-envoy-fault-abort-request", "500", "x-envoy-fault-abort-request-percentage", "10"}, random: 100_000},
		"a header lowers it, but not now":  {cfg: config.HTTPFault{Abort: asked}, headers: []string{"x-envoy-fault-abort-request", "500", "x-envoy-fault-abort-request-percentage", "10"}, random: 99_999, want: &filter.Reply{Status: 500}},
		"a header cannot raise the chance": {cfg: config.HTTPFault{Abort: asked}, headers: []string{"x-envoy-fault-abort-request", "500", "x-envoy-fault-abort-request-percentage", "90"}, random: 500_000},
		"a fixed fault asks no header":     {cfg: config.HTTPFault{Abort: fixed}, headers: []string{"x-envoy-fault-abort-request-percentage", "0"}, random: 9, want: &filter.Reply{Status: 418}},
		"to that cluster":                  {cfg: config.HTTPFault{Abort: fixed, UpstreamCluster: "c"}, want: &filter.Reply{Status: 418}},
		"to another cluster":               {cfg: config.HTTPFault{Abort: fixed, UpstreamCluster: "d"}},
		"from that node":                   {cfg: config.HTTPFault{Abort: fixed, DownstreamNodes: []string{"m", "n"}}, headers: []string{"x-envoy-downstream-service-node", "n"}, want: &filter.Reply{Status: 418}},
		"from another node":                {cfg: config.HTTPFault{Abort: fixed, DownstreamNodes: []string{"m"}}, headers: []string{"x-envoy-downstream-service-node", "n"}},
		"from an unknown node":             {cfg: config.HTTPFault{Abort: fixed, DownstreamNodes: []string{""}}},
		"with that header":                 {cfg: config.HTTPFault{Abort: fixed, Headers: []config.HeaderMatcher{{Name: "x"}}}, headers: []string{"x", "1"}, want: &filter.Reply{Status: 418}},
		"without that header":              {cfg: config.HTTPFault{Abort: fixed, Headers: []config.HeaderMatcher{{Name: "x"}}}},
		"by the route":                     {over: &config.HTTPFault{Abort: fixed}, want: &filter.Reply{Status: 418}},
		"not by the route":                 {cfg: config.HTTPFault{Abort: fixed}, over: &config.HTTPFault{}},
	} {
		t.Run(name, func(t *testing.T) {
			reg := stats.New()
			var overrides []*config.FilterOverride
			if c.over != nil {
				overrides = append(overrides, &config.FilterOverride{Config: c.over})
			}
			s := start(t, reg, &c.cfg, overrides...)
			s.Random = c.random
			s.RequestHead(filtertest.Request("GET", "/", append(c.headers, "x-envoy-downstream-service-cluster", "me")...), true)
			var counters map[string]uint64
			if c.want != nil {
				c.want.Body, c.want.Details, c.want.Flags = "fault filter abort", "fault_filter_abort", flow.FaultInjected
				counters = map[string]uint64{"aborts_injected": 1, "me.aborts_injected": 1, "active_faults": 1}
			}
			if diff := cmp.Diff(c.want, s.Replied); diff != "" || (s.Up.Head != nil) != (c.want == nil) {
				t.Errorf("reply (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(counters, filtertest.Counters(t, reg, "http.test.fault.")); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
			s.Finish()
			if n := filtertest.Scope(reg).Gauge("fault.active_faults").Value(); n != 0 {
				t.Errorf("%d active faults after the end", n)
			}
		})
	}
}

func TestADelayHoldsTheRequestAndAnAbortMayFollow(t *testing.T) {
	reg := stats.New()
	cfg := &config.HTTPFault{
		Delay: &config.FaultDelay{Fixed: time.Second + time.Microsecond, PPM: million}, NoStatsByCluster: true,
	}
	s := start(t, reg, cfg)
	s.RequestHead(filtertest.Request("POST", "/", "x-envoy-downstream-service-cluster", "me"), false)
	s.RequestData("body", false)
	s.RequestTrailers("a", "b")
	s.Advance(999 * time.Millisecond)
	if s.Up.Head != nil || s.Info().Flags != flow.DelayInjected {
		t.Fatalf("passed %+v with flags %v before its time", s.Up, s.Info().Flags)
	}
	if s.Advance(time.Millisecond); string(s.Up.Body) != "body" || s.Up.Trailers.Value("a") != "b" {
		t.Errorf("passed %+v, want all", s.Up)
	}
	if diff := cmp.Diff(map[string]uint64{"delays_injected": 1, "active_faults": 1}, filtertest.Counters(t, reg, "http.test.fault.")); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	cfg.Abort = &config.FaultAbort{Status: 500, PPM: million}
	reg = stats.New()
	s = start(t, reg, cfg)
	s.RequestHead(filtertest.Request("GET", "/"), true)
	s.Advance(time.Second)
	if n := filtertest.Scope(reg).Gauge("fault.active_faults").Value(); n != 1 {
		t.Errorf("%d active faults of one request, want 1", n)
	}
	if s.Replied == nil || s.Replied.Status != 500 || s.Info().Flags != flow.DelayInjected|flow.FaultInjected {
		t.Errorf("replied %+v with flags %v, want an abort after the delay", s.Replied, s.Info().Flags)
	}
}

func TestAFaultLeavesItsMetadataUnderTheFiltersName(t *testing.T) {
	mark, err := structpb.NewStruct(map[string]any{"why": "test"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cfg  config.HTTPFault
		want bool
	}{
		"aborted": {config.HTTPFault{Abort: &config.FaultAbort{Status: 500, PPM: million}}, true},
		"delayed": {config.HTTPFault{Delay: &config.FaultDelay{Fixed: time.Second, PPM: million}}, true},
		"neither": {config.HTTPFault{}, false},
	} {
		c.cfg.Metadata = mark
		s := start(t, stats.New(), &c.cfg)
		s.RequestHead(filtertest.Request("GET", "/"), true)
		if got := s.Info().DynamicMetadata["faults"].AsMap()["why"] == "test"; got != c.want {
			t.Errorf("%s: the metadata is there: %v, want %v", name, got, c.want)
		}
	}
}

func TestADelayByHeaderIsInMilliseconds(t *testing.T) {
	cfg := &config.HTTPFault{Delay: &config.FaultDelay{ByHeader: true, PPM: million, Unit: 10_000}}
	for value, want := range map[string]time.Duration{
		"1500": 1500 * time.Millisecond, "0": -1, "-1": -1, "": -1, "1s": -1, "18446744073709551615": -1, "3600000001": -1,
	} {
		s := start(t, stats.New(), cfg)
		s.RequestHead(filtertest.Request("GET", "/", "x-envoy-fault-delay-request", value), true)
		if _, got := s.Timers(); got != want || (s.Up.Head == nil) != (want > 0) {
			t.Errorf("%q delays by %s, want %s", value, got, want)
		}
	}
}

func TestTooManyActiveFaultsAreNotInjected(t *testing.T) {
	reg := stats.New()
	cfg := &config.HTTPFault{Delay: &config.FaultDelay{Fixed: time.Second, PPM: million}, MaxActive: pointer[uint32](1)}
	f, err := fault.New(&config.HTTPFilter{Config: cfg}, filtertest.Deps(reg))
	if err != nil {
		t.Fatal(err)
	}
	first, second := filtertest.New(t).Start(f), filtertest.New(t).Start(f)
	first.RequestHead(filtertest.Request("GET", "/"), true)
	second.RequestHead(filtertest.Request("GET", "/"), true)
	if first.Up.Head != nil || second.Up.Head == nil {
		t.Errorf("the first passed: %v, the second: %v; want the second alone", first.Up.Head != nil, second.Up.Head != nil)
	}
	if diff := cmp.Diff(map[string]uint64{"delays_injected": 1, "active_faults": 1, "faults_overflow": 1}, filtertest.Counters(t, reg, "http.test.fault.")); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

func TestASlowedResponseKeepsItsPaceAndItsBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := stats.New()
		s := start(t, reg, &config.HTTPFault{RateByHeader: true, RatePPM: million, RateUnit: 10_000})
		s.RequestHead(filtertest.Request("GET", "/", "x-envoy-fault-throughput-response", "1"), true)
		s.ResponseHead(filtertest.Response(200), false)
		if s.Down.Head == nil {
			t.Fatal("the head was held")
		}
		body := strings.Repeat("0123456789", 60) // 600 of 1024 bytes a second
		s.ResponseData(body[:400], false)
		s.ResponseData(body[400:], false)
		s.ResponseTrailers("a", "b")
		if n := len(s.Down.Body); n != 51 {
			t.Errorf("%d bytes passed at once, want 51: what a tick allows", n)
		}
		for range 11 {
			time.Sleep(50 * time.Millisecond)
			s.Advance(50 * time.Millisecond)
			if limit := int(1024 * (time.Since(s.Info().Start) + 51*time.Millisecond).Seconds()); len(s.Down.Body) > limit {
				t.Fatalf("%d bytes have passed, more than %d", len(s.Down.Body), limit)
			}
		}
		if string(s.Down.Body) != body || s.Down.Trailers.Value("a") != "b" || !s.Down.End {
			t.Errorf("passed %d bytes, trailers %v; want all", len(s.Down.Body), s.Down.Trailers)
		}
		if diff := cmp.Diff(map[string]uint64{"response_rl_injected": 1, "active_faults": 1}, filtertest.Counters(t, reg, "http.test.fault.")); diff != "" {
			t.Errorf("counters (-want +got):\n%s", diff)
		}
	})
}

func TestAResponseThatEndsWithItsDataEndsWhenItHasPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, stats.New(), &config.HTTPFault{RateKBps: 1, RatePPM: million})
		s.RequestHead(filtertest.Request("GET", "/"), true)
		s.ResponseHead(filtertest.Response(200), false)
		s.ResponseData(strings.Repeat("x", 60), true)
		if len(s.Down.Body) != 51 || s.Down.End {
			t.Fatalf("%d bytes passed, ended: %v; want 51 without end", len(s.Down.Body), s.Down.End)
		}
		time.Sleep(50 * time.Millisecond)
		if s.Advance(50 * time.Millisecond); len(s.Down.Body) != 60 || !s.Down.End {
			t.Errorf("%d bytes passed, ended: %v; want all", len(s.Down.Body), s.Down.End)
		}
	})
}
