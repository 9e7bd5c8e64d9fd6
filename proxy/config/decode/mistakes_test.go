package decode

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// mistake is a base configuration with one thing wrong.
type mistake struct {
	name     string
	old, new string // replaced in base
	want     string // a line of the error
	// envoyTakes says why Envoy accepts it; "" where it refuses too.
	envoyTakes string
}

const base = `
node: {id: node, cluster: c}
static_resources:
  secrets: []
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    listener_filters: []
    filter_chains:
    - filter_chain_match: {server_names: [a.example.com]}
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_params: {}
            tls_certificates: [{certificate_chain: {filename: testdata/chain.pem}, private_key: {filename: testdata/key.pem}}]
            validation_context: {trusted_ca: {filename: testdata/ca.pem}}
      filters:
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: s
          cluster: up
    - filter_chain_match: {server_names: [b.example.com]}
      filters: [{name: echo, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]
  clusters:
  - name: up
    connect_timeout: 1s
    load_assignment:
      cluster_name: up
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}]}]
`

const (
	chain0 = "static_resources.listeners[0].filter_chains[0]"
	chain1 = "static_resources.listeners[0].filter_chains[1]"
	tls0   = chain0 + ".transport_socket.typed_config.common_tls_context"
	up0    = "static_resources.clusters[0]"

	rbacOpen  = `filters: [{name: rbac, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: r, `
	echoOpen  = `filters: [{name: echo`
	rbacClose = `}}, {name: echo`
)

