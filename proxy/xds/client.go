package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// Options are how a Client reaches its server.
type Options struct {
	Transport Transport
	// Server names the server in logs and errors: the cluster's name.
	Server string
	// Delta speaks the incremental protocol.
	Delta bool
	// Node goes out with the first request of each stream; with each one unless
	// NodeOnce (set_node_on_first_message_only).
	Node     *corev3.Node
	NodeOnce bool
	// Service is the gRPC service; "" is the aggregated one.
	Service Service
	// Rate bounds the requests; nil does not (Envoy: rate_limit_settings).
	Rate *Rate
	// Cache keeps what was accepted; nil does not.
	Cache *Cache
	// ControlPlane are the stream's metrics; nil for none.
	ControlPlane *ControlPlane
	Log          *slog.Logger
}

// Service is the pair of a service's methods.
type Service struct{ Stream, Delta string }

// Services are Envoy's services of one type each, by type URL.
func Services(typeURL string) (Service, bool) {
	service := func(name, stream, delta string) (Service, bool) {
		return Service{"/envoy.service." + name + "/" + stream, "/envoy.service." + name + "/" + delta}, true
	}
	switch typeURL {
	case ClusterType:
		return service("cluster.v3.ClusterDiscoveryService", "StreamClusters", "DeltaClusters")
	case EndpointType:
		return service("endpoint.v3.EndpointDiscoveryService", "StreamEndpoints", "DeltaEndpoints")
	case ListenerType:
		return service("listener.v3.ListenerDiscoveryService", "StreamListeners", "DeltaListeners")
	case RouteType:
		return service("route.v3.RouteDiscoveryService", "StreamRoutes", "DeltaRoutes")
	case SecretType:
		return service("secret.v3.SecretDiscoveryService", "StreamSecrets", "DeltaSecrets")
	case ExtensionType:
		return service("extension.v3.ExtensionConfigDiscoveryService", "StreamExtensionConfigs", "DeltaExtensionConfigs")
	}
	return Service{}, false
}

// aggregated is ADS.
const aggregated = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"

// Rate is a bucket of tokens: one is taken by each request.
type Rate struct {
	Tokens    uint32  // that the bucket holds
	PerSecond float64 // that come in
}

// Client keeps one stream to a server, and the state of its subscriptions
// across streams. Its methods may be called by many goroutines.
type Client struct {
	opts Options

	applying sync.Mutex // one Apply at a time; taken before mu

	mu        sync.Mutex
	kinds     map[string]*kind // guarded by mu; by type URL
	order     []*kind          // guarded by mu; by rank
	open      bool             // guarded by mu; a stream is there
	nodeSent  bool             // guarded by mu; on this stream
	heard     bool             // guarded by mu; this stream has brought an answer
	running   bool             // guarded by mu
	everHeard bool             // guarded by mu; some stream has brought an answer
	tokens    float64          // guarded by mu; of opts.Rate
	refilled  time.Time        // guarded by mu
	cached    *cached          // guarded by mu; what the cache has, nil before it is needed

	wake   chan struct{} // cap 1: there may be something to send
	expiry chan struct{} // cap 1: the next TTL may be another
	stock  chan struct{} // cap 1: something is wanted that may be in the cache
}

// New makes a client. It connects to nothing before Run.
func New(opts Options) *Client {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Service == (Service{}) {
		opts.Service = Service{aggregated + "StreamAggregatedResources", aggregated + "DeltaAggregatedResources"}
	}
	c := &Client{opts: opts, kinds: map[string]*kind{}, wake: make(chan struct{}, 1), expiry: make(chan struct{}, 1), stock: make(chan struct{}, 1)}
	if opts.Rate != nil {
		c.tokens, c.refilled = float64(opts.Rate.Tokens), time.Now()
	}
	return c
}

// The waits between streams: Envoy's default for gRPC subscriptions, jittered
// over the whole of it.
const (
	firstWait = 500 * time.Millisecond
	maxWait   = 30 * time.Second
)

// Run keeps a stream until ctx ends; then it returns nil.
func (c *Client) Run(ctx context.Context) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wait.Go(func() { c.expire(ctx) })
	c.mu.Lock()
	c.running = true
	for _, k := range c.order {
		c.await(k)
	}
	c.mu.Unlock()
	defer c.stopTimers()
	if c.opts.Cache != nil {
		wait.Go(func() { c.keep(ctx) })
	}
	for wait := firstWait; ; wait = min(2*wait, maxWait) {
		heard, err := c.stream(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if heard {
			wait = firstWait
		}
		c.failed(fmt.Errorf("xDS stream to cluster %q: %w", c.opts.Server, err))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rand.N(wait)):
		}
	}
}

// errEnded is a stream that the server ended without an error.
var errEnded = errors.New("the server ended the stream")

// stream runs one stream to its end. heard says that it brought an answer.
func (c *Client) stream(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.cacheDue() {
		// Silence is an answer too, when there is a cache to go on with.
		quiet := time.AfterFunc(c.opts.Cache.opts.After, func() {
			if !c.hasHeard() {
				cancel()
			}
		})
		defer quiet.Stop()
		defer func() {
			if !heard {
				c.useCache()
			}
		}()
	}
	method := c.opts.Service.Stream
	if c.opts.Delta {
		method = c.opts.Service.Delta
	}
	s, err := c.opts.Transport.Open(ctx, method)
	if err != nil {
		return false, err
	}
	c.opened()
	defer c.closed()
	c.opts.Log.Info("xDS stream is open", "cluster", c.opts.Server, "delta", c.opts.Delta)
	return c.converse(ctx, s)
}

// converse sends and receives until one of them fails.
func (c *Client) converse(ctx context.Context, s Stream) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var sending sync.WaitGroup
	var sendErr error
	sending.Go(func() {
		sendErr = c.send(ctx, s)
		if sendErr != nil && !errors.Is(sendErr, io.EOF) { // of io.EOF Recv knows more
			s.Close()
		}
	})
	err = c.receive(s)
	cancel()
	s.Close()
	sending.Wait()
	if errors.Is(err, io.EOF) {
		err = errEnded
	}
	if sendErr != nil && !errors.Is(sendErr, io.EOF) && !errors.Is(sendErr, context.Canceled) {
		err = sendErr
	}
	return c.hasHeard(), err
}

// opened begins the state of a new stream.
func (c *Client) opened() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open, c.nodeSent, c.heard = true, false, false
	for _, k := range c.order {
		k.reopen()
	}
	c.opts.ControlPlane.setConnected(true)
	c.signal()
}

func (c *Client) closed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = false
	c.opts.ControlPlane.setConnected(false)
	c.opts.ControlPlane.setPending(0)
}

func (c *Client) hasHeard() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open && c.heard
}

// Connected reports whether a stream is open.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

// failed tells every subscription that the stream ended.
func (c *Client) failed(err error) {
	c.opts.Log.Warn("no xDS stream, what was before goes on", "cluster", c.opts.Server, "reason", err)
	c.mu.Lock()
	var tell []func(error)
	for _, k := range c.order {
		if len(k.refs) == 0 {
			continue
		}
		k.Stats.Failed()
		if k.Failed != nil {
			tell = append(tell, k.Failed)
		}
	}
	c.mu.Unlock()
	for _, f := range tell {
		f(err)
	}
}

// signal says that there may be something to send.
func (c *Client) signal() { poke(c.wake) }

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
