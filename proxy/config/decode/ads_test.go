package decode

import (
	"strings"
	"testing"
	"time"

	"outrider/certs"
)

const adsConfig = `node: {id: node, cluster: c}
dynamic_resources:
  lds_config: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}
  cds_config: {ads: {}, resource_api_version: V3}
  ads_config:
    api_type: DELTA_GRPC
    set_node_on_first_message_only: true
    rate_limit_settings: {fill_rate: 2.5}
    transport_api_version: V3
    grpc_services: [{envoy_grpc: {cluster_name: up}}]`

func TestDynamicResourcesByTheAggregatedStream(t *testing.T) {
	b, err := Bootstrap([]byte(strings.Replace(base, "node: {id: node, cluster: c}", adsConfig, 1)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if want := (certs.RateLimit{Tokens: 100, PerSecond: 2.5}); *b.ADS.Rate != want {
		t.Errorf("rate_limit_settings: %+v, want %+v", *b.ADS.Rate, want)
	}
	b.ADS.Rate = nil
	if want := (certs.Source{Cluster: "up", Delta: true, SetNodeOnFirstMessageOnly: true}); *b.ADS != want {
		t.Errorf("ads_config: %+v, want %+v", *b.ADS, want)
	}
	if want := (certs.Source{ADS: true}); *b.LDS != want {
		t.Errorf("lds_config: %+v, want %+v", *b.LDS, want)
	}
	if want := (certs.Source{ADS: true, InitialFetchTimeout: 15 * time.Second}); *b.CDS != want {
		t.Errorf("cds_config: %+v, want %+v", *b.CDS, want)
	}
}

func TestMistakesInSourcesOverADS(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"there is no such stream": {
			"  ads_config:\n    api_type: DELTA_GRPC\n    set_node_on_first_message_only: true\n    rate_limit_settings: {fill_rate: 2.5}\n    transport_api_version: V3\n    grpc_services: [{envoy_grpc: {cluster_name: up}}]", "",
			"dynamic_resources.lds_config.ads: there is no dynamic_resources.ads_config",
		},
		"its cluster is unknown": {"cluster_name: up}}]", "cluster_name: nowhere}}]", `dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name: unknown cluster "nowhere"`},
		"its API is of REST":     {"DELTA_GRPC", "REST", "dynamic_resources.ads_config.api_type: REST is not supported by outrider: use GRPC or DELTA_GRPC"},
		"there is no node":       {"{id: node, cluster: c}", "{id: node}", "node: must have an id and a cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(adsConfig, c.old) {
				t.Fatalf("%q is not in the bootstrap", c.old)
			}
			text := strings.Replace(base, "node: {id: node, cluster: c}", strings.Replace(adsConfig, c.old, c.new, 1), 1)
			_, err := Bootstrap([]byte(text), Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got\n%v\nwant a line with\n%s", err, c.want)
			}
		})
	}
}
