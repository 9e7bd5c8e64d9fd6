package decode

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"outrider/proxy/config"
)

// proxied is a bootstrap with a cluster whose transport socket sends a header.
func proxied(cluster, socket, endpoint string) string {
	return fmt.Sprintf(`
static_resources:
  clusters:
  - name: a
    type: STATIC
    %s
    transport_socket:
      name: envoy.transport_sockets.upstream_proxy_protocol
      typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport, %s}
    load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}, %s}]}]}
`, cluster, socket, endpoint)
}

const (
	raw   = `transport_socket: {name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}`
	tlvs  = `metadata: {typed_filter_metadata: {envoy.transport_sockets.proxy_protocol: {"@type": type.googleapis.com/envoy.config.core.v3.PerHostConfig, added_tlvs: [{type: 225, value: aG9zdA==}]}}}`
	asked = `metadata: {filter_metadata: {outrider: {proxy_protocol_peer: true}}}`
)

func TestUpstreamProxyProtocolIsDecoded(t *testing.T) {
	boot, err := Bootstrap([]byte(proxied(asked, raw+`, config: {version: V2, pass_through_tlvs: {match_type: INCLUDE, tlv_type: [226]}, added_tlvs: [
        {type: 227, value: eA==},
        {type: 228, format_string: {text_format_source: {inline_string: "%REQUESTED_SERVER_NAME%"}, omit_empty_values: true}}]}`, tlvs)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := boot.Clusters[0]
	want := config.TransportSocket{
		Name: "envoy.transport_sockets.upstream_proxy_protocol",
		ProxyProtocol: &config.UpstreamProxyProtocol{V2: true, Peer: true,
			Pass:  &config.TLVPass{Types: []byte{226}},
			Added: []config.TLV{{Type: 227, Value: []byte("x")}, {Type: 228, Format: "%REQUESTED_SERVER_NAME%", OmitEmpty: true}},
		},
	}
	if d := cmp.Diff(want, c.TransportSocket); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if d := cmp.Diff([]config.TLV{{Type: 225, Value: []byte("host")}}, c.Assignment.Localities[0].Endpoints[0].TLVs); d != "" {
		t.Errorf("of the endpoint (-want +got):\n%s", d)
	}
}

func TestUpstreamProxyProtocolWrapsTLS(t *testing.T) {
	inner := `transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: web}}`
	boot, err := Bootstrap([]byte(proxied("", inner, "")), Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := boot.Clusters[0].TransportSocket
	if s.TLS == nil || s.TLS.SNI != "web" || s.ProxyProtocol == nil || s.ProxyProtocol.V2 {
		t.Errorf("got %+v", s)
	}
}

func TestWhatAProxyHeaderCannotHaveIsRefused(t *testing.T) {
	for wrong, c := range map[string]struct{ cluster, socket, endpoint string }{
		"transport_socket.typed_config.transport_socket: value is required": {socket: `config: {version: V2}`},
		"V1 has no TLVs":                                {socket: raw + `, config: {added_tlvs: [{type: 1, value: eA==}]}`},
		"type: 256: value must be less than 256":        {socket: raw + `, config: {version: V2, added_tlvs: [{type: 256, value: eA==}]}`},
		"added_tlvs[1].type: 1 is there twice":          {socket: raw + `, config: {version: V2, added_tlvs: [{type: 1, value: eA==}, {type: 1, value: eA==}]}`},
		"only one of value, format_string":              {socket: raw + `, config: {version: V2, added_tlvs: [{type: 1, value: eA==, format_string: {text_format_source: {inline_string: x}}}]}`},
		"one of value, format_string must be set":       {socket: raw + `, config: {version: V2, added_tlvs: [{type: 1}]}`},
		"tlv_type[0]: 300: value must be less than 256": {socket: raw + `, config: {version: V2, pass_through_tlvs: {tlv_type: [300]}}`},
		"needs a transport socket":                      {cluster: asked, socket: raw + `, config: {version: V1}`},
		`filter_metadata["outrider"].peer: is not`:      {cluster: `metadata: {filter_metadata: {outrider: {peer: true}}}`, socket: raw},
		"allow_unspecified_address":                     {socket: raw + `, allow_unspecified_address: true`},
		"added_tlvs[0].type: 300 is not a type":         {socket: raw, endpoint: strings.Replace(tlvs, "type: 225", "type: 300", 1)},
		"is not supported in metadata":                  {socket: raw, endpoint: strings.Replace(tlvs, "value: aG9zdA==", "format_string: {text_format_source: {inline_string: x}}", 1)},
	} {
		if _, err := Bootstrap([]byte(proxied(c.cluster, c.socket, c.endpoint)), Options{}); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("got %v, want %q", err, wrong)
		}
	}
}
