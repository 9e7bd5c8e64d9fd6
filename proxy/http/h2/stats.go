package h2

import "outrider/proxy/stats"

// Stats are Envoy's statistics of its HTTP/2 codec, but for those of what we do
// not do (metadata, tx_flush_timeout, deferred_stream_close) or what is not the
// codec's (headers with underscores).
type Stats struct {
	GoAwaySent          *stats.Counter // goaway_sent
	GoAwayGracefulSent  *stats.Counter // goaway_graceful_sent
	HeaderOverflow      *stats.Counter // header_overflow
	EmptyFrames         *stats.Counter // inbound_empty_frames_flood
	PriorityFlood       *stats.Counter // inbound_priority_frames_flood
	WindowUpdateFlood   *stats.Counter // inbound_window_update_frames_flood
	KeepaliveTimeout    *stats.Counter // keepalive_timeout
	OutboundFlood       *stats.Counter // outbound_flood
	OutboundControl     *stats.Counter // outbound_control_flood
	MessagingError      *stats.Counter // rx_messaging_error
	RxReset             *stats.Counter // rx_reset
	StreamRefusedErrors *stats.Counter // stream_refused_errors
	Trailers            *stats.Counter // trailers
	TxReset             *stats.Counter // tx_reset

	StreamsActive         *stats.Gauge // streams_active
	PendingSendBytes      *stats.Gauge // pending_send_bytes
	OutboundFrames        *stats.Gauge // outbound_frames_active
	OutboundControlFrames *stats.Gauge // outbound_control_frames_active
}

// NewStats are the metrics http2.* under scope, which is that of a connection
// manager's listener or of a cluster.
func NewStats(scope *stats.Scope) *Stats {
	s := scope.Scope("http2")
	return &Stats{
		GoAwaySent:          s.Counter("goaway_sent"),
		GoAwayGracefulSent:  s.Counter("goaway_graceful_sent"),
		HeaderOverflow:      s.Counter("header_overflow"),
		EmptyFrames:         s.Counter("inbound_empty_frames_flood"),
		PriorityFlood:       s.Counter("inbound_priority_frames_flood"),
		WindowUpdateFlood:   s.Counter("inbound_window_update_frames_flood"),
		KeepaliveTimeout:    s.Counter("keepalive_timeout"),
		OutboundFlood:       s.Counter("outbound_flood"),
		OutboundControl:     s.Counter("outbound_control_flood"),
		MessagingError:      s.Counter("rx_messaging_error"),
		RxReset:             s.Counter("rx_reset"),
		StreamRefusedErrors: s.Counter("stream_refused_errors"),
		Trailers:            s.Counter("trailers"),
		TxReset:             s.Counter("tx_reset"),

		StreamsActive:         s.Gauge("streams_active"),
		PendingSendBytes:      s.Gauge("pending_send_bytes"),
		OutboundFrames:        s.Gauge("outbound_frames_active"),
		OutboundControlFrames: s.Gauge("outbound_control_frames_active"),
	}
}
