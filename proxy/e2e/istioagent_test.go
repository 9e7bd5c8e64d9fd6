//go:build envoy

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"outrider/proxy/xds/xdstest"
)

// What Istio's agent asks of a proxy's admin interface (its packages envoy and
// status).
const (
	readyStats  = `^(server\.state|listener_manager\.workers_started)`
	updateStats = `^(cluster_manager\.cds|listener_manager\.lds)\.(update_success|update_rejected)$`
	activeStats = `downstream_cx_active$`
)

// istioAgent is as much of Istio's agent as a proxy notices.
type istioAgent struct {
	*running
	status string // host:port of /healthz/ready
	dir    string
}

// startUnderIstiosAgent starts a proxy on the bootstrap that Istio's agent
// writes, at ports and sockets of this test.
func startUnderIstiosAgent(t *testing.T, k kind, app string) *istioAgent {
	t.Helper()
	// The path of a socket has 107 characters at most.
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	text, err := os.ReadFile("../config/decode/testdata/istio-agent/stats.json")
	if err != nil {
		t.Fatal(err)
	}
	a := &istioAgent{status: freePort(t), dir: dir}
	port := func(address string) string { _, p, _ := net.SplitHostPort(address); return p }
	bootstrap := strings.NewReplacer(
		`"port_value":15000`, `"port_value":`+port(freePort(t)), `"port_value":15020`, `"port_value":`+port(app),
		`"address":"0.0.0.0","port_value":15021`, `"address":"127.0.0.1","port_value":`+port(a.status),
		`"address":"0.0.0.0","port_value":15090`, `"address":"127.0.0.1","port_value":`+port(freePort(t)),
		`/etc/istio/proxy/XDS`, dir+"/XDS",
	).Replace(string(text))
	file := filepath.Join(dir, "envoy-rev.json")
	write(t, file, bootstrap)
	a.running = launch(t, k, dir, file, "--admin-address-path", filepath.Join(dir, "admin-address"),
		"--drain-strategy", "immediate", "--local-address-ip-version", "v4", "--allow-unknown-static-fields",
		"--component-log-level", "misc:error", "--skip-deprecated-logs", "--concurrency", "2")
	return a
}

// stats are the lines of the answer, sorted.
func (a *istioAgent) stats(filter string) []string {
	code, body := a.get("/stats?usedonly&filter=" + url.QueryEscape(filter))
	if code != http.StatusOK {
		return []string{strconv.Itoa(code)}
	}
	lines := strings.Split(strings.TrimSpace(body), "\n")
	slices.Sort(lines)
	return lines
}

// active is how the agent counts connections before it ends the proxy.
func (a *istioAgent) active() (n int) {
	for _, line := range a.stats(activeStats) {
		name, value, _ := strings.Cut(line, ": ")
		if !strings.HasPrefix(name, "listener.") || strings.Contains(name, "worker_") || strings.HasPrefix(name, "listener.admin") {
			continue
		}
		v, err := strconv.Atoi(value)
		if err != nil {
			a.t.Errorf("%s: %v", line, err)
		}
		n += v
	}
	return n
}

func packed(t *testing.T, m types.Resource) *anypb.Any {
	t.Helper()
	out, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// inbound is what istiod sends: a listener of inbound traffic at address.
func inbound(t *testing.T, address string) xdstest.Resources {
	t.Helper()
	tcp := packed(t, &tcpproxyv3.TcpProxy{StatPrefix: "in", ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: "agent"}})
	host, port, _ := net.SplitHostPort(address)
	n, _ := strconv.Atoi(port)
	return xdstest.Resources{
		resource.ClusterType: {&clusterv3.Cluster{Name: "BlackHoleCluster", ConnectTimeout: durationpb.New(time.Second)}},
		resource.ListenerType: {&listenerv3.Listener{
			Name: "virtualInbound", TrafficDirection: corev3.TrafficDirection_INBOUND,
			Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(n)},
			}}},
			FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
				Name: "tcp", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: tcp},
			}}}},
		}},
	}
}

// underIstiosAgent is what an agent sees of a proxy from its start to its end.
func underIstiosAgent(t *testing.T, k kind) (seen []string) {
	t.Helper()
	see := func(format string, args ...any) { seen = append(seen, fmt.Sprintf(format, args...)) }
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.URL.Path)
	}))
	t.Cleanup(app.Close)
	a := startUnderIstiosAgent(t, k, app.Listener.Addr().String())
	// Envoy has server.state from its first flush on.
	early := a.stats(readyStats)
	see("ready before istiod: %t", slices.Contains(early, "server.state: 0") || slices.Contains(early, "listener_manager.workers_started: 1"))

	in := freePort(t)
	plane := xdstest.Listen(t, "node", "unix", filepath.Join(a.dir, "XDS"))
	plane.Set(t, inbound(t, in))
	a.ready()
	see("ready: %q", a.stats(readyStats))
	see("updates: %q", a.stats(updateStats))
	resp, err := http.Get("http://" + a.status + "/healthz/ready")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	see("health: %d", resp.StatusCode)

	open, err := net.Dial("tcp", in)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	a.wait("an open connection", func() bool { return a.active() == 1 })
	resp, err = http.Post("http://"+a.admin+"/drain_listeners?inboundonly&graceful", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	see("drain: %d", resp.StatusCode)
	late, err := net.Dial("tcp", in)
	see("a connection while it drains: %t", err == nil)
	if err == nil {
		late.Close()
	}
	a.wait("an inbound listener that is closed", func() bool {
		c, err := net.Dial("tcp", in)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	code, _ := a.get("/ready")
	see("after the drain: %d", code)
	see("runs on: %t", a.cmd.Process.Signal(syscall.Signal(0)) == nil)
	return seen
}

func TestIstiosAgentSeesOfOutriderWhatItSeesOfEnvoy(t *testing.T) {
	theirs, ours := underIstiosAgent(t, envoy), underIstiosAgent(t, outrider)
	if !slices.Equal(theirs, ours) {
		t.Errorf("Envoy:\n  %s\noutrider:\n  %s", strings.Join(theirs, "\n  "), strings.Join(ours, "\n  "))
	}
}
