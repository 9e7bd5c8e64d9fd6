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
	budget func() int64 // in place of max; nil: none
	gauges *resourceGauges
}

// limit is how many there may be now.
func (r *resource) limit() int64 {
	if r.budget != nil {
		return r.budget()
	}
	return r.max
}

// resourceGauges show a resource; remaining is nil without track_remaining.
type resourceGauges struct{ open, remaining *stats.Gauge }

// take counts one in unless the limit is reached.
func (r *resource) take() bool {
	if n := r.active.Add(1); n > r.limit() {
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
	active, limit := r.active.Load(), r.limit()
	open := int64(0)
	if active >= limit {
		open = 1
	}
	if r.gauges.open.Value() != open {
		r.gauges.open.Set(open)
	}
	if r.gauges.remaining != nil {
		r.gauges.remaining.Set(max(0, limit-active))
	}
}

func newBreaker(t config.Thresholds, scope *stats.Scope) *breaker {
	b := &breaker{}
	b.cx.max = int64(t.MaxConnections)
	b.pending.max = int64(t.MaxPendingRequests)
	b.rq.max = int64(t.MaxRequests)
	b.retry.max = int64(t.MaxRetries)
	b.retry.budget = b.retryBudget(t.RetryBudget)
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

// retryBudget is how many retries there may be: a share of the requests that
// are active or wait.
func (b *breaker) retryBudget(cfg *config.RetryBudget) func() int64 {
	if cfg == nil {
		return nil
	}
	return func() int64 {
		share := cfg.Percent / 100 * float64(b.rq.active.Load()+b.pending.active.Load())
		return max(int64(cfg.Min), int64(share))
	}
}

func newResourceGauges(scope *stats.Scope, open, remaining string, track bool) *resourceGauges {
	g := &resourceGauges{open: scope.Gauge(open)}
	if track {
		g.remaining = scope.Gauge(remaining)
	}
	return g
}
