package cluster

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
)

func TestRemovedClusterDrainsThenItsMetricsGo(t *testing.T) {
	address := echo(t)
	opts := Options{Stats: stats.New()}
	s := setOf(t, opts, cfgOf("a", func(c *config.Cluster) { c.Assignment = endpoints(address) }))
	c := s.Get("a")
	conn, err := c.Connect(t.Context(), Request{})
	if err != nil {
		t.Fatal(err)
	}
	s.Remove("a")
	if s.Get("a") != nil {
		t.Error("the removed cluster is still there")
	}
	var end *flow.EndError
	if _, err := c.Connect(t.Context(), Request{}); !errors.As(err, &end) || end.Flags != flow.NoClusterFound {
		t.Errorf("connect over a removed cluster: %v, want NC", err)
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Error("the open connection was cut: ", err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Error("the open connection was cut: ", err)
	}
	if n := counter(opts, "a", "upstream_cx_total"); n != 1 {
		t.Errorf("upstream_cx_total %d while draining, want 1", n)
	}
	conn.Close()
	if n := counter(opts, "a", "upstream_cx_total"); n != 0 {
		t.Errorf("upstream_cx_total %d after the last connection, want a new counter", n)
	}
}

func TestARefusedUpdateChangesNothing(t *testing.T) {
	s := setOf(t, Options{}, cfgOf("a", nil))
	before := s.Get("a")
	for name, cfgs := range map[string][]*config.Cluster{
		"two of a name": {cfgOf("b", nil), cfgOf("b", nil)},
		"a name in a static cluster": {cfgOf("b", func(c *config.Cluster) {
			c.Assignment = &config.Assignment{Localities: []*config.LocalityEndpoints{{
				Endpoints: []*config.Endpoint{{Address: config.Address{Host: "a.test", Port: 80}}}}}}
		})},
		"two health checks": {cfgOf("b", func(c *config.Cluster) { c.HealthChecks = make([]*config.HealthCheck, 2) })},
	} {
		if err := s.Apply(cfgs); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if s.Get("a") != before || s.Get("b") != nil {
			t.Errorf("%s: the set has changed", name)
		}
	}
}

func TestReplacingAClusterUnderLoadFailsNoConnection(t *testing.T) {
	address := echo(t)
	version := func(i int) *config.Cluster {
		return cfgOf("a", func(c *config.Cluster) {
			c.Assignment = endpoints(address)
			c.Digest = fmt.Sprint(i)
		})
	}
	opts := Options{Stats: stats.New()}
	s := setOf(t, opts, version(0))
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for range 100 {
				c := s.Get("a")
				runtime.Gosched()
				conn, err := c.Connect(t.Context(), Request{})
				if err != nil {
					t.Error(err)
					return
				}
				conn.Close()
			}
		})
	}
	for i := range 200 {
		if err := s.Apply([]*config.Cluster{version(i + 1)}); err != nil {
			t.Error(err)
		}
	}
	wait.Wait()
	if n := gauge(opts, "a", "upstream_cx_active"); n != 0 {
		t.Errorf("upstream_cx_active %d at the end, want 0", n)
	}
	if n := counter(opts, "a", "upstream_cx_total"); n != 400 {
		t.Errorf("upstream_cx_total %d over all versions, want 400", n)
	}
}

