package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3" // what typed_config holds
	"google.golang.org/protobuf/encoding/protojson"

	"outrider/proxy/xds"
	"outrider/proxy/xds/xdstest"
)

const faultType = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"

// aborting answers every request with a status.
func aborting(status int) string {
	return fmt.Sprintf(`{"@type":%q,"abort":{"http_status":%d,"percentage":{"numerator":100}}}`, faultType, status)
}

func extensionOf(t *testing.T, name, typed string) *corev3.TypedExtensionConfig {
	t.Helper()
	e := &corev3.TypedExtensionConfig{}
	if err := protojson.Unmarshal(fmt.Appendf(nil, `{"name":%q,"typed_config":%s}`, name, typed), e); err != nil {
		t.Fatal(err)
	}
	return e
}

// withFilter is a listener "l" that answers 200 "through", after a filter from
// source.
func withFilter(t *testing.T, filter, source, more string) *listenerv3.Listener {
	t.Helper()
	l := &listenerv3.Listener{}
	text := fmt.Sprintf(`{"name":"l","address":{"socket_address":{"address":"127.0.0.1","port_value":0}},"filter_chains":[{"filters":[{"name":"hcm","typed_config":
		{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":"x",
		"route_config":{"virtual_hosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},"direct_response":{"status":200,"body":{"inline_string":"through"}}}]}]},
		"http_filters":[{"name":%q,"config_discovery":{"config_source":%s,"type_urls":[%q]%s}},
		{"name":"router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}`, filter, source, faultType, more)
	if err := protojson.Unmarshal([]byte(text), l); err != nil {
		t.Fatal(err)
	}
	return l
}

const fromADS = `{"resource_api_version":"V3","initial_fetch_timeout":"0.1s","ads":{}}`

// extensionRig is a proxy with a control plane that has one listener.
type extensionRig struct {
	*running
	plane    *xdstest.Plane
	client   *http.Client
	listener *listenerv3.Listener
}

func (r *extensionRig) push(t *testing.T, all ...*corev3.TypedExtensionConfig) {
	t.Helper()
	r.plane.Set(t, xdstest.Resources{xds.ClusterType: nil, xds.ListenerType: listOf(r.listener), xds.ExtensionType: listOf(all...)})
}

// answers waits for an answer; every request goes by one connection.
func (r *extensionRig) answers(what, want string) {
	r.t.Helper()
	got, cut := "", false
	r.eventually(what+": "+want, func() bool {
		var reused bool
		got, reused = r.asks(r.client, "l")
		cut = cut || !reused && got != "nothing listens"
		return got == want
	})
	if cut && what != "the first" {
		r.t.Errorf("%s: the connection was cut", what)
	}
}

func newExtensionRig(t *testing.T, o Options, l *listenerv3.Listener, first ...*corev3.TypedExtensionConfig) *extensionRig {
	t.Helper()
	r := &extensionRig{plane: xdstest.Listen(t, "test", "tcp", "127.0.0.1:0"), listener: l}
	r.push(t, first...)
	r.client = &http.Client{Transport: &http.Transport{}, Timeout: patience}
	t.Cleanup(r.client.CloseIdleConnections)
	r.running = runOver(t, bootOver(r.plane.Address(), "DELTA_GRPC", true), o)
	return r
}

func TestAFilterByDiscoveryChangesUnderOpenConnections(t *testing.T) {
	r := newExtensionRig(t, Options{DrainTime: time.Second}, withFilter(t, "f", fromADS, ""), extensionOf(t, "f", aborting(418)))
	r.answers("the first", "418 fault filter abort")
	r.push(t, extensionOf(t, "f", aborting(420)))
	r.answers("another version", "420 fault filter abort")
	r.push(t, extensionOf(t, "f", `{"@type":"type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault","delay":{"header_delay":{}},"max_active_faults":1,"abort":{"percentage":{"numerator":100}}}`))
	r.eventually("the refusal", func() bool { return len(r.plane.Nacks()) > 0 })
	if got := r.plane.Nacks()[0]; !strings.HasPrefix(got, "f: typed_config.abort") {
		t.Errorf("refused with %q, want the name and the field", got)
	}
	if dump := r.get("/config_dump?resource=ecds_filters"); !strings.Contains(dump, "typed_config.abort") {
		t.Errorf("no refusal in the dump:\n%s", dump)
	}
	r.answers("what was before", "420 fault filter abort")
	r.push(t)
	r.answers("nothing", "500 ")
	r.push(t, extensionOf(t, "f", fmt.Sprintf(`{"@type":%q}`, faultType)))
	r.answers("a version that does nothing", "200 through")
	if got := r.get("/stats?filter=extension_config_discovery.http_filter.f.(config|update_rej)"); !strings.Contains(got, "config_reload: 4") || !strings.Contains(got, "update_rejected: 1") {
		t.Errorf("stats:\n%s", got)
	}
}

