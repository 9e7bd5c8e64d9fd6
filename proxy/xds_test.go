package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"google.golang.org/protobuf/encoding/protojson"

	"outrider/certs/ca"
	"outrider/proxy/config/decode"
	"outrider/proxy/xds"
	"outrider/proxy/xds/xdstest"
)

// bootOver is a bootstrap whose listeners and clusters come from the control
// plane at an address: over ADS, or over a stream for each.
func bootOver(address, api string, aggregated bool) string {
	var where string
	if host, port, err := net.SplitHostPort(address); err == nil {
		where = fmt.Sprintf("socket_address: {address: %s, port_value: %s}", host, port)
	} else {
		where = fmt.Sprintf("pipe: {path: %q}", address)
	}
	stream := fmt.Sprintf("api_type: %s, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: plane}}]", api)
	source := "{resource_api_version: V3, initial_fetch_timeout: 0s, ads: {}}"
	if !aggregated {
		source = fmt.Sprintf("{resource_api_version: V3, initial_fetch_timeout: 0s, api_config_source: {%s}}", stream)
	}
	return fmt.Sprintf(`
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
node: {id: test, cluster: test}
dynamic_resources: {lds_config: %[1]s, cds_config: %[1]s, ads_config: {%[2]s}}
static_resources:
  clusters:
  - name: plane
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: plane, endpoints: [{lb_endpoints: [{endpoint: {address: {%[3]s}}}]}]}
`, source, stream, where)
}

// runOver starts a server with that bootstrap.
func runOver(t *testing.T, boot string, o Options) *running {
	t.Helper()
	b, err := decode.Bootstrap([]byte(boot), decode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(b, o)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, s, t.TempDir())
}

