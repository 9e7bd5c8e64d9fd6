package h1

import (
	"log/slog"
	"time"

	"outrider/proxy/stats"
)

// Options are Envoy's http_protocol_options, with the limits that Envoy has
// elsewhere. What is zero is Envoy 1.40's default.
type Options struct {
	// AcceptHTTP10 takes requests of HTTP/1.0, which are refused with 426
	// otherwise (accept_http_10). DefaultHost is the authority of those that
	// have none; "" refuses them (default_host_for_http_10).
	AcceptHTTP10 bool
	DefaultHost  string
	// NoAbsoluteURL takes the target of a request as its path also if it is an
	// absolute URL (allow_absolute_url: false).
	NoAbsoluteURL bool
	// EnableTrailers hands trailers on, which are dropped otherwise
	// (enable_trailers).
	EnableTrailers bool
	// AllowChunkedLength takes a chunked message that has a content-length as
	// well, and ignores the length (allow_chunked_length).
	AllowChunkedLength bool
	// ProperCaseHeaders writes Content-Type instead of content-type
	// (header_key_format: proper_case_words).
	ProperCaseHeaders bool
	// SendFullyQualifiedURL has a client write absolute URLs
	// (send_fully_qualified_url).
	SendFullyQualifiedURL bool
	// MaxHeaderBytes and MaxHeaders limit a head and the trailers: bytes on the
	// wire, and fields with Host. A client's default of the first is 80 KiB.
	MaxHeaderBytes, MaxHeaders int
	// HeadTimeout is how long a request's head may take from its first byte; 0
	// is for ever. Such a request is refused with 408
	// (request_headers_timeout).
	HeadTimeout time.Duration
	// BufferLimit is how many bytes may wait to be written before SendData
	// takes more only on credit (per_connection_buffer_limit_bytes).
	BufferLimit int
	// CloseDelay is how long a server's connection that we end stays open for
	// the peer to read the last response and to close it; negative is not at
	// all (delayed_close_timeout).
	CloseDelay time.Duration
	// Mistake, if not nil, is told of each request that the codec has refused,
	// from the connection's goroutine: the status for it and Envoy's response
	// code details. It is not told of those that a Refuser has answered.
	Mistake func(status int, details string)

	Stats *Stats       // nil counts nowhere
	Log   *slog.Logger // nil logs nothing
}

// Defaults of Envoy 1.40.
const (
	defaultHeaderBytes   = 60 << 10
	defaultResponseBytes = 80 << 10 // of a response's head
	defaultHeaders       = 100
	defaultBufferLimit   = 1 << 20
	defaultCloseDelay    = time.Second
)

func (o Options) withDefaults() *Options {
	or(&o.MaxHeaderBytes, defaultHeaderBytes)
	or(&o.MaxHeaders, defaultHeaders)
	or(&o.BufferLimit, defaultBufferLimit)
	if o.CloseDelay == 0 {
		o.CloseDelay = defaultCloseDelay
	}
	if o.Stats == nil {
		o.Stats = NewStats(stats.New().Root())
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &o
}

func or(v *int, def int) {
	if *v <= 0 {
		*v = def
	}
}

// Stats are Envoy's statistics of its HTTP/1 codec. The codec counts none of
// them: header names with underscores are the connection manager's to drop or
// refuse, and to count here; there is no metadata; and a pipelined request waits
// for the response before it to be written, so no flood of responses can queue
// up.
type Stats struct {
	DroppedUnderscores  *stats.Counter // dropped_headers_with_underscores
	RejectedUnderscores *stats.Counter // requests_rejected_with_underscores_in_headers
	Metadata            *stats.Counter // metadata_not_supported_error
	ResponseFlood       *stats.Counter // response_flood
}

// NewStats are the metrics http1.* under scope, which is the root for servers
// and that of the cluster for clients.
func NewStats(scope *stats.Scope) *Stats {
	s := scope.Scope("http1")
	return &Stats{
		DroppedUnderscores:  s.Counter("dropped_headers_with_underscores"),
		RejectedUnderscores: s.Counter("requests_rejected_with_underscores_in_headers"),
		Metadata:            s.Counter("metadata_not_supported_error"),
		ResponseFlood:       s.Counter("response_flood"),
	}
}
