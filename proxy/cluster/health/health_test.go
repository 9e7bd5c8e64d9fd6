package health

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"outrider/certs"
	"outrider/proxy/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dialTo(address string) Dial {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}
}

// check asks once, with a deadline that only a mistake meets.
func check(t *testing.T, p Probe, dial Dial) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return p.Check(ctx, dial)
}

// serve runs handle for every connection until the test ends, and counts them.
func serve(t *testing.T, handle func(net.Conn)) (string, *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	var count atomic.Int32
	wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			count.Add(1)
			wait.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wait.Wait()
	})
	return l.Addr().String(), &count
}

func tcpCheck(send string, receive ...string) *config.HealthCheck {
	cfg := &config.TCPHealthCheck{Send: []byte(send)}
	for _, r := range receive {
		cfg.Receive = append(cfg.Receive, []byte(r))
	}
	return &config.HealthCheck{TCP: cfg, ReuseConnection: true}
}

func TestTCPCheckWantsItsBytesInOrder(t *testing.T) {
	answer := func(c net.Conn) {
		buf := make([]byte, 64)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if string(buf[:n]) == "bye" {
				return
			}
			_, _ = c.Write([]byte("..PONG..v1.."))
		}
	}
	for _, test := range []struct {
		name string
		cfg  *config.HealthCheck
		want Kind
	}{
		{"connects only", tcpCheck(""), ""},
		{"one block", tcpCheck("PING", "PONG"), ""},
		{"two blocks in order", tcpCheck("PING", "PONG", "v1"), ""},
		{"the host closes", tcpCheck("bye", "PONG"), Network},
	} {
		t.Run(test.name, func(t *testing.T) {
			address, connections := serve(t, answer) // its own: a server counts when it accepts, and that may be late
			p := New(test.cfg, Target{Reuse: true})
			defer p.Close()
			for range 3 {
				if got := check(t, p, dialTo(address)); got.Kind != test.want {
					t.Errorf("result %+v, want kind %q", got, test.want)
				}
			}
			reused := len(test.cfg.TCP.Receive) > 0 && test.want == ""
			if n := connections.Load(); reused && n != 1 {
				t.Errorf("%d connections for 3 checks, want 1", n)
			}
		})
	}
}

func TestTCPCheckTimesOutOnOtherBytes(t *testing.T) {
	address, _ := serve(t, func(c net.Conn) {
		_, _ = c.Write([]byte("v1 PONG"))
		_, _ = io.Copy(io.Discard, c)
	})
	p := New(tcpCheck("", "PONG", "v1"), Target{})
	defer p.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got := p.Check(ctx, dialTo(address)); got.Kind != Timeout {
		t.Errorf("result %+v for blocks in the wrong order, want a timeout", got)
	}
}

func TestRefusedConnectionIsANetworkFailure(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for name, cfg := range map[string]*config.HealthCheck{
		"tcp": tcpCheck(""), "http": {HTTP: &config.HTTPHealthCheck{}}, "http2": {HTTP: &config.HTTPHealthCheck{HTTP2: true}},
		"grpc": {GRPC: &config.GRPCHealthCheck{}},
	} {
		p := New(cfg, Target{Cluster: "outbound|80||a"})
		if got := check(t, p, dialTo(l.Addr().String())); got.Kind != Network {
			t.Errorf("%s: result %+v, want a network failure", name, got)
		}
		p.Close()
	}
}

