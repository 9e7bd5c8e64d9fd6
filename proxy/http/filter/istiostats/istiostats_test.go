package istiostats_test

import (
	"strings"
	"testing"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/http/filter/istiostats"
	"outrider/proxy/istio/peer"
	"outrider/proxy/stats"
)

func build(t *testing.T, cfg *config.IstioStats) (*stats.Registry, filter.Factory) {
	t.Helper()
	reg := stats.New()
	f, err := istiostats.New(&config.HTTPFilter{Config: cfg}, filtertest.Deps(reg))
	if err != nil {
		t.Fatal(err)
	}
	return reg, f
}

// lines are Istio's metrics of that name for Prometheus, that were used.
func lines(t *testing.T, reg *stats.Registry, name string) []string {
	t.Helper()
	var text strings.Builder
	if err := reg.Prometheus(&text, stats.Query{UsedOnly: true}); err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(text.String()) {
		if strings.HasPrefix(line, name+"{") {
			out = append(out, strings.TrimSuffix(line, "\n"))
		}
	}
	return out
}

func has(t *testing.T, lines []string, parts ...string) {
	t.Helper()
	if len(lines) != 1 {
		t.Errorf("metrics %q, want one", lines)
		return
	}
	for _, p := range parts {
		if !strings.Contains(lines[0], p) {
			t.Errorf("%s\nhas no %s", lines[0], p)
		}
	}
}

func TestARequestIsCountedWhenItIsOver(t *testing.T) {
	reg, f := build(t, &config.IstioStats{Reporter: config.IstioDestination})
	s := filtertest.New(t).Start(f)
	s.RequestHead(filtertest.Request("GET", "/"), true)
	s.ResponseHead(filtertest.Response(503), true)
	if got := lines(t, reg, "istio_requests_total"); got != nil {
		t.Errorf("counted before its end: %q", got)
	}
	s.Finish()
	has(t, lines(t, reg, "istio_requests_total"), `reporter="destination"`, `response_code="503"`, `request_protocol="http"`, `destination_service="host"`, "} 1")
}

func TestARequestThatWasNeverAnsweredIsCounted(t *testing.T) {
	reg, f := build(t, &config.IstioStats{})
	s := filtertest.New(t).Start(f)
	s.RequestHead(filtertest.Request("POST", "/"), false)
	s.Finish()
	has(t, lines(t, reg, "istio_requests_total"), `response_code="0"`, "} 1")
}

func TestCallsOfGRPCAreCountedWhileTheyGoOn(t *testing.T) {
	reg, f := build(t, &config.IstioStats{Reporter: config.IstioDestination, ReportDuration: 5 * time.Second})
	s := filtertest.New(t).Start(f)
	s.RequestHead(filtertest.Request("POST", "/S/M", "content-type", "application/grpc+proto"), false)
	s.Info().SetState("envoy.filters.http.grpc_stats", "3,1")
	s.Advance(5 * time.Second)
	if got := lines(t, reg, "istio_request_messages_total"); got != nil {
		t.Errorf("counted before the peer is known: %q", got)
	}
	s.Info().DownstreamPeer = peer.New(peer.Workload{Name: "client"})
	s.Advance(5 * time.Second)
	has(t, lines(t, reg, "istio_request_messages_total"), `source_workload="client"`, "} 3")
	s.Info().SetState("envoy.filters.http.grpc_stats", "4,2")
	s.Advance(5 * time.Second)
	has(t, lines(t, reg, "istio_request_messages_total"), "} 4")
	s.Info().SetState("envoy.filters.http.grpc_stats", "4,9")
	s.ResponseHead(filtertest.Response(200, "content-type", "application/grpc"), false)
	s.ResponseTrailers("grpc-status", "3")
	s.Finish()
	has(t, lines(t, reg, "istio_response_messages_total"), "} 9")
	has(t, lines(t, reg, "istio_requests_total"), `request_protocol="grpc"`, `grpc_response_status="3"`)
}

func TestWhatIsNoCallOfGRPCIsHTTP(t *testing.T) {
	for kind, want := range map[string]string{
		"application/grpc": "grpc", "application/grpc+json": "grpc", "application/grpc-web": "http", "application/json": "http", "": "http",
	} {
		reg, f := build(t, &config.IstioStats{})
		s := filtertest.New(t).Start(f)
		s.RequestHead(filtertest.Request("POST", "/S/M", "content-type", kind), true)
		s.ResponseHead(filtertest.Response(200), true)
		s.Finish()
		has(t, lines(t, reg, "istio_requests_total"), `request_protocol="`+want+`"`)
	}
}

func TestAnExpressionThatIsNotUnderstoodIsRefused(t *testing.T) {
	cfg := &config.IstioStats{Metrics: []config.IstioMetric{{Dimensions: map[string]string{"x": "request.nope"}}}}
	_, err := istiostats.New(&config.HTTPFilter{Config: cfg}, filtertest.Deps(stats.New()))
	if err == nil || !strings.Contains(err.Error(), `metrics[0].dimensions["x"]`) || !strings.Contains(err.Error(), "request.nope") {
		t.Errorf("the error is %v", err)
	}
}

// quiet is a stream of which only the Info is asked for.
type quiet struct {
	filter.Stream
	info *flow.Info
}

func (q *quiet) Info() *flow.Info { return q.info }

func TestALikeRequestTakesNoMemoryButTheFilter(t *testing.T) {
	_, f := build(t, &config.IstioStats{Reporter: config.IstioDestination})
	s := &quiet{info: (&flow.Info{DownstreamPeer: peer.New(peer.Workload{Name: "client"})}).NewRequest(time.Now())}
	head, answer := filtertest.Request("GET", "/"), filtertest.Response(200)
	s.info.HTTP.Request, s.info.HTTP.Response, s.info.HTTP.Status = head, answer, 200
	n := testing.AllocsPerRun(100, func() {
		one := f.New(s)
		one.RequestHead(head, true)
		one.ResponseHead(answer, true)
		one.End()
	})
	if n > 1 {
		t.Errorf("%v allocations", n)
	}
}
