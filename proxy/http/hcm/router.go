package hcm

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/http/pathnorm"
	"outrider/proxy/http/route"
)

// router takes a request that has passed the filters to its cluster: one
// attempt after another, of which at most one is current.
type router struct {
	s       *stream
	cluster *cluster.Cluster
	current *attempt
	tried   []*cluster.Host
	number  int // of attempts begun

	retry          *retryState // nil: none
	timeout        time.Duration
	perTry         time.Duration
	perTryIdl      time.Duration
	hash           uint64
	hasHash        bool
	cookies        []string        // to set, for the hash
	timedOutBefore bool            // the attempt before had its own timeout
	answering      bool            // the answer is in the upstream's place
	redirects      uint32          // internal redirects followed
	previous       []*config.Route // where they came from

	// body is what has come of the request's body and is not, or not for the
	// last time, on its way: until there is a connection, and for further
	// attempts and mirrors.
	body     []byte
	keep     bool // body is for more than one
	trailers bool // the request has trailers
	complete bool // all of the request has passed the filters
	mirrors  []config.MirrorPolicy
}

// routeHead is where the filters end: the head goes to its route.
func (s *stream) routeHead(end bool) {
	r := &s.router
	m := s.match()
	r.complete = end
	s.m.stats.routed.Inc()
	switch {
	case m == nil || m.Route == nil && m.VirtualHost == nil:
		s.m.stats.noRoute.Inc()
		s.reply(filter.Reply{Status: 404, Details: "route_not_found", Flags: flow.NoRouteFound})
		return
	case r.answers(m):
		return
	case m.Route == nil || m.Route.Action == nil:
		s.m.stats.noRoute.Inc()
		s.reply(filter.Reply{Status: 404, Details: "route_not_found", Flags: flow.NoRouteFound})
		return
	}
	if r.cluster = s.m.deps.Clusters.Get(m.Cluster); r.cluster == nil {
		s.m.stats.noCluster.Inc()
		status := m.Route.Action.NotFoundStatus
		if status == 0 {
			status = 503
		}
		s.reply(filter.Reply{Status: status, Details: "cluster_not_found", Flags: flow.NoClusterFound})
		return
	}
	if name := s.notStrict(); name != "" {
		s.reply(filter.Reply{
			Status: 400, Details: "request_headers_failed_strict_check", Flags: flow.InvalidEnvoyRequestHeaders,
			Body: "invalid header '" + name + "' with value '" + s.http.Request.Fields.Value(name) + "'",
		})
		return
	}
	r.prepare(m)
	r.begin()
}

// notStrict is the first field of strict_check_headers whose value is none, ""
// if all are right.
func (s *stream) notStrict() string {
	for _, name := range s.m.router.StrictCheckHeaders {
		v, ok := s.http.Request.Fields.Get(name)
		if !ok {
			continue
		}
		switch name {
		case "x-envoy-retry-on", "x-envoy-retry-grpc-on":
			for part := range strings.SplitSeq(v, ",") {
				if retryNames[strings.TrimSpace(part)] == 0 {
					return name
				}
			}
		default:
			if _, err := strconv.ParseUint(v, 10, 64); err != nil {
				return name
			}
		}
	}
	return ""
}

// answers answers what needs no upstream: redirects and direct responses.
func (r *router) answers(m *route.Match) bool {
	s := r.s
	if status, location := m.Redirect(s.routeRequest()); status != 0 {
		s.m.stats.direct.Inc()
		if rd := m.Route; rd != nil && rd.Redirect != nil && (rd.Redirect.PrefixRewrite != nil || rd.Redirect.RegexRewrite != nil) {
			s.http.Request.Path = pathOf(location) // as Envoy's logs have it
		}
		s.reply(filter.Reply{Status: status, Details: "direct_response", Fields: message.Fields{{Name: "location", Value: location}}})
		return true
	}
	if m.Route == nil || m.Route.Direct == nil {
		return false
	}
	d := m.Route.Direct
	s.m.stats.direct.Inc()
	reply := filter.Reply{Status: d.Status, Body: string(d.Body), Details: "direct_response"}
	if d.Format != nil {
		s.http.Status, s.http.LocalReplyBody = d.Status, reply.Body
		if f, err := s.m.bodies.of(d.Format, s.m.deps); err == nil {
			reply.Body = f.text(s.info)
			reply.Fields = append(reply.Fields, message.Field{Name: "content-type", Value: f.contentType})
		}
	}
	if d.Status == 201 || d.Status >= 300 && d.Status < 400 {
		h := s.http.Request
		reply.Fields = append(reply.Fields, message.Field{Name: "location", Value: h.Scheme + "://" + h.Authority + h.Path})
	}
	s.reply(reply)
	return true
}

