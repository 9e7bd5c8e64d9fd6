package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"outrider/proxy/istio/peer"
)

func TestTwoProxiesCountRequestsWithBothWorkloads(t *testing.T) {
	m := newMesh(t)
	resp := asked(t, m.client, "http")
	if resp.StatusCode != 202 || resp.Header.Get("x-envoy-peer-metadata") != "" {
		t.Errorf("status %d, %v", resp.StatusCode, resp.Header)
	}
	if got := <-m.seen; got.Get("x-envoy-peer-metadata") != "" || got.Get("x-envoy-peer-metadata-id") != "" {
		t.Errorf("the application gets %v", got)
	}
	both := []string{
		`source_workload="client-workload"`, `source_canonical_service="client-svc"`, `source_canonical_revision="r1"`, `source_app="client-app"`, `source_version="v1"`, `source_cluster="k8s"`,
		`source_principal="spiffe://td/ns/client-ns/sa/client"`, `destination_principal="spiffe://td/ns/server-ns/sa/server"`,
		`destination_workload="server-workload"`, `destination_canonical_service="server-svc"`, `destination_app="server-app"`,
		`destination_service="web.shop.svc.cluster.local"`, `destination_service_name="web"`,
		`request_protocol="http"`, `response_code="202"`, `response_flags="-"`,
	}
	for _, name := range []string{"istio_requests_total", "istio_request_duration_milliseconds_count", "istio_request_bytes_count", "istio_response_bytes_count"} {
		counts(t, m.client, name, append(both, `reporter="source"`, `source_workload_namespace="client-claimed"`, `destination_workload_namespace="server-ns"`, `destination_service_namespace="shop"`, `connection_security_policy="unknown"`, "} 1")...)
		counts(t, m.server, name, append(both, `reporter="destination"`, `source_workload_namespace="client-ns"`, `destination_workload_namespace="server-claimed"`, `destination_service_namespace="server-claimed"`, `connection_security_policy="mutual_tls"`, "} 1")...)
	}
	counts(t, m.server, "istio_build", `component="proxy"`, `tag="1.30.0"`, "} 1")
	if text := m.server.get("/stats?filter=istio_requests"); !strings.Contains(text, "istiocustom.istio_requests_total.reporter.destination.source_workload.client-workload.") {
		t.Errorf("/stats says\n%s", text)
	}
	for r, want := range map[*running]string{m.server: `202 {"app":"client-app",`, m.client: "202 - server-workload\n"} {
		r.eventually("access log with "+want, func() bool {
			b, _ := os.ReadFile(filepath.Join(r.dir, "access.log"))
			return strings.Contains(string(b), want)
		})
	}
}

func TestWithoutAPeerItIsUnknown(t *testing.T) {
	m := newMesh(t)
	asked(t, m.server, "plain")
	<-m.seen
	counts(t, m.server, "istio_requests_total", `source_workload="unknown"`, `source_canonical_revision="latest"`, `source_principal="unknown"`, `source_workload_namespace="unknown"`, `connection_security_policy="none"`, "} 1")
	asked(t, m.client, "world")
	counts(t, m.client, "istio_requests_total", `destination_workload="unknown"`, `destination_service="web.shop"`, `destination_service_name="PassthroughCluster"`, `destination_principal="unknown"`, "} 1")
	if got := <-m.seen; got.Get("x-envoy-peer-metadata") == "" {
		t.Errorf("the world gets %v, and Istio tells it where skip_external_clusters does not forbid it", got)
	}
}

