package cluster

import (
	"strconv"
	"sync/atomic"

	"outrider/proxy/stats"
)

// requestStats are the metrics of requests, made with a cluster's first one
// (Envoy: the requests' part of ClusterTrafficStats, and CodeStats).
type requestStats struct {
	scope                                                  *stats.Scope
	rxReset, txReset, timeout, perTryTimeout               *stats.Counter
	retry, retrySuccess, retryOverflow, retryLimit         *stats.Counter
	retryBackoff, retryRateLimited, abandoned              *stats.Counter
	redirected, notRedirected, protocolError               *stats.Counter
	cxHTTP1, cxHTTP2, cxIdle, cxMaxRequests, cxMaxDuration *stats.Counter
	time, externalTime, internalTime                       *stats.Histogram

	// codes are by group (upstream, external, internal, retry) and status.
	codes [codeGroups][600]atomic.Pointer[stats.Counter]
	class [codeGroups][6]atomic.Pointer[stats.Counter]
	all   [codeGroups]atomic.Pointer[stats.Counter]
}

const (
	allCodes = iota
	externalCodes
	internalCodes
	retryCodes
	codeGroups
)

func newRequestStats(s *stats.Scope) *requestStats {
	for _, unused := range [...]string{
		"upstream_rq_rx_reset_no_error", "upstream_rq_maintenance_mode", "upstream_rq_max_duration_reached", "upstream_cx_http3_total",
		"upstream_cx_close_notify", "upstream_cx_pool_overflow", "upstream_flow_control_backed_up_total",
		"upstream_flow_control_drained_total", "upstream_flow_control_paused_reading_total",
		"upstream_flow_control_resumed_reading_total",
	} {
		s.Counter(unused)
	}
	return &requestStats{
		scope: s, rxReset: s.Counter("upstream_rq_rx_reset"), txReset: s.Counter("upstream_rq_tx_reset"),
		timeout: s.Counter("upstream_rq_timeout"), perTryTimeout: s.Counter("upstream_rq_per_try_timeout"),
		retry: s.Counter("upstream_rq_retry"), retrySuccess: s.Counter("upstream_rq_retry_success"),
		retryOverflow: s.Counter("upstream_rq_retry_overflow"), retryLimit: s.Counter("upstream_rq_retry_limit_exceeded"),
		retryBackoff: s.Counter("upstream_rq_retry_backoff_exponential"), retryRateLimited: s.Counter("upstream_rq_retry_backoff_ratelimited"),
		abandoned: s.Counter("retry_or_shadow_abandoned"), redirected: s.Counter("upstream_internal_redirect_succeeded_total"),
		notRedirected: s.Counter("upstream_internal_redirect_failed_total"), protocolError: s.Counter("upstream_cx_protocol_error"),
		cxHTTP1: s.Counter("upstream_cx_http1_total"), cxHTTP2: s.Counter("upstream_cx_http2_total"),
		cxIdle: s.Counter("upstream_cx_idle_timeout"), cxMaxRequests: s.Counter("upstream_cx_max_requests"),
		cxMaxDuration: s.Counter("upstream_cx_max_duration_reached"),
		time:          s.Histogram("upstream_rq_time"), externalTime: s.Scope("external").Histogram("upstream_rq_time"),
		internalTime: s.Scope("internal").Histogram("upstream_rq_time"),
	}
}

// requests are made when they are first used.
func (c *Cluster) requests() *requestStats {
	if r := c.requestsNow.Load(); r != nil {
		return r
	}
	c.requestsOnce.Do(func() { c.requestsNow.Store(newRequestStats(c.scope)) })
	return c.requestsNow.Load()
}

// code counts one answer.
func (r *requestStats) code(status int, internal, retried bool) {
	if retried {
		r.one(retryCodes, status)
		return
	}
	r.one(allCodes, status)
	if internal {
		r.one(internalCodes, status)
		return
	}
	r.one(externalCodes, status)
}

func (r *requestStats) one(group, status int) {
	if status < 100 || status >= 600 {
		return
	}
	r.counter(&r.all[group], group, "upstream_rq_completed").Inc()
	class := status / 100
	r.counter(&r.class[group][class], group, "upstream_rq_"+strconv.Itoa(class)+"xx").Inc()
	if c := r.codes[group][status].Load(); c != nil {
		c.Inc()
		return
	}
	r.counter(&r.codes[group][status], group, "upstream_rq_"+strconv.Itoa(status)).Inc()
}

// counter is the counter in at, which is made if it is not there.
func (r *requestStats) counter(at *atomic.Pointer[stats.Counter], group int, name string) *stats.Counter {
	if c := at.Load(); c != nil {
		return c
	}
	scope := r.scope
	if group != allCodes {
		scope = scope.Scope([codeGroups]string{"", "external", "internal", "retry"}[group])
	}
	c := scope.Counter(name)
	at.Store(c)
	return c
}