// pathOf is the path of an absolute URL, with its query.
func pathOf(location string) string {
	_, rest, _ := strings.Cut(location, "://")
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return rest[i:]
	}
	return "/"
}

// prepare reads what the route and the request's own fields say about
// timeouts, retries and mirrors, and rewrites the request.
func (r *router) prepare(m *route.Match) {
	s, a := r.s, m.Route.Action
	h := s.http.Request
	s.info.UpstreamCluster = m.Cluster
	s.http.VirtualCluster = m.VirtualCluster(h)
	r.timeouts(h, a)
	r.retry = newRetryState(m, h, s.m)
	r.mirrors = m.Mirrors()
	r.keep = r.retry != nil || len(r.mirrors) > 0 || a.InternalRedirect != nil
	if lb := r.cluster.Config().LB; lb == config.RingHashLB || lb == config.MaglevLB { // else no cookie is made
		r.hash, r.cookies, r.hasHash = m.HashCookies(s.routeRequest())
	}
	m.RewriteRequest(h, s.info)
	if d := maxStream(a, h); d > 0 {
		s.clock.set(durationDeadline, s.info.Start.Add(d))
	}
}

// maxStream is the route's max_stream_duration, with what gRPC's clients ask
// for; 0 for none.
func maxStream(a *config.RouteAction, h *message.Head) time.Duration {
	ms := a.MaxStream
	if ms == nil {
		return 0
	}
	if ms.GRPCMax != nil && isGRPC(h) {
		if d, ok := grpcTimeout(h); ok {
			if *ms.GRPCMax > 0 {
				d = min(d, *ms.GRPCMax)
			}
			if ms.GRPCOffset > 0 && ms.GRPCOffset < d {
				d -= ms.GRPCOffset
			}
			return d
		}
	}
	if ms.Max != nil {
		return *ms.Max
	}
	return 0
}

// timeouts are the route's, or what the request's fields ask for.
func (r *router) timeouts(h *message.Head, a *config.RouteAction) {
	r.timeout = a.Timeout
	if a.Retry != nil {
		r.perTry, r.perTryIdl = a.Retry.PerTry, a.Retry.PerTryIdle
	} else if v := r.s.found.VirtualHost; v != nil && v.Retry != nil {
		r.perTry, r.perTryIdl = v.Retry.PerTry, v.Retry.PerTryIdle
	}
	if a.GRPCTimeoutMax != nil && isGRPC(h) {
		d, _ := grpcTimeout(h)
		if limit := *a.GRPCTimeoutMax; limit > 0 && (d == 0 || d > limit) {
			d = limit
		}
		if off := a.GRPCTimeoutOff; off > 0 && off < d {
			d -= off
		}
		r.timeout = d
	}
	if d, ok := takeMillis(h, "x-envoy-upstream-rq-timeout-ms"); ok {
		r.timeout = d
	} else if cfg := r.s.m.router; cfg.RespectExpectedRq {
		if d, ok := takeMillis(h, "x-envoy-expected-rq-timeout-ms"); ok {
			r.timeout = d
		}
	}
	if d, ok := takeMillis(h, "x-envoy-upstream-rq-per-try-timeout-ms"); ok {
		r.perTry = d
	}
	if r.timeout > 0 && r.perTry >= r.timeout {
		r.perTry = 0
	}
	if r.s.m.router.SuppressEnvoyHeaders {
		return
	}
	expected := r.timeout
	if r.perTry > 0 {
		expected = r.perTry
	}
	if expected > 0 {
		h.Fields.Set("x-envoy-expected-rq-timeout-ms", strconv.FormatInt(expected.Milliseconds(), 10))
		if isGRPC(h) && h.Fields.Has("grpc-timeout") {
			h.Fields.Set("grpc-timeout", strconv.FormatInt(expected.Milliseconds(), 10)+"m")
		}
	}
}

