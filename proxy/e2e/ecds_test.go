//go:build envoy

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3" // what typed_config holds
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"

	"outrider/proxy/xds"
	"outrider/proxy/xds/xdstest"
)

const (
	mutationURL = "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
	rbacURL     = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
	routerURL   = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
)

// mutation is a filter that adds a header to answers.
func mutation(value string) string {
	return fmt.Sprintf(`{"@type":%q,"mutations":{"response_mutations":[{"append":{"header":{"key":"x-ext","value":%q},"append_action":"OVERWRITE_IF_EXISTS_OR_ADD"}}]}}`, mutationURL, value)
}

// denies is a filter that refuses every request.
func denies() string { return fmt.Sprintf(`{"@type":%q,"rules":{"action":"ALLOW"}}`, rbacURL) }

func extension(t *testing.T, name, typed string) types.Resource {
	return parsed(t, &corev3.TypedExtensionConfig{}, `{"name":%q,"typed_config":%s}`, name, typed)
}

// discovered is a listener that answers "hello", with a filter by discovery. more is
// what stands beside its source.
func discovered(t *testing.T, name, filter, more string) types.Resource {
	return parsed(t, &listenerv3.Listener{}, `{"name":%q,"address":{"socket_address":{"address":"127.0.0.1","port_value":0}},"filter_chains":[{"filters":[{"name":"hcm","typed_config":
		{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":"x",
		"access_log":[{"name":"f","typed_config":{"@type":"type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog","path":"access.log","log_format":{"text_format_source":{"inline_string":"%%RESPONSE_CODE%% %%RESPONSE_FLAGS%% %%RESPONSE_CODE_DETAILS%%\n"}}}}],
		"route_config":{"virtual_hosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},"direct_response":{"status":200,"body":{"inline_string":"hello"}}}]}]},
		"http_filters":[{"name":%q,"config_discovery":{"config_source":{"resource_api_version":"V3","initial_fetch_timeout":%s,"ads":{}},"type_urls":[%q,%q]%s}},
		{"name":"router","typed_config":{"@type":%q}}]}}]}]}`,
		name, filter, `"1s"`, mutationURL, rbacURL, more, routerURL)
}

// asks is the answer of a listener.
func (p *planed) asks(client *http.Client, listener string) string {
	_, text := p.get("/listeners")
	for line := range strings.Lines(text) {
		name, addr, ok := strings.Cut(strings.TrimSpace(line), "::")
		if !ok || name != listener {
			continue
		}
		resp, err := client.Get("http://" + addr)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return fmt.Sprintf("%d %q ext=%s", resp.StatusCode, body, resp.Header.Get("x-ext"))
	}
	return "no listener"
}

// A filter whose configuration comes by discovery does in both what the control
// plane says last: nothing, its default, one version after the other.
func TestBothTakeFiltersByDiscovery(t *testing.T) {
	for _, api := range []string{"GRPC", "DELTA_GRPC"} {
		t.Run(api, func(t *testing.T) {
			seen := map[kind][]string{}
			for _, k := range kinds {
				seen[k] = extensionsOf(t, k, api)
			}
			if !slices.Equal(seen[envoy], seen[outrider]) {
				t.Errorf("Envoy\n%s\noutrider\n%s", strings.Join(seen[envoy], "\n"), strings.Join(seen[outrider], "\n"))
			}
		})
	}
}

// extensionsOf is what is to be seen of one proxy.
func extensionsOf(t *testing.T, k kind, api string) (seen []string) {
	with := func(e ...types.Resource) xdstest.Resources {
		return xdstest.Resources{xds.ClusterType: nil, xds.ExtensionType: e, xds.ListenerType: []types.Resource{
			discovered(t, "sent", "ext", ""),
			discovered(t, "default", "never", `,"default_config":`+mutation("default")),
			discovered(t, "nothing", "none", ""),
			discovered(t, "at once", "late", `,"apply_default_config_without_warming":true,"default_config":`+mutation("at once")),
		}}
	}
	p := startPlaned(t, k, api, with(extension(t, "ext", mutation("one"))))
	client := &http.Client{Transport: &http.Transport{}, Timeout: patience}
	defer client.CloseIdleConnections()
	settled := func(what, listener, want string) {
		t.Helper()
		p.wait(what, func() bool { return p.asks(client, listener) == want })
		for _, l := range []string{"sent", "default", "nothing", "at once"} {
			seen = append(seen, what+": "+l+": "+p.asks(client, l))
		}
		for _, name := range []string{"ext.config_reload", "late.config_reload", "ext.update_success", "never.update_success", "never.init_fetch_timeout", "never.config_fail", "ext.config_conflict"} {
			seen = append(seen, fmt.Sprint(what, ": ", name, " ", p.stat("extension_config_discovery.http_filter."+name)))
		}
	}
	p.wait("the time to wait", func() bool { return p.stat("extension_config_discovery.http_filter.none.init_fetch_timeout") == 1 })
	settled("the first", "sent", `200 "hello" ext=one`)
	p.plane.Set(t, with(extension(t, "ext", mutation("two")), extension(t, "late", denies())))
	settled("another version, and what was late", "at once", `403 "RBAC: access denied" ext=`)
	_, dump := p.get("/config_dump?resource=ecds_filters")
	lines := regexp.MustCompile(`"(name|value|version_info)": [^,\n]*`).FindAllString(dump, -1)
	slices.Sort(lines)
	seen = append(seen, lines...)
	if api == "GRPC" {
		return seen // in the state of the world nothing is removed
	}
	p.plane.Set(t, with())
	settled("removals", "sent", `500 "" ext=`)
	p.plane.Set(t, with(extension(t, "ext", mutation("three"))))
	settled("once more", "sent", `200 "hello" ext=three`)
	// Nonsense comes last: Envoy answers a server that repeats it at once.
	p.plane.Set(t, with(extension(t, "ext", fmt.Sprintf(`{"@type":%q}`, routerURL))))
	p.wait("the refusal", func() bool { return len(p.plane.Nacks()) > 0 })
	seen = append(seen, "nonsense: "+p.asks(client, "sent"), fmt.Sprint(p.stat("extension_config_discovery.http_filter.ext.update_rejected") > 0))
	if got := p.plane.Nacks()[0]; !strings.Contains(got, "envoy.extensions.filters.http.router.v3.Router") {
		t.Errorf("%s refuses with %q, want the name of the type", k, got)
	}
	p.plane.Stop()
	return seen
}