var mistakes = []mistake{
	{"a key that is there twice", "node: {id: node,", "node: {id: node, id: other,", `node.id: is there twice`, "yaml-cpp takes the last one"},
	{"an unknown field", "    connect_timeout: 1s", "    conect_timeout: 1s", up0 + `.conect_timeout: is not a field of envoy.config.cluster.v3.Cluster`, ""},
	{"a field inside Any that is unknown", "stat_prefix: s", "stat_prefix: s\n          stat_suffix: s", chain0 + `.filters[0].typed_config.stat_suffix: is not a field`, ""},
	{"a number for a string", "stat_prefix: s", "stat_prefix: 12", chain0 + `.filters[0].typed_config.stat_prefix: 12 is not a string: put it in quotes`, ""},
	{"a string for an object", "load_assignment:\n      cluster_name: up\n      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}]}]", "load_assignment: up", up0 + `.load_assignment: "up" is not an object`, ""},
	{"an object for a list", "secrets: []", "secrets: {}", `static_resources.secrets: an object is not a list`, ""},
	{"a bad enum", "    connect_timeout: 1s", "    type: STATICAL", up0 + `.type: "STATICAL" is not one of STATIC, STRICT_DNS`, ""},
	{"a bad duration", "connect_timeout: 1s", "connect_timeout: 1 second", up0 + `.connect_timeout: "1 second" is not a duration such as "1.5s"`, ""},
	{"a negative duration", "connect_timeout: 1s", "connect_timeout: -1s", up0 + `.connect_timeout: -1s: value must be greater than 0s`, ""},
	{"bad base64", "certificate_chain: {filename: testdata/chain.pem}", "certificate_chain: {inline_bytes: '%%%%'}", tls0 + `.tls_certificates[0].certificate_chain.inline_bytes: 4 characters are not base64`, ""},
	{"a oneof set twice", "          cluster: up", "          cluster: up\n          weighted_clusters: {clusters: [{name: up, weight: 1}]}", chain0 + `.filters[0].typed_config.weighted_clusters: cannot be set together with cluster`, ""},
	{"a field by both of its names", "          stat_prefix: s", "          stat_prefix: s\n          statPrefix: s", chain0 + `.filters[0].typed_config.stat_prefix: is there twice`, "the last one counts"},
	{"an unknown type", "network.echo.v3.Echo", "network.echo.v3.Ecko", chain1 + `.filters[0].typed_config.@type: "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Ecko" is not a type that outrider supports`, ""},
	{"a missing typed_config", `, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}`, "", chain1 + `.filters[0].typed_config: is missing`, ""},
	{"a bad address", "address: 127.0.0.1, port_value: 10000", "address: 127.0.0.300, port_value: 10000", `static_resources.listeners[0].address.socket_address.address: "127.0.0.300" is not an IP address`, ""},
	{"a host name in a static cluster", "address: 127.0.0.1, port_value: 1}", "address: localhost, port_value: 1}", up0 + `.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: "localhost" is not an IP address`, ""},
	{"a bad port", "port_value: 10000", "port_value: 70000", `static_resources.listeners[0].address.socket_address.port_value: 70000: value must be less than or equal to 65535`, ""},
	{"a bad prefix", "{server_names: [b.example.com]}", "{prefix_ranges: [{address_prefix: 10.0.0.300, prefix_len: 8}]}", chain1 + `.filter_chain_match.prefix_ranges[0].address_prefix: "10.0.0.300" is not an address`, ""},
	{"a prefix longer than its address", "{server_names: [b.example.com]}", "{prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 33}]}", chain1 + `.filter_chain_match.prefix_ranges[0].prefix_len: 33 is longer than the 32 bits of 10.0.0.0`, "it takes 32"},
	{"a partial wildcard", "b.example.com", "'*b.example.com'", chain1 + `.filter_chain_match.server_names[0]: "*b.example.com" is a partial wildcard`, ""},
	{"the same match twice", "b.example.com", "A.example.com", chain1 + `.filter_chain_match: has the same matching rules as filter_chains[0]`, ""},
	{"matches that overlap in one value", "{server_names: [b.example.com]}", "{server_names: [c.example.com, a.example.com]}", chain1 + `.filter_chain_match: has the same matching rules as filter_chains[0]`, ""},
	{"no filter chain", "    filter_chains:\n", "    additional_addresses:\n", `static_resources.listeners[0].additional_addresses[0].filter_chain_match: is not a field`, ""},
	{"a terminal filter before the last", `filters: [{name: echo, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]`, `filters: [{name: echo, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}, {name: echo, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]`, chain1 + `.filters[0]: echo ends the chain: it must be the last filter`, ""},
	{"no terminal filter at the end", "network.echo.v3.Echo", "network.sni_cluster.v3.SniCluster", chain1 + `.filters[0]: echo does not end the chain`, ""},
	{"a tcp_proxy to no cluster that is known", "          cluster: up", "          cluster: down", chain0 + `.filters[0].typed_config.cluster: unknown cluster "down"`, "the connection would be closed with NC"},
	{"two listeners of one name", "  clusters:\n", "  - {name: in, address: {socket_address: {address: 127.0.0.1, port_value: 10001}}, filter_chains: [{filters: [{name: echo, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]}]}\n  clusters:\n", `static_resources.listeners[1].name: "in" is the name of another listener`, "one of them counts"},
	{"two clusters of one name", "  clusters:\n", "  clusters:\n  - {name: up}\n", `static_resources.clusters[1].name: "up" is the name of another cluster`, ""},
	{"no certificate", "tls_certificates: [{certificate_chain: {filename: testdata/chain.pem}, private_key: {filename: testdata/key.pem}}]", "alpn_protocols: [h2]", tls0 + `: has no certificate`, ""},
	{"a file that is not there", "testdata/chain.pem", "testdata/nothing.pem", tls0 + `.tls_certificates[0].certificate_chain.filename: open testdata/nothing.pem: no such file or directory`, ""},
	{"a certificate that is none", "{filename: testdata/chain.pem}", "{inline_string: 'no PEM'}", tls0 + `.tls_certificates[0]: certificate chain: there is no certificate in it`, ""},
	{"a key of another certificate", "testdata/chain.pem", "testdata/ca.pem", tls0 + `.tls_certificates[0]: private key: an ECDSA key on P-256 does not fit the certificate of "CN=root,O=test"`, ""},
	{"an empty trusted_ca", "trusted_ca: {filename: testdata/ca.pem}", "trusted_ca: {inline_string: ''}", tls0 + `.validation_context.trusted_ca.inline_string: `, ""},
	{"a CRL that is none", "{filename: testdata/ca.pem}", "{filename: testdata/ca.pem}, crl: {filename: testdata/ca.pem}", tls0 + `.validation_context.crl.filename: PEM block 1 is "CERTIFICATE", not a revocation list`, "what is no CRL is left out"},
	{"names without trusted_ca", "{trusted_ca: {filename: testdata/ca.pem}}", "{match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: x}}]}", tls0 + `.validation_context: matches subject alternative names without trusted_ca`, ""},
	{"a name matcher without a type", "{filename: testdata/ca.pem}}", "{filename: testdata/ca.pem}, match_typed_subject_alt_names: [{matcher: {exact: x}}]}", tls0 + `.validation_context.match_typed_subject_alt_names[0].san_type: `, ""},
	{"a bad regular expression", "{filename: testdata/ca.pem}}", "{filename: testdata/ca.pem}, match_typed_subject_alt_names: [{san_type: URI, matcher: {safe_regex: {regex: '(a'}}}]}", tls0 + `.validation_context.match_typed_subject_alt_names[0].matcher.safe_regex.regex: "(a": error parsing regexp`, ""},
	{"a hash that is none", "{filename: testdata/ca.pem}}", "{filename: testdata/ca.pem}, verify_certificate_hash: ['" + strings.Repeat("zz", 32) + "']}", tls0 + `.validation_context.verify_certificate_hash[0]: `, ""},
	{"a cipher suite that is unknown", "tls_params: {}", "tls_params: {cipher_suites: [ECDHE-FOO]}", tls0 + `.tls_params.cipher_suites[0]: "ECDHE-FOO" is not a cipher suite that outrider has`, ""},
	{"a curve that is unknown", "tls_params: {}", "tls_params: {ecdh_curves: [P-1]}", tls0 + `.tls_params.ecdh_curves[0]: "P-1" is not supported`, ""},
	{"a secret that is unknown", "tls_certificates: [{certificate_chain: {filename: testdata/chain.pem}, private_key: {filename: testdata/key.pem}}]", "tls_certificate_sds_secret_configs: [{name: none}]", tls0 + `.tls_certificate_sds_secret_configs[0].name: "none" is not among static_resources.secrets`, ""},
	{"SDS from a cluster that is unknown", "tls_certificates: [{certificate_chain: {filename: testdata/chain.pem}, private_key: {filename: testdata/key.pem}}]", "tls_certificate_sds_secret_configs: [{name: x, sds_config: {resource_api_version: V3, api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: nowhere}}]}}}]", `.sds_config.api_config_source.grpc_services[0].envoy_grpc.cluster_name: unknown cluster "nowhere"`, "it is found out when the secret is asked for"},
	{"a node without a name that has to ask", "{id: node, cluster: c}", "{id: node}\ndynamic_resources: {lds_config: {resource_api_version: V3, path_config_source: {path: testdata/lds.yaml}}}", `node: must have an id and a cluster`, "it is found out when it runs, not by --mode validate"},
	{"a file of resources that is not there", "{id: node, cluster: c}", "{id: node, cluster: c}\ndynamic_resources: {lds_config: {resource_api_version: V3, path_config_source: {path: testdata/none.yaml}}}", `dynamic_resources.lds_config.path_config_source.path: open testdata/none.yaml`, "it is found out when it runs, not by --mode validate"},
	{"ORIGINAL_DST with another policy", "    connect_timeout: 1s\n    load_assignment:\n      cluster_name: up\n      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}]}]", "    type: ORIGINAL_DST", up0 + `.lb_policy: must be CLUSTER_PROVIDED for a cluster of type ORIGINAL_DST`, ""},
	{"CLUSTER_PROVIDED for another type", "    connect_timeout: 1s", "    lb_policy: CLUSTER_PROVIDED", up0 + `.lb_policy: CLUSTER_PROVIDED is for clusters of type ORIGINAL_DST`, ""},
	{"ORIGINAL_DST with endpoints", "    connect_timeout: 1s", "    type: ORIGINAL_DST\n    lb_policy: CLUSTER_PROVIDED", up0 + `.load_assignment: cannot be set for a cluster of type ORIGINAL_DST`, ""},
	{"EDS without a source", "    connect_timeout: 1s\n    load_assignment:\n      cluster_name: up\n      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}]}]", "    type: EDS", up0 + `.eds_cluster_config.eds_config: must be set`, ""},
	{"LOGICAL_DNS with two endpoints", "    connect_timeout: 1s\n    load_assignment:\n      cluster_name: up\n      endpoints: [{", "    type: LOGICAL_DNS\n    load_assignment:\n      cluster_name: up\n      endpoints: [{}, {", up0 + `.load_assignment: must have one endpoint in one locality`, ""},
	{"a table size that is no prime", "    connect_timeout: 1s", "    lb_policy: MAGLEV\n    maglev_lb_config: {table_size: 1000}", up0 + `.maglev_lb_config.table_size: 1000 is not a prime`, ""},
	{"a ring that ends before it begins", "    connect_timeout: 1s", "    lb_policy: RING_HASH\n    ring_hash_lb_config: {minimum_ring_size: 10, maximum_ring_size: 5}", up0 + `.ring_hash_lb_config: minimum_ring_size 10 is above maximum_ring_size 5`, ""},
	{"an aggression that is none", "    connect_timeout: 1s", "    round_robin_lb_config: {slow_start_config: {slow_start_window: 10s, aggression: {default_value: 0, runtime_key: a}}}", up0 + `.round_robin_lb_config.slow_start_config.aggression: 0 is not an aggression: it is above 0`, "it takes 1 in its place"},
	{"a least weight above all of it", "    connect_timeout: 1s", "    lb_policy: LEAST_REQUEST\n    least_request_lb_config: {slow_start_config: {slow_start_window: 10s, min_weight_percent: {value: 101}}}", up0 + `.least_request_lb_config.slow_start_config.min_weight_percent.value: 101: value must be inside range [0, 100]`, ""},
	{"a health check without thresholds", "    connect_timeout: 1s", "    health_checks: [{timeout: 1s, interval: 1s, tcp_health_check: {}}]", up0 + `.health_checks[0].unhealthy_threshold: value is required`, ""},
	{"a health check that checks nothing", "    connect_timeout: 1s", "    health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1}]", up0 + `.health_checks[0]: one of http_health_check, tcp_health_check, grpc_health_check, custom_health_check must be set`, ""},
	{"a payload that is not hexadecimal", "    connect_timeout: 1s", "    health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {send: {text: xyz}}}]", up0 + `.health_checks[0].tcp_health_check.send.text: "xyz" is not hexadecimal`, ""},
	{"a gRPC health check over HTTP/1", "    connect_timeout: 1s", "    health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, grpc_health_check: {}}]", up0 + `.health_checks[0].grpc_health_check: needs a cluster that speaks HTTP/2`, ""},
	{"a second match of one name", "    connect_timeout: 1s", "    transport_socket_matches: [{name: m, match: {a: b}, transport_socket: &raw {name: raw, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}, {name: m, match: {}, transport_socket: *raw}]", up0 + `.transport_socket_matches[1].name: "m" is the name of another match`, "only their stats would mix"},
	{"a resolver with servers of its own", "    connect_timeout: 1s", "    typed_dns_resolver_config: {name: c, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig, resolvers: [{socket_address: {address: 127.0.0.1, port_value: 53}}]}}", up0 + `.typed_dns_resolver_config.typed_config.resolvers: is not supported by outrider: names are resolved as the system does`, "Envoy asks them"},
	{"a resolver that is none", "    connect_timeout: 1s", "    typed_dns_resolver_config: {name: c, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}", up0 + `.typed_dns_resolver_config.typed_config: extension "c" is not supported by outrider as a resolver of names`, "a STATIC cluster has no names, and it does not look"},
	{"a server's context in a cluster", "    connect_timeout: 1s", "    transport_socket: {name: tls, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext}}", up0 + `.transport_socket.typed_config: extension "tls" is not supported by outrider as a transport socket of a cluster`, ""},
	{"a listener filter that is a network filter", "listener_filters: []", "listener_filters: [{name: f, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]", `static_resources.listeners[0].listener_filters[0].typed_config: extension "f" is not supported by outrider as a listener filter`, ""},
	{"an RBAC rule on a header", echoOpen, rbacOpen + `rules: {policies: {p: {permissions: [{any: true}], principals: [{header: {name: x, present_match: true}}]}}}` + rbacClose, chain1 + `.filters[0].typed_config.rules.policies["p"].principals[0].header`, ""},
	{"an RBAC policy without principals", echoOpen, rbacOpen + `rules: {policies: {p: {permissions: [{any: true}]}}}` + rbacClose, chain1 + `.filters[0].typed_config.rules.policies["p"].principals: value must contain at least 1 item(s)`, ""},
	{"an RBAC rule with a matcher extension", echoOpen, rbacOpen + `matcher: {matcher_list: {matchers: []}}` + rbacClose, chain1 + `.filters[0].typed_config.matcher: is not supported by outrider: use rules`, ""},
	{"a bad port in an RBAC rule", echoOpen, rbacOpen + `rules: {policies: {p: {permissions: [{destination_port: 70000}], principals: [{any: true}]}}}` + rbacClose, chain1 + `.filters[0].typed_config.rules.policies["p"].permissions[0].destination_port: 70000`, ""},
	{"an HTTP filter that is none", "network.echo.v3.Echo", "network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: x, route_config: {}, http_filters: [{name: r, typed_config: {\"@type\": type.googleapis.com/envoy.config.core.v3.Metadata}}]", chain1 + `.filters[0].typed_config.http_filters[0].typed_config: extension "r" is not supported by outrider as an HTTP filter`, ""},
	{"no text at all after the merge", base, "[]", `a list is not an object (envoy.config.bootstrap.v3.Bootstrap)`, ""},
	{"a listener without an address", "    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}\n", "", `static_resources.listeners[0].address: must be set`, ""},
	{"a layer of the runtime without a name", "node:", "layered_runtime: {layers: [{static_layer: {}}]}\nnode:", `layered_runtime.layers[0].name: value length must be at least 1 runes`, ""},
	{"a ticket key that is too short", "secrets: []", "secrets: [{name: t, session_ticket_keys: {keys: [{inline_string: abc}]}}]", `static_resources.secrets[0].session_ticket_keys.keys[0].inline_string: has 3 bytes: a session ticket key has 80`, "it looks when the secret is used"},
	{"a second certificate for a client", "    connect_timeout: 1s", "    transport_socket: {name: tls, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {tls_certificates: [&c {certificate_chain: {filename: testdata/chain.pem}, private_key: {filename: testdata/key.pem}}, *c]}}}", up0 + `.transport_socket.typed_config.common_tls_context: has 2 certificates: a client has one`, ""},
	{"a transport API that is gone", "tls_certificates: [{certificate_chain: {filename: testdata/chain.pem}, private_key: {filename: testdata/key.pem}}]", "tls_certificate_sds_secret_configs: [{name: x, sds_config: {api_config_source: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: up}}]}}}]", `.sds_config.api_config_source.transport_api_version: AUTO is not supported: it must be V3`, "it is found out when the secret is asked for"},
	{"two listeners at one address", "  clusters:\n", "  - {name: in2, address: {socket_address: {address: 127.0.0.1, port_value: 10000}}, filter_chains: [{filters: [{name: echo, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]}]}\n  clusters:\n", `static_resources.listeners[1].address: 127.0.0.1:10000 is the address of listener "in"`, ""},
	{"versions in the wrong order", "tls_params: {}", "tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_2}", tls0 + `.tls_params.tls_maximum_protocol_version: TLS 1.2 is below the minimum, TLS 1.3`, "no handshake would be completed"},
	{"more than connections for one host", "    connect_timeout: 1s", "    circuit_breakers: {per_host_thresholds: [{max_requests: 1}]}", up0 + `.circuit_breakers.per_host_thresholds[0]: may only have priority and max_connections`, ""},
	{"two thresholds of one priority", "    connect_timeout: 1s", "    circuit_breakers: {thresholds: [{max_requests: 1}, {max_requests: 2}]}", up0 + `.circuit_breakers.thresholds[1]: are the second for priority DEFAULT`, "the first one counts"},
	{"two source addresses of one family", "    connect_timeout: 1s", "    upstream_bind_config: {source_address: {address: 127.0.0.1, port_value: 0}, extra_source_addresses: [{address: {address: 127.0.0.2, port_value: 0}}]}", up0 + `.upstream_bind_config: extra source address 127.0.0.2 must be of the other family`, ""},
	{"endpoints of EDS in the cluster", "    connect_timeout: 1s", "    type: EDS\n    eds_cluster_config: {eds_config: {resource_api_version: V3, path_config_source: {path: testdata/eds.yaml}}}", up0 + `.load_assignment: cannot be set for a cluster of type EDS`, "they have no effect"},
	{"EDS options of a static cluster", "    connect_timeout: 1s", "    eds_cluster_config: {eds_config: {resource_api_version: V3, path_config_source: {path: testdata/eds.yaml}}}", up0 + `.eds_cluster_config: is for clusters of type EDS`, ""},
	{"a refresh rate that ends before it begins", "    connect_timeout: 1s", "    dns_failure_refresh_rate: {base_interval: 10s, max_interval: 1s}", up0 + `.dns_failure_refresh_rate.max_interval: 1s is below base_interval, 10s`, "the longer one counts"},
	{"an ejection that ends before it begins", "    connect_timeout: 1s", "    outlier_detection: {base_ejection_time: 10s, max_ejection_time: 1s}", up0 + `.outlier_detection.max_ejection_time: 1s is below base_ejection_time, 10s`, ""},
	{"a back-off that ends before it begins", "          stat_prefix: s", "          stat_prefix: s\n          backoff_options: {base_interval: 10s, max_interval: 1s}", chain0 + `.filters[0].typed_config.backoff_options.max_interval: 1s is below base_interval, 10s`, ""},
	{"certificates from two places", "            validation_context:", "            tls_certificate_sds_secret_configs: [{name: x, sds_config: {resource_api_version: V3, path_config_source: {path: testdata/sds.yaml}}}]\n            validation_context:", tls0 + `.tls_certificate_sds_secret_configs: cannot be set together with tls_certificates`, ""},
	{"an empty protocol", "tls_params: {}", "alpn_protocols: ['']", tls0 + `.alpn_protocols[0]: "" is not a protocol name`, "it goes out as it is, against RFC 7301"},
	{"an empty range of ports in a predicate", "listener_filters: []", "listener_filters: [{name: f, filter_disabled: {destination_port_range: {start: 9, end: 5}}, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}}]", `static_resources.listeners[0].listener_filters[0].filter_disabled.destination_port_range: [9, 5) is not a range of ports`, "it holds no port"},
	{"status codes that are none", "    connect_timeout: 1s", "    health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {path: /, expected_statuses: [{start: 1, end: 700}]}}]", up0 + `.health_checks[0].http_health_check.expected_statuses[0]: [1, 700) is not a range of HTTP status codes`, ""},
	{"two hash policies", "          stat_prefix: s", "          stat_prefix: s\n          hash_policy: [{source_ip: {}}, {source_ip: {}}]", chain0 + `.filters[0].typed_config.hash_policy: value must contain no more than 1 item(s)`, ""},
	{"a resource monitor twice", "node:", "overload_manager: {resource_monitors: [&m {name: envoy.resource_monitors.global_downstream_max_connections, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig, max_active_downstream_connections: 1}}, *m]}\nnode:", `overload_manager.resource_monitors[1].name: "envoy.resource_monitors.global_downstream_max_connections" is the name of another monitor`, ""},
	{"a runtime layer twice", "node:", "layered_runtime: {layers: [{name: a, static_layer: {}}, {name: a, static_layer: {}}]}\nnode:", `layered_runtime.layers[1].name: "a" is the name of another layer`, ""},
	{"a flag that is unknown", "          stat_prefix: s", "          stat_prefix: s\n          access_log: [{name: l, filter: {response_flag_filter: {flags: [XYZ]}}, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}}]", chain0 + `.filters[0].typed_config.access_log[0].filter.response_flag_filter.flags[0]: "XYZ": value must be in list`, ""},
	{"an SNI that is too long", "    connect_timeout: 1s", "    transport_socket: {name: tls, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'}}", up0 + `.transport_socket.typed_config.sni: `, ""},
	{"a name that is checked in what is not verified", "    connect_timeout: 1s", "    transport_socket: {name: tls, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: x, auto_sni_san_validation: true}}", up0 + `.transport_socket.typed_config.auto_sni_san_validation: needs a validation context`, ""},
	{"two weights that are too much", "          cluster: up", "          weighted_clusters: {clusters: [{name: up, weight: 4294967295}, {name: up, weight: 1}]}", chain0 + `.filters[0].typed_config.weighted_clusters: weights sum to 4294967296`, "its sum has more bits than its protos say"},
	{"an SDS secret without a name", "tls_certificates: [{certificate_chain: {filename: testdata/chain.pem}, private_key: {filename: testdata/key.pem}}]", "tls_certificate_sds_secret_configs: [{name: ''}]", tls0 + `.tls_certificate_sds_secret_configs[0].name: value length must be at least 1 runes`, ""},
	{"two static secrets of one name", "secrets: []", "secrets: [&s {name: s, validation_context: {trusted_ca: {filename: testdata/ca.pem}}}, *s]", `static_resources.secrets[1].name: "s" is the name of another secret`, ""},
}

