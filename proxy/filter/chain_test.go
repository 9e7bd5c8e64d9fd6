package filter

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
)

func TestChainNeedsOneTerminalFilterAtItsEnd(t *testing.T) {
	sni := &config.NetworkFilter{Name: "sni", SNICluster: &config.SNICluster{}}
	for name, c := range map[string]struct {
		filters []*config.NetworkFilter
		want    string
	}{
		"nothing":            {want: "the last one is not a terminal filter"},
		"no terminal":        {filters: []*config.NetworkFilter{sni}, want: "the last one is not a terminal filter"},
		"after the terminal": {filters: []*config.NetworkFilter{echoFilter(), sni}, want: `filters[1] "sni": it comes after a terminal filter`},
		"two terminals":      {filters: []*config.NetworkFilter{echoFilter(), echoFilter()}, want: `filters[1] "echo": it comes after`},
		"an empty filter":    {filters: []*config.NetworkFilter{{Name: "x"}}, want: `filters[0] "x": no filter is configured`},
		"no cluster":         {filters: []*config.NetworkFilter{tcp("", nil)}, want: "neither cluster nor weighted_clusters"},
		"no protocol":        {filters: []*config.NetworkFilter{{Name: "mx", MetadataExchange: &config.MetadataExchange{}}, echoFilter()}, want: "protocol: it is empty"},
		"no access logs":     {filters: []*config.NetworkFilter{tcp("c", func(p *config.TCPProxy) { p.AccessLogs = []*config.AccessLog{{}} })}, want: "access_log[0]"},
	} {
		if _, err := NewChain(c.filters, Deps{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: the error is %v, want %q in it", name, err, c.want)
		}
	}
}

func TestAccessLogThatCannotBeMadeIsReported(t *testing.T) {
	fails := func(*config.AccessLog) (AccessLogger, error) { return nil, errors.New("no such directory") }
	_, err := NewChain([]*config.NetworkFilter{tcp("c", func(p *config.TCPProxy) { p.AccessLogs = []*config.AccessLog{{}} })}, Deps{AccessLogs: fails})
	if err == nil || !strings.Contains(err.Error(), "access_log[0]: no such directory") {
		t.Errorf("the error is %v", err)
	}
}

func TestServerNameIsTheCluster(t *testing.T) {
	reg := stats.New()
	a, b := backend(t, echoes), backend(t, echoes)
	set := clusterSet(t, reg, map[string][]string{"app": {a}, "orders.shop": {b}}, nil)
	ch := mustChain(t, Deps{Stats: reg, Clusters: set}, &config.NetworkFilter{Name: "sni", SNICluster: &config.SNICluster{}}, tcp("app", nil))
	for sni, want := range map[string]string{"": "app", "orders.shop": "orders.shop", "unknown.shop": ""} {
		s := serve(t, ch, func(i *flow.Info) { i.SNI = sni })
		s.client.CloseWrite()
		err := s.end()
		if s.info.UpstreamCluster != want || (err == nil) != (want != "") {
			t.Errorf("server name %q: cluster %q, %v; want %q", sni, s.info.UpstreamCluster, err, want)
		}
		info := described()
		info.SNI = sni
		info.SetState("k", "v")
		verdicts := ch.Explain(info)
		if got := verdicts[1].Clusters[0]; want != "" && got.Cluster != want || got.Missing != (want == "") {
			t.Errorf("server name %q: explained as %+v", sni, got)
		}
		if len(info.FilterState) != 1 {
			t.Error("explaining has set filter state")
		}
	}
}

func TestConnectionLimitRefusesBeyondIt(t *testing.T) {
	reg := stats.New()
	limit := &config.NetworkFilter{Name: "l", ConnectionLimit: &config.ConnectionLimit{StatPrefix: "x", MaxConnections: 2}}
	ch := mustChain(t, Deps{Stats: reg}, limit, echoFilter())
	scope := reg.Scope("connection_limit").Tagged("envoy_connection_limit_prefix", "x")
	first, second := serve(t, ch, nil), serve(t, ch, nil)
	for _, s := range []*session{first, second} {
		s.send("x")
		if n, err := s.client.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	if v := ch.Explain(described()); len(v) != 1 || !v[0].Denied {
		t.Errorf("at the limit it is explained as %+v", v)
	}
	third := serve(t, ch, nil)
	if err := third.end(); err == nil || third.info.LocalCloseReason != "over_connection_limit" || third.info.Flags != 0 {
		t.Errorf("the third ended with %v, reason %q", err, third.info.LocalCloseReason)
	}
	first.client.CloseWrite()
	first.expect("")
	if err := first.end(); err != nil {
		t.Error(err)
	}
	if got := scope.Gauge("active_connections").Value(); got != 1 {
		t.Errorf("%d active connections, want 1", got)
	}
	fourth := serve(t, ch, nil)
	fourth.client.CloseWrite()
	second.client.CloseWrite()
	for _, s := range []*session{fourth, second} {
		if err := s.end(); err != nil {
			t.Error(err)
		}
	}
	if active, limited := scope.Gauge("active_connections").Value(), scope.Counter("limited_connections").Value(); active != 0 || limited != 1 {
		t.Errorf("%d active, %d limited; want 0 and 1", active, limited)
	}
}

func TestConnectionLimitDelaysItsRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := &config.NetworkFilter{Name: "l", ConnectionLimit: &config.ConnectionLimit{StatPrefix: "x", Delay: time.Minute}}
		ch := mustChain(t, Deps{}, limit, echoFilter())
		start := time.Now()
		err := serveToEnd(ch, t.Context(), &Conn{Conn: held{}, Info: described()})
		if took := time.Since(start); err == nil || took != time.Minute {
			t.Errorf("ended after %s with %v, want a refusal after 1m", took, err)
		}
	})
}

