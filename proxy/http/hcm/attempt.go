package hcm

import (
	"errors"
	"strconv"
	"time"

	"outrider/proxy/cluster"
	"outrider/proxy/flow"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/http/pool"
)

// attempt is one try to have a request answered by a host. It is what the
// upstream connection calls (codec.Receiver), and the pool where there is no
// connection yet (pool.Waiter). Once it is not the current one of its router it
// does nothing.
type attempt struct {
	s       *stream
	number  int
	sender  codec.Sender  // nil: no connection yet
	conn    *pool.Conn    // nil likewise
	pending *pool.Pending // nil: not waiting
	started time.Time

	unsent int // bytes of the request that wait in the connection
	taken  int // bytes of the answer that were not said to be consumed

	headSeen, sent, ended, reported bool
}

// open asks the pool for a connection.
func (a *attempt) open() {
	s := a.s
	r := &s.router
	req := pool.Request{
		Cluster: r.cluster, Choice: r.choice(), Downstream: s.http.Protocol,
		High: s.found.Route.Action.HighPriority,
	}
	sender, conn, pending, err := s.m.deps.Pools.Open(&req, a, a)
	switch {
	case err != nil:
		a.failed(nil, err)
	case pending != nil:
		a.pending = pending
	default:
		a.ready(sender, conn)
	}
}

// Ready has the connection that the attempt waited for (pool.Waiter).
func (a *attempt) Ready(sender codec.Sender, conn *pool.Conn) {
	s := a.s
	s.lock()
	defer s.unlock()
	a.pending = nil
	if s.over || s.router.current != a {
		sender.Reset(codec.Cancel)
		conn.Done(cluster.Cancelled)
		return
	}
	a.ready(sender, conn)
	s.settle()
}

// Failed says that there is no connection (pool.Waiter).
func (a *attempt) Failed(h *cluster.Host, err error) {
	s := a.s
	s.lock()
	defer s.unlock()
	a.pending = nil
	if !s.over && s.router.current == a {
		a.failed(h, err)
		s.settle()
	}
}

// ready sends what there is of the request.
func (a *attempt) ready(sender codec.Sender, conn *pool.Conn) {
	s := a.s
	r := &s.router
	a.sender, a.conn = sender, conn
	a.started = s.clock.touchNow()
	conn.Fill(s.info)
	s.http.PoolReady, s.http.FirstUpstreamTx = a.started, a.started
	a.head(s.http.Request)
	end := r.complete && !r.trailers
	sender.SendHead(s.http.Request, end && len(r.body) == 0)
	if len(r.body) > 0 {
		a.send(r.body, end)
		if !r.keep {
			r.body = nil
		}
	}
	switch {
	case r.trailers:
		sender.SendTrailers(s.http.RequestTrailers)
		a.requestSent()
	case end && len(r.body) == 0:
		a.requestSent()
	}
	r.startTry(a)
	if d := r.perTryIdl; d > 0 {
		s.clock.set(tryIdleDeadline, a.started.Add(d))
	}
}

// head writes into the head what differs from attempt to attempt.
func (a *attempt) head(h *message.Head) {
	s := a.s
	if v := s.found.VirtualHost; v != nil && v.IncludeAttempts {
		h.Fields.Set("x-envoy-attempt-count", strconv.Itoa(a.number))
	}
	if v := s.found.VirtualHost; v != nil && v.TimeoutHeader && a.number > 1 {
		h.Fields.Set("x-envoy-is-timeout-retry", strconv.FormatBool(s.router.timedOutBefore))
	}
	if s.found.Route.Action.AutoHostRewrite {
		if name := a.conn.Host().Hostname(); name != "" {
			s.found.RewriteHost(h, name)
		}
	}
	if s.m.cfg.SchemeMatchUp {
		h.Scheme = "http"
		if a.conn.TLS() != nil {
			h.Scheme = "https"
		}
	}
}

// send sends a part of the body.
func (a *attempt) send(p []byte, end bool) {
	gone := a.sender.SendData(p, end)
	a.unsent += len(p) - gone
	a.s.credit(gone)
	if end {
		a.requestSent()
	}
}