func TestMistakesAreNamedWithTheirPath(t *testing.T) {
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			_, err := Bootstrap([]byte(m.text(t)), Options{})
			if err == nil {
				t.Fatal("it is accepted")
			}
			if !strings.Contains(err.Error(), m.want) {
				t.Errorf("got\n%v\nwant a line with\n%s", err, m.want)
			}
		})
	}
}

func (m mistake) text(t *testing.T) string { return m.textOf(t, base) }

func (m mistake) textOf(t *testing.T, base string) string {
	t.Helper()
	if strings.Count(base, m.old) == 0 {
		t.Fatalf("%q is not in the base", m.old)
	}
	return strings.Replace(base, m.old, m.new, 1)
}

func TestTheBaseOfTheMistakesIsRight(t *testing.T) {
	if _, err := Bootstrap([]byte(base), Options{}); err != nil {
		t.Fatal(err)
	}
}

func TestAllMistakesOfAFileAreReportedAtOnce(t *testing.T) {
	text := base
	for _, change := range [][2]string{
		{"connect_timeout: 1s", "conect_timeout: 1s"},
		{"port_value: 10000", "port_value: 70000"},
		{"b.example.com", "'*b'"},
		{"testdata/chain.pem", "testdata/nothing.pem"},
		{"cluster: up", "cluster: down"},
		{"tls_params: {}", "tls_params: {signature_algorithms: [x], cipher_suites: [FOO, BAR]}"},
	} {
		text = strings.Replace(text, change[0], change[1], 1)
	}
	_, err := Bootstrap([]byte(text), Options{})
	var all Errors
	if !errors.As(err, &all) {
		t.Fatalf("got %T, want Errors", err)
	}
	want := []string{
		up0 + ".conect_timeout", tls0 + ".tls_params.signature_algorithms",
		"static_resources.listeners[0].address.socket_address.port_value",
		tls0 + ".tls_params.cipher_suites[0]", tls0 + ".tls_params.cipher_suites[1]",
		tls0 + ".tls_certificates[0].certificate_chain.filename",
		chain1 + ".filter_chain_match.server_names[0]", chain0 + ".filters[0].typed_config.cluster",
	}
	got := map[string]bool{}
	for _, e := range all {
		got[e.Path] = true
	}
	for _, path := range want {
		if !got[path] {
			t.Errorf("nothing is said of %s", path)
		}
	}
	if len(all) != len(want) {
		t.Errorf("got %d mistakes, want %d:\n%v", len(all), len(want), err)
	}
}

func TestKeysStayOutOfErrors(t *testing.T) {
	key, err := os.ReadFile("testdata/key.pem")
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.Split(string(key), "\n")[1]
	for _, text := range []string{
		string(key),
		fmt.Sprintf("static_resources: {secrets: [{name: x, tls_certificate: {private_key: {inline_bytes: %q}}}]}", string(key)),
		fmt.Sprintf("static_resources: {secrets: [{name: x, tls_certificate: {private_key: %q}}]}", string(key)),
		fmt.Sprintf("static_resources: {secrets: [{name: x, tls_certificate: {private_key: {inline_string: %q}}}]}", string(key)),
	} {
		_, err := Bootstrap([]byte(text), Options{})
		if err == nil || strings.Contains(err.Error(), secret[:20]) {
			t.Errorf("got %v", err)
		}
	}
}