func TestBytesAreThoseOnTheWire(t *testing.T) {
	m := newMesh(t)
	c, err := net.Dial("tcp", m.server.Listening("plain")[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const request = "POST /x HTTP/1.1\r\nHost:   web.shop\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
	fmt.Fprint(c, request)
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	counts(t, m.server, "istio_request_bytes_sum", fmt.Sprintf("} %d", len(request)))
	counts(t, m.server, "istio_response_bytes_sum", fmt.Sprintf("} %d", len(answer)))
}

// A client outside may say what it will: it is heard as far as telemetry goes,
// and proves nothing by it.
func TestAnOutsiderCannotClaimAPrincipalOrBreakAnything(t *testing.T) {
	m := newMesh(t)
	liar := peer.Workload{Name: "admin", Namespace: "kube-system", Identity: "spiffe://td/ns/kube-system/sa/admin"}
	header, err := liar.Header()
	if err != nil {
		t.Fatal(err)
	}
	asked(t, m.server, "plain", "x-envoy-peer-metadata", header, "x-envoy-peer-metadata-id", "sidecar~client")
	if got := <-m.seen; got.Get("x-envoy-peer-metadata") != "" || got.Get("x-envoy-peer-metadata-id") != "" {
		t.Errorf("the application gets %v", got)
	}
	counts(t, m.server, "istio_requests_total", `source_workload="admin"`, `source_principal="unknown"`, `connection_security_policy="none"`, "} 1")
	for _, nonsense := range []string{"%%%", strings.Repeat("A", 20<<10), "Cg"} {
		if resp := asked(t, m.server, "plain", "x-envoy-peer-metadata", nonsense); resp.StatusCode != 202 {
			t.Errorf("nonsense is answered %d", resp.StatusCode)
		}
		<-m.seen
	}
	counts(t, m.server, "istio_requests_total", `source_workload="unknown"`, "} 3")
}

func TestTwoProxiesCountConnectionsWithBothWorkloads(t *testing.T) {
	m := newMesh(t)
	c, err := net.Dial("tcp", m.client.Listening("tcp")[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "12345\n")
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "12345\n" {
		t.Fatalf("echo %q, %v", line, err)
	}
	both := []string{
		`source_workload="client-workload"`, `destination_workload="server-workload"`, `source_principal="spiffe://td/ns/client-ns/sa/client"`,
		`destination_principal="spiffe://td/ns/server-ns/sa/server"`, `destination_service="web.shop.svc.cluster.local"`, `request_protocol="tcp"`, `response_flags="-"`,
	}
	for side, r := range map[string]*running{`reporter="source"`: m.client, `reporter="destination"`: m.server} {
		counts(t, r, "istio_tcp_connections_opened_total", append(both, side, "} 1")...)
		counts(t, r, "istio_tcp_received_bytes_total", append(both, side, "} 6")...)
		counts(t, r, "istio_tcp_sent_bytes_total", append(both, side, "} 6")...)
		if lines := metric(r, "istio_tcp_connections_closed_total"); lines != nil {
			t.Errorf("%s: an open connection is closed: %q", side, lines)
		}
	}
	c.Close()
	for side, r := range map[string]*running{`reporter="source"`: m.client, `reporter="destination"`: m.server} {
		counts(t, r, "istio_tcp_connections_closed_total", append(both, side, "} 1")...)
	}
}

func TestTwoProxiesCountTheMessagesOfACall(t *testing.T) {
	m := newMesh(t)
	addr := m.client.Listening("grpc")[0].String()
	transport := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, _ string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	defer transport.CloseIdleConnections()
	body, messages := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://web.shop/S/M", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("content-type", "application/grpc")
	go func() { _, _ = messages.Write(make([]byte, 3*5)) }()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	sides := map[string]*running{`reporter="source"`: m.client, `reporter="destination"`: m.server}
	both := []string{`source_workload="client-workload"`, `destination_workload="server-workload"`, `destination_service="web.shop.svc.cluster.local"`}
	for side, r := range sides { // the call goes on
		counts(t, r, "istio_request_messages_total", append(both, side, "} 3")...)
		counts(t, r, "istio_response_messages_total", append(both, side, "} 6")...)
	}
	_, _ = messages.Write(make([]byte, 5))
	messages.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	for side, r := range sides {
		counts(t, r, "istio_request_messages_total", append(both, side, "} 4")...)
		counts(t, r, "istio_response_messages_total", append(both, side, "} 8")...)
		counts(t, r, "istio_requests_total", append(both, side, `request_protocol="grpc"`, `response_code="200"`, `grpc_response_status="7"`, "} 1")...)
	}
}

func TestAConnectionWhosePeerIsMuteOrNoneOfTheMeshIsCounted(t *testing.T) {
	m := newMesh(t)
	c, err := net.Dial("tcp", m.client.Listening("mute")[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	counts(t, m.client, "istio_tcp_connections_opened_total", `destination_workload="unknown"`, `destination_principal="spiffe://td/ns/server-ns/sa/server"`, `destination_workload_namespace="server-ns"`, "} 1")
	counts(t, m.server, "istio_tcp_connections_opened_total", `source_workload="unknown"`, `source_principal="spiffe://td/ns/client-ns/sa/client"`, `source_workload_namespace="client-ns"`, "} 1")

	outside, err := net.Dial("tcp", m.server.Listening("tcp")[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	fmt.Fprint(outside, "no TLS at all")
	_, _ = io.Copy(io.Discard, outside)
	counts(t, m.server, "istio_tcp_connections_closed_total", `source_principal="unknown"`, `connection_security_policy="none"`, `source_workload="unknown"`, "} 1")
}
