package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"outrider/proxy/config"
	"outrider/proxy/config/decode"
)

// requestRig is a server with a connection manager before an origin, over both
// protocols on either side.
type requestRig struct {
	*running
	seen atomic.Int64 // requests that the origin had
}

func runRequests(t *testing.T, routes, clusters string) *requestRig {
	t.Helper()
	return runFilters(t, "", Options{}, routes, clusters)
}

// runFilters has HTTP filters (YAML, each with a comma after it) before the
// router.
func runFilters(t *testing.T, filters string, o Options, routes, clusters string) *requestRig {
	t.Helper()
	r := &requestRig{}
	origin := httptest.NewUnstartedServer(http.HandlerFunc(r.answer))
	origin.Config.Protocols = new(http.Protocols)
	origin.Config.Protocols.SetHTTP1(true)
	origin.Config.Protocols.SetUnencryptedHTTP2(true)
	origin.Start()
	t.Cleanup(origin.Close)
	host, port, _ := net.SplitHostPort(origin.Listener.Addr().String())
	cluster := func(name, more string) string {
		return fmt.Sprintf(`
  - {name: %s, type: STATIC, connect_timeout: 1s, load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]}%s}`, name, name, host, port, more)
	}
	boot, err := decode.Bootstrap([]byte(`
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
node: {id: test, cluster: test}
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          http_filters: [`+filters+`{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [`+routes+`]
  clusters:`+cluster("h1", clusters)+cluster("h2", `, typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}`+clusters)), decode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o.DrainTime = time.Second
	s, err := New(boot, o)
	if err != nil {
		t.Fatal(err)
	}
	r.running = start(t, s, t.TempDir())
	return r
}

// answer is the origin: it echoes the body, or does as its path says.
func (r *requestRig) answer(w http.ResponseWriter, req *http.Request) {
	n := r.seen.Add(1)
	switch {
	case strings.HasSuffix(req.URL.Path, "/abort"):
		panic(http.ErrAbortHandler)
	case strings.HasSuffix(req.URL.Path, "/slow"):
		_, _ = io.Copy(io.Discard, req.Body) // before that net/http does not see the end of a connection
		select {
		case <-req.Context().Done():
		case <-time.After(time.Minute):
		}
	case strings.HasSuffix(req.URL.Path, "/odd") && n%2 == 1:
		w.WriteHeader(503)
	case strings.HasSuffix(req.URL.Path, "/stream"):
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, req.Body)
	default: // net/http answers no HTTP/1 request while it is still coming
		body, err := io.ReadAll(req.Body)
		if err == nil {
			_, _ = w.Write(body)
		}
	}
}

// clients speak each protocol to the listener.
func (r *requestRig) clients() map[string]*http.Client {
	addr := r.Listening("l")[0].String()
	two := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, _ string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	one := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	r.t.Cleanup(func() { two.CloseIdleConnections(); one.CloseIdleConnections() })
	return map[string]*http.Client{"HTTP/1": {Transport: one, Timeout: patience}, "HTTP/2": {Transport: two, Timeout: patience}}
}

// gauge is a metric's value by its line in /stats.
func (r *requestRig) gauge(name string) string {
	return strings.TrimSpace(strings.TrimPrefix(r.get("/stats?filter=^"+strings.ReplaceAll(name, ".", `\.`)+"$"), name+":"))
}

const bothProtocols = `
{match: {prefix: /h1/short}, route: {cluster: h1, timeout: 0.05s}}, {match: {prefix: /h2/short}, route: {cluster: h2, timeout: 0.05s}},
{match: {prefix: /h1}, route: {cluster: h1, retry_policy: {retry_on: "5xx,reset", num_retries: 2, retry_back_off: {base_interval: 0.001s}}}},
{match: {prefix: /h2}, route: {cluster: h2, retry_policy: {retry_on: "5xx,reset", num_retries: 2, retry_back_off: {base_interval: 0.001s}}}}
`

// Requests of every kind at once, given up in every state: each that is not
// gets its answer, and nothing is left behind.
func TestManyRequestsAtOnceLeaveNothingBehind(t *testing.T) {
	r := runRequests(t, bothProtocols, "")
	var wait sync.WaitGroup
	for name, client := range r.clients() {
		for i := range 16 {
			wait.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(i), 1))
				for range 40 {
					r.oneOf(t, name, client, rnd)
				}
			})
		}
	}
	wait.Wait()
	for _, name := range []string{
		"http.in.downstream_rq_active", "cluster.h1.upstream_rq_active", "cluster.h2.upstream_rq_active",
		"cluster.h1.upstream_rq_pending_active", "cluster.h2.upstream_rq_pending_active",
		"cluster.h1.circuit_breakers.default.rq_retry_open",
	} {
		r.eventually(name+" 0", func() bool {
			v := r.gauge(name)
			if v != "0" {
				t.Log(name, v)
			}
			return v == "0"
		})
	}
}

