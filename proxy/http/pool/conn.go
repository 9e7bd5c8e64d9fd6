package pool

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"outrider/proxy/cluster"
	"outrider/proxy/flow"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/h1"
	"outrider/proxy/http/h2"
	"outrider/proxy/http/message"
	"outrider/tlsmux"
)

// Conn is one request's view of the connection that it has.
type Conn struct {
	*shared
	use cluster.Use
	nth uint64 // which request of the connection it is, from 1
}

// shared is a connection.
type shared struct {
	pool     *pool
	id       uint64
	up       *cluster.Conn
	client   codec.Client
	protocol codec.Protocol
	opened   time.Time
	requests atomic.Uint64
	idleFrom atomic.Int64 // nanoseconds since opened
	retired  atomic.Bool
	listed   bool // guarded by pool.mu

	mu     sync.Mutex
	timers []*time.Timer // guarded by mu
	ended  bool          // guarded by mu
}

// newConn connects to the pool's host.
func (one *pool) newConn() (*Conn, error) {
	up, err := one.cluster.ConnectHost(one.set.ctx, one.key.host, one.choice, one.key.high)
	if err != nil {
		return nil, err
	}
	c := &Conn{shared: &shared{pool: one, id: one.set.lastID.Add(1), up: up, opened: time.Now()}}
	two := one.key.proto == speaksHTTP2
	if one.key.proto == byALPN && up.State() != nil {
		two = up.State().ALPN == "h2" || up.State().ALPN == "istio-h2"
	}
	one.cluster.CountProtocol(two)
	owner := owned{c.shared}
	if two {
		c.protocol, c.client = codec.HTTP2, h2.NewClient(up.Conn, owner, one.h2)
	} else {
		c.protocol, c.client = codec.HTTP11, h1.NewClient(up.Conn, owner, one.h1)
	}
	return c, nil
}

// run is the connection's life.
func (c *Conn) run() {
	stop := context.AfterFunc(c.pool.set.ctx, c.client.Close)
	c.startTimers()
	end := c.client.Run()
	stop()
	c.stopTimers()
	if end.By != codec.ByUs {
		c.up.EndedByPeer()
	}
	c.up.Account(end.BytesRead, end.BytesWritten)
	_ = c.up.Close() // the codec has closed what is beneath
}

// owned is what the codec calls (codec.Pool).
type owned struct{ c *shared }

// Freed has those that wait use what has become free.
func (o owned) Freed(codec.Client) {
	c := o.c
	if c.client.Active() == 0 {
		c.idleFrom.Store(int64(time.Since(c.opened)))
		if c.retired.Load() {
			c.client.Close()
			return
		}
	}
	one := c.pool
	one.mu.Lock()
	one.list(c)
	waiting := len(one.waiting) > 0
	one.mu.Unlock()
	if waiting {
		one.serve()
	}
}

// Drained takes the connection out of the pool; it ends with its requests.
func (o owned) Drained(codec.Client) { o.c.leave() }

func (c *shared) leave() {
	if c.retired.Swap(true) {
		return
	}
	one := c.pool
	one.mu.Lock()
	one.unlist(c)
	waiting := len(one.waiting) > 0
	one.mu.Unlock()
	if waiting {
		one.serve()
	}
}

// retire has the connection end with its last request.
func (c *shared) retire() {
	c.leave()
	if c.client.Active() == 0 {
		c.client.Close()
	}
}

// begun counts a request; the pool's mu is held.
func (c *shared) begun() {
	n := c.requests.Add(1)
	if limit := c.pool.cluster.Config().HTTP.Common.MaxRequests; limit > 0 && n >= uint64(limit) {
		c.retired.Store(true)
		c.pool.cluster.CountMaxRequests()
	}
}

// full reports that the connection takes no further request now.
func (c *shared) full() bool { return c.retired.Load() || c.client.Room() == 0 }

func (c *shared) startTimers() {
	cfg := c.pool.cluster.Config().HTTP.Common
	if d := cfg.IdleTimeout; d > 0 {
		c.watchIdle(d)
	}
	if d := cfg.MaxDuration; d > 0 {
		c.after(d, func() {
			c.pool.cluster.CountMaxDuration()
			c.retire()
		})
	}
}

// watchIdle looks again when the connection may have been idle for long enough,
// so that requests need not touch a timer.
func (c *shared) watchIdle(limit time.Duration) {
	var t *time.Timer // guarded by c.mu
	again := func(d time.Duration) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.ended {
			t.Reset(d)
		}
	}
	check := func() {
		idle := time.Since(c.opened) - time.Duration(c.idleFrom.Load())
		switch {
		case c.client.Active() > 0:
			again(limit)
		case idle < limit:
			again(limit - idle)
		default:
			c.pool.cluster.CountIdleTimeout()
			c.retire()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t = time.AfterFunc(limit, check)
	c.timers = append(c.timers, t)
}

func (c *shared) after(d time.Duration, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timers = append(c.timers, time.AfterFunc(d, f))
}

func (c *shared) stopTimers() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for _, t := range c.timers {
		t.Stop()
	}
}

// Host is the other end.
func (c *Conn) Host() *cluster.Host { return c.up.Host() }

// TLS is the connection's state, nil for plaintext.
func (c *Conn) TLS() *tlsmux.State { return c.up.State() }

// Protocol is the HTTP version.
func (c *Conn) Protocol() codec.Protocol { return c.protocol }

// Fill writes the upstream part of a request's Info.
func (c *Conn) Fill(info *flow.Info) {
	h := c.up.Host()
	cfg := c.pool.cluster.Config()
	info.UpstreamCluster, info.UpstreamClusterStat = cfg.Name, cfg.AltStatName
	info.ClusterMetadata, info.UpstreamMetadata = cfg.Metadata, h.Metadata()
	info.UpstreamHost, info.UpstreamHostname = h.Address(), h.Hostname()
	info.UpstreamLocal, info.Upstream, info.UpstreamFailure = c.up.LocalAddress(), c.up.State(), ""
	info.TransportSocketMatch = h.SocketMatch()
	info.UpstreamConnected = c.opened
	if x := info.HTTP; x != nil {
		x.Upstream, x.UpstreamConnID = c.protocol, c.id
		x.UpstreamRequests, x.UpstreamReused = c.nth, c.nth > 1
	}
}

// Response takes in the head of the answer.
func (c *Conn) Response(h *message.Head) { c.use.Response(h.Status) }

// Done says how the request ended, once.
func (c *Conn) Done(o cluster.Outcome) { c.use.End(o) }