func (a *attempt) requestSent() {
	a.sent = true
	a.s.http.LastUpstreamTx = a.s.clock.touchNow()
}

// OnGone says that bytes of the request have left (codec.Receiver).
func (a *attempt) OnGone(n int) {
	s := a.s
	s.lock()
	defer s.unlock()
	if s.over || s.router.current != a {
		return
	}
	a.unsent -= n
	s.clock.touchNow()
	s.credit(n)
	s.settle()
}

// OnHead is the head of the answer, or an informational one (codec.Receiver).
func (a *attempt) OnHead(h *message.Head, end bool) {
	s := a.s
	s.lock()
	defer s.unlock()
	if s.over || s.router.current != a {
		h.Release()
		return
	}
	now := s.clock.touchNow()
	if h.Status >= 100 && h.Status < 200 && h.Status != 101 {
		s.sendInformational(h)
		h.Release()
		return
	}
	s.http.FirstUpstreamRx = now
	a.headSeen = true
	a.conn.Response(h)
	if a.retryResponse(h) || a.redirect(h) {
		h.Release()
		return
	}
	s.countUpstream(h.Status)
	s.router.answered(a, h, now)
	if end {
		a.done(now)
	}
	s.responses().head(0, end)
	s.settle()
}

// answered makes the head of the upstream's answer ours.
func (r *router) answered(a *attempt, h *message.Head, now time.Time) {
	s := r.s
	s.clock.clear(tryDeadline)
	r.body, r.keep = nil, r.keep && !a.sent
	s.http.Response.Release()
	s.http.Response = h
	s.http.Status, s.http.Details = h.Status, "via_upstream"
	if !s.m.router.SuppressEnvoyHeaders && !s.tunnels(h) {
		ms := now.Sub(s.http.FirstUpstreamTx).Milliseconds()
		if !s.http.LastDownstreamRx.IsZero() {
			ms = now.Sub(s.http.LastDownstreamRx).Milliseconds()
		}
		h.Fields.Set("x-envoy-upstream-service-time", strconv.FormatInt(ms, 10))
	}
	if v := s.found.VirtualHost; v != nil && v.AttemptsInReply {
		h.Fields.Set("x-envoy-attempt-count", strconv.Itoa(a.number))
	}
	s.found.RewriteResponse(h, s.info)
	for _, c := range r.cookies {
		h.Fields.Add("set-cookie", c)
	}
}

// tunnels reports that an answer begins a tunnel.
func (s *stream) tunnels(h *message.Head) bool {
	return h.Status == 101 || s.upgrade == "connect" && h.Status/100 == 2
}

// OnData is a part of the answer's body (codec.Receiver).
func (a *attempt) OnData(p []byte, end bool) {
	s := a.s
	s.lock()
	defer s.unlock()
	if s.over || s.router.current != a {
		return
	}
	now := s.clock.touchNow()
	s.info.UpstreamReceived.Add(uint64(len(p)))
	a.taken += len(p)
	if end {
		a.done(now)
	}
	s.responses().data(0, p, end)
	s.settle()
}

// OnTrailers ends the answer (codec.Receiver).
func (a *attempt) OnTrailers(t message.Fields) {
	s := a.s
	s.lock()
	defer s.unlock()
	if s.over || s.router.current != a {
		return
	}
	a.done(s.clock.touchNow())
	s.http.ResponseTrailers = t
	s.responses().trailers(0)
	s.settle()
}

// done is the end of the upstream's answer.
func (a *attempt) done(now time.Time) {
	s := a.s
	a.ended = true
	s.http.LastUpstreamRx = now
	s.clock.clear(responseDeadline)
	s.clock.clear(tryIdleDeadline)
	s.router.cluster.CountTime(now.Sub(a.started), s.isInternal())
	a.outcome(cluster.Answered)
	s.router.logUpstream()
}

