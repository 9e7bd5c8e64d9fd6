package h2

import (
	"log/slog"
	"time"

	"outrider/proxy/stats"
)

// Options are Envoy's http2_protocol_options, with the limits of messages that
// Envoy has elsewhere. What is zero is Envoy 1.40's default; a negative limit
// is a limit of 0.
type Options struct {
	// MaxConcurrentStreams is what a server allows its client, and what a
	// client takes for itself at most.
	MaxConcurrentStreams uint32
	// InitialStreamWindow and InitialConnWindow are receive windows in bytes.
	InitialStreamWindow, InitialConnWindow uint32
	// HeaderTableSize is HPACK's, of both directions (hpack_table_size).
	// NoHeaderTable is the explicit 0.
	HeaderTableSize uint32
	NoHeaderTable   bool
	// AllowConnect takes extended CONNECT (RFC 8441), and says so in SETTINGS.
	AllowConnect bool
	// MaxHeaderBytes and MaxHeaders limit the head and the trailers that a peer
	// sends: the size of names and values, and their count.
	MaxHeaderBytes, MaxHeaders int

	// MaxOutboundFrames and MaxOutboundControlFrames limit what waits to be
	// written: frames of all types; of acknowledgements and RST_STREAM.
	MaxOutboundFrames, MaxOutboundControlFrames int
	// MaxEmptyDataFrames is how many frames of HEADERS, CONTINUATION and DATA
	// may come one after another that have no payload and do not end the stream.
	MaxEmptyDataFrames int
	// MaxPriorityPerStream is for PRIORITY frames: that many for each stream
	// that was opened, and once more.
	MaxPriorityPerStream int
	// MaxWindowUpdatesPerData is for WINDOW_UPDATE frames, for each DATA frame
	// that was sent.
	MaxWindowUpdatesPerData int

	// PrematureResetCount and PrematureResetLifetime are Envoy's runtime values
	// overload.premature_reset_total_stream_count and
	// ..._min_stream_lifetime_seconds: a client that resets half of its streams
	// in less than the lifetime, without a response, loses its connection.
	PrematureResetCount    int
	PrematureResetLifetime time.Duration
	// PrematureResets counts connections that were ended for it
	// (downstream_rq_too_many_premature_resets); nil for none.
	PrematureResets *stats.Counter

	// StreamResetBurst and StreamResetRate limit the RST_STREAM frames that a
	// server takes: so many at once, and so many more each second.
	StreamResetBurst, StreamResetRate int

	// KeepaliveInterval is between two pings; 0 sends none. KeepaliveTimeout is
	// how long the answer may take while nothing else comes; 0 sends no pings.
	// KeepaliveIdle has a client ping before the first stream after that much
	// silence; 0 does not. KeepaliveJitterPercent of the interval, at most, is
	// added to each; negative is none.
	KeepaliveInterval, KeepaliveTimeout, KeepaliveIdle time.Duration
	KeepaliveJitterPercent                             float64

	// StreamErrorsOnly ends the stream, and not the connection, for a malformed
	// message (override_stream_error_on_invalid_http_message).
	StreamErrorsOnly bool
	// BufferLimit is how many bytes may wait to be written, in the buffer and
	// in streams, before BufferedAbove says so (per_connection_buffer_limit_bytes).
	BufferLimit int
	// CloseDelay is how long a connection that we end stays open for the peer
	// to read why and to close it (delayed_close_timeout); negative is not at all.
	CloseDelay time.Duration

	Stats *Stats       // nil counts nowhere
	Log   *slog.Logger // nil logs nothing
}

// Defaults of Envoy 1.40.
const (
	defaultConcurrentStreams = 1024
	defaultStreamWindow      = 16 << 20
	defaultConnWindow        = 24 << 20
	defaultTableSize         = 4096 // RFC 9113, section 6.5.2
	defaultHeaderBytes       = 60 << 10
	defaultHeaders           = 100
	defaultOutboundFrames    = 10000
	defaultOutboundControl   = 1000
	defaultEmptyData         = 1
	defaultPriority          = 100
	defaultWindowUpdates     = 10
	defaultPrematureResets   = 500
	defaultPrematureLifetime = time.Second
	defaultResetBurst        = 1000
	defaultResetRate         = 33
	defaultJitterPercent     = 15
	defaultBufferLimit       = 1 << 20
	defaultCloseDelay        = time.Second
)

// initialWindow is of every connection and stream before SETTINGS say other
// (RFC 9113, section 6.9.2). Envoy takes no smaller one.
const initialWindow = 65535

func (o Options) withDefaults() *Options {
	or(&o.MaxConcurrentStreams, defaultConcurrentStreams)
	or(&o.InitialStreamWindow, defaultStreamWindow)
	or(&o.InitialConnWindow, defaultConnWindow)
	o.InitialConnWindow = max(o.InitialConnWindow, initialWindow)
	o.InitialConnWindow = min(o.InitialConnWindow, maxWindow)
	o.InitialStreamWindow = min(max(o.InitialStreamWindow, initialWindow), maxWindow)
	if !o.NoHeaderTable {
		or(&o.HeaderTableSize, defaultTableSize)
	}
	limit(&o.MaxHeaderBytes, defaultHeaderBytes)
	limit(&o.MaxHeaders, defaultHeaders)
	limit(&o.MaxOutboundFrames, defaultOutboundFrames)
	limit(&o.MaxOutboundControlFrames, defaultOutboundControl)
	limit(&o.MaxEmptyDataFrames, defaultEmptyData)
	limit(&o.MaxPriorityPerStream, defaultPriority)
	limit(&o.MaxWindowUpdatesPerData, defaultWindowUpdates)
	limit(&o.PrematureResetCount, defaultPrematureResets)
	limit(&o.PrematureResetLifetime, defaultPrematureLifetime)
	limit(&o.StreamResetBurst, defaultResetBurst)
	limit(&o.StreamResetRate, defaultResetRate)
	limit(&o.KeepaliveJitterPercent, defaultJitterPercent)
	limit(&o.BufferLimit, defaultBufferLimit)
	limit(&o.CloseDelay, defaultCloseDelay)
	if o.Stats == nil {
		o.Stats = NewStats(stats.New().Root())
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &o
}

func or(v *uint32, def uint32) {
	if *v == 0 {
		*v = def
	}
}

func limit[T int | float64 | time.Duration](v *T, def T) {
	switch {
	case *v == 0:
		*v = def
	case *v < 0:
		*v = 0
	}
}
