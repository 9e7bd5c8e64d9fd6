package pool

import (
	"errors"
	"slices"
	"sync"

	"outrider/proxy/cluster"
	"outrider/proxy/flow"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/h1"
	"outrider/proxy/http/h2"
)

// pool is the connections to one host that are interchangeable.
type pool struct {
	set     *Pools
	key     key
	cluster *cluster.Cluster
	choice  cluster.Request // what connections are made by
	h1      h1.Options
	h2      h2.Options

	mu       sync.Mutex
	conns    map[*shared]struct{} // guarded by mu
	ready    []*shared            // guarded by mu; those that take a request, the last used last
	waiting  []*Pending           // guarded by mu; the first came first
	dialing  int                  // guarded by mu; connections being made
	coming   int                  // guarded by mu; how many requests those will take
	draining bool                 // guarded by mu; the host is gone
	dead     bool                 // guarded by mu; forgotten by the set
}

// Pending is a request that waits for a connection.
type Pending struct {
	pool *pool
	recv codec.Receiver
	w    Waiter
	over bool // guarded by pool.mu; it does not wait any more
}

// Cancel ends the wait. If the connection is on its way already, Ready comes all
// the same.
func (p *Pending) Cancel() {
	one := p.pool
	one.mu.Lock()
	defer one.mu.Unlock()
	if p.over {
		return
	}
	p.over = true
	if i := slices.Index(one.waiting, p); i >= 0 {
		one.waiting = slices.Delete(one.waiting, i, i+1)
	}
	one.cluster.Waited(one.key.high, true)
}

// open is Pools.Open for this pool. again says that the pool is gone.
func (one *pool) open(req *Request, r codec.Receiver, w Waiter) (s codec.Sender, c *Conn, p *Pending, err error, again bool) {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.dead {
		return nil, nil, nil, nil, true
	}
	if len(one.waiting) == 0 {
		if s, c, err = one.take(r); s != nil || err != nil {
			return s, c, nil, err, false
		}
	}
	if !one.cluster.Wait(one.key.high) {
		return nil, nil, nil, one.cluster.Overflow("max_pending_requests", one.key.high), false
	}
	p = &Pending{pool: one, recv: r, w: w}
	one.waiting = append(one.waiting, p)
	if !one.connect() {
		p.over = true
		one.waiting = one.waiting[:len(one.waiting)-1]
		one.cluster.Waited(one.key.high, true)
		return nil, nil, nil, errEnds(), false
	}
	return nil, nil, p, nil, false
}

// take opens a stream on a connection that is ready; nil if there is none. It
// needs mu.
func (one *pool) take(r codec.Receiver) (codec.Sender, *Conn, error) {
	for len(one.ready) > 0 {
		c := one.ready[len(one.ready)-1]
		use, ok := one.cluster.Begin(one.key.host, one.key.high, c.protocol == codec.HTTP2)
		if !ok {
			return nil, nil, one.cluster.Overflow("max_requests", one.key.high)
		}
		s, err := c.client.Open(r)
		if err == nil {
			c.begun()
			if c.full() {
				one.ready = one.ready[:len(one.ready)-1]
				c.listed = false
			}
			return s, &Conn{shared: c, use: use, nth: c.requests.Load()}, nil
		}
		use.End(cluster.Cancelled)
		one.ready = one.ready[:len(one.ready)-1]
		c.listed = false
	}
	return nil, nil, nil
}

// connect makes as many connections as those that wait need, with what
// preconnecting adds, as far as max_connections allows. It is false if the
// proxy ends and makes none any more. It needs mu.
func (one *pool) connect() bool {
	want := len(one.waiting)
	if ratio := one.cluster.Config().HTTP.Preconnect; ratio > 1 && !one.draining {
		want = int(float64(want) * ratio)
	}
	for one.coming < want {
		first := len(one.conns) == 0 && one.dialing == 0
		if !one.cluster.AdmitConn(one.key.host, one.key.high, first) {
			return true // those that wait get what becomes free
		}
		room := one.roomOfNew()
		if !one.set.start(func() { one.dial(room) }) {
			one.cluster.UnadmitConn(one.key.host, one.key.high)
			return false
		}
		one.dialing++
		one.coming += room
	}
	return true
}

