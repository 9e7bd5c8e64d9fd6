package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"outrider/proxy/xds/xdstest"
)

// agentBootstrap is the agent's bootstrap at ports of this test, in a directory
// whose path leaves room for a socket's.
func agentBootstrap(t *testing.T, app string) (dir, file, admin, status string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	text, err := os.ReadFile(bootstrapOfIstiosAgent + "stats.json")
	if err != nil {
		t.Fatal(err)
	}
	admin, status = loopbackPort(t), loopbackPort(t)
	_, adminPort, _ := net.SplitHostPort(admin)
	_, statusPort, _ := net.SplitHostPort(status)
	_, appPort, _ := net.SplitHostPort(app)
	_, metricsPort, _ := net.SplitHostPort(loopbackPort(t))
	bootstrap := strings.NewReplacer(
		`"port_value":15000`, `"port_value":`+adminPort, `"port_value":15020`, `"port_value":`+appPort,
		`"address":"0.0.0.0","port_value":15021`, `"address":"127.0.0.1","port_value":`+statusPort,
		`"address":"0.0.0.0","port_value":15090`, `"address":"127.0.0.1","port_value":`+metricsPort,
		`/etc/istio/proxy/XDS`, dir+"/XDS",
	).Replace(string(text))
	file = filepath.Join(dir, "envoy-rev.json")
	if err := os.WriteFile(file, []byte(bootstrap), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, file, admin, status
}

func loopbackPort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// answer is the body of a GET, "" while nobody answers.
func answer(target string) string {
	req, err := http.NewRequest(http.MethodGet, target, nil)
	if err != nil {
		return ""
	}
	req.Close = true // a connection that stays would be waited for
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return ""
	}
	return string(body)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline, tick := time.After(20*time.Second), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

func TestUnderIstiosAgentWeAreReadyOnceIstiodHasAnswered(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }))
	t.Cleanup(app.Close)
	dir, file, admin, status := agentBootstrap(t, app.Listener.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	ended, log := make(chan int, 1), &caLog{}
	go func() { ended <- run(ctx, agentArgs(file), log, log) }()
	t.Cleanup(cancel)
	ready := "http://" + admin + "/stats?usedonly&filter=" + url.QueryEscape(`^(server\.state|listener_manager\.workers_started)`)
	eventually(t, "an admin interface", func() bool { return strings.Contains(answer(ready), "server.state") })
	if got := answer(ready); got != "server.state: 2\n" {
		t.Errorf("without istiod: %q", got)
	}
	plane := xdstest.Listen(t, "sidecar~10.9.9.1~web-1.dev~dev.svc.cluster.local", "unix", filepath.Join(dir, "XDS"))
	plane.Set(t, xdstest.Resources{
		resource.ClusterType:  {&clusterv3.Cluster{Name: "BlackHoleCluster"}},
		resource.ListenerType: {},
	})
	eventually(t, "ready", func() bool {
		return answer(ready) == "listener_manager.workers_started: 1\nserver.state: 0\n"
	})
	if got := answer("http://" + status + "/healthz/ready"); got != "/healthz/ready" {
		t.Errorf("the agent's health: %q", got)
	}
	dumpIsAsIstioctlReadsIt(t, answer("http://"+admin+"/config_dump?include_eds"))
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("it ended with %d: %s", code, log)
	}
}

// dumpIsAsIstioctlReadsIt wants Envoy's sections in Envoy's order, for istioctl
// takes them by type, and the node as requests have it.
func dumpIsAsIstioctlReadsIt(t *testing.T, text string) {
	t.Helper()
	var dump struct {
		Configs []struct {
			Type      string `json:"@type"`
			Bootstrap struct {
				Node struct {
					ID, Cluster string
					UserAgent   string `json:"user_agent_name"`
				}
			}
			Dynamic []any `json:"dynamic_active_clusters"`
		}
	}
	if err := json.Unmarshal([]byte(text), &dump); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	var got []string
	for _, c := range dump.Configs {
		got = append(got, strings.TrimPrefix(c.Type, "type.googleapis.com/envoy.admin.v3."))
	}
	want := []string{"BootstrapConfigDump", "ClustersConfigDump", "EndpointsConfigDump", "ListenersConfigDump", "ScopedRoutesConfigDump", "RoutesConfigDump", "SecretsConfigDump"}
	if !slices.Equal(got, want) {
		t.Fatalf("got the sections %q, want %q", got, want)
	}
	if node := dump.Configs[0].Bootstrap.Node; node.ID == "" || node.Cluster != "web.dev" || node.UserAgent != "outrider" {
		t.Errorf("got the node %+v", node)
	}
	if n := len(dump.Configs[1].Dynamic); n != 1 {
		t.Errorf("%d dynamic clusters, want 1", n)
	}
}
