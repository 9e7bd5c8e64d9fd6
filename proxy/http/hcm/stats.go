package hcm

import (
	"time"

	"outrider/proxy/flow"
	"outrider/proxy/http/codec"
	"outrider/proxy/stats"
)

// managerStats are Envoy's ALL_HTTP_CONN_MAN_STATS and ALL_ROUTER_STATS, under
// http.<stat_prefix>.
type managerStats struct {
	scope        *stats.Scope
	healthChecks *stats.Counter
	// redirectRefusals count redirects that were passed on to the client.
	redirectRefusals map[redirectRefusal]*stats.Counter

	cxTotal, cxDestroy, cxTLSTotal, cxHTTP1, cxHTTP2    *stats.Counter
	cxActive, cxTLSActive, cxHTTP1Active, cxHTTP2Active *stats.Gauge
	cxLength, rqTime                                    *stats.Histogram
	rxBytes, txBytes, protocolError                     *stats.Counter
	idleTimeout, maxDuration, maxRequests               *stats.Counter
	rqTotal, rqHTTP1, rqHTTP2, rqCompleted              *stats.Counter
	rqActive                                            *stats.Gauge
	rxReset, txReset, tooLarge, responseTooLarge        *stats.Counter
	headerTimeout                                       *stats.Counter
	streamIdle, requestTimeout, maxStreamDuration       *stats.Counter
	nonRelative, badPath, earlyResponse                 *stats.Counter
	underscoreRejected, underscoreDropped               *stats.Counter
	classes                                             [6]*stats.Counter
	routed, noRoute, noCluster, direct                  *stats.Counter
	upgradeRefused, resetAfterStart, drainClose         *stats.Counter
	prematureResets                                     *stats.Counter
}

func newManagerStats(reg *stats.Registry, prefix string) *managerStats {
	s := reg.Scope("http").Tagged("envoy_http_conn_manager_prefix", prefix)
	for _, unused := range [...]string{
		"downstream_cx_overload_disable_keepalive", "downstream_cx_http3_total", "downstream_cx_upgrades_total",
		"downstream_flow_control_paused_reading_total", "downstream_flow_control_resumed_reading_total",
		"downstream_rq_overload_close", "downstream_rq_http3_total",
		"downstream_rq_rejected_via_ip_detection",
		"downstream_rq_redirected_with_normalized_path",
		"rq_overload_local_reply", "rq_redirect", "tracing.client_enabled",
		"tracing.not_traceable", "tracing.random_sampling", "tracing.service_forced",
	} {
		s.Counter(unused)
	}
	root := reg.Scope("http1") // Envoy counts them with the codec
	reasons := map[redirectRefusal]*stats.Counter{}
	for _, r := range [...]redirectRefusal{badLocation, noRedirectRoute, predicateRefused, tooManyRedirects, unsafeScheme} {
		reasons[r] = s.Counter("passthrough_internal_redirect_" + string(r))
	}
	m := &managerStats{
		healthChecks:     s.Counter("tracing.health_check"),
		redirectRefusals: reasons,
		scope:            s, cxTotal: s.Counter("downstream_cx_total"), cxDestroy: s.Counter("downstream_cx_destroy"),
		cxTLSTotal: s.Counter("downstream_cx_ssl_total"), cxHTTP1: s.Counter("downstream_cx_http1_total"),
		cxHTTP2: s.Counter("downstream_cx_http2_total"), cxActive: s.Gauge("downstream_cx_active"),
		cxTLSActive: s.Gauge("downstream_cx_ssl_active"), cxHTTP1Active: s.Gauge("downstream_cx_http1_active"),
		cxHTTP2Active: s.Gauge("downstream_cx_http2_active"), cxLength: s.Histogram("downstream_cx_length_ms"),
		rqTime: s.Histogram("downstream_rq_time"), rxBytes: s.Counter("downstream_cx_rx_bytes_total"),
		txBytes: s.Counter("downstream_cx_tx_bytes_total"), protocolError: s.Counter("downstream_cx_protocol_error"),
		idleTimeout: s.Counter("downstream_cx_idle_timeout"), maxDuration: s.Counter("downstream_cx_max_duration_reached"),
		maxRequests: s.Counter("downstream_cx_max_requests_reached"), drainClose: s.Counter("downstream_cx_drain_close"),
		rqTotal: s.Counter("downstream_rq_total"), rqHTTP1: s.Counter("downstream_rq_http1_total"),
		rqHTTP2: s.Counter("downstream_rq_http2_total"), rqCompleted: s.Counter("downstream_rq_completed"),
		rqActive: s.Gauge("downstream_rq_active"), rxReset: s.Counter("downstream_rq_rx_reset"),
		headerTimeout: s.Counter("downstream_rq_header_timeout"),
		txReset:       s.Counter("downstream_rq_tx_reset"), tooLarge: s.Counter("downstream_rq_too_large"),
		responseTooLarge: s.Counter("rs_too_large"), streamIdle: s.Counter("downstream_rq_idle_timeout"),
		requestTimeout: s.Counter("downstream_rq_timeout"), maxStreamDuration: s.Counter("downstream_rq_max_duration_reached"),
		nonRelative: s.Counter("downstream_rq_non_relative_path"), badPath: s.Counter("downstream_rq_failed_path_normalization"),
		earlyResponse:      s.Counter("downstream_rq_response_before_rq_complete"),
		underscoreRejected: root.Counter("requests_rejected_with_underscores_in_headers"),
		underscoreDropped:  root.Counter("dropped_headers_with_underscores"),
		routed:             s.Counter("rq_total"), noRoute: s.Counter("no_route"), noCluster: s.Counter("no_cluster"),
		direct:         s.Counter("rq_direct_response"),
		upgradeRefused: s.Counter("downstream_rq_ws_on_non_ws_route"), resetAfterStart: s.Counter("rq_reset_after_downstream_response_started"),
		prematureResets: s.Counter("downstream_rq_too_many_premature_resets"),
	}
	for i := 1; i <= 5; i++ {
		m.classes[i] = s.Counter("downstream_rq_" + string(rune('0'+i)) + "xx")
	}
	return m
}