// edsCluster is a cluster whose endpoints come by ADS.
func edsCluster(t *testing.T, name string) *clusterv3.Cluster {
	t.Helper()
	c := &clusterv3.Cluster{}
	text := `{"name":"` + name + `","type":"EDS","connect_timeout":"1s","eds_cluster_config":{"eds_config":{"resource_api_version":"V3","initial_fetch_timeout":"0s","ads":{}}}}`
	if err := protojson.Unmarshal([]byte(text), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// assignmentOf has the endpoints of a cluster.
func assignmentOf(t *testing.T, name string, addrs ...string) *endpointv3.ClusterLoadAssignment {
	t.Helper()
	a := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	for _, addr := range addrs {
		a.Endpoints = append(a.Endpoints, clusterTo(t, name, addr).LoadAssignment.Endpoints...)
	}
	return a
}

func listOf[M types.Resource](all ...M) []types.Resource {
	out := make([]types.Resource, len(all))
	for i, m := range all {
		out[i] = m
	}
	return out
}

func TestAControlPlaneConfiguresTheProxy(t *testing.T) {
	a, b := says(t, "a"), says(t, "b")
	for _, api := range []string{"GRPC", "DELTA_GRPC"} {
		for _, aggregated := range []bool{true, false} {
			for _, network := range []string{"tcp", "unix"} {
				t.Run(fmt.Sprintf("%s, aggregated %v, %s", api, aggregated, network), func(t *testing.T) {
					address := "127.0.0.1:0"
					if network == "unix" {
						address = filepath.Join(t.TempDir(), "xds")
					}
					plane := xdstest.Listen(t, "test", network, address)
					plane.Set(t, xdstest.Resources{
						xds.ClusterType:  listOf(edsCluster(t, "c")),
						xds.EndpointType: listOf(assignmentOf(t, "c", a)),
						xds.ListenerType: listOf(proxyTo(t, "l", "c")),
					})
					r := runOver(t, bootOver(plane.Address(), api, aggregated), Options{DrainTime: time.Second})
					r.eventually("the first push serves", func() bool { return r.hears("l") == "a" })
					plane.Set(t, xdstest.Resources{
						xds.ClusterType:  listOf(edsCluster(t, "c")),
						xds.EndpointType: listOf(assignmentOf(t, "c", b)),
						xds.ListenerType: listOf(proxyTo(t, "l", "c")),
					})
					r.eventually("other endpoints", func() bool { return r.hears("l") == "b" })
					plane.Set(t, xdstest.Resources{
						xds.ClusterType:  listOf(edsCluster(t, "c"), clusterTo(t, "d", a)),
						xds.EndpointType: listOf(assignmentOf(t, "c", b)),
						xds.ListenerType: listOf(proxyTo(t, "l", "d"), proxyTo(t, "m", "c")),
					})
					r.eventually("another cluster", func() bool { return r.hears("l") == "a" && r.hears("m") == "b" })
					plane.Set(t, xdstest.Resources{
						xds.ClusterType:  listOf(clusterTo(t, "d", a)),
						xds.ListenerType: listOf(proxyTo(t, "l", "d")),
					})
					r.eventually("removals", func() bool { return r.hears("m") == "nothing listens" && r.clusters.Get("c") == nil })
					if n := plane.Nacks(); len(n) != 0 {
						t.Errorf("refused: %q", n)
					}
				})
			}
		}
	}
}

func TestARefusedResourceLeavesTheOthersAlone(t *testing.T) {
	for _, api := range []string{"GRPC", "DELTA_GRPC"} {
		t.Run(api, func(t *testing.T) {
			a, b := says(t, "a"), says(t, "b")
			plane := xdstest.Listen(t, "test", "tcp", "127.0.0.1:0")
			plane.Set(t, xdstest.Resources{
				xds.ClusterType:  listOf(clusterTo(t, "c", a), clusterTo(t, "d", a)),
				xds.ListenerType: listOf(proxyTo(t, "l", "c"), proxyTo(t, "m", "d")),
			})
			r := runOver(t, bootOver(plane.Address(), api, true), Options{DrainTime: time.Second})
			r.eventually("the first push serves", func() bool { return r.hears("l") == "a" && r.hears("m") == "a" })
			wrong := clusterTo(t, "c", b)
			wrong.LbPolicy = 99
			broken := proxyTo(t, "m", "d")
			broken.FilterChains[0].Filters[0].Name = ""
			plane.Set(t, xdstest.Resources{
				xds.ClusterType:  listOf(wrong, clusterTo(t, "d", b)),
				xds.ListenerType: listOf[types.Resource](proxyTo(t, "l", "d"), broken),
			})
			r.eventually("what is right works", func() bool { return r.hears("l") == "b" })
			r.eventually("refusals", func() bool { return len(plane.Nacks()) >= 2 })
			told := strings.Join(plane.Nacks(), "\n")
			for _, want := range []string{"c: lb_policy: ", "m: filter_chains[0].filters[0].name: "} {
				if !strings.Contains(told, want) {
					t.Errorf("the refusals lack %q:\n%s", want, told)
				}
			}
			if got := r.hears("m"); got != "b" { // the old listener, the new cluster
				t.Errorf("the refused listener: %q, want its old version", got)
			}
			dump := r.get("/config_dump")
			for _, want := range []string{`"error_state"`, "lb_policy: ", "filter_chains[0].filters[0].name: "} {
				if !strings.Contains(dump, want) {
					t.Errorf("/config_dump lacks %q", want)
				}
			}
			stats := r.get("/stats?filter=cluster_manager.cds|listener_manager.lds|control_plane")
			for _, want := range []string{"control_plane.connected_state: 1\n", "cluster_manager.cds.version_text: \"", "listener_manager.lds.update_success: 1\n"} {
				if !strings.Contains(stats, want) {
					t.Errorf("stats lack %q:\n%s", want, stats)
				}
			}
		})
	}
}

func TestAProxyOutlivesItsControlPlane(t *testing.T) {
	a, b := says(t, "a"), says(t, "b")
	plane := xdstest.Listen(t, "test", "tcp", "127.0.0.1:0")
	push := func(to string) {
		plane.Set(t, xdstest.Resources{
			xds.ClusterType:  listOf(edsCluster(t, "c"), edsCluster(t, "unchanged")),
			xds.EndpointType: listOf(assignmentOf(t, "c", to), assignmentOf(t, "unchanged", a)),
			xds.ListenerType: listOf(proxyTo(t, "l", "c")),
		})
	}
	push(a)
	r := runOver(t, bootOver(plane.Address(), "DELTA_GRPC", true), Options{DrainTime: time.Second})
	r.eventually("the first push serves", func() bool { return r.hears("l") == "a" })
	before := r.clusters.Get("unchanged")
	plane.Stop()
	r.eventually("the loss shows", func() bool {
		return strings.Contains(r.get("/stats?filter=connected_state"), "control_plane.connected_state: 0")
	})
	if got := r.hears("l"); got != "a" {
		t.Errorf("without the control plane: %q, want a", got)
	}
	sent := plane.Sent(xds.EndpointType)
	push(b)
	plane.Start(t)
	r.eventually("the change during the outage", func() bool { return r.hears("l") == "b" })
	if n := plane.Sent(xds.EndpointType) - sent; n != 1 {
		t.Errorf("%d endpoints were sent again, want only the changed one", n)
	}
	if r.clusters.Get("unchanged") != before {
		t.Error("an unchanged cluster was made anew")
	}
}

func TestAPushThatChangesOneThingTouchesNoOtherConnection(t *testing.T) {
	plane := xdstest.Listen(t, "test", "tcp", "127.0.0.1:0")
	echo := func(chains ...string) *listenerv3.Listener {
		l := &listenerv3.Listener{}
		text := `{"name":"l","address":{"socket_address":{"address":"127.0.0.1","port_value":0}},"filter_chains":[` + strings.Join(chains, ",") + `]}`
		if err := protojson.Unmarshal([]byte(text), l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	chain := func(name, from string) string {
		return `{"name":"` + name + `","filter_chain_match":{"source_prefix_ranges":[{"address_prefix":"` + from + `","prefix_len":32}]},"filters":[{"name":"echo","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}}]}`
	}
	push := func(l *listenerv3.Listener) {
		plane.Set(t, xdstest.Resources{xds.ListenerType: listOf(l), xds.ClusterType: nil})
	}
	push(echo(chain("a", "127.0.0.1"), chain("b", "127.0.0.2")))
	r := runOver(t, bootOver(plane.Address(), "DELTA_GRPC", true), Options{DrainTime: time.Millisecond})
	r.eventually("the listener", func() bool { return len(r.Listening("l")) > 0 })
	kept, cut := r.dial("127.0.0.1"), r.dial("127.0.0.2")
	if !echoes(kept) || !echoes(cut) {
		t.Fatal("the listener does not echo")
	}
	push(echo(chain("a", "127.0.0.1"), chain("changed", "127.0.0.2")))
	if _, err := io.ReadAll(cut); err != nil {
		t.Errorf("the connection of the changed chain: %v, want an end", err)
	}
	if !echoes(kept) {
		t.Error("the connection of the other chain was cut")
	}
}

func TestAStartWithoutAControlPlaneGoesOnFromTheDisk(t *testing.T) {
	a := says(t, "a")
	dir := t.TempDir()
	plane := xdstest.Listen(t, "test", "tcp", "127.0.0.1:0")
	plane.Set(t, xdstest.Resources{
		xds.ClusterType:  listOf(edsCluster(t, "c")),
		xds.EndpointType: listOf(assignmentOf(t, "c", a)),
		xds.ListenerType: listOf(proxyTo(t, "l", "c")),
	})
	boot := bootOver(plane.Address(), "DELTA_GRPC", true)
	t.Run("with it", func(t *testing.T) {
		r := runOver(t, boot, Options{DrainTime: time.Second, XDSCache: dir})
		r.eventually("the first push serves", func() bool { return r.hears("l") == "a" })
	})
	plane.Stop()
	r := runOver(t, boot, Options{DrainTime: time.Second, XDSCache: dir})
	r.eventually("what was kept serves", func() bool { return r.hears("l") == "a" })
	if got := r.get("/stats?filter=cache_age"); !strings.Contains(got, "outrider.xds.cache_age_seconds: ") {
		t.Errorf("stats: %q", got)
	}
	plane.Set(t, xdstest.Resources{xds.ClusterType: listOf(edsCluster(t, "c")), xds.EndpointType: listOf(assignmentOf(t, "c", a))})
	plane.Start(t)
	r.eventually("the removal during the outage", func() bool { return r.hears("l") == "nothing listens" })
}

func TestAConnectionThatARemovedListenerAcceptedLastEnds(t *testing.T) {
	r := run(t, listenerOf(chain("a", "127.0.0.1")), Options{})
	l := r.listeners.get("l")
	r.listeners.remove("l")
	r.eventually("the chain is closed", func() bool {
		for _, ch := range l.current().chains {
			if ch.active.Load() >= 0 {
				return false
			}
		}
		return true
	})
	near, far := net.Pipe()
	defer far.Close()
	info := r.newInfo(&net.TCPConn{})
	info.Remote.AddrPort = netip.MustParseAddrPort("127.0.0.1:1")
	done := make(chan error, 1)
	go func() {
		_, err := l.serve(t.Context(), near, info, &tail{})
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, errRemoved) {
			t.Errorf("it ended with %v, want %v", err, errRemoved)
		}
	case <-time.After(patience):
		t.Error("it does not end")
	}
}

func TestServicesOfOneNameFromTwoSourcesAreTwo(t *testing.T) {
	a, b := says(t, "a"), says(t, "b")
	plane := xdstest.Listen(t, "test", "tcp", "127.0.0.1:0")
	file := filepath.Join(t.TempDir(), "eds.json")
	text, err := protojson.Marshal(assignmentOf(t, "svc", b))
	if err != nil {
		t.Fatal(err)
	}
	put(t, file, `{"resources":[{"@type":"`+xds.EndpointType+`",`+string(text[1:])+`]}`)
	one, two := edsCluster(t, "one"), edsCluster(t, "two")
	one.EdsClusterConfig.ServiceName, two.EdsClusterConfig.ServiceName = "svc", "svc"
	two.EdsClusterConfig.EdsConfig.ConfigSourceSpecifier = &corev3.ConfigSource_PathConfigSource{PathConfigSource: &corev3.PathConfigSource{Path: file}}
	plane.Set(t, xdstest.Resources{
		xds.ClusterType:  listOf(one, two),
		xds.EndpointType: listOf(assignmentOf(t, "svc", a)),
		xds.ListenerType: listOf(proxyTo(t, "l", "one"), proxyTo(t, "m", "two")),
	})
	r := runOver(t, bootOver(plane.Address(), "DELTA_GRPC", true), Options{DrainTime: time.Second})
	r.eventually("each has its own", func() bool { return r.hears("l") == "a" && r.hears("m") == "b" })
}

func TestTheControlPlaneIsVerifiedByItsCluster(t *testing.T) {
	a := says(t, "a")
	trusted, other := newRoot(t, "trusted"), newRoot(t, "other")
	for name, root := range map[string]*ca.CA{"a trusted one": trusted, "another": other} {
		t.Run(name, func(t *testing.T) {
			issued, err := root.Issue(ca.Leaf{DNS: []string{"istiod.test"}})
			if err != nil {
				t.Fatal(err)
			}
			pair, err := tls.X509KeyPair(issued.ChainPEM, issued.KeyPEM)
			if err != nil {
				t.Fatal(err)
			}
			plane := xdstest.ListenTLS(t, "test", &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}})
			plane.Set(t, xdstest.Resources{xds.ClusterType: listOf(clusterTo(t, "c", a)), xds.ListenerType: listOf(proxyTo(t, "l", "c"))})
			boot := bootOver(plane.Address(), "DELTA_GRPC", true) + fmt.Sprintf(`
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: istiod.test
        common_tls_context:
          alpn_protocols: [h2]
          validation_context:
            trusted_ca: {inline_string: %q}
            match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: istiod.test}}]
`, trusted.RootPEM())
			r := runOver(t, boot, Options{DrainTime: time.Second})
			if root == trusted {
				r.eventually("the push serves", func() bool { return r.hears("l") == "a" })
				return
			}
			r.eventually("failures", func() bool {
				return strings.Contains(r.get("/stats?filter=cds.update_failure"), "cluster_manager.cds.update_failure: 2")
			})
			if plane.Opened() != 0 {
				t.Error("a stream was opened to a server that is not trusted")
			}
		})
	}
}