func TestAListenerWaitsForItsFilterBeforeItReplacesOneThatWorks(t *testing.T) {
	r := newExtensionRig(t, Options{DrainTime: time.Second}, withFilter(t, "f", fromADS, ""), extensionOf(t, "f", aborting(418)))
	r.answers("the first", "418 fault filter abort")
	warming := func() bool { return strings.Contains(r.get("/config_dump"), "warming_state") }

	r.listener = withFilter(t, "g", fromADS, "")
	r.push(t, extensionOf(t, "f", aborting(418)))
	r.eventually("the next version waits", warming)
	time.Sleep(200 * time.Millisecond) // initial_fetch_timeout has passed
	r.answers("the version before", "418 fault filter abort")
	r.push(t, extensionOf(t, "f", aborting(418)), extensionOf(t, "g", aborting(419)))
	r.eventually("the next version", func() bool { got, _ := r.asks(r.client, "l"); return got == "419 fault filter abort" })

	r.listener = withFilter(t, "h", fromADS, `,"default_config":`+aborting(420))
	r.push(t, extensionOf(t, "g", aborting(419)))
	r.eventually("the default, after initial_fetch_timeout", func() bool { got, _ := r.asks(r.client, "l"); return got == "420 fault filter abort" })

	r.listener = withFilter(t, "i", strings.ReplaceAll(fromADS, "0.1s", "0s"), `,"apply_default_config_without_warming":true,"default_config":`+aborting(421))
	r.push(t)
	r.eventually("the default, at once", func() bool { got, _ := r.asks(r.client, "l"); return got == "421 fault filter abort" })
	if got := r.plane.Nacks(); len(got) > 0 {
		t.Errorf("refused: %q", got)
	}
}

func TestFiltersOfAFileAndOfAStreamOfTheirOwnAreTaken(t *testing.T) {
	file := t.TempDir() + "/filter.json"
	write := func(status int) {
		put(t, file, fmt.Sprintf(`{"resources":[{"@type":%q,"name":"f","typed_config":%s}]}`, xds.ExtensionType, aborting(status)))
	}
	write(418)
	r := newExtensionRig(t, Options{DrainTime: time.Second}, withFilter(t, "f", fmt.Sprintf(`{"path_config_source":{"path":%q}}`, file), ""))
	r.answers("the first", "418 fault filter abort")
	write(419)
	r.answers("another content", "419 fault filter abort")
	for _, api := range []string{"GRPC", "DELTA_GRPC"} {
		r.listener = withFilter(t, "f", fmt.Sprintf(`{"resource_api_version":"V3","api_config_source":{"api_type":%q,"transport_api_version":"V3","grpc_services":[{"envoy_grpc":{"cluster_name":"plane"}}]}}`, api), "")
		r.push(t, extensionOf(t, "f", aborting(420+len(api))))
		want := fmt.Sprintf("%d fault filter abort", 420+len(api))
		r.eventually(api, func() bool { got, _ := r.asks(r.client, "l"); return got == want })
	}
}

func TestFiltersAreKeptOnDisk(t *testing.T) {
	options := Options{DrainTime: time.Second, XDSCache: t.TempDir()}
	address := ""
	t.Run("with a control plane", func(t *testing.T) {
		r := newExtensionRig(t, options, withFilter(t, "f", fromADS, ""), extensionOf(t, "f", aborting(418)))
		r.answers("the first", "418 fault filter abort")
		address = r.plane.Address()
	})
	r := &extensionRig{running: runOver(t, bootOver(address, "DELTA_GRPC", true), options), client: &http.Client{Transport: &http.Transport{}, Timeout: patience}}
	defer r.client.CloseIdleConnections()
	r.answers("the first", "418 fault filter abort")
}
