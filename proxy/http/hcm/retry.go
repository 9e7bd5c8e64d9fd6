package hcm

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/http/route"
)

// retryOn are the conditions of retry_on.
type retryOn uint32

const (
	on5xx retryOn = 1 << iota
	onGateway
	onReset
	onConnect
	onRateLimited
	on4xx
	onRefused
	onStatusCodes
	onHeaders
	onResetBefore
	onCancelled
	onDeadline
	onExhausted
	onUnavailable
	onInternal
)

// retryNames are x-envoy-retry-on and x-envoy-retry-grpc-on (Envoy's router
// filter documentation).
var retryNames = map[string]retryOn{
	"5xx": on5xx, "gateway-error": onGateway, "reset": onReset, "connect-failure": onConnect,
	"envoy-ratelimited": onRateLimited, "retriable-4xx": on4xx, "refused-stream": onRefused,
	"retriable-status-codes": onStatusCodes, "retriable-headers": onHeaders,
	"reset-before-request": onResetBefore,
	"cancelled":            onCancelled, "deadline-exceeded": onDeadline, "resource-exhausted": onExhausted,
	"unavailable": onUnavailable, "internal": onInternal,
}

// grpcConditions are the gRPC status codes of the last five.
var grpcConditions = map[string]retryOn{
	"1": onCancelled, "4": onDeadline, "8": onExhausted, "14": onUnavailable, "13": onInternal,
}

// retryState is what is left of a request's retries.
type retryState struct {
	on            retryOn
	left          uint32
	codes         []uint32
	headers       route.Headers
	policy        *config.RetryPolicy // may be an empty one
	base, next    time.Duration
	limit         time.Duration
	previousHosts bool
	held          bool // a place under max_retries
}

// newRetryState is nil if nothing asks for retries. The fields that ask are
// taken away from the request.
func newRetryState(m *route.Match, h *message.Head, mgr *Manager) *retryState {
	policy := m.Retry()
	if policy == nil {
		if !asksForRetries(h) {
			return nil
		}
		policy = &config.RetryPolicy{}
	}
	r := &retryState{policy: policy, codes: policy.StatusCodes, left: 1, previousHosts: policy.PreviousHosts}
	if policy.Retries != nil {
		r.left = *policy.Retries
	}
	for _, name := range policy.On {
		r.on |= retryNames[name]
	}
	if conditions := m.RetryRequestHeaders(); !conditions.Empty() && !conditions.Any(h) {
		r.on = 0
	}
	r.headers = m.RetriableHeaders()
	r.takeFields(h)
	if r.on == 0 {
		return nil
	}
	r.base, r.limit = policy.BackoffBase, policy.BackoffMax
	if r.base <= 0 {
		r.base = 25 * time.Millisecond
	}
	if r.limit <= 0 {
		r.limit = 10 * r.base
	}
	r.next = r.base
	return r
}

// asksForRetries reports whether takeFields would find anything.
func asksForRetries(h *message.Head) bool {
	for i := range h.Fields {
		name := h.Fields[i].Name
		if strings.HasPrefix(name, "x-envoy-ret") || name == "x-envoy-max-retries" {
			return true
		}
	}
	return false
}

func (r *retryState) takeFields(h *message.Head) {
	for _, name := range [...]string{"x-envoy-retry-on", "x-envoy-retry-grpc-on"} {
		if v, ok := h.Fields.Get(name); ok {
			for part := range strings.SplitSeq(v, ",") {
				r.on |= retryNames[strings.TrimSpace(part)]
			}
			h.Fields.Del(name)
		}
	}
	if v, ok := h.Fields.Get("x-envoy-retriable-status-codes"); ok {
		for part := range strings.SplitSeq(v, ",") {
			if n, err := strconv.ParseUint(strings.TrimSpace(part), 10, 16); err == nil {
				r.codes = append(slices.Clone(r.codes), uint32(n))
			}
		}
		h.Fields.Del("x-envoy-retriable-status-codes")
	}
	if v, ok := h.Fields.Get("x-envoy-retriable-header-names"); ok {
		for part := range strings.SplitSeq(v, ",") {
			r.headers = r.headers.WithPresent(strings.ToLower(strings.TrimSpace(part)))
		}
		h.Fields.Del("x-envoy-retriable-header-names")
	}
	if v, ok := h.Fields.Get("x-envoy-max-retries"); ok {
		if n, err := strconv.ParseUint(v, 10, 32); err == nil {
			r.left = uint32(n)
		}
		h.Fields.Del("x-envoy-max-retries")
	}
}

// wantsResponse reports whether an answer asks for another attempt.
func (r *retryState) wantsResponse(h *message.Head) bool {
	code := h.Status
	if h.Fields.Has("x-envoy-overloaded") {
		return false
	}
	if h.Fields.Has("x-envoy-ratelimited") {
		return r.on&onRateLimited != 0
	}
	if grpc, ok := h.Fields.Get("grpc-status"); ok && r.on&grpcConditions[grpc] != 0 {
		return true
	}
	switch {
	case r.on&on5xx != 0 && code >= 500,
		r.on&onGateway != 0 && code >= 502 && code <= 504,
		r.on&on4xx != 0 && code == 409,
		r.on&onStatusCodes != 0 && slices.Contains(r.codes, uint32(code)):
		return true
	}
	return r.on&onHeaders != 0 && r.headers.Any(h)
}

