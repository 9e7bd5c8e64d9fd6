package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/relay"
	"outrider/tlsmux"
)

// errConnectTimeout is the cause of a context that connect_timeout ended.
var errConnectTimeout = errors.New("connect timeout")

// Connect chooses a host and connects to it, with TLS if its transport socket
// says so; both together may take connect_timeout. It blocks until then, or
// until ctx ends.
//
// Every error is a *flow.EndError, of a *NoHostError (UH), an *OverflowError
// (UO) or a *ConnectError (UF); NC if the cluster has been removed. The
// upstream part of req.Info is filled in in any case.
func (c *Cluster) Connect(ctx context.Context, req Request) (*Conn, error) {
	if !c.acquire() {
		// Whoever had c in hand when it was replaced must not notice.
		if next := c.successor(); next != nil && next != c {
			return next.Connect(ctx, req)
		}
		return nil, flow.End(flow.StageCluster, flow.NoClusterFound, fmt.Errorf("cluster %q has been removed", c.cfg.Name))
	}
	if info := req.Info; info != nil {
		info.UpstreamCluster, info.UpstreamClusterStat = c.cfg.Name, c.cfg.AltStatName
		info.ClusterMetadata = c.cfg.Metadata
		info.UpstreamHost, info.UpstreamLocal = flow.Addr{}, flow.Addr{}
		info.Upstream, info.UpstreamFailure, info.TransportSocketMatch = nil, "", ""
	}
	conn, err := c.admit(ctx, &req)
	if err != nil {
		c.release()
		return nil, err
	}
	return conn, nil
}

// admit passes the circuit breakers and chooses the host.
func (c *Cluster) admit(ctx context.Context, req *Request) (*Conn, error) {
	t, b := c.traffic(), c.breakers[0]
	if err := c.dropped(t); err != nil {
		return nil, err
	}
	if !b.cx.take() {
		t.cxOverflow.Inc()
		return nil, c.overflow("max_connections", b.cx.max)
	}
	got := c.pick(req, false)
	if got.panicked {
		t.healthyPanic.Inc()
	}
	if got.host == nil {
		b.cx.release()
		t.cxNoneHealthy.Inc()
		return nil, flow.End(flow.StageCluster, flow.NoHealthyUpstream, c.noHost(req))
	}
	if err := c.enter(got.host, t, b); err != nil {
		b.cx.release()
		return nil, err
	}
	conn, err := c.connect(ctx, got.host, req)
	b.pending.release()
	t.rqPendingActive.Dec()
	if err != nil {
		b.cx.release()
		return nil, err
	}
	return conn, nil
}

// dropped refuses a share of the connections, by drop_overloads.
func (c *Cluster) dropped(t *traffic) error {
	for _, d := range c.snap.Load().drops {
		if c.opts.Rand()%1_000_000 < uint64(d.PPM) {
			t.rqDropOverload.Inc()
			return c.overflow("drop_overload "+d.Category, int64(d.PPM))
		}
	}
	return nil
}

func (c *Cluster) overflow(limit string, most int64) error {
	return flow.End(flow.StageCluster, flow.UpstreamOverflow, &OverflowError{Cluster: c.cfg.Name, Limit: limit, Max: uint64(most)})
}

func (c *Cluster) noHost(req *Request) error {
	e := &NoHostError{Cluster: c.cfg.Name}
	if c.original != nil {
		e.Reason = "the connection has no original destination"
		return e
	}
	s := c.snap.Load()
	e.Hosts, e.Healthy = len(s.hosts), s.healthy
	switch {
	case !c.isWarm():
		e.Reason = "its endpoints are not known yet"
	case len(s.hosts) == 0:
		e.Reason = "it has no endpoints"
	case c.cfg.LBCommon.FailOnPanic && s.healthy > 0:
		e.Reason = fmt.Sprintf("%d of %d hosts are healthy, and fail_traffic_on_panic is set", s.healthy, len(s.hosts))
	}
	return e
}

// enter counts a connection attempt to h in.
func (c *Cluster) enter(h *Host, t *traffic, b *breaker) error {
	if limit := c.cfg.CircuitBreakers[0].PerHostMaxConnections; limit > 0 && h.count.cxActive.Load() >= int64(limit) {
		t.cxOverflow.Inc()
		return c.overflow("per_host_thresholds max_connections", int64(limit))
	}
	if !b.pending.take() {
		t.rqPendingOverflow.Inc()
		return c.overflow("max_pending_requests", b.pending.max)
	}
	t.rqPendingTotal.Inc()
	t.rqPendingActive.Inc()
	t.cxTotal.Inc()
	t.cxActive.Inc()
	h.count.cxTotal.Add(1)
	h.count.cxActive.Add(1)
	return nil
}

