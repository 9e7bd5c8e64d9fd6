package cluster

import (
	"context"
	"fmt"
	"time"

	"outrider/proxy/flow"
	"outrider/proxy/stats"
)

// Choose chooses a host for one request. It costs no goroutine and blocks for
// nothing. The error is a *flow.EndError, of a *NoHostError (UH) or an
// *OverflowError (UO, drop_overload).
func (c *Cluster) Choose(req *Request) (*Host, error) {
	t := c.traffic()
	if err := c.dropped(t); err != nil {
		return nil, err
	}
	got := c.pick(req, false)
	if got.panicked {
		t.healthyPanic.Inc()
	}
	if got.host == nil {
		t.cxNoneHealthy.Inc()
		return nil, flow.End(flow.StageCluster, flow.NoHealthyUpstream, c.noHost(req))
	}
	return got.host, nil
}

// AdmitConn counts a connection to h in that ConnectHost makes; false if
// max_connections is reached, of the priority or of the host. The first one of
// a pool is counted in all the same, or the pool's requests would wait for ever
// (Envoy: tryCreateNewConnection).
func (c *Cluster) AdmitConn(h *Host, high, first bool) bool {
	b, limit := c.breakerOf(high), c.cfg.CircuitBreakers[0].PerHostMaxConnections
	fits := (limit == 0 || h.count.cxActive.Load() < int64(limit)) && b.cx.take()
	if !fits {
		c.traffic().cxOverflow.Inc()
		if !first {
			return false
		}
		b.cx.add()
	}
	h.count.cxActive.Add(1)
	return true
}

// UnadmitConn takes back an AdmitConn that ConnectHost has not followed.
func (c *Cluster) UnadmitConn(h *Host, high bool) {
	h.count.cxActive.Add(-1)
	c.breakerOf(high).cx.release()
}

// ConnectHost connects to a host for requests that come one after another: the
// connection itself is no request. high is the priority whose circuit breaker
// has counted it in AdmitConn; it is counted out when the Conn is closed, or
// with an error. It blocks until it is connected, connect_timeout has passed or
// ctx ends; its errors are those of Connect.
func (c *Cluster) ConnectHost(ctx context.Context, h *Host, req Request, high bool) (*Conn, error) {
	holder := c.hold()
	if holder == nil {
		c.UnadmitConn(h, high)
		return nil, flow.End(flow.StageCluster, flow.NoClusterFound, fmt.Errorf("cluster %q has been removed", c.cfg.Name))
	}
	t := c.traffic()
	t.cxTotal.Inc()
	t.cxActive.Inc()
	h.count.cxTotal.Add(1)
	req.requests, req.high = true, high
	conn, err := c.connect(ctx, h, &req)
	if err != nil {
		c.breakerOf(high).cx.release()
		holder.release()
		return nil, err
	}
	conn.holder = holder
	return conn, nil
}

func (c *Cluster) breakerOf(high bool) *breaker {
	if high {
		return c.breakers[1]
	}
	return c.breakers[0]
}

// Use is one request at a host, from when it has a connection until its end.
type Use struct {
	c     *Cluster
	h     *Host
	high  bool
	ended bool
	// multiplexed is of a connection that other requests share.
	multiplexed bool
}

// Begin counts a request to h in, on a connection that others may share; false if max_requests is reached.
func (c *Cluster) Begin(h *Host, high, multiplexed bool) (Use, bool) {
	t := c.traffic()
	if !c.breakerOf(high).rq.take() {
		t.rqPendingOverflow.Inc()
		return Use{}, false
	}
	t.rqTotal.Inc()
	t.rqActive.Inc()
	h.count.rqTotal.Add(1)
	h.count.rqActive.Add(1)
	return Use{c: c, h: h, high: high, multiplexed: multiplexed}, true
}

// Overflow is the error where Begin or Wait has said no.
func (c *Cluster) Overflow(limit string, high bool) error {
	b := c.breakerOf(high)
	most := b.rq.max
	if limit == "max_pending_requests" {
		most = b.pending.max
	}
	return c.overflow(limit, most)
}

// Outcome is how a request at a host ended.
type Outcome int

const (
	// Answered: the answer is complete.
	Answered Outcome = iota
	// Reset: the host, or its connection, ended the request.
	Reset
	// ProtocolError: the host broke the protocol.
	ProtocolError
	// Timeout: it took too long.
	Timeout
	// Cancelled: nobody wants the answer any more.
	Cancelled
	// Ended: the connection has ended.
	Ended
)

// Response takes in the status of an answer.
func (u *Use) Response(status int) {
	if u.c == nil {
		return
	}
	if u.c.outlier != nil {
		u.c.outlier.response(u.h, status)
	}
	if status >= 500 {
		u.h.count.rqError.Add(1)
	} else {
		u.h.count.rqSuccess.Add(1)
	}
}

// End counts the request out, once.
func (u *Use) End(o Outcome) {
	if u.c == nil || u.ended {
		return
	}
	u.ended = true
	t, r := u.c.traffic(), u.c.requests()
	t.rqActive.Dec()
	u.h.count.rqActive.Add(-1)
	u.c.breakerOf(u.high).rq.release()
	if u.multiplexed { // a stream of HTTP/1 is reset with its connection
		switch o {
		case Reset, ProtocolError:
			r.rxReset.Inc()
		case Timeout, Cancelled:
			r.txReset.Inc()
		case Answered, Ended:
		}
	}
	u.count(o, r)
}

