//go:build envoy

package e2e

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"outrider/certs/ca"
	"outrider/certs/sds/sdstest"
)

// world is what both sides of a test trust.
type world struct {
	t    *testing.T
	root *ca.CA
}

func newWorld(t *testing.T) *world {
	t.Helper()
	root, err := ca.New("test root")
	if err != nil {
		t.Fatal(err)
	}
	return &world{t, root}
}

// agent serves secrets for id on the socket in dir where the configurations
// look for it.
func (w *world) agent(dir, id string) *sdstest.Server {
	w.t.Helper()
	return w.agentAt(filepath.Join(dir, "sds"), id)
}

// agentAt serves secrets for id on a socket, whose path has 108 bytes at most.
func (w *world) agentAt(path, id string) *sdstest.Server {
	w.t.Helper()
	s, err := sdstest.Listen(path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Stop)
	w.issue(s, id)
	return s
}

func (w *world) issue(s *sdstest.Server, id string) {
	w.t.Helper()
	leaf, err := w.root.Issue(ca.Leaf{ID: id})
	if err != nil {
		w.t.Fatal(err)
	}
	secrets := []*tlsv3.Secret{sdstest.KeyPair("default", leaf.ChainPEM, leaf.KeyPEM), sdstest.Roots("ROOTCA", w.root.RootPEM())}
	if err := s.Set(secrets...); err != nil {
		w.t.Fatal(err)
	}
}

// sdsCluster is the agent's, and sdsSource its use, as istiod writes them.
const sdsCluster = `
  - name: sds-grpc
    type: STATIC
    connect_timeout: 1s
    load_assignment: {cluster_name: sds-grpc, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: ./sds}}}}]}]}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
`

const sdsSource = `{api_config_source: {api_type: GRPC, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: sds-grpc}}]}, initial_fetch_timeout: 0s, resource_api_version: V3}`

// common is a common_tls_context with secrets over SDS and one matcher.
func common(alpn, matcher string) string {
	return `{tls_params: {tls_maximum_protocol_version: TLSv1_3}, alpn_protocols: ` + alpn + `, tls_certificate_sds_secret_configs: [{name: default, sds_config: ` + sdsSource + `}],
          combined_validation_context: {default_validation_context: {match_typed_subject_alt_names: [{san_type: URI, matcher: ` + matcher + `}]},
            validation_context_sds_secret_config: {name: ROOTCA, sds_config: ` + sdsSource + `}}}`
}

func tcpProxy(cluster string) string {
	return `[{name: envoy.filters.network.tcp_proxy, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: "` + cluster + `",
        access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: access.log, log_format: {text_format_source: {inline_string: "%FILTER_CHAIN_NAME% %DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_PEER_URI_SAN% %UPSTREAM_TLS_VERSION% %UPSTREAM_PEER_URI_SAN% %REQUESTED_SERVER_NAME% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT%\n"}}}}]}}]`
}

func static(name, addr, more string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf(`
  - name: %[1]s
    type: STATIC
    connect_timeout: 5s
    load_assignment: {cluster_name: %[1]s, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[2]s, port_value: %[3]s}}}, metadata: {filter_metadata: {envoy.transport_socket_match: {tlsMode: istio}}}}]}]}%[4]s`, name, host, port, more)
}

const tlsInspector = `[{name: envoy.filters.listener.tls_inspector, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]`

// permissive is a server's bootstrap: mTLS for istio's ALPN, and plaintext.
func permissive(app string) string {
	return `
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    listener_filters: ` + tlsInspector + `
    filter_chains:
    - name: mtls
      filter_chain_match: {transport_protocol: tls, application_protocols: [istio, istio-peer-exchange, istio-h2]}
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context: ` + common("[istio-peer-exchange, h2, http/1.1]", `{prefix: "spiffe://cluster.local/"}`) + `
      filters: ` + tcpProxy("app") + `
    - name: plain
      filter_chain_match: {transport_protocol: raw_buffer}
      filters: ` + tcpProxy("app") + `
  clusters:` + static("app", app, "") + sdsCluster
}