// takeMillis takes a field with milliseconds away.
func takeMillis(h *message.Head, name string) (time.Duration, bool) {
	v, ok := h.Fields.Get(name)
	if !ok {
		return 0, false
	}
	h.Fields.Del(name)
	ms, err := strconv.ParseUint(v, 10, 32)
	return time.Duration(ms) * time.Millisecond, err == nil
}

// grpcTimeout is the request's grpc-timeout (gRPC over HTTP/2, Requests): up
// to 8 digits and a unit.
func grpcTimeout(h *message.Head) (time.Duration, bool) {
	v, ok := h.Fields.Get("grpc-timeout")
	if !ok || len(v) < 2 || len(v) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(v[:len(v)-1], 10, 32)
	if err != nil {
		return 0, false
	}
	units := map[byte]time.Duration{
		'H': time.Hour, 'M': time.Minute, 'S': time.Second,
		'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
	}
	unit, ok := units[v[len(v)-1]]
	return time.Duration(n) * unit, ok
}

// routeData is a part of the body after the filters.
func (s *stream) routeData(p []byte, end bool) {
	r := &s.router
	r.complete = r.complete || end
	a := r.current
	if a != nil && a.sender != nil {
		a.send(p, end)
		if !r.keep {
			return
		}
	}
	if len(r.body)+len(p) > s.bufferLimit() && r.keep {
		r.giveUpReplay(a)
	}
	if r.keep || a == nil || a.sender == nil {
		r.body = append(r.body, p...)
	}
	if end {
		r.mirror()
	}
}

// giveUpReplay is for a body that is too long to be kept: there is no second
// attempt.
func (r *router) giveUpReplay(a *attempt) {
	r.keep = false
	r.cluster.ReplayAbandoned()
	r.retry, r.mirrors = nil, nil
	if a != nil && a.sender != nil {
		r.body = nil
	}
}

// routeTrailers ends the request.
func (s *stream) routeTrailers() {
	r := &s.router
	r.complete, r.trailers = true, true
	if a := r.current; a != nil && a.sender != nil {
		a.sender.SendTrailers(s.http.RequestTrailers)
		a.requestSent()
	}
	r.mirror()
}

// requestDone starts the route's timeout: it counts from when the request has
// come.
func (r *router) requestDone() {
	if r.number > 0 {
		r.startTimeout()
	}
	if a := r.current; a != nil && a.sender != nil {
		r.startTry(a)
	}
}

// startTry starts per_try_timeout, which counts from when the request has come
// and the attempt has its connection.
func (r *router) startTry(a *attempt) {
	s := r.s
	if r.perTry > 0 && s.requestEnd && !a.headSeen && s.clock.at[tryDeadline].IsZero() {
		s.clock.set(tryDeadline, s.clock.touched.Add(r.perTry))
	}
}

func (r *router) startTimeout() {
	s := r.s
	if r.timeout > 0 && s.requestEnd && s.clock.at[responseDeadline].IsZero() {
		s.clock.set(responseDeadline, s.clock.touched.Add(r.timeout))
	}
}

// begin begins an attempt.
func (r *router) begin() {
	s := r.s
	r.number++
	s.http.Attempts, s.info.UpstreamAttempts = r.number, r.number
	r.startTimeout()
	a := &attempt{s: s, number: r.number}
	r.current = a
	a.open()
	if r.number == 1 && r.complete && r.current == a {
		r.mirror()
	}
}

