//go:build envoy

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrider/proxy/xds"
	"outrider/proxy/xds/xdstest"
)

// How many of each there are; the endpoints are those of each cluster.
const (
	crowdClusters  = 10000
	crowdEndpoints = 10
	crowdListeners = 5000
)

// crowd is a control plane with very many resources. It pushes changes of one,
// and is told when they are in use.
type crowd struct {
	t       *testing.T
	address string
	byType  map[string][]*discoveryv3.Resource
	byName  map[string]*discoveryv3.Resource // endpoints

	mu     sync.Mutex
	stream xdstest.Delta // guarded by mu
	acked  chan string   // nonces of pushes
}

func startCrowd(t *testing.T) *crowd {
	c := &crowd{t: t, byType: map[string][]*discoveryv3.Resource{}, byName: map[string]*discoveryv3.Resource{}, acked: make(chan string, 1000)}
	for i := range crowdClusters {
		name := fmt.Sprintf("outbound|80||service-%d.namespace.svc.cluster.local", i)
		c.byType[xds.ClusterType] = append(c.byType[xds.ClusterType], c.resource(name, edsOf(t, name)))
		c.byName[name] = c.endpoints(i, 80)
		if i < crowdListeners {
			l := listenerTo(t, name, name).(*listenerv3.Listener)
			l.Address.GetSocketAddress().Address = fmt.Sprintf("10.%d.%d.1", 100+i/250, i%250)
			l.BindToPort = wrapperspb.Bool(false)
			c.byType[xds.ListenerType] = append(c.byType[xds.ListenerType], c.resource(name, l))
		}
	}
	c.address = (&xdstest.Script{OnDelta: c.serve}).Serve(t)
	return c
}

func (c *crowd) resource(name string, m types.Resource) *discoveryv3.Resource {
	packed, err := anypb.New(m)
	if err != nil {
		c.t.Fatal(err)
	}
	return &discoveryv3.Resource{Name: name, Version: "1", Resource: packed}
}

func (c *crowd) endpoints(i, port int) *discoveryv3.Resource {
	name := fmt.Sprintf("outbound|80||service-%d.namespace.svc.cluster.local", i)
	var parts []string
	for j := range crowdEndpoints {
		parts = append(parts, fmt.Sprintf(`{"endpoint":{"address":{"socket_address":{"address":"10.%d.%d.%d","port_value":%d}}}}`, i/250, i%250, j+2, port))
	}
	return c.resource(name, assignmentWith(c.t, name, strings.Join(parts, ",")))
}

func (c *crowd) serve(s xdstest.Delta) error {
	c.mu.Lock()
	c.stream = s
	c.mu.Unlock()
	for {
		m, err := s.Recv()
		if err != nil {
			return nil
		}
		if m.GetErrorDetail() != nil {
			c.t.Errorf("refused: %.500s", m.GetErrorDetail().GetMessage())
		}
		if strings.HasPrefix(m.GetResponseNonce(), "push") {
			c.acked <- m.GetResponseNonce()
		}
		all := c.byType[m.GetTypeUrl()]
		if m.GetTypeUrl() == xds.EndpointType {
			all = nil
			for _, name := range m.GetResourceNamesSubscribe() {
				all = append(all, c.byName[name])
			}
		}
		if m.GetResponseNonce() == "" && len(all) > 0 {
			c.send(m.GetTypeUrl(), "all", all...)
		}
	}
}

func (c *crowd) send(typeURL, nonce string, all ...*discoveryv3.Resource) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.stream.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: nonce, SystemVersionInfo: nonce, Resources: all}); err != nil {
		c.t.Error(err)
	}
}

// usage are the memory of a process in MiB and its CPU time.
func (r *running) usage() (rss int, cpu time.Duration) {
	r.t.Helper()
	proc := filepath.Join("/proc", strconv.Itoa(r.cmd.Process.Pid))
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); f[0] == "VmRSS:" {
			kib, _ := strconv.Atoi(f[1])
			rss = kib >> 10
		}
	}
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		r.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux
	for _, at := range []int{11, 12} { // utime, stime
		n, _ := strconv.Atoi(f[at])
		cpu += time.Duration(n) * tick
	}
	return rss, cpu
}

// Ten thousand clusters with a hundred thousand endpoints, and five thousand
// listeners: outrider is ready no later than Envoy, with no more memory, and a
// push of one endpoint costs about the same. The bounds leave room for a machine
// that has other work.
func TestACrowdOfResourcesBesideEnvoy(t *testing.T) {
	type result struct {
		ready, startCPU, push, pushCPU time.Duration
		rss                            int
	}
	const pushes = 1500
	got := map[kind]result{}
	for _, k := range kinds {
		c := startCrowd(t)
		begin := time.Now()
		p := startAt(t, k, "DELTA_GRPC", c.address, "--concurrency", "2")
		p.wait("LIVE", func() bool { _, text := p.get("/ready"); return strings.Contains(text, "LIVE") })
		r := result{ready: time.Since(begin)}
		r.rss, r.startCPU = p.usage()
		begin = time.Now()
		for i := range pushes {
			nonce := fmt.Sprint("push", i)
			c.send(xds.EndpointType, nonce, c.endpoints(7, 81+i%2))
			for ack := range c.acked {
				if ack == nonce {
					break
				}
			}
		}
		r.push = time.Since(begin) / pushes
		_, after := p.usage()
		r.pushCPU = (after - r.startCPU) / pushes
		got[k] = r
		t.Logf("%s: ready after %s with %s of CPU and %d MiB, a push in %s with %s of CPU", k, r.ready, r.startCPU, r.rss, r.push, r.pushCPU)
	}
	e, o := got[envoy], got[outrider]
	if o.ready > e.ready*3/2+time.Second {
		t.Errorf("outrider is ready after %s, Envoy after %s", o.ready, e.ready)
	}
	if o.rss > e.rss {
		t.Errorf("outrider has %d MiB, Envoy %d", o.rss, e.rss)
	}
	if o.push > 2*e.push+time.Millisecond {
		t.Errorf("a push takes outrider %s, Envoy %s", o.push, e.push)
	}
}