// outbound is a client's bootstrap: mTLS by the endpoint's metadata.
func outbound(server, alpn, id string) string {
	return `
static_resources:
  listeners:
  - name: out
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains: [{filters: ` + tcpProxy("uc") + `}]
  clusters:` + static("uc", server, `
    transport_socket_matches:
    - name: tlsMode-istio
      match: {tlsMode: istio}
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          sni: outbound_.50051_.default_.uc.dev.svc.cluster.local
          common_tls_context: `+common(alpn, `{exact: "`+id+`"}`)+`
    - name: tlsMode-disabled
      match: {}
      transport_socket: {name: envoy.transport_sockets.raw_buffer, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}`) + sdsCluster
}

const (
	webID = "spiffe://cluster.local/ns/dev/sa/web"
	ucID  = "spiffe://cluster.local/ns/dev/sa/uc"
)

// pairs runs f for each proxy as client and each as server.
func pairs(t *testing.T, f func(t *testing.T, client, server kind)) {
	for _, client := range kinds {
		for _, server := range kinds {
			t.Run(fmt.Sprintf("%s to %s", strings.ToLower(string(client)), strings.ToLower(string(server))), func(t *testing.T) {
				f(t, client, server)
			})
		}
	}
}

// sidecars starts a server and a client in front of app.
func sidecars(t *testing.T, w *world, client, server kind, app, alpn, expected string) (c, s *running, agents [2]*sdstest.Server) {
	t.Helper()
	sdir, cdir := t.TempDir(), t.TempDir()
	agents = [2]*sdstest.Server{w.agent(cdir, webID), w.agent(sdir, ucID)}
	s = start(t, server, sdir, permissive(app)).ready()
	c = start(t, client, cdir, outbound(s.addr("in"), alpn, expected)).ready()
	return c, s, agents
}

func TestMutualTLSBetweenEachPair(t *testing.T) {
	pairs(t, func(t *testing.T, client, server kind) {
		c, s, _ := sidecars(t, newWorld(t), client, server, echo(t), "[istio-peer-exchange, istio, h2]", ucID)
		big := make([]byte, 3<<20)
		rand.Read(big)
		got, err := call(c.addr("out"), string(big))
		if err != nil || sha256.Sum256([]byte(got)) != sha256.Sum256(big) {
			t.Fatalf("%d bytes came back of %d: %v", len(got), len(big), err)
		}
		s.file("access.log", "mtls TLSv1.3 "+webID+" - - outbound_.50051_.default_.uc.dev.svc.cluster.local - 3145728 3145728")
		c.file("access.log", "TLSv1.3 "+ucID)
		// With its end right behind it, Envoy's tls_inspector drops the connection.
		if got, err := ask(s.addr("in"), "plain"); got != "plain" || err != nil {
			t.Errorf("plaintext under PERMISSIVE: %q %v", got, err)
		}
		s.file("access.log", "plain - - - - - - 5 5")
	})
}

// Istio's HTTP clients offer only tokens that the server does not have in its
// list; the handshake goes on without ALPN.
func TestHandshakeGoesOnWithoutALPNInCommon(t *testing.T) {
	pairs(t, func(t *testing.T, client, server kind) {
		c, s, _ := sidecars(t, newWorld(t), client, server, echo(t), "[istio-h2, istio]", ucID)
		if got, err := call(c.addr("out"), "x"); got != "x" || err != nil {
			t.Fatalf("got %q %v", got, err)
		}
		s.file("access.log", "mtls TLSv1.3 "+webID)
	})
}

func TestAnotherIdentityIsRefused(t *testing.T) {
	pairs(t, func(t *testing.T, client, server kind) {
		c, _, _ := sidecars(t, newWorld(t), client, server, echo(t), "[istio]", "spiffe://cluster.local/ns/dev/sa/other")
		if got, err := call(c.addr("out"), "x"); got != "" {
			t.Fatalf("got %q %v, want nothing", got, err)
		}
		c.wait("ssl.fail_verify_san", func() bool { return c.stat("cluster.uc.ssl.fail_verify_san") == 1 })
		c.file("access.log", "UF,URX")
	})
}

