// Package filter is what an HTTP filter is: a few functions that the
// connection manager calls with each part of a request and of its response, and
// a Stream to act upon both. The filters of Envoy that outrider has are in the
// packages below; examples/httpfilter is one of a page.
//
// A filter is called with its request's lock held and must not block: what
// takes time goes into Stream.Async or Stream.After.
package filter

import (
	"context"
	"log/slog"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/message"
)

// Filter is one filter on one request. Requests pass the filters of a
// connection manager in their order, responses in the reverse. Embed Pass, and
// write only those methods that have something to do.
type Filter interface {
	RequestHead(h *message.Head, end bool) Action
	// RequestData gets a part of the body, which is good until it returns, and
	// returns what goes on in its place.
	RequestData(p []byte, end bool) ([]byte, Action)
	RequestTrailers(t *message.Fields) Action
	// ResponseHead gets the head of the answer, and no informational heads.
	ResponseHead(h *message.Head, end bool) Action
	ResponseData(p []byte, end bool) ([]byte, Action)
	ResponseTrailers(t *message.Fields) Action
	// End is called once, when the request is over however it ended.
	End()
}

// Action is what becomes of what a filter was given.
type Action uint8

const (
	// Continue: it goes on to the next filter, with all that was held.
	Continue Action = iota
	// Stop: it is held, within the buffer limit (413, or 500 for a response,
	// if there is more). The filter gets what comes next of the message, until
	// it says Continue or resumes.
	Stop
	// StopAll: it is held, and so is what comes after without calling the
	// filter, until it resumes. The peer is slowed down.
	StopAll
)

// Pass lets everything through.
type Pass struct{}

func (Pass) RequestHead(*message.Head, bool) Action         { return Continue }
func (Pass) RequestData(p []byte, _ bool) ([]byte, Action)  { return p, Continue }
func (Pass) RequestTrailers(*message.Fields) Action         { return Continue }
func (Pass) ResponseHead(*message.Head, bool) Action        { return Continue }
func (Pass) ResponseData(p []byte, _ bool) ([]byte, Action) { return p, Continue }
func (Pass) ResponseTrailers(*message.Fields) Action        { return Continue }
func (Pass) End()                                           {}

// Factory makes the filter of each request. It is shared by all of them, and
// safe for concurrent use.
type Factory interface {
	// New is the filter for a request; nil if the request needs none.
	New(s Stream) Filter
}

// FactoryFunc is a Factory without anything else.
type FactoryFunc func(s Stream) Filter

// New calls f.
func (f FactoryFunc) New(s Stream) Filter { return f(s) }

// Maker makes a Factory from a filter's configuration (config.HTTPFilter.Config)
// when a connection manager is made.
type Maker func(cfg *config.HTTPFilter, d Deps) (Factory, error)

// Stream is a request as its filter sees it. Its methods are called with the
// lock that the filter is called with: from within Filter's methods, or from
// what Async and After run.
type Stream interface {
	// Info is of this request; Info().HTTP is set.
	Info() *flow.Info
	// Request is the head of the request, as it is now; Response that of the
	// answer, nil before there is one.
	Request() *message.Head
	Response() *message.Head
	// Route and VirtualHost are where the request matched, chosen at the first
	// call; nil if nowhere. Cluster is the upstream cluster's name, "" if the
	// route has none.
	Route() *config.Route
	VirtualHost() *config.VirtualHost
	Cluster() string
	// ClearRoute has the route chosen anew: the filter has changed the request.
	ClearRoute()
	// Override is what the route says about this filter (by its name in the
	// filter list): the most specific, nil for none. Overrides are all, the
	// least specific first.
	Override() *config.FilterOverride
	Overrides() []*config.FilterOverride

	// Reply answers the request in the upstream's place; the filter then
	// returns Stop. After the response has begun it ends the request.
	Reply(r Reply)
	// ResumeRequest goes on after Stop or StopAll with the filter after this
	// one, and ResumeResponse likewise.
	ResumeRequest()
	ResumeResponse()
	// HeldRequest is what is held of the body after this filter said Stop;
	// HeldResponse likewise. They are good until the filter returns.
	HeldRequest() []byte
	HeldResponse() []byte
	// InjectResponse sends on bytes of the response as if they came from this
	// filter's ResponseData: for one that keeps bytes to send them later.
	InjectResponse(p []byte, end bool)
	// AddRequestTrailers and AddResponseTrailers may be called in the call
	// that has end: the message gets trailers.
	AddResponseTrailers(t message.Fields)

	// Async runs work in a goroutine of its own, with a context that ends with
	// the request, and then runs what work returns (nil for nothing) with the
	// lock held, unless the request has ended.
	Async(work func(ctx context.Context) (then func()))
	// After runs then with the lock held after d, unless the request has ended
	// or stop is called.
	After(d time.Duration, then func()) (stop func())

	// OfferALPN has the upstream connection offer these protocols
	// (istio.alpn).
	OfferALPN(protocols []string)
	// Rand is a random number; PPM decides by chance, one in a million each.
	Rand() uint64
	PPM(ppm uint32) bool
	Log() *slog.Logger
}

// RequestLimiter is a Stream that can be told how many bytes of the request's
// body may be held in place of the connection's limit (envoy.filters.http.buffer).
type RequestLimiter interface{ LimitRequest(bytes int) }

// Reply is an answer of the proxy's own.
type Reply struct {
	Status int
	// Body is plain text unless Fields have a content-type. For a gRPC request
	// it becomes grpc-message.
	Body   string
	Fields message.Fields
	// GRPC is the gRPC status; nil is made from Status, as Envoy does.
	GRPC *uint32
	// Details are RESPONSE_CODE_DETAILS, Flags are added to the request's.
	Details string
	Flags   flow.ResponseFlags
}