func TestDirectResponseReachesAClientThatSpeaksFirst(t *testing.T) {
	ch := mustChain(t, Deps{}, &config.NetworkFilter{Name: "d", DirectResponse: &config.DirectResponse{Body: []byte("go away\n")}})
	s := serve(t, ch, nil)
	s.send("GET / HTTP/1.1\r\n\r\n") // unread when the answer is out
	got := make([]byte, 8)
	if _, err := io.ReadFull(s.client, got); err != nil || string(got) != "go away\n" {
		t.Errorf("received %q, %v", got, err)
	}
	s.send("X-More: 1\r\n") // would be answered by a reset, if the socket were closed
	s.expect("")
	s.client.Close()
	if err := s.end(); err != nil || s.info.Sent.Load() != 8 {
		t.Errorf("it ended with %v, %d bytes sent", err, s.info.Sent.Load())
	}
}

func TestEchoSendsBackUntilTheEnd(t *testing.T) {
	ch := mustChain(t, Deps{}, echoFilter())
	s := serve(t, ch, nil)
	s.send(strings.Repeat("x", 100_000))
	s.client.CloseWrite()
	s.expect(strings.Repeat("x", 100_000))
	if err := s.end(); err != nil || s.info.Received.Load() != 100_000 || s.info.Sent.Load() != 100_000 {
		t.Errorf("it ended with %v, %d received", err, s.info.Received.Load())
	}
}

func TestExplainListsWhereConnectionsGo(t *testing.T) {
	address := backend(t, echoes)
	reg := stats.New()
	set := clusterSet(t, reg, map[string][]string{"a": {address}}, nil)
	ch := mustChain(t, Deps{Stats: reg, Clusters: set}, exchangeFilter(), tcp("", func(p *config.TCPProxy) {
		p.Weighted = []config.WeightedCluster{{Name: "a", Weight: 3}, {Name: "b", Weight: 1}}
	}))
	want := []Verdict{
		{Filter: "mx", Type: "metadata_exchange", Reason: `passes: the negotiated protocol is "", not "istio-peer-exchange"`},
		{
			Filter: "tcp", Type: "tcp_proxy", Reason: `cluster "a" 75%, cluster "b" (there is none) 25%`,
			Clusters: []ClusterShare{{Cluster: "a", Share: .75}, {Cluster: "b", Share: .25, Missing: true}},
		},
	}
	if diff := cmp.Diff(want, ch.Explain(described())); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	if got := tcpStat(reg, "downstream_cx_total"); got != 0 {
		t.Errorf("explaining has counted %d connections", got)
	}
}

func TestStatPrefixIsSpelledAsInEnvoy(t *testing.T) {
	reg := stats.New()
	ch := mustChain(t, Deps{Stats: reg},
		&config.NetworkFilter{Name: "r", RBAC: &config.RBAC{StatPrefix: "r:x://y.", Rules: rules(config.LogOnly)}},
		&config.NetworkFilter{Name: "l", ConnectionLimit: &config.ConnectionLimit{StatPrefix: "c:x", MaxConnections: 1}},
		tcp("none", func(p *config.TCPProxy) { p.StatPrefix = "t:x://y." }))
	if err := serve(t, ch, nil).end(); err == nil {
		t.Error("it ended in order, without a cluster")
	}
	var text strings.Builder
	if err := reg.Text(&text, stats.Query{UsedOnly: true}); err != nil {
		t.Fatal(err)
	}
	want := "connection_limit.c:x.active_connections: 0\nr:x://y.rbac.allowed: 1\n" +
		"tcp.t_x_y.downstream_cx_no_route: 1\ntcp.t_x_y.downstream_cx_total: 1\n"
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

func TestAConnectionThatTheTransportSocketRefusesIsCountedAndLogged(t *testing.T) {
	reg, log := stats.New(), &recorder{}
	set := clusterSet(t, reg, map[string][]string{"app": {closedPort(t)}}, nil)
	ch := mustChain(t, Deps{Stats: reg, Clusters: set, AccessLogs: func(*config.AccessLog) (AccessLogger, error) { return log, nil }},
		tcp("app", func(c *config.TCPProxy) { c.AccessLogs = []*config.AccessLog{{}} }))
	info := &flow.Info{DownstreamFailure: "the peer presented no certificate"}
	ch.Refused(info)
	if got := log.all(); len(got) != 1 || !strings.HasPrefix(got[0], "TcpConnectionEnd") || info.End.IsZero() {
		t.Errorf("access log %q, end %s", got, info.End)
	}
	if got := tcpStat(reg, "downstream_cx_total"); got != 1 {
		t.Errorf("downstream_cx_total is %d", got)
	}
}
