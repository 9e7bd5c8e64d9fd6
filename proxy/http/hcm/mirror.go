package hcm

import (
	"net"
	"strings"
	"sync"
	"time"

	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/edit"
	"outrider/proxy/http/message"
	"outrider/proxy/http/pool"
)

// mirror sends a copy of the request, once it is complete, to each cluster that
// the route mirrors to. Nobody waits for the answers.
func (r *router) mirror() {
	if !r.complete || len(r.mirrors) == 0 {
		return
	}
	s := r.s
	for i := range r.mirrors {
		p := &r.mirrors[i]
		if p.RuntimePPM != nil {
			if ppm := s.m.deps.RuntimePPM(p.RuntimeKey, *p.RuntimePPM); s.m.deps.Rand()%1e6 >= uint64(ppm) {
				continue
			}
		}
		name := p.Cluster
		if p.ClusterHeader != "" {
			name = s.http.Request.Fields.Value(p.ClusterHeader)
		}
		if target := s.m.deps.Clusters.Get(name); target != nil {
			sh := &shadow{target: target, internal: s.isInternal(), head: r.shadowHead(p), body: append([]byte(nil), r.body...), trailers: s.http.RequestTrailers}
			limit := r.timeout
			sh.open(s.m.deps.Pools, &pool.Request{
				Cluster: target, Choice: r.shadowChoice(), Downstream: s.http.Protocol,
			}, limit)
		}
	}
	r.mirrors = nil
}

// shadowChoice is what the copy's cluster chooses a host by.
func (r *router) shadowChoice() cluster.Request {
	return cluster.Request{Hash: r.hash, HasHash: r.hasHash}
}

// shadowHead is the copy's head: the host says that it is one.
func (r *router) shadowHead(p *config.MirrorPolicy) *message.Head {
	h := r.s.http.Request.Clone()
	c := r.s.m.mutations.Of(p, func() compiledMutations {
		m, err := edit.Compile(p.Mutations, r.s.m.deps.Format)
		return compiledMutations{m, err}
	})
	if c.err == nil { // what the decoder has let through compiles
		c.list.Apply(h, r.s.info)
	}
	switch {
	case p.HostRewrite != "":
		h.Authority = p.HostRewrite
	case !p.NoShadowSuffix:
		h.Authority = shadowHost(h.Authority)
	}
	return h
}

// compiledMutations are a policy's request_headers_mutations.
type compiledMutations struct {
	list edit.Mutations
	err  error
}

// shadowHost is the host with -shadow after it, before the port.
func shadowHost(authority string) string {
	if host, port, err := net.SplitHostPort(authority); err == nil {
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return host + "-shadow:" + port
	}
	return authority + "-shadow"
}

// shadow is one mirrored request.
type shadow struct {
	mu       sync.Mutex
	head     *message.Head
	body     []byte
	trailers message.Fields
	sender   codec.Sender
	conn     *pool.Conn
	target   *cluster.Cluster
	internal bool
	pending  *pool.Pending
	timer    *time.Timer
	over     bool
}

func (sh *shadow) open(pools *pool.Pools, req *pool.Request, limit time.Duration) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if limit > 0 {
		sh.timer = time.AfterFunc(limit, sh.expire)
	}
	sender, conn, pending, err := pools.Open(req, sh, sh)
	switch {
	case err != nil:
		sh.end(cluster.Cancelled)
	case pending != nil:
		sh.pending = pending
	default:
		sh.send(sender, conn)
	}
}

func (sh *shadow) expire() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.over {
		return
	}
	if sh.sender != nil {
		sh.sender.Reset(codec.Cancel)
	}
	if sh.pending != nil {
		sh.pending.Cancel()
	}
	sh.end(cluster.Timeout)
}

// end is called once, with the lock held.
func (sh *shadow) end(o cluster.Outcome) {
	if sh.over {
		return
	}
	sh.over = true
	if sh.timer != nil {
		sh.timer.Stop()
	}
	if sh.conn != nil {
		sh.conn.Done(o)
	}
	sh.head.Release()
	sh.head, sh.body = nil, nil
}

func (sh *shadow) send(sender codec.Sender, conn *pool.Conn) {
	sh.sender, sh.conn = sender, conn
	end := len(sh.trailers) == 0
	sender.SendHead(sh.head, end && len(sh.body) == 0)
	if len(sh.body) > 0 {
		sender.SendData(sh.body, end)
	}
	if !end {
		sender.SendTrailers(sh.trailers)
	}
}

// Ready and Failed are pool.Waiter.
func (sh *shadow) Ready(sender codec.Sender, conn *pool.Conn) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.pending = nil
	if sh.over {
		sender.Reset(codec.Cancel)
		conn.Done(cluster.Cancelled)
		return
	}
	sh.send(sender, conn)
}

func (sh *shadow) Failed(*cluster.Host, error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.pending = nil
	sh.end(cluster.Cancelled)
}

// The answer is taken and dropped (codec.Receiver).

func (sh *shadow) OnHead(h *message.Head, end bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.conn != nil && !sh.over && h.Status >= 200 {
		sh.conn.Response(h)
		sh.target.CountCode(h.Status, sh.internal, false)
	}
	h.Release()
	if end {
		sh.end(cluster.Answered)
	}
}

func (sh *shadow) OnData(p []byte, end bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.sender.Consumed(len(p))
	if end {
		sh.end(cluster.Answered)
	}
}

func (sh *shadow) OnTrailers(message.Fields) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.end(cluster.Answered)
}

func (sh *shadow) OnReset(codec.Reset) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.end(cluster.Reset)
}

func (sh *shadow) OnGone(int) {}