// choice is what the cluster chooses a host by.
func (r *router) choice() cluster.Request {
	s := r.s
	c := cluster.Request{Hash: r.hash, HasHash: r.hasHash, Info: s.info, ALPN: s.offer}
	if h := &r.cluster.Config().HTTP; h.AutoSNI {
		c.ServerName = serverName(h, s.http.Request)
	}
	if s.info.LocalRestored {
		c.OriginalDst = s.info.Local.AddrPort
	}
	if r.retry != nil && r.number > 1 {
		c.Attempts, c.NoCanary = uint32(max(r.retry.policy.HostAttempts, 0)), r.retry.policy.OmitCanary
	}
	if r.retry != nil && r.retry.previousHosts {
		c.Tried = r.tried
	}
	return c
}

// serverName is auto_sni's: the request's host, or the field that stands in its
// place, without a port; "" for an address.
func serverName(cfg *config.UpstreamHTTP, h *message.Head) string {
	host := h.Authority
	if cfg.AutoSNIHeader != "" {
		if v, ok := h.Get(cfg.AutoSNIHeader); ok {
			host = v
		}
	}
	host, _ = pathnorm.StripPort(host, 0)
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return ""
	}
	return host
}

// abandon gives up what is under way upstream.
func (r *router) abandon() {
	if a := r.current; a != nil {
		r.current = nil
		a.abandon()
	}
	r.release()
	r.body = nil
}

// waiting is how many bytes of the request's body wait here or in the upstream
// connection.
func (r *router) waiting() int {
	n := 0
	a := r.current
	if a == nil || a.sender == nil {
		n += len(r.body)
	}
	if a != nil {
		n += a.unsent
	}
	return n
}

// taken is how many bytes of the answer have not been said to be consumed.
func (r *router) taken() int {
	if r.current == nil {
		return 0
	}
	return r.current.taken
}

// credit tells the upstream connection that n bytes of the answer have gone
// on.
func (r *router) credit(n int) {
	a := r.current
	if a == nil || a.sender == nil {
		return
	}
	if n = min(n, a.taken); n > 0 {
		a.taken -= n
		a.sender.Consumed(n)
	}
}

func (r *router) tryIdle() time.Duration { return r.perTryIdl }

// expired is a deadline that has passed.
func (s *stream) expired(d deadline) {
	switch d {
	case idleDeadline:
		s.m.stats.streamIdle.Inc()
		if s.flushing {
			s.down.Reset(codec.Cancel)
			s.finish()
			return
		}
		s.timedOut(filter.Reply{Status: s.timeoutStatus(), Body: "stream timeout", Details: "stream_idle_timeout", Flags: flow.StreamIdleTimeout})
	case requestDeadline:
		s.m.stats.requestTimeout.Inc()
		s.timedOut(filter.Reply{Status: 408, Body: "request timeout", Details: "request_overall_timeout"})
	case durationDeadline:
		s.m.stats.maxStreamDuration.Inc()
		s.timedOut(filter.Reply{Status: s.timeoutStatus(), Body: "downstream duration timeout", Details: "max_duration_timeout"})
	case responseDeadline:
		s.router.responseTimeout()
	case tryDeadline:
		s.router.tryTimeout("upstream_per_try_timeout")
	case tryIdleDeadline:
		s.router.tryTimeout("upstream_per_try_idle_timeout")
	case retryDeadline:
		s.router.begin()
	case logDeadline:
		s.m.logAll(s, "DownstreamPeriodic")
		s.clock.set(logDeadline, time.Now().Add(s.m.cfg.LogInterval))
	}
	s.settle()
}

// timeoutStatus is whose fault a timeout is: the client's while the request is
// still coming.
func (s *stream) timeoutStatus() int {
	if s.requestEnd {
		return 504
	}
	return 408
}

// timedOut answers a request that took too long, or resets it.
func (s *stream) timedOut(r filter.Reply) {
	if isGRPCRequest(s.http.Request) && strings.HasPrefix(r.Details, "max_duration") {
		code := uint32(4) // DEADLINE_EXCEEDED
		r.GRPC = &code
	}
	s.reply(r)
}

func isGRPCRequest(h *message.Head) bool { return h != nil && isGRPC(h) }
