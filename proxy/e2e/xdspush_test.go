//go:build envoy

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"

	"outrider/certs/ca"
	"outrider/proxy/xds"
	"outrider/proxy/xds/xdstest"
)

const (
	pushInterval = 10 * time.Millisecond
	// What the traffic is, so that both proxies have the same: so many clients of
	// each kind, each with a call so often.
	pushHTTPClients, pushTCPClients = 8, 4
	pushHTTPEvery, pushTCPEvery     = 8 * time.Millisecond, 40 * time.Millisecond
	// pushSecrets are how many certificates there are to rotate.
	pushSecrets = 16
)

// pushTime is how long there are pushes: OUTRIDER_PUSH_SECONDS, or 5.
func pushTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("OUTRIDER_PUSH_SECONDS")
	if text == "" {
		return 5 * time.Second
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("OUTRIDER_PUSH_SECONDS=%q is no number of seconds", text)
	}
	return time.Duration(n) * time.Second
}

// pushed is what a control plane changes, one thing with each push.
type pushed struct {
	t       *testing.T
	hosts   []string // of HTTP; "x-host" in answers
	echo    string
	secrets []types.Resource
	secret  int // the current one
	version [5]int
}

func newPushed(t *testing.T) *pushed {
	p := &pushed{t: t, echo: echo(t)}
	for range 3 {
		backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
		}))
		t.Cleanup(backend.Close)
		p.hosts = append(p.hosts, strings.TrimPrefix(backend.URL, "http://"))
	}
	root := newWorld(t).root
	for range pushSecrets {
		issued, err := root.Issue(ca.Leaf{ID: "spiffe://td/server"})
		if err != nil {
			t.Fatal(err)
		}
		p.secrets = append(p.secrets, secretWith(t, "s", issued.ChainPEM, issued.KeyPEM))
	}
	return p
}

func secretWith(t *testing.T, name string, chain, key []byte) types.Resource {
	t.Helper()
	quote := func(b []byte) string { text, _ := json.Marshal(string(b)); return string(text) }
	return parsed(t, &tlsv3.Secret{}, `{"name":%q,"tls_certificate":{"certificate_chain":{"inline_string":%s},"private_key":{"inline_string":%s}}}`, name, quote(chain), quote(key))
}

// next changes the i-th thing: one endpoint, the options of a cluster, the rules of
// a filter chain, a route, a secret.
func (p *pushed) next(i int) xdstest.Resources {
	p.version[i%len(p.version)]++
	t, v := p.t, p.version
	endpoints := make([]string, 0, 2)
	for n := range 2 {
		host, port, _ := net.SplitHostPort(p.hosts[(v[0]+n)%len(p.hosts)])
		endpoints = append(endpoints, fmt.Sprintf(`{"endpoint":{"address":{"socket_address":{"address":%q,"port_value":%s}}}}`, host, port))
	}
	cluster := parsed(t, &clusterv3.Cluster{}, `{"name":"c","type":"EDS","connect_timeout":"5s","circuit_breakers":{"thresholds":[{"max_requests":%d}]},
		"eds_cluster_config":{"eds_config":{"resource_api_version":"V3","ads":{}}}}`, 5000+v[1])
	return xdstest.Resources{
		xds.ClusterType:  {cluster, edsOf(t, "e")},
		xds.EndpointType: {assignmentWith(t, "c", strings.Join(endpoints, ",")), endpointsOf(t, "e", p.echo)},
		xds.ListenerType: {p.http(v[2]), p.tcp()},
		xds.RouteType: {parsed(t, &routev3.RouteConfiguration{}, `{"name":"r","virtual_hosts":[{"name":"v","domains":["*"],"routes":[
			{"match":{"prefix":"/none%d"},"direct_response":{"status":404}},{"match":{"prefix":"/"},"route":{"cluster":"c"}}]}]}`, v[3])},
		xds.SecretType: {p.secrets[v[4]%len(p.secrets)]},
	}
}

func (p *pushed) http(version int) types.Resource {
	return parsed(p.t, &listenerv3.Listener{}, `{"name":"http","address":{"socket_address":{"address":"127.0.0.1","port_value":0}},"filter_chains":[{"filters":[{"name":"hcm","typed_config":
		{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":"x",
		"rds":{"route_config_name":"r","config_source":{"resource_api_version":"V3","ads":{}}},
		"http_filters":[{"name":"rbac","typed_config":{"@type":%q,"rules":{"policies":{"all":{"permissions":[{"any":true}],"principals":[{"any":true}]},
			"version":{"permissions":[{"destination_port":%d}],"principals":[{"any":true}]}}}}},
		{"name":"router","typed_config":{"@type":%q}}]}}]}]}`, rbacURL, 1+version%60000, routerURL)
}

