package sidecar

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func TestProbersOfAnInjectedPodAreRead(t *testing.T) {
	got, err := ParseProbers(`{"/app-health/web/livez":{"httpGet":{"path":"/healthz","port":8080,"scheme":"HTTPS","httpHeaders":[{"name":"a","value":"b"}]}},
		"/app-health/web/readyz":{"tcpSocket":{"port":81},"timeoutSeconds":3},"/app-health/g/startupz":{"grpc":{"port":9,"service":"s"}}}`)
	want := map[string]Probe{
		"web/livez":  {HTTPGet: &HTTPGet{Path: "/healthz", Port: 8080, Scheme: "HTTPS", Headers: map[string]string{"a": "b"}}},
		"web/readyz": {TCPSocket: &TCPSocket{Port: 81}, Timeout: 3 * time.Second},
		"g/startupz": {GRPC: &GRPC{Port: 9, Service: "s"}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestProbersThatSaySomethingElseAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		`{`: "probes", `{"/x":{"tcpSocket":{"port":1}}}`: `"/x" does not begin`, `{"/app-health/a":{}}`: "has 0 of",
		`{"/app-health/a":{"exec":{}}}`: "exec", `{"/app-health/a":{"tcpSocket":{"port":1},"grpc":{"port":1}}}`: "has 2 of", `{"/app-health/a":{"tcpSocket":{"port":70000}}}`: "70000",
	} {
		if _, err := ParseProbers(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", text, err, want)
		}
	}
}

func TestAGRPCProbeAsksTheHealthService(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, states := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, states)
	states.SetServingStatus("sick", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	go server.Serve(ln)
	t.Cleanup(server.Stop)
	port := strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
	c, err := Parse([]byte("probes: {ok: {grpc: {port: " + port + "}}, sick: {grpc: {port: " + port + ", service: sick}}}"))
	if err != nil {
		t.Fatal(err)
	}
	s := newStatus(c)
	for name, want := range map[string]int{"ok": 200, "sick": 503} {
		if code, text := s.answers("GET", "/app-health/"+name, elsewhere); code != want {
			t.Errorf("%s: %d %q, want %d", name, code, text, want)
		}
	}
}

func TestTheEnvironmentSaysWhereTheApplicationsMetricsAre(t *testing.T) {
	for text, want := range map[string]*Metrics{
		`{"scrape":"true","path":"/m","port":"9100"}`: {Port: 9100, Path: "/m"},
		`{"port":"9100"}`:                  {Port: 9100, Path: "/metrics"},
		`{"scrape":"true"}`:                {Port: 80, Path: "/metrics"},
		`{"scrape":"false","port":"9100"}`: nil,
	} {
		got, err := ParseScrape(text)
		if err != nil || (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{`{"port":"x"}`, `{"port":"70000"}`, `{"port":"15020"}`, `{"scheme":"https"}`, `{"more":"x"}`, `x`} {
		if got, err := ParseScrape(text); err == nil {
			t.Errorf("%s: %+v", text, got)
		}
	}
}