// opened counts a connection in.
func (m *managerStats) opened(info *flow.Info) {
	m.cxTotal.Inc()
	m.cxActive.Inc()
	if info.Downstream != nil {
		m.cxTLSTotal.Inc()
		m.cxTLSActive.Inc()
	}
}

func (m *managerStats) closed(info *flow.Info, age time.Duration) {
	m.cxDestroy.Inc()
	m.cxActive.Dec()
	m.cxLength.Record(uint64(age.Milliseconds()))
	if info.Downstream != nil {
		m.cxTLSActive.Dec()
	}
}

// protocol counts a connection in (1) or out (-1).
func (m *managerStats) protocol(p codec.Protocol, by int64) {
	total, active := m.cxHTTP1, m.cxHTTP1Active
	if p == codec.HTTP2 {
		total, active = m.cxHTTP2, m.cxHTTP2Active
	}
	active.Add(by)
	if by > 0 {
		total.Inc()
	}
}

func (m *managerStats) bytes(end *codec.End) {
	m.rxBytes.Add(end.BytesRead)
	m.txBytes.Add(end.BytesWritten)
}

// begin counts a request in.
func (m *managerStats) begin(cn *conn) {
	m.rqTotal.Inc()
	m.rqActive.Inc()
	if cn.http2 {
		m.rqHTTP2.Inc()
		return
	}
	m.rqHTTP1.Inc()
}

func (m *managerStats) downstreamReset(r codec.Reset) {
	switch {
	case r.Details != "" && !r.Remote:
		m.protocolError.Inc()
	case r.Remote && r.Reason != codec.Closed:
		m.rxReset.Inc()
	}
}

// cutOff counts an answer that was broken off: reset by us, and so for the
// client's stream.
func (m *managerStats) cutOff() {
	m.txReset.Inc()
	m.rxReset.Inc()
}

func (m *managerStats) resetAfter(*stream) {
	m.resetAfterStart.Inc()
	m.cutOff()
}

// started is a request whose head is there.
func (m *Manager) started(s *stream) {
	if m.cfg.LogOnRequest {
		m.logAll(s, "DownstreamStart")
	}
}

// ended counts a request out, and logs it.
func (m *Manager) ended(s *stream) {
	st := m.stats
	st.rqActive.Dec()
	if s.http.HealthCheck {
		st.healthChecks.Inc()
	} else if s.flowing() {
		st.rqCompleted.Inc()
		st.classes[s.http.Status/100].Inc()
	}
	if !s.http.HealthCheck {
		st.rqTime.Record(uint64(s.info.End.Sub(s.info.Start).Milliseconds()))
	}
	if s.begun && (!s.requestEnd || s.closing && s.http.LocalReply) {
		st.earlyResponse.Inc()
		st.rxReset.Inc()
	}
	s.info.HTTP = s.http
	m.logAll(s, "DownstreamEnd")
}

// redirected ends a request that goes on elsewhere, for the log; what goes on is
// a request of its own for the counters.
func (m *Manager) redirected(s *stream, status int) {
	was := s.http.Status
	s.http.Status, s.http.Details = status, "internal_redirect"
	s.info.End = s.clock.now()
	m.logAll(s, "DownstreamEnd")
	s.http.Status, s.info.End = was, time.Time{}
	m.stats.rqTotal.Inc()
	if s.conn.http2 {
		m.stats.rqHTTP2.Inc()
		return
	}
	m.stats.rqHTTP1.Inc()
}

// flowing reports that the request had an answer with a status.
func (s *stream) flowing() bool { return s.http.Status >= 100 && s.http.Status < 600 }

func (m *Manager) logAll(s *stream, event string) {
	for _, l := range m.logs {
		l.Log(s.info, event)
	}
}

// logUpstream writes the router's own log of an attempt.
func (r *router) logUpstream() {
	for _, l := range r.s.m.upLogs {
		l.Log(r.s.info, "UpstreamEnd")
	}
}
