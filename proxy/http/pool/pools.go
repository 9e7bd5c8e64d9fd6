// Package pool keeps upstream connections for requests: one pool for each host
// and way of talking to it. A request gets a connection that is there, or waits
// for one that is being made.
//
// A pool's lock is never held when anybody is called but a codec's Open, which
// calls nobody.
package pool

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/h1"
	"outrider/proxy/http/h2"
)

// Pools are all pools of a proxy.
type Pools struct {
	log     *slog.Logger
	ctx     context.Context //nolint:containedctx // of the connections, until Close
	cancel  context.CancelFunc
	running sync.WaitGroup // a goroutine for each connection
	lastID  atomic.Uint64

	mu     sync.Mutex
	pools  map[key]*pool                        // guarded by mu
	byHost map[*cluster.Host]map[*pool]struct{} // guarded by mu
	closed bool                                 // guarded by mu
}

// key is what makes connections interchangeable.
type key struct {
	host  *cluster.Host
	sock  any
	proto protocol
	alpn  string // joined by commas
	sni   string
	high  bool
	// affine is the downstream connection whose own the connections are, 0 for
	// none: where they say who the client is.
	affine uint64
}

// protocol is how a connection's HTTP version is decided.
type protocol uint8

const (
	speaksHTTP1 protocol = iota
	speaksHTTP2
	byALPN
)