// web answers by path, over HTTP/1.1 and unencrypted HTTP/2.
func web(t *testing.T) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
		case "/busy":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/teapot":
			w.WriteHeader(http.StatusTeapot)
		case "/degraded":
			w.Header().Set("X-Envoy-Degraded", "1")
		case "/excluded":
			w.Header().Set("X-Envoy-Immediate-Health-Check-Fail", "1")
		case "/named":
			w.Header().Set("X-Envoy-Upstream-Healthchecked-Cluster", "orders-v1")
		case "/headers":
			if r.Header.Get("X-Probe") != "yes" || r.Header.Get("User-Agent") != userAgent || r.Method != http.MethodHead {
				w.WriteHeader(http.StatusBadRequest)
			}
		case "/body":
			_, _ = io.WriteString(w, "all is well")
		case "/endless":
			_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
		}
	}))
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func TestHTTPChecks(t *testing.T) {
	address := web(t)
	named := &certs.StringMatcher{Kind: certs.MatchPrefix, Pattern: "orders"}
	other := &certs.StringMatcher{Kind: certs.MatchPrefix, Pattern: "carts"}
	for _, test := range []struct {
		name string
		cfg  config.HTTPHealthCheck
		want Result // without Err
	}{
		{"200 is well", config.HTTPHealthCheck{Path: "/ok"}, Result{Status: 200}},
		{"503 is not", config.HTTPHealthCheck{Path: "/busy"}, Result{Kind: Active, Status: 503}},
		{"503 may be retriable", config.HTTPHealthCheck{Path: "/busy", Retriable: []config.StatusRange{{From: 500, To: 600}}},
			Result{Kind: Active, Retriable: true, Status: 503}},
		{"expected statuses", config.HTTPHealthCheck{Path: "/teapot", Expected: []config.StatusRange{{From: 418, To: 419}}}, Result{Status: 418}},
		{"expected statuses leave out 200", config.HTTPHealthCheck{Path: "/ok", Expected: []config.StatusRange{{From: 418, To: 419}}},
			Result{Kind: Active, Status: 200}},
		{"degraded", config.HTTPHealthCheck{Path: "/degraded"}, Result{Status: 200, Degraded: true}},
		{"excluded", config.HTTPHealthCheck{Path: "/excluded"}, Result{Status: 200, Exclude: true}},
		{"the right service", config.HTTPHealthCheck{Path: "/named", ServiceName: named}, Result{Status: 200, VerifiedCluster: true}},
		{"another service", config.HTTPHealthCheck{Path: "/named", ServiceName: other}, Result{Kind: Active, Status: 200, VerifiedCluster: true}},
		{"headers and method", config.HTTPHealthCheck{Path: "/headers", Method: "HEAD", Headers: [][2]string{{"x-probe", "yes"}}}, Result{Status: 200}},
		{"the body", config.HTTPHealthCheck{Path: "/body", Receive: [][]byte{[]byte("all"), []byte("well")}}, Result{Status: 200}},
		{"another body", config.HTTPHealthCheck{Path: "/body", Receive: [][]byte{[]byte("ill")}}, Result{Kind: Active, Status: 200}},
		{"an endless body is not read to its end", config.HTTPHealthCheck{Path: "/endless"}, Result{Status: 200}},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(test.name, func(t *testing.T) {
				cfg := test.cfg
				cfg.HTTP2 = h2
				p := New(&config.HealthCheck{HTTP: &cfg, ReuseConnection: true}, Target{Cluster: "a.test", Reuse: true})
				defer p.Close()
				for range 3 {
					got := check(t, p, dialTo(address))
					if (got.Err == nil) != (test.want.Kind == "") {
						t.Errorf("HTTP/2 %v: kind %q with error %v", h2, got.Kind, got.Err)
					}
					got.Err = nil
					if got != test.want {
						t.Errorf("HTTP/2 %v: result %+v, want %+v", h2, got, test.want)
					}
				}
			})
		}
	}
}

