package filter

import (
	"context"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
)

func statsFilter(cfg *config.IstioStats) *config.NetworkFilter {
	return &config.NetworkFilter{Name: "istio.stats", IstioStats: cfg}
}

// istioMetrics are Istio's counters of connections that are not 0, without
// their labels but what is in keep.
func istioMetrics(t *testing.T, reg *stats.Registry, keep string) []string {
	t.Helper()
	var text strings.Builder
	if err := reg.Prometheus(&text, stats.Query{UsedOnly: true, Filter: regexp.MustCompile("istio_tcp")}); err != nil {
		t.Fatal(err)
	}
	label := regexp.MustCompile(keep + `="[^"]*"`)
	var out []string
	for line := range strings.Lines(text.String()) {
		if strings.HasPrefix(line, "istio_tcp") {
			name, rest, _ := strings.Cut(line, "{")
			_, value, _ := strings.Cut(rest, "} ")
			out = append(out, name+" "+label.FindString(rest)+" "+strings.TrimSpace(value))
		}
	}
	return out
}

func sameLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestAConnectionIsCountedAtItsEnd(t *testing.T) {
	reg := stats.New()
	address := backend(t, echoes)
	ch := mustChain(t, Deps{Stats: reg, Clusters: clusterSet(t, reg, map[string][]string{"app": {address}}, nil), Node: node(t)},
		statsFilter(&config.IstioStats{Reporter: config.IstioDestination}), tcp("app", nil))
	s := serve(t, ch, nil)
	s.send("hello")
	s.client.CloseWrite()
	s.expect("hello")
	if err := s.end(); err != nil {
		t.Fatal(err)
	}
	sameLines(t, istioMetrics(t, reg, "reporter"),
		`istio_tcp_connections_closed_total reporter="destination" 1`, `istio_tcp_connections_opened_total reporter="destination" 1`,
		`istio_tcp_received_bytes_total reporter="destination" 5`, `istio_tcp_sent_bytes_total reporter="destination" 5`)
}

func TestARefusedConnectionIsCounted(t *testing.T) {
	for name, refuse := range map[string]func(t *testing.T, ch *Chain){
		"by a filter after it": func(t *testing.T, ch *Chain) {
			s := serve(t, ch, nil)
			s.expect("")
			if s.end() == nil {
				t.Error("it was not refused")
			}
		},
		"by the transport socket": func(_ *testing.T, ch *Chain) { ch.Refused(&flow.Info{}) },
	} {
		t.Run(name, func(t *testing.T) {
			reg := stats.New()
			deny := &config.NetworkFilter{Name: "r", RBAC: &config.RBAC{StatPrefix: "x.", Rules: rules(config.Deny, policyOf("p", everyone))}}
			ch := mustChain(t, Deps{Stats: reg}, deny, statsFilter(&config.IstioStats{Reporter: config.IstioDestination}), echoFilter())
			refuse(t, ch)
			sameLines(t, istioMetrics(t, reg, "source_workload"),
				`istio_tcp_connections_closed_total source_workload="unknown" 1`, `istio_tcp_connections_opened_total source_workload="unknown" 1`)
		})
	}
}

func TestAnOpenConnectionIsCountedAgainAndAgain(t *testing.T) {
	reg := stats.New()
	upstream := make(chan *net.TCPConn, 1)
	address := backend(t, func(b *net.TCPConn) {
		upstream <- b
		echoes(b)
	})
	ch := mustChain(t, Deps{Stats: reg, Clusters: clusterSet(t, reg, map[string][]string{"app": {address}}, nil)},
		exchangeFilter(), statsFilter(&config.IstioStats{Reporter: config.IstioDestination, ReportDuration: 5 * time.Millisecond}), tcp("app", nil))
	s := serve(t, ch, nil) // no TLS, so it is known at once that there is no peer
	for _, want := range []string{"4", "8"} {
		s.send("data")
		end := time.Now().Add(20 * time.Second)
		for time.Now().Before(end) {
			if got := istioMetrics(t, reg, "reporter"); len(got) == 3 && strings.HasSuffix(got[2], " "+want) {
				break
			}
			<-time.After(time.Millisecond)
		}
		sameLines(t, istioMetrics(t, reg, "reporter"), `istio_tcp_connections_opened_total reporter="destination" 1`,
			`istio_tcp_received_bytes_total reporter="destination" `+want, `istio_tcp_sent_bytes_total reporter="destination" `+want)
	}
	s.client.CloseWrite()
	if err := s.end(); err != nil {
		t.Error(err)
	}
}

func TestAChainThatForgetsMetricsLeavesNothingRunning(t *testing.T) {
	ch, err := NewChain([]*config.NetworkFilter{statsFilter(&config.IstioStats{Rotation: time.Hour, GracefulDeletion: time.Minute}), echoFilter()}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		ch.Close()
		close(done)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	select {
	case <-done:
	case <-ctx.Done():
		t.Error("Close does not return")
	}
}

func TestAMistakeInIstioStatsIsRefused(t *testing.T) {
	_, err := NewChain([]*config.NetworkFilter{statsFilter(&config.IstioStats{Metrics: []config.IstioMetric{{Name: "other"}}}), echoFilter()}, Deps{})
	if err == nil || !strings.Contains(err.Error(), `filters[0] "istio.stats": metrics[0].name: "other"`) {
		t.Errorf("the error is %v", err)
	}
}
