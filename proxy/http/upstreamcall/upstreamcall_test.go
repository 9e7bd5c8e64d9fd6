package upstreamcall_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"outrider/certs"
	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/upstreamcall"
	"outrider/proxy/stats"
)

var _ filter.Upstream = (*upstreamcall.Calls)(nil)

// clusters runs clusters of one host each until the test ends.
func clusters(t *testing.T, byName map[string]string, http2 bool) *cluster.Set {
	t.Helper()
	limit := config.Thresholds{MaxConnections: 1024, MaxPendingRequests: 1024, MaxRequests: 1024, MaxRetries: 3}
	var cfgs []*config.Cluster
	for name, address := range byName {
		l := &config.LocalityEndpoints{Endpoints: []*config.Endpoint{{Address: config.Address{AddrPort: netip.MustParseAddrPort(address)}, Weight: 1}}}
		cfgs = append(cfgs, &config.Cluster{
			Name: name, Digest: name, ConnectTimeout: 5 * time.Second, HTTP2: http2,
			CircuitBreakers: [2]config.Thresholds{limit, limit}, LBCommon: config.LBCommon{PanicThreshold: 50},
			Assignment:      &config.Assignment{Localities: []*config.LocalityEndpoints{l}, Overprovisioning: 140},
			TransportSocket: config.TransportSocket{Name: "envoy.transport_sockets.raw_buffer"},
		})
	}
	set := cluster.NewSet(cluster.Options{Stats: stats.New(), Secrets: certs.NewStore(certs.Feeds{})})
	if err := set.Apply(cfgs); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- set.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return set
}

func calls(t *testing.T, c upstreamcall.Clusters) *upstreamcall.Calls {
	t.Helper()
	out := upstreamcall.New(c)
	t.Cleanup(func() {
		if err := out.Close(); err != nil {
			t.Error(err)
		}
	})
	return out
}

func TestRequestsGoToTheClusterWhateverTheirHostIs(t *testing.T) {
	for name, http2 := range map[string]bool{"over HTTP/1.1": false, "over HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				w.Header().Set("x-seen", r.Proto+" "+r.Method+" "+r.Host+" "+r.RequestURI+" "+r.Header.Get("x-a"))
				w.Header().Set("location", "/elsewhere")
				w.WriteHeader(http.StatusFound)
				_, _ = w.Write(body)
			}))
			server.Config.Protocols = &http.Protocols{}
			server.Config.Protocols.SetHTTP1(!http2)
			server.Config.Protocols.SetUnencryptedHTTP2(http2)
			server.Start()
			t.Cleanup(server.Close)
			const odd = "outbound|80||Odd/Name.svc" // no host of a URL
			c := calls(t, clusters(t, map[string]string{odd: server.Listener.Addr().String()}, http2))
			for i := range 2 {
				req, _ := http.NewRequestWithContext(t.Context(), "POST", "https://authz.example/check?x=1", strings.NewReader("body"))
				req.Header.Set("x-a", "1")
				if i == 1 {
					req.Host = "" // the URL's, then
				}
				resp, err := c.HTTP(odd).RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				proto := "HTTP/1.1"
				if http2 {
					proto = "HTTP/2.0"
				}
				if got, want := resp.Header.Get("x-seen"), proto+" POST authz.example /check?x=1 1"; got != want || resp.StatusCode != 302 || string(body) != "body" {
					t.Errorf("got %d %q %q, want 302 %q", resp.StatusCode, got, body, want)
				}
				if req.URL.Host != "authz.example" {
					t.Errorf("the request was changed: %s", req.URL)
				}
			}
		})
	}
}

func TestAClusterThatIsNotThereIsAnError(t *testing.T) {
	c := calls(t, clusters(t, nil, false))
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://a/", http.NoBody)
	if resp, err := c.HTTP("gone").RoundTrip(req); err == nil || !strings.Contains(err.Error(), `"gone"`) {
		t.Errorf("got %v, %v, want an error that names the cluster", resp, err)
	}
	if _, err := c.GRPC(&config.GRPCService{Target: "dns:///x"}); err == nil || !strings.Contains(err.Error(), "dns:///x") {
		t.Errorf("got %v, want an error that names the target", err)
	}
}

func TestServicesOfOneClusterShareAChannel(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var authority string
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		authority = strings.Join(md[":authority"], ",")
		return next(ctx, req)
	}))
	healthpb.RegisterHealthServer(server, health.NewServer())
	done := make(chan error)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })

	c := calls(t, clusters(t, map[string]string{"authz": l.Addr().String()}, true))
	first, err := c.GRPC(&config.GRPCService{Cluster: "authz", Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	same, _ := c.GRPC(&config.GRPCService{Cluster: "authz"})
	other, _ := c.GRPC(&config.GRPCService{Cluster: "authz", Authority: "authz.example"})
	if first != same || first == other {
		t.Errorf("equal services have channels of their own, or others share one")
	}
	for want, conn := range map[string]grpc.ClientConnInterface{"authz": first, "authz.example": other} {
		answer, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || answer.Status != healthpb.HealthCheckResponse_SERVING || authority != want {
			t.Errorf("got %v, %v with authority %q, want SERVING with %q", answer, err, authority, want)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.GRPC(&config.GRPCService{Cluster: "authz"}); err == nil {
		t.Error("a channel was made after the end")
	}
}