// count is what the host's results are told.
func (u *Use) count(o Outcome, r *requestStats) {
	switch o {
	case Answered, Cancelled:
	case Reset, ProtocolError, Ended:
		if o == ProtocolError {
			r.protocolError.Inc()
		}
		u.h.count.rqError.Add(1)
		if u.c.outlier != nil {
			u.c.outlier.failed(u.h)
		}
	case Timeout:
		u.h.count.rqTimeout.Add(1)
		if u.c.outlier != nil {
			u.c.outlier.response(u.h, 504)
		}
	}
}

// Wait counts a request in that waits for a connection; false if
// max_pending_requests is reached. After says that it does not wait any more.
func (c *Cluster) Wait(high bool) bool {
	t := c.traffic()
	if !c.breakerOf(high).pending.take() {
		t.rqPendingOverflow.Inc()
		return false
	}
	t.rqPendingTotal.Inc()
	t.rqPendingActive.Inc()
	return true
}

// Waited counts it out; cancelled says that nobody wants it any more.
func (c *Cluster) Waited(high, cancelled bool) {
	t := c.traffic()
	c.breakerOf(high).pending.release()
	t.rqPendingActive.Dec()
	if cancelled {
		t.rqCancelled.Inc()
	}
}

// Ejected counts n requests that waited for a connection which failed.
func (c *Cluster) Ejected(n int) { c.traffic().rqPendingFailureEject.Add(uint64(n)) }

// TakeRetry counts a retry in; false if max_retries is reached.
func (c *Cluster) TakeRetry(high bool) bool {
	r := c.requests()
	if !c.breakerOf(high).retry.take() {
		r.retryOverflow.Inc()
		return false
	}
	r.retry.Inc()
	return true
}

// ReleaseRetry counts it out.
func (c *Cluster) ReleaseRetry(high bool) { c.breakerOf(high).retry.release() }

// RetryWaits counts the back-off before a retry.
func (c *Cluster) RetryWaits(rateLimited bool) {
	if rateLimited {
		c.requests().retryRateLimited.Inc()
		return
	}
	c.requests().retryBackoff.Inc()
}

// RetrySucceeded, RetryLimitExceeded, RequestTimeout, PerTryTimeout,
// ReplayAbandoned and InternalRedirect count what they say.
func (c *Cluster) RetrySucceeded()     { c.requests().retrySuccess.Inc() }
func (c *Cluster) RetryLimitExceeded() { c.requests().retryLimit.Inc() }
func (c *Cluster) RequestTimeout()     { c.requests().timeout.Inc() }
func (c *Cluster) PerTryTimeout()      { c.requests().perTryTimeout.Inc() }
func (c *Cluster) ReplayAbandoned()    { c.requests().abandoned.Inc() }
func (c *Cluster) InternalRedirect(ok bool) {
	if ok {
		c.requests().redirected.Inc()
		return
	}
	c.requests().notRedirected.Inc()
}

// CountCode counts the status of an answer, the upstream's or one of ours in
// its place. retried says that the client will not see it.
func (c *Cluster) CountCode(status int, internal, retried bool) {
	c.requests().code(status, internal, retried)
}

// CountTime records how long an answer took.
func (c *Cluster) CountTime(d time.Duration, internal bool) {
	r, ms := c.requests(), uint64(d.Milliseconds())
	r.time.Record(ms)
	if internal {
		r.internalTime.Record(ms)
		return
	}
	r.externalTime.Record(ms)
}

// CountProtocol counts a connection of an HTTP version.
func (c *Cluster) CountProtocol(http2 bool) {
	if http2 {
		c.requests().cxHTTP2.Inc()
		return
	}
	c.requests().cxHTTP1.Inc()
}

// CountIdleTimeout, CountMaxRequests and CountMaxDuration count why a
// connection was ended.
func (c *Cluster) CountIdleTimeout() { c.requests().cxIdle.Inc() }
func (c *Cluster) CountMaxRequests() { c.requests().cxMaxRequests.Inc() }
func (c *Cluster) CountMaxDuration() { c.requests().cxMaxDuration.Inc() }

// SocketOf tells the transport socket that a host is met with from others:
// connections over two that differ are not exchanged.
func (h *Host) SocketOf() any { return h.spec.Load().socket }

// SocketMatch is the name of the transport_socket_matches entry that the host
// is met with, "" for none.
func (h *Host) SocketMatch() string { return h.spec.Load().socket.match }

// PerClient reports whether a connection to h tells the host who the client
// is, so that no other client's requests may go over it.
func (c *Cluster) PerClient(h *Host) bool { return h.spec.Load().socket.header != nil }

// Scope is where the cluster counts.
func (c *Cluster) Scope() *stats.Scope { return c.scope }

// LocalAddress is our end of a connection.
func (c *Conn) LocalAddress() flow.Addr { return netAddr(c.LocalAddr()) }
