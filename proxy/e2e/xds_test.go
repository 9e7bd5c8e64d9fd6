//go:build envoy

package e2e

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3" // what typed_config holds
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"outrider/proxy/xds"
	"outrider/proxy/xds/xdstest"
)

// planed is a proxy with a control plane of its own.
type planed struct {
	*running
	plane *xdstest.Plane
}

func startPlaned(t *testing.T, k kind, api string, first xdstest.Resources, flags ...string) *planed {
	t.Helper()
	plane := xdstest.Listen(t, "node", "tcp", "127.0.0.1:0")
	plane.Set(t, first)
	return &planed{startAt(t, k, api, plane.Address(), flags...), plane}
}

// startAt runs a proxy whose control plane is at an address.
func startAt(t *testing.T, k kind, api, address string, flags ...string) *running {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	source := "{resource_api_version: V3, initial_fetch_timeout: 0s, ads: {}}"
	boot := fmt.Sprintf(`
dynamic_resources:
  lds_config: %[1]s
  cds_config: %[1]s
  ads_config: {api_type: %[2]s, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: plane}}]}
static_resources:
  clusters:
  - name: plane
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: plane, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[3]s, port_value: %[4]s}}}}]}]}
`, source, api, host, port)
	return start(t, k, t.TempDir(), boot, flags...)
}

// says serves its name to each connection.
func says(t *testing.T, name string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, name)
			c.Close()
		}
	}()
	return ln.Addr().String()
}

// hears is what a connection to a listener is told, "" for nothing.
func (p *planed) hears(listener string) string {
	_, text := p.get("/listeners")
	for line := range strings.Lines(text) {
		name, addr, ok := strings.Cut(strings.TrimSpace(line), "::")
		if !ok || name != listener {
			continue
		}
		c, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			return ""
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		text, _ := io.ReadAll(c)
		return string(text)
	}
	return ""
}

func parsed[M proto.Message](t *testing.T, m M, format string, args ...any) M {
	t.Helper()
	if err := protojson.Unmarshal(fmt.Appendf(nil, format, args...), m); err != nil {
		t.Fatal(err)
	}
	return m
}

func edsOf(t *testing.T, name string) types.Resource {
	return parsed(t, &clusterv3.Cluster{}, `{"name":%q,"type":"EDS","connect_timeout":"1s","eds_cluster_config":{"eds_config":{"resource_api_version":"V3","initial_fetch_timeout":"0s","ads":{}}}}`, name)
}

func endpointsOf(t *testing.T, name, addr string) types.Resource {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return assignmentWith(t, name, fmt.Sprintf(`{"endpoint":{"address":{"socket_address":{"address":%q,"port_value":%s}}}}`, host, port))
}

// assignmentWith is an assignment with lb_endpoints in JSON.
func assignmentWith(t *testing.T, name, endpoints string) types.Resource {
	return parsed(t, &endpointv3.ClusterLoadAssignment{}, `{"cluster_name":%q,"endpoints":[{"lb_endpoints":[%s]}]}`, name, endpoints)
}

func listenerTo(t *testing.T, name, cluster string) types.Resource {
	return parsed(t, &listenerv3.Listener{}, `{"name":%q,"address":{"socket_address":{"address":"127.0.0.1","port_value":0}},"filter_chains":[{"filters":[{"name":"envoy.filters.network.tcp_proxy","typed_config":
		{"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy","stat_prefix":"x","cluster":%q}}]}]}`, name, cluster)
}

func httpTo(t *testing.T, name, routes string) types.Resource {
	return parsed(t, &listenerv3.Listener{}, `{"name":%q,"address":{"socket_address":{"address":"127.0.0.1","port_value":0}},"filter_chains":[{"filters":[{"name":"hcm","typed_config":
		{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":"x",
		"rds":{"route_config_name":%q,"config_source":{"resource_api_version":"V3","initial_fetch_timeout":"0s","ads":{}}},
		"http_filters":[{"name":"router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}`, name, routes)
}

func routesTo(t *testing.T, name, cluster string) types.Resource {
	return parsed(t, &routev3.RouteConfiguration{}, `{"name":%q,"virtual_hosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},"route":{"cluster":%q}}]}]}`, name, cluster)
}

