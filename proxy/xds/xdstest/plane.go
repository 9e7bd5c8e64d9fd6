// Package xdstest is control planes for tests: Plane is go-control-plane's
// server, Script does what the test says, right or wrong.
package xdstest

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	clusterservice "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	extensionservice "github.com/envoyproxy/go-control-plane/envoy/service/extension/v3"
	listenerservice "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	routeservice "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	secretservice "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
)

// Resources are what a Plane serves, by type URL.
type Resources map[resource.Type][]types.Resource

// Plane serves one node, over ADS and a stream for each type, in both
// protocols.
type Plane struct {
	node    string
	network string
	address string
	tls     *tls.Config // nil: plaintext
	cache   cache.SnapshotCache

	mu      sync.Mutex
	server  *grpc.Server  // guarded by mu; nil while stopped
	done    chan struct{} // guarded by mu
	version int           // guarded by mu
	nacks   []string      // guarded by mu
	asked   []Request     // guarded by mu
	acks    int           // guarded by mu
	opened  int           // guarded by mu; streams so far
	// sent are the resources of all answers, by type URL. Guarded by mu.
	sent map[string]int
}

// Listen makes a Plane for a node on a network and address of net.Listen; it
// serves until the test ends.
func Listen(t testing.TB, node, network, address string) *Plane {
	t.Helper()
	return listen(t, &Plane{node: node, network: network, address: address})
}

// ListenTLS is Listen on a free port of loopback, with TLS.
func ListenTLS(t testing.TB, node string, config *tls.Config) *Plane {
	t.Helper()
	return listen(t, &Plane{node: node, network: "tcp", address: "127.0.0.1:0", tls: config})
}

func listen(t testing.TB, p *Plane) *Plane {
	t.Helper()
	p.cache, p.sent = cache.NewSnapshotCache(true, cache.IDHash{}, nil), map[string]int{}
	p.Start(t)
	t.Cleanup(p.Stop)
	return p
}

// Address is where it listens.
func (p *Plane) Address() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.address
}

// Start serves again, after Stop, at the same address.
func (p *Plane) Start(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), p.network, p.address)
	if err != nil {
		t.Fatal(err)
	}
	p.address = ln.Addr().String()
	if p.tls != nil {
		ln = tls.NewListener(ln, p.tls)
	}
	p.server, p.done = grpc.NewServer(), make(chan struct{})
	all := server.NewServer(context.Background(), p.cache, p.callbacks())
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(p.server, all)
	clusterservice.RegisterClusterDiscoveryServiceServer(p.server, all)
	endpointservice.RegisterEndpointDiscoveryServiceServer(p.server, all)
	listenerservice.RegisterListenerDiscoveryServiceServer(p.server, all)
	routeservice.RegisterRouteDiscoveryServiceServer(p.server, all)
	extensionservice.RegisterExtensionConfigDiscoveryServiceServer(p.server, all)
	secretservice.RegisterSecretDiscoveryServiceServer(p.server, all)
	serve, done := p.server, p.done
	go func() {
		defer close(done)
		_ = serve.Serve(ln) // ends with Stop
	}()
}

// Stop ends every stream and the listener. What is served stays for Start.
func (p *Plane) Stop() {
	p.mu.Lock()
	server, done := p.server, p.done
	p.server = nil
	p.mu.Unlock()
	if server != nil {
		server.Stop()
		<-done
	}
}

// Set makes all the whole of what is served, and pushes it. The version of a
// state-of-the-world answer counts the calls.
func (p *Plane) Set(t testing.TB, all Resources) {
	t.Helper()
	p.mu.Lock()
	p.version++
	version := fmt.Sprint(p.version)
	p.mu.Unlock()
	snapshot, err := cache.NewSnapshot(version, all)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cache.SetSnapshot(context.Background(), p.node, snapshot); err != nil {
		t.Fatal(err)
	}
}

// Request is what a request said, of either protocol.
type Request struct {
	Type string // the message's name
	// Names are resource_names, or resource_names_subscribe and, with a minus,
	// resource_names_unsubscribe; sorted.
	Names []string
	Have  []string // the names of initial_resource_versions, sorted
	// Version is version_info; Answer says that it has a nonce, Refused that it
	// has error_detail, Node that it has the node.
	Version               string
	Answer, Refused, Node bool
}

// Requests are all requests so far.
func (p *Plane) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// Nacks are the texts of the refusals so far.
func (p *Plane) Nacks() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.nacks...)
}

// Acks counts the answers that were accepted.
func (p *Plane) Acks() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acks
}

// Opened counts the streams so far.
func (p *Plane) Opened() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opened
}

// Sent counts the resources of a type in all answers so far.
func (p *Plane) Sent(typeURL string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent[typeURL]
}

func (p *Plane) note(nonce, detail string, r Request) {
	r.Type = r.Type[strings.LastIndexByte(r.Type, '.')+1:]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, r)
	switch {
	case detail != "":
		p.nacks = append(p.nacks, detail)
	case nonce != "":
		p.acks++
	}
}

func (p *Plane) open(context.Context, int64, string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opened++
	return nil
}

func (p *Plane) count(typeURL string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent[typeURL] += n
}

func (p *Plane) callbacks() server.CallbackFuncs {
	return server.CallbackFuncs{
		StreamOpenFunc: p.open, DeltaStreamOpenFunc: p.open,
		StreamRequestFunc: func(_ int64, r *discoveryv3.DiscoveryRequest) error {
			p.note(r.GetResponseNonce(), r.GetErrorDetail().GetMessage(), Request{
				Type: r.GetTypeUrl(), Names: slices.Sorted(slices.Values(r.GetResourceNames())), Version: r.GetVersionInfo(),
				Answer: r.GetResponseNonce() != "", Refused: r.GetErrorDetail() != nil, Node: r.GetNode() != nil,
			})
			return nil
		},
		StreamDeltaRequestFunc: func(_ int64, r *discoveryv3.DeltaDiscoveryRequest) error {
			names := slices.Clone(r.GetResourceNamesSubscribe())
			for _, n := range r.GetResourceNamesUnsubscribe() {
				names = append(names, "-"+n)
			}
			p.note(r.GetResponseNonce(), r.GetErrorDetail().GetMessage(), Request{
				Type: r.GetTypeUrl(), Names: slices.Sorted(slices.Values(names)), Have: slices.Sorted(maps.Keys(r.GetInitialResourceVersions())),
				Answer: r.GetResponseNonce() != "", Refused: r.GetErrorDetail() != nil, Node: r.GetNode() != nil,
			})
			return nil
		},
		StreamResponseFunc: func(_ context.Context, _ int64, _ *discoveryv3.DiscoveryRequest, a *discoveryv3.DiscoveryResponse) {
			p.count(a.GetTypeUrl(), len(a.GetResources()))
		},
		StreamDeltaResponseFunc: func(_ int64, _ *discoveryv3.DeltaDiscoveryRequest, a *discoveryv3.DeltaDiscoveryResponse) {
			p.count(a.GetTypeUrl(), len(a.GetResources()))
		},
	}
}
