package decode

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"outrider/certs"
	"outrider/proxy/config"
)

// httpBase is a server of HTTP with a route, for tests to change.
const httpBase = `
node: {id: node, cluster: c}
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: s
          route_config:
            name: local
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /}
                route: {cluster: up}
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: up
    connect_timeout: 1s
    load_assignment:
      cluster_name: up
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}]}]
`

func httpOf(t *testing.T, text string) *config.HTTPConnectionManager {
	t.Helper()
	b, err := Bootstrap([]byte(text), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b.Listeners[0].Chains[0].Filters[0].HTTP
}

func TestTheLeastConnectionManagerHasEnvoysDefaults(t *testing.T) {
	got := httpOf(t, httpBase)
	slash := "/"
	want := &config.HTTPConnectionManager{
		StatPrefix: "s",
		Routes: &config.RouteConfig{
			Name: "local", ValidateClusters: true, MaxDirectResponseBytes: 4096,
			VirtualHosts: []*config.VirtualHost{{
				Name: "all", Domains: []string{"*"},
				Routes: []*config.Route{{
					Match:  config.RouteMatch{Prefix: &slash},
					Action: &config.RouteAction{Cluster: "up", NotFoundStatus: 503, Timeout: 15 * time.Second},
				}},
			}},
		},
		Filters:                []*config.HTTPFilter{{Name: "router", Config: &config.HTTPRouter{}}},
		HTTP1:                  config.HTTP1Options{AllowAbsoluteURL: true},
		Common:                 config.CommonHTTPOptions{IdleTimeout: time.Hour, MaxHeaders: 100},
		ServerName:             "envoy",
		MaxRequestHeadersKB:    60,
		StreamIdleTimeout:      5 * time.Minute,
		DrainTimeout:           5 * time.Second,
		DelayedCloseTimeout:    time.Second,
		GenerateRequestID:      true,
		AddProxyProtocolHeader: true,
	}
	ignore := cmpopts.IgnoreFields(config.RouteConfig{}, "Digest", "Source")
	if diff := cmp.Diff(want, got, ignore, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(certs.StringMatcher{}, "Regex")); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}