// New makes an empty set; log may be nil.
func New(log *slog.Logger) *Pools {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Pools{log: log, pools: map[key]*pool{}, byHost: map[*cluster.Host]map[*pool]struct{}{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Close ends all connections and waits for their goroutines.
func (p *Pools) Close() {
	p.mu.Lock()
	p.closed = true
	all := make([]*pool, 0, len(p.pools))
	for _, one := range p.pools {
		all = append(all, one)
	}
	p.mu.Unlock()
	p.cancel()
	for _, one := range all {
		one.closeAll()
	}
	p.running.Wait()
}

// Gone has the connections to a host end with their requests: the host is no
// endpoint any more (cluster.Options.Gone).
func (p *Pools) Gone(h *cluster.Host) {
	p.mu.Lock()
	all := make([]*pool, 0, 1)
	for one := range p.byHost[h] {
		all = append(all, one)
	}
	p.mu.Unlock()
	for _, one := range all {
		one.drain()
	}
}

// Request is what a request needs of a connection.
type Request struct {
	Cluster *cluster.Cluster
	Choice  cluster.Request
	// Downstream is the protocol that the request came by, for
	// use_downstream_protocol_config.
	Downstream codec.Protocol
	// High is the priority.
	High bool
}

// Waiter is told of the connection that a request waits for. One of its methods
// is called, once, from another goroutine and with no lock held, unless the
// request is cancelled before.
type Waiter interface {
	Ready(s codec.Sender, c *Conn)
	// Failed has a *flow.EndError, as Open has.
	Failed(h *cluster.Host, err error)
}

// Open begins a request. It returns the stream with its connection if there is
// one to use, else what the request waits with, else why there is none: a
// *flow.EndError of a *cluster.NoHostError (UH), *cluster.OverflowError (UO) or
// *cluster.ConnectError (UF). r gets what comes on the stream.
func (p *Pools) Open(req *Request, r codec.Receiver, w Waiter) (codec.Sender, *Conn, *Pending, error) {
	h, err := req.Cluster.Choose(&req.Choice)
	if err != nil {
		return nil, nil, nil, err
	}
	for {
		one, err := p.of(req, h)
		if err != nil {
			return nil, nil, nil, err
		}
		s, c, pending, err, again := one.open(req, r, w)
		if again {
			continue
		}
		if err != nil {
			one.retireIfEmpty() // it may have been made for this request
		}
		return s, c, pending, err
	}
}

// errClosed is why nothing is opened any more.
var errClosed = errors.New("the proxy ends")

func errEnds() error {
	return flow.End(flow.StageCluster, flow.UpstreamConnectionFailure, errClosed)
}

// start runs f, for which Close waits; false if Close was called before.
func (p *Pools) start(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.running.Go(f)
	return true
}

// of is the pool for a request to a host.
func (p *Pools) of(req *Request, h *cluster.Host) (*pool, error) {
	cfg := req.Cluster.Config()
	k := key{host: h, sock: h.SocketOf(), proto: protocolOf(cfg, req.Downstream), high: req.High, sni: req.Choice.ServerName}
	if len(req.Choice.ALPN) > 0 {
		k.alpn = strings.Join(req.Choice.ALPN, ",")
	}
	if info := req.Choice.Info; info != nil && (info.UpstreamSource != nil || req.Cluster.PerClient(h)) {
		k.affine = info.ID
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errEnds()
	}
	if one := p.pools[k]; one != nil {
		return one, nil
	}
	one := &pool{set: p, key: k, cluster: req.Cluster, choice: req.Choice, conns: map[*shared]struct{}{}}
	one.h1, one.h2 = clientOptions(req.Cluster, p.log)
	if k.affine == 0 {
		one.choice.Info = nil
	} else {
		one.choice.Info = req.Choice.Info.NewRequest(req.Choice.Info.Start)
	}
	one.choice.Tried = nil
	one.draining = h.Gone() // since it was chosen
	one.offer()
	p.pools[k] = one
	if p.byHost[h] == nil {
		p.byHost[h] = map[*pool]struct{}{}
	}
	p.byHost[h][one] = struct{}{}
	return one, nil
}

// offer says which ALPN protocols the connections offer where nobody else says:
// those of their HTTP version, or of both for ALPN to decide.
func (one *pool) offer() {
	switch one.key.proto {
	case speaksHTTP1:
		one.choice.FallbackALPN = []string{"http/1.1"}
	case speaksHTTP2:
		one.choice.FallbackALPN = []string{"h2"}
	case byALPN:
		if one.choice.ALPN == nil {
			one.choice.ALPN = []string{"h2", "http/1.1"}
		}
	}
}

// forget drops an empty pool.
func (p *Pools) forget(one *pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pools[one.key] == one {
		delete(p.pools, one.key)
	}
	delete(p.byHost[one.key.host], one)
	if len(p.byHost[one.key.host]) == 0 {
		delete(p.byHost, one.key.host)
	}
}

func protocolOf(cfg *config.Cluster, downstream codec.Protocol) protocol {
	switch cfg.HTTP.Mode {
	case config.UpstreamHTTP2:
		return speaksHTTP2
	case config.UpstreamFollow:
		if downstream == codec.HTTP2 {
			return speaksHTTP2
		}
	case config.UpstreamAuto:
		return byALPN
	}
	return speaksHTTP1
}

// clientOptions are a cluster's for its codecs.
func clientOptions(c *cluster.Cluster, log *slog.Logger) (h1.Options, h2.Options) {
	cfg := c.Config()
	http := &cfg.HTTP
	one, two := http.HTTP1, http.HTTP2
	headBytes := func(unset uint32) int { return int(cmp.Or(http.Common.MaxHeadersKB, unset)) << 10 }
	return h1.Options{
			EnableTrailers: one.EnableTrailers, AllowChunkedLength: one.AllowChunkedLength,
			ProperCaseHeaders: one.ProperCase, SendFullyQualifiedURL: one.SendAbsoluteURL,
			MaxHeaderBytes: headBytes(80), MaxHeaders: int(http.Common.MaxHeaders),
			BufferLimit: int(cfg.PerConnectionBufferLimit), Stats: h1.NewStats(c.Scope()), Log: log,
		}, h2.Options{
			MaxConcurrentStreams: two.MaxStreams, InitialStreamWindow: two.StreamWindow, InitialConnWindow: two.ConnWindow,
			HeaderTableSize: two.HeaderTableSize, AllowConnect: two.AllowConnect,
			MaxHeaderBytes: headBytes(60), MaxHeaders: int(http.Common.MaxHeaders),
			MaxOutboundFrames: int(two.MaxOutboundFrames), MaxOutboundControlFrames: int(two.MaxOutboundControlFrames),
			KeepaliveInterval: two.KeepaliveInterval, KeepaliveTimeout: two.KeepaliveTimeout, KeepaliveIdle: two.KeepaliveIdle,
			KeepaliveJitterPercent: two.KeepaliveJitterPercent, StreamErrorsOnly: two.StreamErrorsOnly,
			BufferLimit: int(cfg.PerConnectionBufferLimit), Stats: h2.NewStats(c.Scope()), Log: log,
		}
}
