//go:build envoy

package e2e

import (
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"testing"
	"time"
)

const slowStartCluster = `
version_info: "1"
resources:
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: up
  type: EDS
  lb_policy: %[1]s
  %[2]s: {slow_start_config: {slow_start_window: 4s, min_weight_percent: {value: 30}}}
  eds_cluster_config: {eds_config: {path_config_source: {path: %[3]s/eds.yaml}, resource_api_version: V3}}
`

const slowStartBootstrap = `
dynamic_resources:
  cds_config: {path_config_source: {path: %s/cds.yaml}, resource_api_version: V3}
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains: [{filters: [{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: in, cluster: up}}]}]
`

func slowStartEndpoints(hosts ...string) string {
	var b strings.Builder
	b.WriteString("version_info: \"1\"\nresources:\n- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: up\n  endpoints:\n  - lb_endpoints:\n")
	for _, h := range hosts {
		host, port, _ := net.SplitHostPort(h)
		fmt.Fprintf(&b, "    - endpoint: {address: {socket_address: {address: %s, port_value: %s}}}\n", host, port)
	}
	return b.String()
}

// A host that joins gets the least weight at first, 0.3 beside two of 1; when
// its window is over it gets as much as the others.
func TestAHostThatJoinsStartsSlowly(t *testing.T) {
	for _, k := range []kind{outrider, envoy} {
		for policy, field := range map[string]string{"ROUND_ROBIN": "round_robin_lb_config", "LEAST_REQUEST": "least_request_lb_config"} {
			t.Run(fmt.Sprintf("%s/%s", k, policy), func(t *testing.T) {
				t.Parallel()
				var hosts []string
				for name := range 3 {
					hosts = append(hosts, serve(t, func(c net.Conn) { fmt.Fprint(c, name); io.Copy(io.Discard, c) }))
				}
				dir := t.TempDir()
				write(t, dir+"/cds.yaml", fmt.Sprintf(slowStartCluster, policy, field, dir))
				write(t, dir+"/eds.yaml", slowStartEndpoints(hosts[:2]...))
				p := start(t, k, dir, fmt.Sprintf(slowStartBootstrap, dir), "--concurrency", "1").ready()
				addr := p.addr("in")
				share := func() float64 {
					const calls = 138
					third := 0
					for range calls {
						got, err := call(addr, "")
						if err != nil {
							t.Fatal(err)
						}
						if got == "2" {
							third++
						}
					}
					return float64(third) / calls
				}
				if got := share(); got != 0 {
					t.Fatalf("%.3f before it is there", got)
				}
				time.Sleep(4500 * time.Millisecond)
				begin := time.Now()
				write(t, dir+"/eds.yaml", slowStartEndpoints(hosts...))
				p.wait("the third host", func() bool {
					_, text := p.get("/clusters")
					return strings.Contains(text, hosts[2])
				})
				got := share()
				most := max(0.3, time.Since(begin).Seconds()/4) // its weight by now
				if least := 0.3 / 2.3; got < least-0.04 || got > most/(2+most)+0.04 {
					t.Errorf("%.3f of the connections at first, want %.3f to %.3f", got, least, most/(2+most))
				}
				time.Sleep(4500 * time.Millisecond)
				if got := share(); math.Abs(got-1.0/3) > 0.06 {
					t.Errorf("%.3f of the connections when its window is over, want 0.333", got)
				}
			})
		}
	}
}
