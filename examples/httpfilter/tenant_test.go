package httpfilter_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"

	"outrider/examples/httpfilter"
	"outrider/proxy/config"
	"outrider/proxy/config/decode"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/filter/builtin"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/stats"
)

const bootstrap = `
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 1}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config:
            virtual_hosts:
            - name: v
              domains: ["*"]
              routes:
              - match: {prefix: /}
                direct_response: {status: 200}
                typed_per_filter_config:
                  tenant: {"@type": type.googleapis.com/google.protobuf.Struct, value: {header: x-who, tenants: [green]}}
          http_filters:
          - name: tenant
            typed_config:
              "@type": type.googleapis.com/google.protobuf.Struct
              value: {header: x-tenant, tenants: [red, blue]}
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
`

func options() decode.Options {
	return decode.Options{HTTPFilters: map[protoreflect.FullName]decode.HTTPFilterDecoder{httpfilter.Message: httpfilter.Decode}}
}

// made is the filter as the proxy makes it from the bootstrap, and its override
// in the route.
func made(t *testing.T, reg *stats.Registry) (filter.Factory, *config.FilterOverride) {
	t.Helper()
	b, err := decode.Bootstrap([]byte(bootstrap), options())
	if err != nil {
		t.Fatal(err)
	}
	manager := b.Listeners[0].Chains[0].Filters[0].HTTP
	makers := builtin.Makers()
	makers.Add((*httpfilter.Config)(nil), httpfilter.New)
	cfg := manager.Filters[0]
	f, err := makers.Of(cfg.Config)(cfg, filtertest.Deps(reg))
	if err != nil {
		t.Fatal(err)
	}
	return f, manager.Routes.VirtualHosts[0].Routes[0].PerFilter["tenant"]
}

func TestRequestsOfTenantsPass(t *testing.T) {
	reg := stats.New()
	f, override := made(t, reg)
	for name, c := range map[string]struct {
		header    string
		value     string
		overrides []*config.FilterOverride
		passes    bool
	}{
		"a tenant":               {header: "x-tenant", value: "red", passes: true},
		"another":                {header: "x-tenant", value: "green"},
		"nobody":                 {header: "x", value: "red"},
		"a tenant of the route":  {header: "x-who", value: "green", overrides: []*config.FilterOverride{override}, passes: true},
		"no tenant of the route": {header: "x-tenant", value: "red", overrides: []*config.FilterOverride{override}},
	} {
		t.Run(name, func(t *testing.T) {
			s := filtertest.New(t)
			s.Overriding = c.overrides
			s.Start(f).RequestHead(filtertest.Request("GET", "/", c.header, c.value), true)
			if c.passes {
				s.ResponseHead(filtertest.Response(200), true)
			} else if s.Replied == nil || s.Replied.Status != 403 {
				t.Errorf("replied %+v, want 403", s.Replied)
			}
			if got := s.Up.Head != nil; got != c.passes {
				t.Errorf("passed: %v, want %v", got, c.passes)
			}
			if got := s.Down.Head.Value("vary"); got != "x-tenant" {
				t.Errorf("vary %q, want x-tenant", got)
			}
		})
	}
	want := map[string]uint64{"requests.red": 1, "requests.green": 1, "refused": 3}
	if diff := cmp.Diff(want, filtertest.Counters(t, reg, "http.test.tenant.")); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

func TestAMistakeIsToldWithItsPlace(t *testing.T) {
	_, err := decode.Bootstrap([]byte(strings.Replace(bootstrap, "header: x-tenant", "x: y", 1)), options())
	if err == nil || !strings.Contains(err.Error(), "http_filters[0]") || !strings.Contains(err.Error(), "header must be set") {
		t.Errorf("the error is %v, want one about http_filters[0]", err)
	}
}