// oneOf makes a request of some kind and checks its answer.
func (r *requestRig) oneOf(t *testing.T, name string, client *http.Client, rnd *rand.Rand) {
	up := []string{"/h1", "/h2"}[rnd.IntN(2)]
	kind := rnd.IntN(6)
	path := up + []string{"/echo", "/echo", "/odd", "/abort", "/short/slow", "/slow"}[kind]
	body := bytes.Repeat([]byte("x"), rnd.IntN(3)*rnd.IntN(200_000))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://a.example"+path, bytes.NewReader(body))
	if err != nil {
		t.Error(err)
		return
	}
	// An answer that comes before its request is complete ends the connection, which
	// a client may be about to use again: then it tries again.
	req.Header.Set("Idempotency-Key", "test")
	if kind == 5 {
		time.AfterFunc(time.Duration(rnd.IntN(30))*time.Millisecond, cancel)
	}
	resp, err := client.Do(req)
	if err != nil {
		if kind < 4 {
			t.Errorf("%s %s: %v", name, path, err)
		}
		return
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	switch kind {
	case 0, 1:
		if resp.StatusCode != 200 || len(got) != len(body) || err != nil {
			t.Errorf("%s %s: status %d, %d of %d bytes, %v", name, path, resp.StatusCode, len(got), len(body), err)
		}
	case 3:
		if resp.StatusCode != 503 {
			t.Errorf("%s %s: status %d", name, path, resp.StatusCode)
		}
	case 4:
		if resp.StatusCode != 504 {
			t.Errorf("%s %s: status %d: %s", name, path, resp.StatusCode, got)
		}
	}
}

// What a slow reader does not take stays with the sender: the proxy holds no
// more than its windows and buffers.
func TestASlowReaderHoldsTheSenderBack(t *testing.T) {
	r := runRequests(t, `{match: {prefix: /}, route: {cluster: h1, timeout: 0s}}`, "")
	sent := new(atomic.Int64)
	c, err := net.Dial("tcp", r.Listening("l")[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { // the origin sends back what it gets, and nobody reads it
		fmt.Fprintf(c, "POST /stream HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", 1<<30)
		chunk := make([]byte, 64<<10)
		for {
			n, err := c.Write(chunk)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	r.eventually("the sender stands still", func() bool {
		before := sent.Load()
		time.Sleep(300 * time.Millisecond)
		return before > 0 && sent.Load() == before
	})
	if n := sent.Load(); n > 64<<20 {
		t.Errorf("%d MB were taken though nobody reads", n>>20)
	}
}

// A connection that drains ends after the request that is on it.
func TestDrainingEndsConnectionsAfterTheirRequest(t *testing.T) {
	r := runRequests(t, `{match: {prefix: /}, route: {cluster: h1}}`, "")
	for name, client := range r.clients() {
		ask := func() error {
			resp, err := client.Post("http://a.example/echo", "text/plain", strings.NewReader("hi"))
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); string(b) != "hi" || err != nil {
				return fmt.Errorf("%q, %v", b, err)
			}
			return nil
		}
		if err := ask(); err != nil {
			t.Fatal(name, err)
		}
	}
	if r.gauge("http.in.downstream_cx_active") != "2" {
		t.Fatal("there are not two connections")
	}
	r.listeners.drainConnections(func(*config.Listener) bool { return true })
	for _, client := range r.clients() { // HTTP/1 hears of it with its next answer
		resp, err := client.Get("http://a.example/echo")
		if err == nil {
			resp.Body.Close()
		}
	}
	r.eventually("the connections end", func() bool { return r.gauge("http.in.downstream_cx_http2_active") == "0" })
}

// A transport socket that says nothing of ALPN offers what the pool speaks.
func TestPoolsOfferTheirProtocolWhereNobodyElseDoes(t *testing.T) {
	origin := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		fmt.Fprintf(w, "%s over %q", req.Proto, req.TLS.NegotiatedProtocol)
	}))
	origin.EnableHTTP2 = true
	origin.TLS = &tls.Config{NextProtos: []string{"h2", "http/1.1"}}
	origin.StartTLS()
	t.Cleanup(origin.Close)
	host, port, _ := net.SplitHostPort(origin.Listener.Addr().String())
	for mode, want := range map[string]string{
		"explicit_http_config: {http2_protocol_options: {}}":                                      `HTTP/2.0 over "h2"`,
		"explicit_http_config: {http_protocol_options: {}}":                                       `HTTP/1.1 over "http/1.1"`,
		"auto_config: {http_protocol_options: {}, http2_protocol_options: {}}":                    `HTTP/2.0 over "h2"`,
		"use_downstream_protocol_config: {http_protocol_options: {}, http2_protocol_options: {}}": `HTTP/1.1 over "http/1.1"`,
	} {
		t.Run(mode, func(t *testing.T) {
			boot, err := decode.Bootstrap([]byte(fmt.Sprintf(`
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
node: {id: test, cluster: test}
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: up}}]}]}
  clusters:
  - name: up
    type: STATIC
    connect_timeout: 1s
    load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]}
    typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, %s}}
    transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}}
`, host, port, mode)), decode.Options{})
			if err != nil {
				t.Fatal(err)
			}
			s, err := New(boot, Options{})
			if err != nil {
				t.Fatal(err)
			}
			r := start(t, s, t.TempDir())
			resp, err := http.Get("http://" + r.Listening("l")[0].String() + "/")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); string(body) != want || err != nil {
				t.Errorf("the origin saw %q, %v, want %q", body, err, want)
			}
		})
	}
}