// outcome tells the cluster, once, how the attempt has ended.
func (a *attempt) outcome(o cluster.Outcome) {
	if a.conn == nil || a.reported {
		return
	}
	a.reported = true
	a.conn.Done(o)
}

// OnReset says that the upstream stream has ended before its time
// (codec.Receiver).
func (a *attempt) OnReset(r codec.Reset) {
	s := a.s
	s.lock()
	defer s.unlock()
	if s.over || s.router.current != a {
		return
	}
	if r.End != nil {
		s.http.UpstreamFailure = r.End
	}
	f := resetFailure(r)
	a.outcome(f.outcome)
	a.gaveUp(f)
	s.settle()
}

// failed is an attempt that got no connection.
func (a *attempt) failed(h *cluster.Host, err error) {
	s := a.s
	s.noteHost(h, err)
	var end *flow.EndError
	if !errors.As(err, &end) {
		end = &flow.EndError{Stage: flow.StageConnect, Flags: flow.UpstreamConnectionFailure, Err: err}
	}
	var none *cluster.NoHostError
	if errors.As(err, &none) {
		s.router.current = nil
		s.countUpstream(503)
		s.router.reply(filter.Reply{Status: 503, Body: "no healthy upstream", Details: "no_healthy_upstream", Flags: flow.NoHealthyUpstream})
		return
	}
	a.gaveUp(connectFailure(end, err, s.info.UpstreamFailure))
}

// abandon resets what is under way. Its answer, if it was not complete, is not
// wanted.
func (a *attempt) abandon() {
	switch {
	case a.pending != nil:
		a.pending.Cancel()
	case a.sender != nil && !(a.ended && a.sent):
		a.outcome(cluster.Cancelled)
		a.sender.Reset(codec.Cancel)
	}
}

// reply is an answer in the upstream's place: it says how many attempts there
// were.
func (r *router) reply(reply filter.Reply) {
	r.answering = true
	r.s.reply(reply)
}

// retried is what the answer says of attempts before the last.
func retried(a *attempt) string {
	if a.number > 1 {
		return "retried and the latest "
	}
	return ""
}

// gaveUp is an attempt that failed: there is another, or the request has
// failed.
func (a *attempt) gaveUp(f failure) {
	s := a.s
	r := &s.router
	r.current = nil
	s.clock.clear(tryDeadline)
	s.clock.clear(tryIdleDeadline)
	if !s.begun && !a.headSeen && r.retryFailure(a, f) {
		return
	}
	s.info.Flags.Set(f.flags)
	if s.begun || a.headSeen {
		s.http.Details = details("upstream_reset_after_response_started", f)
		s.m.stats.resetAfter(s)
		s.down.Reset(f.downstream)
		s.finish()
		return
	}
	status := 503
	if f.outcome == cluster.ProtocolError {
		status = 502 // as Envoy answers it
	}
	reply := filter.Reply{
		Status: status, Flags: f.flags, Details: details("upstream_reset_before_response_started", f),
		Body: "upstream connect error or disconnect/reset before headers. " + retried(a) + "reset reason: " + f.reason,
	}
	if f.overloaded {
		reply.Fields = message.Fields{{Name: "x-envoy-overloaded", Value: "true"}}
	}
	s.countUpstream(status)
	r.reply(reply)
}

// noteHost writes down which host could not be reached, and why.
func (s *stream) noteHost(h *cluster.Host, err error) {
	if h == nil {
		return
	}
	s.info.UpstreamHost, s.info.UpstreamHostname = h.Address(), h.Hostname()
	s.router.tried = append(s.router.tried, h)
	var connect *cluster.ConnectError
	if errors.As(err, &connect) {
		s.info.UpstreamFailure = connect.Reason
	}
}

// countUpstream counts an answer of ours in the upstream's place.
func (s *stream) countUpstream(status int) {
	if c := s.router.cluster; c != nil && !s.m.router.NoDynamicStats {
		c.CountCode(status, s.isInternal(), false)
	}
}

func (s *stream) isInternal() bool {
	return s.http.Request.Fields.Value("x-envoy-internal") == "true"
}
