//go:build envoy

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

// The configuration of an Istio sidecar in PERMISSIVE mode, reduced to TCP:
// listeners, clusters and endpoints come from files, so that they are dynamic.
const seedBootstrap = `
dynamic_resources:
  lds_config: {path_config_source: {path: lds.yaml}, resource_api_version: V3}
  cds_config: {path_config_source: {path: cds.yaml}, resource_api_version: V3}
static_resources:
  clusters:
  - name: sds-grpc
    type: STATIC
    connect_timeout: 1s
    load_assignment: {cluster_name: sds-grpc, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: ./var/run/secrets/workload-spiffe-uds/socket}}}}]}]}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
`

const seedSDS = `{api_config_source: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: sds-grpc}}], set_node_on_first_message_only: true, transport_api_version: V3}, initial_fetch_timeout: 0s, resource_api_version: V3}`

const seedListener = `
version_info: "1"
resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: virtualInbound
  address: {socket_address: {address: 127.0.0.1, port_value: 0}}
  listener_filters: ` + tlsInspector + `
  continue_on_listener_filters_timeout: true
  filter_chains:
  - name: virtualInbound-blackhole
    filter_chain_match: {destination_port: 15006}
    filters: [{name: envoy.filters.network.tcp_proxy, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: BlackHoleCluster, cluster: sds-grpc}}]
  - name: 0.0.0.0_50051
    filter_chain_match: {destination_port: 50051, transport_protocol: tls, application_protocols: [istio, istio-peer-exchange, istio-http/1.0, istio-http/1.1, istio-h2]}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
        require_client_certificate: true
        common_tls_context:
          alpn_protocols: [h2, http/1.1]
          tls_certificate_sds_secret_configs: [{name: default, sds_config: ` + seedSDS + `}]
          combined_validation_context:
            default_validation_context: {match_subject_alt_names: [{prefix: "spiffe://cluster.local/"}]}
            validation_context_sds_secret_config: {name: ROOTCA, sds_config: ` + seedSDS + `}
    filters: [{name: envoy.filters.network.tcp_proxy, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: in, cluster: sds-grpc}}]
  - name: 0.0.0.0_50051
    filter_chain_match: {destination_port: 50051, transport_protocol: raw_buffer}
    filters: [{name: envoy.filters.network.tcp_proxy, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: in, cluster: sds-grpc}}]
`

const seedCluster = `
version_info: "1"
resources:
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: outbound|50051|default|uc.dev.svc.cluster.local
  type: EDS
  connect_timeout: 10s
  eds_cluster_config: {eds_config: {path_config_source: {path: eds.yaml}, resource_api_version: V3}}
  transport_socket_matches:
  - name: tlsMode-istio
    match: {tlsMode: istio}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_params: {tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3}
          alpn_protocols: [istio-peer-exchange, istio, h2]
          tls_certificate_sds_secret_configs: [{name: default, sds_config: ` + seedSDS + `}]
          combined_validation_context:
            default_validation_context: {match_subject_alt_names: [{exact: spiffe://cluster.local/ns/dev/sa/default}]}
            validation_context_sds_secret_config: {name: ROOTCA, sds_config: ` + seedSDS + `}
        sni: outbound_.50051_.default_.uc.dev.svc.cluster.local
  - name: tlsMode-disabled
    match: {}
    transport_socket: {name: envoy.transport_sockets.raw_buffer, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}
`

const seedEndpoints = `
version_info: "1"
resources:
- "@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment
  cluster_name: outbound|50051|default|uc.dev.svc.cluster.local
  endpoints:
  - lb_endpoints:
    - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 50051}}}
      metadata:
        filter_metadata:
          istio: {workload: uc-default;dev;uc;;cn-shanghai}
          envoy.transport_socket_match: {tlsMode: istio}
`

// Every jq command that people use on a sidecar's dump prints what it prints
// on Envoy's: testdata/seed.jq has them with their output. Keys of maps have no
// order in Envoy, so those are compared as values; names must come in order.
func TestJqOnOurDumpPrintsWhatItDoesOnEnvoys(t *testing.T) {
	jq, err := exec.LookPath("jq")
	if err != nil {
		t.Fatal("jq is needed")
	}
	cases, err := os.ReadFile("testdata/seed.jq")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for file, text := range map[string]string{"lds.yaml": seedListener, "cds.yaml": seedCluster, "eds.yaml": seedEndpoints} {
		write(t, dir+"/"+file, text)
	}
	p := start(t, outrider, dir, seedBootstrap)
	var dump string
	p.wait("endpoints in the dump", func() bool {
		_, dump = p.get("/config_dump?include_eds")
		return strings.Contains(dump, "uc-default;dev;uc;;cn-shanghai")
	})
	n := 0
	for _, one := range strings.Split(string(cases), "# ")[1:] {
		expr, want, _ := strings.Cut(one, "\n")
		cmd := exec.Command(jq, expr)
		cmd.Stdin = strings.NewReader(dump)
		got, err := cmd.Output()
		if err != nil {
			t.Errorf("jq %s: %v", expr, err)
			continue
		}
		if !reflect.DeepEqual(values(t, got), values(t, []byte(want))) {
			t.Errorf("jq '%s' prints\n%s\nwant\n%s", expr, got, want)
		}
		n++
	}
	if n != 9 {
		t.Errorf("%d commands were tried, want 9", n)
	}
}

// values are the JSON texts in b, one after the other.
func values(t *testing.T, b []byte) []any {
	t.Helper()
	var out []any
	for dec := json.NewDecoder(bytes.NewReader(b)); dec.More(); {
		var v any
		if err := dec.Decode(&v); err != nil {
			t.Fatalf("%v in %s", err, b)
		}
		out = append(out, v)
	}
	return out
}
