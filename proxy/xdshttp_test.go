package proxy

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3" // what typed_config holds
	"google.golang.org/protobuf/encoding/protojson"

	"outrider/proxy/xds"
	"outrider/proxy/xds/xdstest"
)

// httpOver is a listener of HTTP whose routes come by ADS.
func httpOver(t *testing.T, prefix, routes string) *listenerv3.Listener {
	t.Helper()
	l := &listenerv3.Listener{}
	text := `{"name":"l","address":{"socket_address":{"address":"127.0.0.1","port_value":0}},"filter_chains":[{"filters":[{"name":"hcm","typed_config":
		{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":"` + prefix + `",
		"rds":{"route_config_name":"` + routes + `","config_source":{"resource_api_version":"V3","initial_fetch_timeout":"0.1s","ads":{}}},
		"http_filters":[{"name":"router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}`
	if err := protojson.Unmarshal([]byte(text), l); err != nil {
		t.Fatal(err)
	}
	return l
}

// saying answers every request with a text.
func saying(t *testing.T, name, text string) *routev3.RouteConfiguration {
	t.Helper()
	c := routeTo(t, name, "*")
	c.VirtualHosts[0].Routes[0].GetDirectResponse().Body = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: text}}
	return c
}

// asks is the answer of a listener, and whether it came over a connection that
// was there before.
func (r *running) asks(client *http.Client, listener string) (text string, reused bool) {
	r.t.Helper()
	addrs := r.Listening(listener)
	if len(addrs) == 0 {
		return "nothing listens", false
	}
	ctx := httptrace.WithClientTrace(r.t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addrs[0].String(), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err.Error(), reused
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error(), reused
	}
	return fmt.Sprint(resp.StatusCode, " ", string(body)), reused
}

func TestRoutesChangeUnderOpenConnections(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "backend") }))
	defer backend.Close()
	plane := xdstest.Listen(t, "test", "tcp", "127.0.0.1:0")
	listener, routes := httpOver(t, "a", "r"), []*routev3.RouteConfiguration{saying(t, "r", "one")}
	push := func() {
		plane.Set(t, xdstest.Resources{
			xds.ClusterType: listOf(clusterTo(t, "c", strings.TrimPrefix(backend.URL, "http://"))), xds.ListenerType: listOf(listener), xds.RouteType: listOf(routes...),
		})
	}
	push()
	r := runOver(t, bootOver(plane.Address(), "DELTA_GRPC", true), Options{DrainTime: time.Second})
	client := &http.Client{Transport: &http.Transport{}, Timeout: patience}
	defer client.CloseIdleConnections()
	answers := func(what, want string) {
		t.Helper()
		cut := false
		r.eventually(what, func() bool {
			got, reused := r.asks(client, "l")
			cut = cut || got != "nothing listens" && !reused
			return got == want
		})
		if cut && what != "the first routes" {
			t.Errorf("%s: the connection was cut", what)
		}
	}
	answers("the first routes", "200 one")

	to := saying(t, "r", "")
	to.VirtualHosts[0].Routes[0].Action = &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "c"}}}
	routes = []*routev3.RouteConfiguration{to}
	push()
	answers("a route to a cluster", "200 backend")

	// A version that waits for its routes does not take the place of one that
	// has some.
	listener = httpOver(t, "b", "other")
	push()
	r.eventually("the next version waits", func() bool { return strings.Contains(r.get("/config_dump"), "warming_state") })
	time.Sleep(200 * time.Millisecond) // initial_fetch_timeout has passed
	answers("the version before", "200 backend")
	routes = append(routes, saying(t, "other", "two"))
	push()
	r.eventually("the next version", func() bool { got, _ := r.asks(client, "l"); return got == "200 two" })
	r.eventually("the old routes are not asked for", func() bool {
		requests := plane.Requests()
		for _, one := range requests {
			if one.Type == "RouteConfiguration" && strings.Contains(fmt.Sprint(one.Names), "-r") {
				return true
			}
		}
		return false
	})
	if stats := r.get("/stats?filter=rds"); !strings.Contains(stats, "http.b.rds.other.update_success: 1") {
		t.Errorf("stats: %s", stats)
	}
}