func TestHTTPCheckSaysWhoIsMeant(t *testing.T) {
	heads := make(chan string, 1)
	address, _ := serve(t, func(c net.Conn) {
		buf := make([]byte, 4096)
		n, _ := c.Read(buf)
		heads <- string(buf[:n])
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	for _, test := range []struct {
		name           string
		host, endpoint string
		want           string
	}{
		{"the cluster's name as it is", "", "", "outbound|80||a"},
		{"the configured host", "a.test", "", "a.test"},
		{"the endpoint's host first", "a.test", "b.test", "b.test"},
		{"no second line", "a.test\r\nX: y", "", "a.test  X: y"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := New(&config.HealthCheck{HTTP: &config.HTTPHealthCheck{Path: "/ok?a=b", Host: test.host, Send: []byte("ping")}},
				Target{Cluster: "outbound|80||a", Hostname: test.endpoint})
			defer p.Close()
			if got := check(t, p, dialTo(address)); got.Kind != "" {
				t.Fatalf("result %+v", got)
			}
			want := "GET /ok?a=b HTTP/1.1\r\nHost: " + test.want + "\r\nContent-Length: 4\r\nUser-Agent: Envoy/HC\r\n\r\nping"
			if got := <-heads; got != want {
				t.Errorf("request %q, want %q", got, want)
			}
		})
	}
}

func TestHTTPCheckSurvivesThatItsKeptConnectionWasClosed(t *testing.T) {
	address, connections := serve(t, func(c net.Conn) {
		// One answer that promises to go on, and then it does not.
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	p := New(&config.HealthCheck{HTTP: &config.HTTPHealthCheck{}, ReuseConnection: true}, Target{Cluster: "a", Reuse: true})
	defer p.Close()
	for range 3 {
		if got := check(t, p, dialTo(address)); got.Kind != "" {
			t.Errorf("result %+v", got)
		}
	}
	if n := connections.Load(); n != 3 {
		t.Errorf("%d connections, want 3", n)
	}
}

func TestGarbageForHTTPIsAFailure(t *testing.T) {
	address, _ := serve(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "SSH-2.0-x\r\n\r\n")
	})
	for _, h2 := range []bool{false, true} {
		p := New(&config.HealthCheck{HTTP: &config.HTTPHealthCheck{HTTP2: h2}}, Target{Cluster: "a"})
		if got := check(t, p, dialTo(address)); got.Kind == "" {
			t.Errorf("HTTP/2 %v: garbage is healthy: %+v", h2, got)
		}
		p.Close()
	}
}

func TestGRPCCheckWantsServing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv, status := grpc.NewServer(), grpchealth.NewServer()
	healthpb.RegisterHealthServer(srv, status)
	status.SetServingStatus("up", healthpb.HealthCheckResponse_SERVING)
	status.SetServingStatus("down", healthpb.HealthCheckResponse_NOT_SERVING)
	var wait sync.WaitGroup
	wait.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() {
		srv.Stop()
		wait.Wait()
	})
	for service, want := range map[string]Kind{"": "", "up": "", "down": Active, "unknown": Active} {
		for _, reuse := range []bool{true, false} {
			p := New(&config.HealthCheck{GRPC: &config.GRPCHealthCheck{Service: service}, ReuseConnection: reuse},
				Target{Cluster: "outbound|80||a", Reuse: true})
			for range 2 {
				if got := check(t, p, dialTo(l.Addr().String())); got.Kind != want {
					t.Errorf("service %q: result %+v, want kind %q", service, got, want)
				}
			}
			p.Close()
		}
	}
}

func FuzzHTTPAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\nConnection: close\r\n\r\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		p := New(&config.HealthCheck{HTTP: &config.HTTPHealthCheck{Receive: [][]byte{[]byte("ok")}}, ReuseConnection: true}, Target{Cluster: "a", Reuse: true})
		defer p.Close()
		// No answer may panic or hang; what is not an answer is no success.
		got := p.Check(t.Context(), func(context.Context) (net.Conn, error) { return &script{answer: answer}, nil })
		if got.Kind == "" && !strings.Contains(string(answer), "200") {
			t.Errorf("success from %q", answer)
		}
	})
}

// script is a connection that says answer and ends.
type script struct {
	net.Conn
	answer []byte
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.answer) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.answer)
	s.answer = s.answer[n:]
	return n, nil
}
func (*script) Write(p []byte) (int, error) { return len(p), nil }
func (*script) Close() error                { return nil }
func (*script) SetDeadline(time.Time) error { return nil }