// connect dials h and shakes hands.
func (c *Cluster) connect(ctx context.Context, h *Host, req *Request) (*Conn, error) {
	spec, t, start := h.spec.Load(), c.traffic(), time.Now()
	if req.Info != nil {
		req.Info.UpstreamAttempts++
		req.Info.UpstreamHost, req.Info.UpstreamHostname = flowAddr(spec.address), spec.hostname
		req.Info.UpstreamMetadata = spec.endpoint.Metadata
		req.Info.UpstreamDial, req.Info.UpstreamDialed = start, time.Time{}
		req.Info.TransportSocketMatch = spec.socket.match
	}
	timed, cancel := context.WithTimeoutCause(ctx, c.cfg.ConnectTimeout, errConnectTimeout)
	defer cancel()
	rc, state, stage, err := c.open(timed, spec, req)
	if err != nil {
		return nil, c.connectFailed(timed, h, start, &failure{stage, err, req})
	}
	t.connectMS.Record(uint64(time.Since(start).Milliseconds()))
	if !req.requests {
		t.rqTotal.Inc()
		t.rqActive.Inc()
		c.breakers[0].rq.add()
		h.count.rqTotal.Add(1)
		h.count.rqActive.Add(1)
	}
	if c.outlier != nil && (!req.requests || c.cfg.Outlier.SplitExternalLocal) {
		c.outlier.connected(h)
	}
	conn := &Conn{Conn: rc, cluster: c, holder: c, host: h, state: state, start: start, requests: req.requests, high: req.high}
	if c.cfg.CloseOnHealthFailure {
		h.conns.add(conn)
	}
	if req.Info != nil {
		req.Info.Upstream = state
		req.Info.UpstreamLocal = netAddr(rc.LocalAddr())
		req.Info.UpstreamConnected = time.Now()
	}
	return conn, nil
}

// open is the dial and the transport socket; the stage is where an error was.
func (c *Cluster) open(ctx context.Context, spec *hostSpec, req *Request) (relay.Conn, *tlsmux.State, flow.Stage, error) {
	raw, err := c.dialer.of(req.Info).dial(ctx, append([]config.Address{spec.address}, spec.additional...)...)
	if err != nil {
		return nil, nil, flow.StageConnect, err
	}
	if req.Info != nil {
		req.Info.UpstreamDialed = time.Now()
	}
	if h := spec.socket.header; h != nil {
		if err := h.send(ctx, raw, req.Info, spec.endpoint.TLVs); err != nil {
			raw.Close()
			return nil, nil, flow.StageConnect, err
		}
	}
	alpn := req.ALPN
	if tls := spec.socket.cfg.TLS; alpn == nil && tls != nil && len(tls.ALPN) == 0 {
		alpn = req.FallbackALPN
	}
	rc, state, err := spec.socket.handshake(ctx, raw, tlsmux.ClientOptions{Host: spec.hostname, ALPN: alpn, ServerName: req.ServerName})
	if err != nil {
		raw.Close()
	}
	if spec.socket.tls {
		c.countTLS(state, err)
	}
	return rc, state, flow.StageUpstreamTLS, err
}

type failure struct {
	stage flow.Stage
	err   error
	req   *Request
}

// connectFailed counts a failed attempt out and says what it was.
func (c *Cluster) connectFailed(timed context.Context, h *Host, start time.Time, f *failure) error {
	t := c.traffic()
	e := &ConnectError{Cluster: c.cfg.Name, Host: h.Address(), Err: f.err}
	// The dial's own clock may be a moment ahead of the context's.
	var late net.Error
	e.Timeout = errors.Is(context.Cause(timed), errConnectTimeout) ||
		timed.Err() == nil && errors.As(f.err, &late) && late.Timeout() && !errors.Is(f.err, syscall.ETIMEDOUT)
	var bind *bindError
	switch {
	case e.Timeout:
		t.cxConnectTimeout.Inc()
		e.Err = fmt.Errorf("connect timeout of %s: %w", c.cfg.ConnectTimeout, f.err)
	case f.stage == flow.StageUpstreamTLS:
		e.Reason = tlsReason(f.err)
	default:
		e.Reason = dialReason(f.err)
	}
	if errors.As(f.err, &bind) {
		t.bindErrors.Inc()
	}
	if f.req.Info != nil {
		f.req.Info.UpstreamFailure = e.Reason
	}
	canceled := timed.Err() != nil && !e.Timeout
	if !canceled {
		t.cxConnectFail.Inc()
		h.count.cxConnectFail.Add(1)
		if !f.req.requests {
			t.rqPendingFailureEject.Inc()
		}
		if c.outlier != nil {
			c.outlier.failed(h)
		}
	} else if !f.req.requests {
		t.rqCancelled.Inc()
	}
	c.closed(h, start, ending{byPeer: !e.Timeout && !canceled && (f.stage == flow.StageConnect || byPeer(f.err))})
	return flow.End(f.stage, flow.UpstreamConnectionFailure, e)
}

// byPeer says that a handshake failed because the host closed the connection.
func byPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}

// ending is how a connection went.
type ending struct {
	// established is of a connection that is one request; requests are counted
	// by themselves.
	established, byPeer bool
}

// closed counts a connection, or an attempt at one, out.
func (c *Cluster) closed(h *Host, start time.Time, e ending) {
	t := c.traffic()
	t.cxActive.Dec()
	h.count.cxActive.Add(-1)
	t.lengthMS.Record(uint64(time.Since(start).Milliseconds()))
	t.cxDestroy.Inc()
	if e.byPeer {
		t.cxDestroyRemote.Inc()
	} else {
		t.cxDestroyLocal.Inc()
	}
	if !e.established {
		return
	}
	t.rqActive.Dec()
	h.count.rqActive.Add(-1)
	c.breakers[0].rq.release()
	t.cxDestroyWithRq.Inc()
	if e.byPeer {
		t.cxDestroyRemWithRq.Inc()
	} else {
		t.cxDestroyLocalWithRq.Inc()
	}
}

// netAddr is a as an Addr, IPv4-mapped addresses as IPv4.
func netAddr(a net.Addr) flow.Addr {
	switch a := a.(type) {
	case *net.TCPAddr:
		return flow.Addr{AddrPort: unmap(a.AddrPort())}
	case *net.UnixAddr:
		return flow.Addr{Path: a.Name}
	}
	return flow.Addr{}
}