func TestAForeignClientIsRefusedByTheServer(t *testing.T) {
	pairs(t, func(t *testing.T, client, server kind) {
		w, foreign := newWorld(t), newWorld(t)
		sdir, cdir := t.TempDir(), t.TempDir()
		w.agent(sdir, ucID)
		agent := w.agent(cdir, webID)
		leaf, err := foreign.root.Issue(ca.Leaf{ID: webID})
		if err != nil {
			t.Fatal(err)
		}
		if err := agent.Set(sdstest.KeyPair("default", leaf.ChainPEM, leaf.KeyPEM)); err != nil {
			t.Fatal(err)
		}
		s := start(t, server, sdir, permissive(echo(t))).ready()
		c := start(t, client, cdir, outbound(s.addr("in"), "[istio]", ucID)).ready()
		if got, _ := call(c.addr("out"), "x"); got != "" {
			t.Fatalf("got %q, want nothing", got)
		}
		name := "listener." + strings.ReplaceAll(s.addr("in"), ":", "_") + ".ssl.fail_verify_error"
		if server == envoy {
			name = "listener.127.0.0.1_0.ssl.fail_verify_error"
		}
		s.wait(name, func() bool {
			return s.stat(name) == 1 || s.stat("listener.127.0.0.1_0.ssl.fail_verify_error") == 1
		})
	})
}

func TestARotationUnderLoadLosesNothing(t *testing.T) {
	pairs(t, func(t *testing.T, client, server kind) {
		w := newWorld(t)
		c, _, agents := sidecars(t, w, client, server, echo(t), "[istio]", ucID)
		addr := c.addr("out")
		open, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer open.Close()
		calls := 0
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); calls++ {
			if calls%40 == 20 {
				w.issue(agents[0], webID)
				w.issue(agents[1], ucID)
			}
			if got, err := call(addr, "x"); got != "x" || err != nil {
				t.Fatalf("call %d: %q %v", calls, got, err)
			}
			if _, err := open.Write([]byte("y")); err != nil {
				t.Fatalf("the connection from before: %v", err)
			}
			if _, err := io.ReadFull(open, make([]byte, 1)); err != nil {
				t.Fatalf("the connection from before: %v", err)
			}
		}
		if calls < 50 {
			t.Errorf("only %d calls: the test says little", calls)
		}
		for i, a := range agents {
			if refused := a.Refused(); len(refused) > 0 {
				t.Errorf("agent %d: refused %q", i, refused)
			}
		}
	})
}

func TestABadSecretIsRefusedAndTheOldOneStays(t *testing.T) {
	for _, k := range kinds {
		t.Run(strings.ToLower(string(k)), func(t *testing.T) {
			w := newWorld(t)
			c, _, agents := sidecars(t, w, k, outrider, echo(t), "[istio]", ucID)
			a, b := mustIssue(t, w, webID), mustIssue(t, w, webID)
			if err := agents[0].Set(sdstest.KeyPair("default", a.ChainPEM, b.KeyPEM)); err != nil {
				t.Fatal(err)
			}
			c.wait("a NACK", func() bool { return len(agents[0].Refused()) > 0 })
			if got, err := call(c.addr("out"), "x"); got != "x" || err != nil {
				t.Errorf("after the refusal: %q %v", got, err)
			}
			t.Logf("the NACK says %q", agents[0].Refused()[0])
		})
	}
}

func mustIssue(t *testing.T, w *world, id string) *ca.Issued {
	t.Helper()
	issued, err := w.root.Issue(ca.Leaf{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	return issued
}

func TestHalfCloseGoesThroughBothProxies(t *testing.T) {
	pairs(t, func(t *testing.T, client, server kind) {
		app := serve(t, func(c net.Conn) {
			all, _ := io.ReadAll(c) // until the client's end
			fmt.Fprintf(c, "after the end: %d", len(all))
		})
		c, _, _ := sidecars(t, newWorld(t), client, server, app, "[istio]", ucID)
		if got, err := call(c.addr("out"), "12345"); got != "after the end: 5" || err != nil {
			t.Errorf("got %q %v", got, err)
		}
	})
}