// Both proxies ask a control plane for the same, and come to the same state.
func TestBothAskTheControlPlaneForTheSame(t *testing.T) {
	a, b := says(t, "a"), says(t, "b")
	all := func(clusters, endpoints, listeners []types.Resource) xdstest.Resources {
		return xdstest.Resources{xds.ClusterType: clusters, xds.EndpointType: endpoints, xds.ListenerType: listeners}
	}
	list := func(r ...types.Resource) []types.Resource { return r }
	wrong := parsed(t, &clusterv3.Cluster{}, `{"name":"wrong","type":"STATIC","lb_policy":"CLUSTER_PROVIDED","connect_timeout":"1s"}`)
	for _, api := range []string{"GRPC", "DELTA_GRPC"} {
		t.Run(api, func(t *testing.T) {
			asked := map[kind][]xdstest.Request{}
			for _, k := range kinds {
				p := startPlaned(t, k, api, all(
					list(edsOf(t, "c"), edsOf(t, "d")), list(endpointsOf(t, "c", a), endpointsOf(t, "d", a)), list(listenerTo(t, "l", "c"))))
				settled := func(what string, ok func() bool) {
					t.Helper()
					p.wait(what, ok)
					for n := -1; n != len(p.plane.Requests()); { // until nothing more is asked
						n = len(p.plane.Requests())
						time.Sleep(300 * time.Millisecond)
					}
				}
				settled("the first push", func() bool { return p.hears("l") == "a" })
				p.plane.Set(t, all(
					list(edsOf(t, "c"), edsOf(t, "d")), list(endpointsOf(t, "c", b), endpointsOf(t, "d", a)), list(listenerTo(t, "l", "c"))))
				settled("other endpoints", func() bool { return p.hears("l") == "b" })
				p.plane.Set(t, all(
					list(edsOf(t, "c"), edsOf(t, "e")), list(endpointsOf(t, "c", b), endpointsOf(t, "e", a)), list(listenerTo(t, "l", "e"))))
				settled("another cluster", func() bool { return p.hears("l") == "a" })
				next := all(
					list(edsOf(t, "c"), edsOf(t, "e")), list(endpointsOf(t, "c", b), endpointsOf(t, "e", a)), list(listenerTo(t, "l", "e"), httpTo(t, "h", "one")))
				next[xds.RouteType] = list(routesTo(t, "one", "e"))
				p.plane.Set(t, next)
				settled("routes", func() bool { return len(p.plane.Requests()) > 0 && p.plane.Sent(xds.RouteType) > 0 })
				next[xds.ListenerType] = list(listenerTo(t, "l", "e"), httpTo(t, "h", "two"))
				next[xds.RouteType] = list(routesTo(t, "one", "e"), routesTo(t, "two", "c"))
				p.plane.Set(t, next)
				settled("other routes, and the end of the old listener", func() bool {
					return slices.ContainsFunc(p.plane.Requests(), func(r xdstest.Request) bool {
						return r.Type == "RouteConfiguration" && (slices.Equal(r.Names, []string{"two"}) && api == "GRPC" || slices.Equal(r.Names, []string{"-one"}))
					})
				})
				asked[k] = p.plane.Requests()
				// Envoy answers a server that repeats what was refused at once,
				// thousands of times a second: no comparison beyond here.
				p.plane.Set(t, all(
					list(edsOf(t, "c"), edsOf(t, "e"), wrong), list(endpointsOf(t, "c", b), endpointsOf(t, "e", a)), list(listenerTo(t, "l", "e"))))
				p.wait("the refusal", func() bool { return len(p.plane.Nacks()) > 0 })
				if n := p.plane.Nacks()[0]; !strings.Contains(n, "wrong") {
					t.Errorf("%s refused with %q, want the name of the cluster", k, n)
				}
				p.plane.Stop()
			}
			if e, o := summary(asked[envoy]), summary(asked[outrider]); !slices.Equal(e, o) {
				t.Errorf("Envoy asks\n%s\noutrider asks\n%s", strings.Join(e, "\n"), strings.Join(o, "\n"))
			}
		})
	}
}

// summary is one line a request, sorted: Envoy answers an update of clusters when
// their endpoints have come, outrider at once. Of routes it is what is asked for at
// first and in the end: Envoy keeps a listener without connections for the drain
// time, outrider does not.
func summary(all []xdstest.Request) []string {
	var out []string
	var routes []string
	for _, r := range all {
		line := fmt.Sprintf("%s names=%v have=%v version=%q answer=%t refused=%t node=%t", r.Type, r.Names, r.Have, r.Version, r.Answer, r.Refused, r.Node)
		switch {
		case r.Type != "RouteConfiguration":
			out = append(out, line)
		case len(r.Names) > 0: // else it is an incremental acknowledgement
			routes = append(routes, line)
		}
	}
	if len(routes) > 0 {
		out = append(out, routes[0], routes[len(routes)-1])
	}
	slices.Sort(out)
	return out
}