// wantsFailure reports whether a failure asks for another attempt.
func (r *retryState) wantsFailure(f failure) bool {
	switch {
	case f.overloaded:
		return false
	case r.on&(onReset|on5xx|onGateway) != 0:
		return true
	case r.on&onRefused != 0 && f.refused, r.on&onConnect != 0 && f.connect:
		return true
	}
	return r.on&onResetBefore != 0 && f.connect
}

// wait is the back-off before the next attempt: a random time below an
// interval that doubles.
func (r *retryState) wait(rand func() uint64) time.Duration {
	now := min(r.next, r.limit)
	r.next = min(2*now, r.limit)
	return time.Duration(rand() % uint64(max(now, 1)))
}

// rateLimited is the wait that the answer of a rate limiter asks for.
func (r *retryState) rateLimited(h *message.Head, now time.Time) (time.Duration, bool) {
	for _, reset := range r.policy.RateLimitedHeaders {
		v, ok := h.Fields.Get(reset.Name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		if err != nil {
			continue
		}
		d := time.Duration(n) * time.Second
		if reset.Unix {
			d = time.Unix(n, 0).Sub(now)
		}
		limit := r.policy.RateLimitedMax
		if limit <= 0 {
			limit = 300 * time.Second
		}
		if d > 0 && d <= limit {
			return d, true
		}
	}
	return 0, false
}

// retryResponse begins another attempt if the answer asks for one.
func (a *attempt) retryResponse(h *message.Head) bool {
	s := a.s
	r := &s.router
	if r.retry == nil || !r.keep || !r.retry.wantsResponse(h) {
		a.settleRetry(true)
		return false
	}
	wait, fixed := r.retry.rateLimited(h, s.clock.touched)
	if !r.mayRetry(a) {
		return false
	}
	r.current = nil
	r.cluster.CountCode(h.Status, s.isInternal(), true)
	a.outcome(cluster.Answered)
	a.sender.Reset(codec.Cancel)
	if !fixed {
		wait = r.retry.wait(s.m.deps.Rand)
	}
	r.cluster.RetryWaits(fixed)
	r.again(wait)
	return true
}

// settleRetry counts how a second attempt ended.
func (a *attempt) settleRetry(ok bool) {
	if r := &a.s.router; a.number > 1 && r.cluster != nil {
		r.release()
		if ok {
			r.cluster.RetrySucceeded()
		}
	}
}

// high reports that the route's priority is HIGH.
func (r *router) high() bool { return r.s.found.Route.Action.HighPriority }

// release gives the place under max_retries back.
func (r *router) release() {
	if r.retry != nil && r.retry.held {
		r.cluster.ReleaseRetry(r.high())
		r.retry.held = false
	}
}

// retryFailure begins another attempt if the failure asks for one.
func (r *router) retryFailure(a *attempt, f failure) bool {
	if r.retry == nil || !r.keep || !r.retry.wantsFailure(f) || !r.mayRetry(a) {
		return false
	}
	r.cluster.RetryWaits(false)
	r.again(r.retry.wait(r.s.m.deps.Rand))
	return true
}

// mayRetry takes one of the retries, if there is one and the cluster's circuit
// breaker lets it.
func (r *router) mayRetry(a *attempt) bool {
	r.release()
	if r.retry.left == 0 {
		r.s.info.Flags.Set(flow.UpstreamRetryLimitExceeded)
		r.cluster.RetryLimitExceeded()
		return false
	}
	if !r.cluster.TakeRetry(r.high()) {
		return false
	}
	r.retry.left--
	r.retry.held = true
	if a.conn != nil {
		r.tried = append(r.tried, a.conn.Host())
	}
	return true
}

// again begins the next attempt after the back-off.
func (r *router) again(wait time.Duration) {
	s := r.s
	s.clock.clear(tryDeadline)
	s.clock.clear(tryIdleDeadline)
	s.clock.set(retryDeadline, time.Now().Add(wait))
}

// responseTimeout is the route's timeout.
func (r *router) responseTimeout() {
	if r.cluster != nil {
		r.cluster.RequestTimeout()
	}
	if a := r.current; a != nil {
		a.outcome(cluster.Timeout)
	}
	r.timedOut("response_timeout")
}

// tryTimeout is per_try_timeout, or per_try_idle_timeout.
func (r *router) tryTimeout(what string) {
	a := r.current
	if a == nil {
		return
	}
	r.cluster.PerTryTimeout()
	a.outcome(cluster.Timeout)
	r.timedOutBefore = true
	f := failure{reason: "local reset", flags: flow.UpstreamRequestTimeout, outcome: cluster.Timeout}
	if !r.s.begun && !a.headSeen && r.retryFailure(a, f) {
		r.current = nil
		a.abandon()
		return
	}
	r.timedOut(what)
}

func (r *router) timedOut(what string) {
	s := r.s
	status, body := 504, "upstream request timeout"
	if v := s.http.Request.Fields.Value("x-envoy-upstream-rq-timeout-alt-response"); v != "" {
		status, body = 204, ""
	}
	s.info.Flags.Set(flow.UpstreamRequestTimeout)
	if !s.begun {
		s.countUpstream(status)
	}
	r.reply(filter.Reply{Status: status, Body: body, Details: what, Flags: flow.UpstreamRequestTimeout})
}
