//go:build envoy

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"outrider/proxy/http/h1/h1test"
)

// wireProxy is Envoy's connection manager for HTTP/1 before one upstream.
func wireProxy(t *testing.T, upstream string) *running {
	return start(t, envoy, t.TempDir(), `
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains: [{filters: [{name: hcm, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
      stat_prefix: h, codec_type: HTTP1,
      access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: access.log, log_format: {text_format_source: {inline_string: "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS%\n"}}}}],
      route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [
        {match: {connect_matcher: {}}, route: {cluster: up, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}},
        {match: {prefix: /}, route: {cluster: up}}]}]},
      http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}]
  clusters:`+static("up", upstream, "")).ready()
}

// wireAsk sends bytes and returns the status of the answer, 0 if none comes.
func wireAsk(t *testing.T, addr, method, text string) int {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	go io.WriteString(c, text) // it may be refused before it is through
	r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return 0
	}
	return r.StatusCode
}

// What h1test says of Envoy is what Envoy does: it answers each row as told, or
// takes what is marked as lenient.
func TestEnvoyRefusesRequestsAsTold(t *testing.T) {
	app := serve(t, func(c net.Conn) { wireApp(c, nil) })
	p := wireProxy(t, app)
	for _, row := range h1test.Refusals() {
		t.Run(row.Name, func(t *testing.T) {
			before := wireLog(p)
			got := wireAsk(t, p.addr("in"), "GET", row.Bytes)
			if (got == row.Status) == row.Lenient {
				t.Fatalf("Envoy answers %d; we answer %d, and it is marked as lenient: %v", got, row.Status, row.Lenient)
			}
			if row.Lenient {
				return
			}
			want := fmt.Sprintf("%d %s\n", row.Status, row.Details)
			p.wait("its access log", func() bool { return len(wireLog(p)) > len(before) })
			if line := wireLog(p)[len(before):]; !strings.Contains(line, want) {
				t.Errorf("Envoy logs %q, want %q", line, want)
			}
		})
	}
}

func wireLog(p *running) string {
	b, _ := os.ReadFile(filepath.Join(p.dir, "access.log"))
	return string(b)
}

// wireApp is an upstream: it reads whole requests and answers each with what
// say returns, or with 200.
func wireApp(c net.Conn, say func() h1test.Response) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		x := h1test.Response{Bytes: "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"}
		if say != nil {
			x = say()
		}
		if _, err := io.WriteString(c, x.Bytes); err != nil || x.FIN {
			return
		}
	}
}

func TestEnvoyTakesResponsesAsTold(t *testing.T) {
	var now atomic.Pointer[h1test.Response]
	app := serve(t, func(c net.Conn) { wireApp(c, func() h1test.Response { return *now.Load() }) })
	p := wireProxy(t, app)
	for _, row := range h1test.Responses() {
		t.Run(row.Name, func(t *testing.T) {
			now.Store(&row)
			want, _ := strconv.Atoi(strings.Fields(row.Want)[0])
			switch {
			case strings.HasPrefix(row.Want, " reset=3"):
				want = 502
			case strings.HasPrefix(row.Want, " reset=7"):
				want = 503
			}
			got := wireAsk(t, p.addr("in"), row.Method, row.Method+" / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			if (got == want) == row.Lenient {
				t.Errorf("Envoy answers %d; we make %q of it, and it is marked as lenient: %v", got, row.Want, row.Lenient)
			}
		})
	}
}