// A request's connection is made some time after its host was chosen.
func TestAClusterIsReplacedBetweenAChoiceAndItsConnection(t *testing.T) {
	address := echo(t)
	version := func(digest string) *config.Cluster {
		return cfgOf("a", func(c *config.Cluster) { c.Assignment, c.Digest = endpoints(address), digest })
	}
	opts := Options{Stats: stats.New()}
	s := setOf(t, opts, version("1"))
	connect := func(change func()) (*Conn, error) {
		c := s.Get("a")
		h, err := c.Choose(&Request{})
		if err != nil || !c.AdmitConn(h, false, true) {
			t.Fatal(err)
		}
		change()
		return c.ConnectHost(t.Context(), h, Request{}, false)
	}
	conn, err := connect(func() {
		for _, digest := range []string{"2", "3"} {
			if err := s.Apply([]*config.Cluster{version(digest)}); err != nil {
				t.Fatal(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Remove("a")
	if n := gauge(opts, "a", "upstream_cx_active"); n != 1 {
		t.Errorf("upstream_cx_active %d, want 1", n)
	}
	conn.Close()
	if n := counter(opts, "a", "upstream_cx_total"); n != 0 {
		t.Errorf("upstream_cx_total %d after the last connection, want a new counter", n)
	}

	s = setOf(t, opts, version("4"))
	var end *flow.EndError
	if _, err := connect(func() { s.Remove("a") }); !errors.As(err, &end) || end.Flags != flow.NoClusterFound {
		t.Errorf("connect over a removed cluster: %v, want NC", err)
	}
}

func TestCloseConnectionsOnHealthFailure(t *testing.T) {
	address := echo(t)
	s := setOf(t, Options{}, cfgOf("a", func(c *config.Cluster) {
		c.Type, c.EDS = config.EDSType, &config.EDS{ServiceName: "svc"}
		c.CloseOnHealthFailure = true
	}))
	s.SetAssignment("svc", endpoints(address))
	conn, err := s.Get("a").Connect(t.Context(), Request{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sick := endpoints(address)
	sick.Localities[0].Endpoints[0].Health = config.Unhealthy
	s.SetAssignment("svc", sick)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read %v, want the connection closed", err)
	}
}

func TestUnixSocketEndpoint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := setOf(t, Options{}, cfgOf("a", func(c *config.Cluster) {
		c.Assignment = endpoints("127.0.0.1:1")
		c.Assignment.Localities[0].Endpoints[0].Address = config.Address{Pipe: path}
	}))
	info := &flow.Info{}
	conn, err := s.Get("a").Connect(t.Context(), Request{Info: info})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if got := info.UpstreamHost.String(); got != path {
		t.Errorf("UpstreamHost %s, want %s", got, path)
	}
}

func TestFreebindAndSocketOptionsReachTheSocket(t *testing.T) {
	address := echo(t)
	s := setOf(t, Options{}, cfgOf("a", func(c *config.Cluster) {
		c.Assignment = endpoints(address)
		c.Keepalive = &config.Keepalive{Probes: 7, Time: 11 * time.Second, Interval: 13 * time.Second}
		c.Bind.Options = []config.SocketOption{{Level: 1, Name: 8, Int: 70000}} // SOL_SOCKET, SO_RCVBUF
	}))
	conn, err := s.Get("a").Connect(t.Context(), Request{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw := conn.Conn.(interface{ NetConn() net.Conn }).NetConn().(*net.TCPConn)
	for _, test := range []struct {
		name         string
		level, which int
		want         int
	}{{"TCP_KEEPCNT", 6, 6, 7}, {"TCP_KEEPIDLE", 6, 4, 11}, {"TCP_KEEPINTVL", 6, 5, 13}, {"SO_RCVBUF, doubled by the kernel", 1, 8, 140000}} {
		if got := sockopt(t, raw, test.level, test.which); got != test.want {
			t.Errorf("%s %d, want %d", test.name, got, test.want)
		}
	}
}

func TestTenThousandClustersAreCheap(t *testing.T) {
	cfgs := make([]*config.Cluster, 10000)
	for i := range cfgs {
		cfgs[i] = cfgOf(fmt.Sprintf("outbound|80||s%d.ns.svc.cluster.local", i), func(c *config.Cluster) {
			c.Assignment = endpoints("10.0.0.1:80", "10.0.0.2:80")
		})
	}
	goroutines := runtime.NumGoroutine()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := NewSet(Options{Stats: stats.New(), Secrets: certs.NewStore(certs.Feeds{})})
	if err := s.Apply(cfgs); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := runtime.NumGoroutine() - goroutines; n > 0 {
		t.Errorf("%d goroutines for clusters with nothing to do", n)
	}
	each := (after.HeapAlloc - before.HeapAlloc) / uint64(len(cfgs))
	t.Logf("%d bytes for each of 10000 clusters", each)
	if each > 16<<10 {
		t.Errorf("%d bytes for each cluster, want 16 KiB at most", each)
	}
	runtime.KeepAlive(s)
}

func TestStatNamesHaveNoColons(t *testing.T) {
	for in, want := range map[string]string{
		"outbound|80||a.b": "outbound|80||a.b", "a:b": "a_b", "http://x": "http_x", "x:/y": "x_y",
	} {
		if got := statName(&config.Cluster{Name: in}); got != want {
			t.Errorf("statName(%q) = %q, want %q", in, got, want)
		}
	}
	if got := statName(&config.Cluster{Name: "a", AltStatName: "b"}); got != "b" {
		t.Errorf("statName with alt_stat_name b = %q", got)
	}
}

func TestErrorsSayWhatWasRefused(t *testing.T) {
	closed := closedPort(t)
	s := setOf(t, Options{}, cfgOf("a", func(c *config.Cluster) { c.Assignment = endpoints(closed) }))
	info := &flow.Info{}
	_, err := s.Get("a").Connect(t.Context(), Request{Info: info})
	if err == nil || !strings.Contains(err.Error(), `cluster "a": connect to `+closed) {
		t.Errorf("error %v", err)
	}
	if want := "delayed connect error: Connection refused"; info.UpstreamFailure != want {
		t.Errorf("UpstreamFailure %q, want %q", info.UpstreamFailure, want)
	}
	if info.UpstreamAttempts != 1 {
		t.Errorf("UpstreamAttempts %d, want 1", info.UpstreamAttempts)
	}
}
