package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// envoyTemplate is the configuration of outrider and Envoy, the same file for
// both. Buffers and limits are the defaults, but for the circuit breaker, which
// would stop at 1024 connections, and for the sessions kept, of which 1 is not
// enough for several connections at a time.
const envoyTemplate = `
{{- define "tls" -}}
          common_tls_context:
            tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3, ecdh_curves: [X25519]}
            {{- if .HTTP}}
            alpn_protocols: [h2]
            {{- end}}
            tls_certificates: [{certificate_chain: {filename: {{.Cert}}}, private_key: {filename: {{.Key}}}}]
            validation_context: {trusted_ca: {filename: {{.Root}}}}
{{- end -}}
{{- if .Admin}}
admin: {address: {socket_address: {address: {{.AdminHost}}, port_value: {{.AdminPort}}}}}
{{- end}}
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: {{.ListenHost}}, port_value: {{.ListenPort}}}}
    {{- if gt (len .Chains) 1}}
    listener_filters:
    - name: tls
      typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}
    {{- end}}
    filter_chains:
    {{- range $name := .Chains}}
    - filter_chain_match: { {{- with $name}}server_names: [{{.}}]{{end -}} }
      filters:
      {{- if $.HTTP}}
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          generate_request_id: false # nginx and haproxy make none either
          route_config:
            virtual_hosts:
            - {name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: next}}]}
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
      {{- else}}
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: bench
          cluster: next
      {{- end}}
      {{- if $.In}}
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          {{template "tls" $}}
      {{- end}}
    {{- end}}
  clusters:
  {{- range $name := .Clusters}}
  - name: {{$name}}
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {thresholds: [{max_connections: 100000, max_requests: 100000, max_pending_requests: 100000}]}
    load_assignment: {cluster_name: {{$name}}, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: {{$.TargetHost}}, port_value: {{$.TargetPort}}}}}}]}]}
    {{- if $.HTTP2Out}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    {{- end}}
    {{- if $.Out}}
    transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          sni: ` + serverName + `
          max_session_keys: 64
          {{template "tls" $}}
    {{- end}}
  {{- end}}
`

// configData is what the templates of configurations are filled with.
type configData struct {
	ListenHost, ListenPort, TargetHost, TargetPort string
	Listen, Target                                 string
	Cert, Key, Both, Root, Dir                     string
	Admin, AdminHost, AdminPort                    string // "" without
	Module                                         string // nginx's for streams, if it is not built in
	Files                                          int    // that may be open
	Chains, Clusters                               []string
	In, Out, HTTP, HTTP2In, HTTP2Out               bool
}

func (h hop) data() configData {
	d := configData{
		Listen: h.listen, Target: h.target, Dir: h.dir, In: h.in, Out: h.out, HTTP: h.http != "",
		Cert: h.ids.file(h.role() + ".pem"), Key: h.ids.file(h.role() + ".key"), Both: h.ids.file(h.role() + ".both"),
		Root: h.ids.file("root.pem"), Module: nginxStream(), Files: filesAllowed(),
		// between proxies HTTP/2, at the ends what the client speaks
		HTTP2In: h.http != "" && (h.in || h.http == "h2"), HTTP2Out: h.http != "" && (h.out || h.http == "h2"),
	}
	d.Chains, d.Clusters = h.chainNames(), h.clusterNames()
	if d.Admin = h.admin; d.Admin != "" {
		d.AdminHost, d.AdminPort = hostPort(d.Admin)
	}
	d.ListenHost, d.ListenPort = hostPort(h.listen)
	d.TargetHost, d.TargetPort = hostPort(h.target)
	return d
}

// write fills a template into a file of the hop's directory.
func (h hop) write(name, text string) (path string, err error) {
	t, err := template.New(name).Parse(text)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	if err := t.Execute(&out, h.data()); err != nil {
		return "", err
	}
	path = filepath.Join(h.dir, name)
	return path, os.WriteFile(path, []byte(out.String()), 0o600)
}

func envoyConfig(h hop) (path string, err error) { return h.write("envoy.yaml", envoyTemplate) }

// chainNames are the server names of the filter chains, the last the one that
// connections ask for; one chain takes any.
func (e extent) chainNames() []string {
	if e.chains <= 1 {
		return []string{""}
	}
	var names []string
	for i := range e.chains - 1 {
		names = append(names, fmt.Sprintf("server-%d.bench", i))
	}
	return append(names, serverName)
}

// clusterNames are as Istio's are, but for the last, which all connections go to.
func (e extent) clusterNames() []string {
	var names []string
	for i := range e.clusters - 1 {
		names = append(names, fmt.Sprintf("outbound|80||service-%d.bench.svc.cluster.local", i))
	}
	return append(names, "next")
}
