//go:build envoy

package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"outrider/certs/ca"
)

// Each proxy sends a PROXY header with what it knows of its client, from one
// configuration; Envoy's listener filter reads it.
func TestEnvoyReadsTheHeadersOfBoth(t *testing.T) {
	for _, version := range []string{"V1", "V2"} {
		for _, k := range kinds {
			t.Run(version+" of "+string(k), func(t *testing.T) { headerIsRead(t, k, version) })
		}
	}
}

func headerIsRead(t *testing.T, k kind, version string) {
	w := newWorld(t)
	dir := t.TempDir()
	reader := start(t, envoy, t.TempDir(), readerOf(dir)).ready()
	_, port, err := net.SplitHostPort(reader.addr("reader"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := w.root.Issue(ca.Leaf{ID: "spiffe://td/server", DNS: []string{"server"}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "cert.pem"), string(server.ChainPEM))
	write(t, filepath.Join(dir, "key.pem"), string(server.KeyPEM))
	write(t, filepath.Join(dir, "root.pem"), string(w.root.RootPEM()))
	sender := start(t, k, t.TempDir(), senderTo(dir, port, version)).ready()

	client, err := w.root.Issue(ca.Leaf{ID: "spiffe://td/client"})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(client.ChainPEM, client.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 7)}}
	raw, err := d.Dial("tcp", sender.addr("sender"))
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}})
	defer c.Close()
	if b, err := io.ReadAll(c); string(b) != "read" {
		t.Fatalf("got %q, %v", b, err)
	}
	_, local, _ := net.SplitHostPort(sender.addr("sender"))
	tlvs := "- - -"
	switch {
	case version == "V2" && k == outrider:
		tlvs = "fixed spiffe://td/client spiffe://td/client"
	case version == "V2":
		tlvs = "fixed spiffe://td/client -"
	}
	want := fmt.Sprintf("127.0.0.7 127.0.0.1:%s %s\n", local, tlvs)
	path := filepath.Join(dir, "read.log")
	reader.wait("access log", func() bool { text, _ := os.ReadFile(path); return len(text) > 0 })
	if text, _ := os.ReadFile(path); string(text) != want {
		t.Errorf("Envoy read %q, want %q", text, want)
	}
}

// readerOf logs what a header said: addresses and TLVs.
func readerOf(dir string) string {
	var rules, keys []string
	for name, kind := range map[string]int{"fixed": 0xE1, "formatted": 0xE6, "spiffe": 0xE5} {
		rules = append(rules, fmt.Sprintf("{tlv_type: %d, on_tlv_present: {key: %s}}", kind, name))
	}
	for _, name := range []string{"fixed", "formatted", "spiffe"} {
		keys = append(keys, "%DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol:"+name+")%")
	}
	return fmt.Sprintf(`
static_resources:
  listeners:
  - name: reader
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    listener_filters: [{name: p, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, rules: [%s]}}]
    access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: %s/read.log, log_format: {text_format_source: {inline_string: "%%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%% %%DOWNSTREAM_LOCAL_ADDRESS%% %s\n"}}}}]
    filter_chains: [{filters: [{name: d, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config, response: {inline_string: read}}}]}]
`, strings.Join(rules, ", "), dir, strings.Join(keys, " "))
}

// senderTo takes mTLS and sends a header to the reader.
func senderTo(dir, port, version string) string {
	config, peer := "version: V1", ""
	if version == "V2" {
		config = "version: V2, pass_through_tlvs: {match_type: INCLUDE, tlv_type: [230]}, added_tlvs: [{type: 225, value: Zml4ZWQ=}]"
		peer = "metadata: {filter_metadata: {outrider: {proxy_protocol_peer: true}}}"
	}
	return fmt.Sprintf(`
static_resources:
  clusters:
  - name: reader
    type: STATIC
    %[4]s
    transport_socket:
      name: envoy.transport_sockets.upstream_proxy_protocol
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport
        config: {%[3]s}
        transport_socket: {name: envoy.transport_sockets.raw_buffer, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}
    load_assignment: {cluster_name: reader, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %[2]s}}}}]}]}
  listeners:
  - name: sender
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_certificates: [{certificate_chain: {filename: %[1]s/cert.pem}, private_key: {filename: %[1]s/key.pem}}]
            validation_context: {trusted_ca: {filename: %[1]s/root.pem}}
      filters:
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: p
          cluster: reader
          upstream_connect_mode: ON_DOWNSTREAM_TLS_HANDSHAKE
          max_early_data_bytes: 0
          proxy_protocol_tlvs: [{type: 230, format_string: {text_format_source: {inline_string: "%%DOWNSTREAM_PEER_URI_SAN%%"}}}]
`, dir, port, config, peer)
}
