package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outrider/certs/ca"
	"outrider/proxy/config/decode"
)

// The filters as istiod sends them.
const (
	statsFilter   = `{name: istio.stats, typed_config: {"@type": type.googleapis.com/stats.PluginConfig%s}}`
	exchangeInTCP = `{name: istio.metadata_exchange, typed_config: {"@type": type.googleapis.com/udpa.type.v1.TypedStruct, type_url: type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange, value: {protocol: istio-peer-exchange, enable_discovery: true}}}`
	exchangeOf    = `{name: istio.metadata_exchange, typed_config: {"@type": type.googleapis.com/udpa.type.v1.TypedStruct, type_url: type.googleapis.com/io.istio.http.peer_metadata.Config, value: {%s}}}`
	exchangeIn    = `downstream_discovery: [{istio_headers: {}}, {workload_discovery: {}}], downstream_propagation: [{istio_headers: {}}]`
	exchangeOut   = `upstream_discovery: [{istio_headers: {}}, {workload_discovery: {}}], upstream_propagation: [{istio_headers: {}}]`
)

// sidecar is a proxy of a mesh in a test: its node, and the directory of its
// certificate.
type sidecar struct{ name, dir string }

// newSidecar has a certificate with the identity of ns/NAME-ns/sa/NAME.
func newSidecar(t *testing.T, authority *ca.CA, name string) sidecar {
	t.Helper()
	s := sidecar{name, t.TempDir()}
	leaf, err := authority.Issue(ca.Leaf{ID: s.identity()})
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string][]byte{"cert.pem": leaf.ChainPEM, "key.pem": leaf.KeyPEM, "root.pem": authority.RootPEM()} {
		if err := os.WriteFile(filepath.Join(s.dir, file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s sidecar) identity() string { return "spiffe://td/ns/" + s.name + "-ns/sa/" + s.name }

// tls is a common_tls_context that trusts peers of the mesh.
func (s sidecar) tls(alpn string) string {
	return fmt.Sprintf(`common_tls_context: {alpn_protocols: [%[2]s], tls_certificates: [{certificate_chain: {filename: %[1]s/cert.pem}, private_key: {filename: %[1]s/key.pem}}], `+
		`validation_context: {trusted_ca: {filename: %[1]s/root.pem}, match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: spiffe://td/}}]}}`, s.dir, alpn)
}

// run runs the proxy; listeners and clusters are YAML.
func (s sidecar) run(t *testing.T, listeners, clusters string) *running {
	t.Helper()
	boot, err := decode.Bootstrap([]byte(fmt.Sprintf(`
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
node:
  id: sidecar~%[1]s
  metadata: {WORKLOAD_NAME: %[1]s-workload, NAMESPACE: %[1]s-claimed, CLUSTER_ID: k8s, ISTIO_VERSION: 1.30.0, OWNER: kubernetes://apis/apps/v1/namespaces/x/deployments/%[1]s-workload,
    LABELS: {app: %[1]s-app, version: v1, service.istio.io/canonical-name: %[1]s-svc, service.istio.io/canonical-revision: r1}}
static_resources:
  listeners:%[2]s
  clusters:%[3]s
`, s.name, listeners, clusters)), decode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := New(boot, Options{DrainTime: time.Second, FlushInterval: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return start(t, proxy, s.dir)
}

// listener is YAML of one; socket is its chain's transport socket.
func (s sidecar) listener(name, direction, socket, filters string) string {
	return fmt.Sprintf(`
  - name: %s
    traffic_direction: %s
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - {%s filters: [%s]}`, name, direction, socket, filters)
}

func (s sidecar) accepts(alpn string) string {
	return `transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: true, ` + s.tls(alpn) + `}},`
}

// manager is YAML of a connection manager to a cluster.
func (s sidecar) manager(exchange, stats, cluster string) string {
	return fmt.Sprintf(`{name: hcm, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: %[1]s,
      access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: %[2]s/access.log, log_format: {text_format_source: {inline_string: "%%RESPONSE_CODE%% %%FILTER_STATE(downstream_peer:PLAIN)%% %%FILTER_STATE(upstream_peer_obj:FIELD:workload)%%\n"}}}}],
      http_filters: [%[3]s, {name: istio.alpn, typed_config: {"@type": type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig, alpn_override: [{alpn_override: [istio-http/1.1, istio, http/1.1], upstream_protocol: HTTP11}]}},
        {name: grpc, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig, emit_filter_state: true}}, %[4]s, {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}],
      route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [{name: default, match: {prefix: /}, route: {cluster: "%[5]s"}}]}]}}}`,
		s.name, s.dir, fmt.Sprintf(exchangeOf, exchange), fmt.Sprintf(statsFilter, stats), cluster)
}

func tcpOf(stats, exchange, cluster string) string {
	return exchange + fmt.Sprintf(statsFilter, stats) + `, {name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: p, cluster: "` + cluster + `"}}`
}

// clusterAt is YAML of a cluster.
func clusterAt(name, address, more string) string {
	host, port, _ := net.SplitHostPort(address)
	return fmt.Sprintf(`
  - {name: "%[1]s", type: STATIC, connect_timeout: 5s, load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[2]s, port_value: %[3]s}}}}]}]}%[4]s}`, name, host, port, more)
}

func (s sidecar) dials(alpn string) string {
	return `, transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: x, ` + s.tls(alpn) + `}}`
}

const webService = `, metadata: {filter_metadata: {istio: {services: [{host: web.shop.svc.cluster.local, name: web, namespace: shop}]}}}`

const overHTTP2 = `, typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}`

// answerCall answers each message of a call of gRPC with two, which are empty.
func answerCall(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("content-type", "application/grpc")
	w.Header().Set("trailer", "grpc-status")
	message := make([]byte, 5)
	for {
		if _, err := io.ReadFull(req.Body, message); err != nil {
			break
		}
		_, _ = w.Write(append(message, message...))
		_ = http.NewResponseController(w).Flush()
	}
	w.Header().Set("grpc-status", "7")
}

// mesh is a client's and a server's proxy, and an application behind.
type mesh struct {
	client, server *running
	seen           chan http.Header // what the application gets
}

func newMesh(t *testing.T) *mesh {
	t.Helper()
	authority, err := ca.New("root")
	if err != nil {
		t.Fatal(err)
	}
	m := &mesh{seen: make(chan http.Header, 100)}
	origin := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("content-type") == "application/grpc" {
			answerCall(w, req)
			return
		}
		m.seen <- req.Header
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "hello")
	}))
	origin.Config.Protocols = new(http.Protocols)
	origin.Config.Protocols.SetHTTP1(true)
	origin.Config.Protocols.SetUnencryptedHTTP2(true)
	origin.Start()
	t.Cleanup(origin.Close)
	echo := newApp(t, "")

	back, front := newSidecar(t, authority, "server"), newSidecar(t, authority, "client")
	m.server = back.run(t,
		back.listener("http", "INBOUND", back.accepts("istio-http/1.1"), back.manager(exchangeIn, ", disable_host_header_fallback: true", "inbound|80||"))+
			back.listener("plain", "INBOUND", "", back.manager(exchangeIn, ", disable_host_header_fallback: true", "inbound|80||"))+
			back.listener("grpc", "INBOUND", back.accepts("istio-h2"), back.manager(exchangeIn, ", disable_host_header_fallback: true, tcp_reporting_duration: 0.02s", "inbound|70||"))+
			back.listener("tcp", "INBOUND", back.accepts("istio-peer-exchange, istio"), tcpOf(", tcp_reporting_duration: 0.02s", exchangeInTCP+", ", "inbound|90||")),
		clusterAt("inbound|80||", origin.Listener.Addr().String(), webService)+clusterAt("inbound|70||", origin.Listener.Addr().String(), webService+overHTTP2)+clusterAt("inbound|90||", echo.Addr().String(), webService))
	http, tcp := m.server.Listening("http")[0].String(), m.server.Listening("tcp")[0].String()
	m.client = front.run(t,
		front.listener("http", "OUTBOUND", "", front.manager(exchangeOut, "", "outbound|80||web"))+
			front.listener("world", "OUTBOUND", "", front.manager(exchangeOut, "", "PassthroughCluster"))+
			front.listener("grpc", "OUTBOUND", "", front.manager(exchangeOut, ", tcp_reporting_duration: 0.02s", "outbound|70||web"))+
			front.listener("tcp", "OUTBOUND", "", tcpOf(", tcp_reporting_duration: 0.02s", "", "outbound|90||web"))+
			front.listener("mute", "OUTBOUND", "", tcpOf(", tcp_reporting_duration: 0.02s", "", "outbound|91||web")),
		clusterAt("outbound|80||web", http, webService+front.dials("istio-http/1.1"))+
			clusterAt("outbound|70||web", m.server.Listening("grpc")[0].String(), webService+overHTTP2+front.dials("istio-h2"))+
			clusterAt("PassthroughCluster", origin.Listener.Addr().String(), "")+
			clusterAt("outbound|90||web", tcp, webService+front.dials("istio-peer-exchange, istio")+", filters: ["+exchangeInTCP+"]")+
			clusterAt("outbound|91||web", tcp, webService+front.dials("istio")+", filters: ["+exchangeInTCP+"]"))
	return m
}

// metric are the lines of /stats/prometheus of a metric of Istio's.
func metric(r *running, name string) []string {
	var out []string
	for line := range strings.Lines(r.get("/stats/prometheus?usedonly")) {
		if strings.HasPrefix(line, name+"{") {
			out = append(out, strings.TrimSuffix(line, "\n"))
		}
	}
	return out
}

// counts waits until the one metric of that name has all of labels.
func counts(t *testing.T, r *running, name string, labels ...string) {
	t.Helper()
	var lines []string
	missing := "anything"
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		lines = metric(r, name)
		if missing = lacks(lines, labels); missing == "" {
			return
		}
	}
	t.Errorf("%s lacks %s:\n%s", name, missing, strings.Join(lines, "\n"))
}

func lacks(lines, labels []string) string {
	for _, line := range lines {
		missing := ""
		for _, l := range labels {
			if !strings.Contains(line, l) {
				missing = l
			}
		}
		if missing == "" {
			return ""
		}
	}
	return strings.Join(labels, " ")
}

// asked is the answer to a request over a proxy's listener.
func asked(t *testing.T, r *running, listener string, fields ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+r.Listening(listener)[0].String()+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "web.shop"
	for i := 0; i+1 < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp
}
