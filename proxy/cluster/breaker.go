package cluster

import (
	"sync/atomic"

	"outrider/proxy/config"
	"outrider/proxy/stats"
)

// breaker is the circuit breaker of one priority (Envoy: ResourceManager).
type breaker struct {
	cx, pending, rq, retry resource
}

// resource counts one thing up to a limit.
type resource struct {
	active atomic.Int64
	max    int64
	gauges *resourceGauges
}

// resourceGauges show a resource; remaining is nil without track_remaining.
type resourceGauges struct{ open, remaining *stats.Gauge }

// take counts one in unless the limit is reached.
func (r *resource) take() bool {
	if n := r.active.Add(1); n > r.max {
		r.active.Add(-1)
		return false
	}
	r.show()
	return true
}

// add counts one in whatever the limit is.
func (r *resource) add() {
	r.active.Add(1)
	r.show()
}

func (r *resource) release() {
	r.active.Add(-1)
	r.show()
}

// show brings the gauges up to date. Two at once may leave the older value
// for a moment; the next change puts it right.
func (r *resource) show() {
	if r.gauges == nil {
		return
	}
	active := r.active.Load()
	open := int64(0)
	if active >= r.max {
		open = 1
	}
	if r.gauges.open.Value() != open {
		r.gauges.open.Set(open)
	}
	if r.gauges.remaining != nil {
		r.gauges.remaining.Set(max(0, r.max-active))
	}
}

func newBreaker(t config.Thresholds, scope *stats.Scope) *breaker {
	b := &breaker{}
	b.cx.max = int64(t.MaxConnections)
	b.pending.max = int64(t.MaxPendingRequests)
	b.rq.max = int64(t.MaxRequests)
	b.retry.max = int64(t.MaxRetries)
	b.cx.gauges = newResourceGauges(scope, "cx_open", "remaining_cx", t.TrackRemaining)
	b.pending.gauges = newResourceGauges(scope, "rq_pending_open", "remaining_pending", t.TrackRemaining)
	b.rq.gauges = newResourceGauges(scope, "rq_open", "remaining_rq", t.TrackRemaining)
	scope.Gauge("cx_pool_open").Set(0)
	b.retry.gauges = newResourceGauges(scope, "rq_retry_open", "remaining_retries", t.TrackRemaining)
	for _, r := range []*resource{&b.cx, &b.pending, &b.rq, &b.retry} {
		r.gauges.open.Set(0)
		r.show()
	}
	return b
}

func newResourceGauges(scope *stats.Scope, open, remaining string, track bool) *resourceGauges {
	g := &resourceGauges{open: scope.Gauge(open)}
	if track {
		g.remaining = scope.Gauge(remaining)
	}
	return g
}
