package decode

import (
	"strings"
	"testing"
	"time"

	"outrider/proxy/config"
)

// istioBoot is a bootstrap with Istio's filters of telemetry; each is the body of
// a typed_config.
func istioBoot(direction, network, http string) []byte {
	return []byte(`
static_resources:
  listeners:
  - name: l
    traffic_direction: ` + direction + `
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filter_chain_match: {transport_protocol: tls}
      filters:
      - {name: istio.stats, typed_config: {"@type": type.googleapis.com/stats.PluginConfig` + network + `}}
      - {name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: p, cluster: c}}
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: p
          route_config: {virtual_hosts: []}
          http_filters:
          - {name: istio, typed_config: {` + http + `}}
          - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters: [{name: c, connect_timeout: 1s}]
`)
}

const statsType = `"@type": type.googleapis.com/stats.PluginConfig`

func TestIstiosStatsAreDecoded(t *testing.T) {
	full := `, disable_host_header_fallback: true, tcp_reporting_duration: 3s, rotation_interval: 3600s, graceful_deletion_interval: 60s, debug: true, stat_prefix: x,
	  metrics: [{name: requests_total, dimensions: {a: request.host}, tags_to_remove: [b]}, {name: request_bytes, drop: true}],
	  definitions: [{name: m, value: "1", type: HISTOGRAM}]`
	want := config.IstioStats{
		DisableHostHeaderFallback: true, ReportDuration: 3 * time.Second, Rotation: time.Hour, GracefulDeletion: time.Minute,
		Metrics: []config.IstioMetric{
			{Name: "requests_total", Dimensions: map[string]string{"a": "request.host"}, Remove: []string{"b"}}, {Name: "request_bytes", Drop: true},
		},
		Definitions: []config.IstioDefinition{{Name: "m", Value: "1", Kind: config.IstioHistogram}},
	}
	for name, c := range map[string]struct {
		direction, more string
		want            config.IstioReporter
	}{
		"inbound":            {"INBOUND", "", config.IstioDestination},
		"outbound":           {"OUTBOUND", "", config.IstioSource},
		"without direction":  {"UNSPECIFIED", "", config.IstioSource},
		"a waypoint inbound": {"INBOUND", ", reporter: SERVER_GATEWAY", config.IstioWaypoint},
	} {
		boot, err := Bootstrap(istioBoot(c.direction, full+c.more, statsType+full+c.more), Options{})
		if err != nil {
			t.Fatal(err)
		}
		want.Reporter = c.want
		same(t, name+", TCP", boot.Listeners[0].Chains[0].Filters[0].IstioStats, &want)
		same(t, name+", HTTP", boot.Listeners[0].Chains[1].Filters[0].HTTP.Filters[0].Config, &want)
	}
}

func TestIstiosExchangeIsDecoded(t *testing.T) {
	boot, err := Bootstrap(istioBoot("INBOUND", "", `"@type": type.googleapis.com/udpa.type.v1.TypedStruct, type_url: type.googleapis.com/io.istio.http.peer_metadata.Config, value: {
	  downstream_discovery: [{workload_discovery: {}}, {baggage: {}}], upstream_discovery: [{istio_headers: {}}, {upstream_filter_state: {peer_metadata_key: upstream_peer}}],
	  downstream_propagation: [{baggage: {}}], upstream_propagation: [{istio_headers: {skip_external_clusters: true}}], shared_with_upstream: true, additional_labels: [a, b]}`), Options{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "exchange", boot.Listeners[0].Chains[1].Filters[0].HTTP.Filters[0].Config, &config.IstioHTTPExchange{
		DownstreamDiscovery:   []config.IstioExchangeMethod{{Name: "workload_discovery"}, {Name: "baggage"}},
		UpstreamDiscovery:     []config.IstioExchangeMethod{{Name: "istio_headers"}, {Name: "upstream_filter_state"}},
		DownstreamPropagation: []config.IstioExchangeMethod{{Name: "baggage"}},
		UpstreamPropagation:   []config.IstioExchangeMethod{{Name: "istio_headers", SkipExternal: true}},
		AdditionalLabels:      []string{"a", "b"},
	})
}

func TestMistakesInIstiosTelemetryAreRefused(t *testing.T) {
	const exchange = `"@type": type.googleapis.com/udpa.type.v1.TypedStruct, type_url: type.googleapis.com/io.istio.http.peer_metadata.Config, value: `
	for body, want := range map[string]string{
		statsType + `, graceful_deletion_interval: 0.5s`:               "typed_config.graceful_deletion_interval: 500ms is less than 1s",
		statsType + `, metrics: [{match: x}]`:                          "typed_config.metrics[0].match",
		statsType + `, tcp_reporting_duration: -1s`:                    "typed_config.tcp_reporting_duration",
		exchange + `{downstream_discovery: [{nonsense: {}}]}`:          "nonsense",
		exchange + `{upstream_propagation: [{istio_headers: {a: 1}}]}`: "a",
	} {
		if _, err := Bootstrap(istioBoot("INBOUND", "", body), Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", body, err, want)
		}
	}
}