// roomOfNew is how many requests a new connection is thought to take.
func (one *pool) roomOfNew() int {
	cfg := &one.cluster.Config().HTTP
	room := 1
	if one.key.proto != speaksHTTP1 {
		room = 1024
		if n := cfg.HTTP2.MaxStreams; n > 0 {
			room = int(min(n, 1024))
		}
	}
	if n := cfg.Common.MaxRequests; n > 0 {
		room = min(room, int(n))
	}
	return room
}

// dial makes a connection, has it serve those that wait, and stays with it to
// its end.
func (one *pool) dial(room int) {
	c, err := one.newConn()
	one.mu.Lock()
	one.dialing--
	one.coming -= room
	if err != nil {
		failed := one.giveUp()
		one.mu.Unlock()
		one.fail(failed, err)
		one.retireIfEmpty()
		return
	}
	one.conns[c.shared] = struct{}{}
	one.list(c.shared)
	gone := one.draining
	one.mu.Unlock()
	one.serve()
	if gone {
		c.retire()
	}
	c.run()
	one.mu.Lock()
	delete(one.conns, c.shared)
	one.unlist(c.shared)
	one.mu.Unlock()
	one.serve() // those that max_connections kept waiting for this one
	one.retireIfEmpty()
}

// giveUp takes out all that wait. It needs mu.
func (one *pool) giveUp() []*Pending {
	all := one.waiting
	one.waiting = nil
	for _, p := range all {
		p.over = true
		one.cluster.Waited(one.key.high, false)
	}
	return all
}

func (one *pool) fail(failed []*Pending, err error) {
	var end *flow.EndError
	if !errors.As(err, &end) {
		err = flow.End(flow.StageConnect, flow.UpstreamConnectionFailure, err)
	}
	one.cluster.Ejected(len(failed))
	for _, p := range failed {
		p.w.Failed(one.key.host, err)
	}
}

// serve gives connections to those that wait, as far as there are any.
func (one *pool) serve() {
	for {
		one.mu.Lock()
		if len(one.waiting) == 0 {
			one.mu.Unlock()
			return
		}
		p := one.waiting[0]
		s, c, err := one.take(p.recv)
		if s == nil && err == nil {
			var failed []*Pending
			if !one.connect() { // some connection may have gone meanwhile
				failed = one.giveUp()
			}
			one.mu.Unlock()
			one.fail(failed, errEnds())
			return
		}
		one.waiting = slices.Delete(one.waiting, 0, 1)
		p.over = true
		one.cluster.Waited(one.key.high, false)
		one.mu.Unlock()
		if err != nil {
			p.w.Failed(one.key.host, err)
			continue
		}
		p.w.Ready(s, c)
	}
}

// list makes a connection ready, unless it is or takes nothing. It needs mu.
func (one *pool) list(c *shared) {
	if c.listed || c.retired.Load() || c.client.Room() == 0 {
		return
	}
	c.listed = true
	one.ready = append(one.ready, c)
}

// unlist needs mu.
func (one *pool) unlist(c *shared) {
	if !c.listed {
		return
	}
	c.listed = false
	if i := slices.Index(one.ready, c); i >= 0 {
		one.ready = slices.Delete(one.ready, i, i+1)
	}
}

// drain has the connections end with their requests.
func (one *pool) drain() {
	one.mu.Lock()
	one.draining = true
	all := make([]*shared, 0, len(one.conns))
	for c := range one.conns {
		all = append(all, c)
	}
	one.mu.Unlock()
	for _, c := range all {
		c.retire()
	}
	one.retireIfEmpty()
}

func (one *pool) closeAll() {
	one.mu.Lock()
	defer one.mu.Unlock()
	for c := range one.conns {
		c.client.Close()
	}
}

// retireIfEmpty has the set forget the pool if nothing is in it.
func (one *pool) retireIfEmpty() {
	one.mu.Lock()
	empty := len(one.conns) == 0 && len(one.waiting) == 0 && one.dialing == 0
	if empty {
		one.dead = true
	}
	one.mu.Unlock()
	if empty {
		one.set.forget(one)
	}
}