func (p *pushed) tcp() types.Resource {
	return parsed(p.t, &listenerv3.Listener{}, `{"name":"tcp","address":{"socket_address":{"address":"127.0.0.1","port_value":0}},"filter_chains":[{
		"filters":[{"name":"tcp","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy","stat_prefix":"x","cluster":"e"}}],
		"transport_socket":{"name":"tls","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
		"common_tls_context":{"tls_certificate_sds_secret_configs":[{"name":"s","sds_config":{"resource_api_version":"V3","ads":{}}}]}}}}]}`)
}

// traffic is calls of one kind, and what became of them.
type traffic struct {
	mu    sync.Mutex
	took  []time.Duration // guarded by mu
	wrong []string        // guarded by mu
}

// run calls every so often until ctx ends.
func (l *traffic) run(ctx context.Context, every time.Duration, call func() error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		begin := time.Now()
		err := call()
		l.mu.Lock()
		if err != nil {
			l.wrong = append(l.wrong, err.Error())
		}
		l.took = append(l.took, time.Since(begin))
		l.mu.Unlock()
	}
}

func (l *traffic) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.took)
	at := func(part float64) time.Duration {
		if len(l.took) == 0 {
			return 0
		}
		return l.took[int(part*float64(len(l.took)-1))].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("%d calls, %d failed, p50 %s, p99 %s, most %s", len(l.took), len(l.wrong), at(0.5), at(0.99), at(1))
}

// overHTTP posts to the listener, by connections that are kept.
func overHTTP(addr string) func() error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: patience}
	return func() error {
		const text = "a request that must be answered"
		resp, err := client.Post("http://"+addr, "text/plain", strings.NewReader(text)) // POST: not tried again by the client
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 || string(got) != text {
			return fmt.Errorf("%d %q %w", resp.StatusCode, got, err)
		}
		return nil
	}
}

// overTLS makes a connection, and has it echo a few times.
func overTLS(addr string) func() error {
	return func() error {
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: &tls.Config{InsecureSkipVerify: true}}
		c, err := d.Dial("tcp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		for range 3 {
			if _, err := io.WriteString(c, "x"); err != nil {
				return err
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				return err
			}
		}
		return nil
	}
}

// cpu is what a process has used.
func (r *running) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid))
	if err != nil {
		r.t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * (time.Second / 100) // USER_HZ
}

// A hundred pushes a second, each of another kind, fail no request. What they cost
// both proxies is logged.
func TestManyPushesUnderTrafficFailNothing(t *testing.T) {
	long := pushTime(t)
	for _, k := range kinds {
		t.Run(string(k), func(t *testing.T) {
			what := newPushed(t)
			p := startPlaned(t, k, "DELTA_GRPC", what.next(0))
			web, tcp := p.addr("http"), p.addr("tcp")
			p.wait("the first push", func() bool { return overHTTP(web)() == nil && overTLS(tcp)() == nil })

			var requests, connections traffic
			var clients sync.WaitGroup
			ctx, stop := context.WithCancel(t.Context())
			for range pushHTTPClients {
				clients.Go(func() { requests.run(ctx, pushHTTPEvery, overHTTP(web)) })
			}
			for range pushTCPClients {
				clients.Go(func() { connections.run(ctx, pushTCPEvery, overTLS(tcp)) })
			}
			pushes, took := pushAll(p, what, long)
			stop()
			clients.Wait()
			t.Logf("%s: %d pushes in %s, %d acknowledgements, %.1f s of CPU\nHTTP: %s\nTLS: %s",
				k, pushes, long, p.plane.Acks(), took.Seconds(), &requests, &connections)
			failed := slices.Concat(requests.wrong, connections.wrong)
			if k == outrider && len(failed) > 0 {
				t.Errorf("%d calls failed: %q", len(failed), failed[:min(len(failed), 5)])
			}
			if n := p.plane.Nacks(); len(n) > 0 {
				t.Errorf("%s refused: %q", k, n[:min(len(n), 3)])
			}
			if k == outrider && len(requests.took) < int(long/pushHTTPEvery) {
				t.Errorf("only %d requests within %s", len(requests.took), long)
			}
		})
	}
}

// pushAll pushes for a time, and waits until the last push is in use. It returns how
// often it has pushed, and the CPU time that the proxy took.
func pushAll(p *planed, what *pushed, long time.Duration) (pushes int, cpu time.Duration) {
	before := p.cpu()
	tick := time.NewTicker(pushInterval)
	defer tick.Stop()
	for end := time.Now().Add(long); time.Now().Before(end); {
		<-tick.C
		pushes++
		p.plane.Set(p.t, what.next(pushes))
	}
	last := fmt.Sprint(`"max_requests": `, 5000+what.version[1])
	p.wait("the last push", func() bool {
		_, dump := p.get("/config_dump?resource=dynamic_active_clusters")
		return strings.Contains(dump, last)
	})
	return pushes, p.cpu() - before
}
