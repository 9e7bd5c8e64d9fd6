// Package filtertest runs one HTTP filter without a connection: a Stream takes
// the parts of a request and of its response by hand, and shows what went on,
// what was held, what was answered and what waits for its time.
//
//	s := filtertest.New(t)
//	s.Start(factory)
//	s.RequestHead(filtertest.Request("GET", "/a", "x-who", "me"), true)
//	if s.Replied == nil || s.Replied.Status != 403 { ... }
//
// It is for tests only.
package filtertest

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
)

// Message is what has passed the filter of a request or of a response.
type Message struct {
	Head     *message.Head // nil: nothing has passed
	Body     []byte
	Trailers message.Fields
	End      bool // it passed whole
}

// Stream is a request with one filter. Its methods, those of filter.Stream
// too, are for the test's goroutine; only Async leaves it.
type Stream struct {
	// What the filter sees. It may be set before Start, and changed after.
	StreamInfo *flow.Info
	RouteFound *config.Route
	Host       *config.VirtualHost
	ClusterIs  string
	// Overriding are the overrides, the least specific first.
	Overriding []*config.FilterOverride
	// Random is Rand, and what PPM decides by: with 0 every chance above none
	// comes true, with 999999 only certainty.
	Random uint64
	// Limit is how many bytes the filter may have held; 1 MiB at first.
	Limit  int
	Logger *slog.Logger

	// What came of it. Up is the request, Down the response or the reply.
	Filter   filter.Filter // nil: the factory made none
	Up, Down Message
	Replied  *filter.Reply // the last one
	Replies  int
	Cleared  int // calls of ClearRoute
	Offered  []string
	Ended    bool
	Reset    bool // a reply came after the response had begun

	t         testing.TB
	req, resp direction
	timers    []*timer
	now       time.Duration
	ctx       context.Context
	cancel    context.CancelFunc
	asyncs    sync.WaitGroup
	waiting   int
	done      chan func()
	replying  bool
}

// direction is what the filter holds of a message.
type direction struct {
	state    filter.Action
	head     bool
	data     []byte
	trailers bool
	end      bool
}

// timer is a call of After.
type timer struct {
	at      time.Duration
	then    func()
	stopped bool
}

// New is a stream over HTTP/1.1 without route. It is finished when the test
// ends.
func New(t testing.TB) *Stream {
	t.Helper()
	s := &Stream{
		StreamInfo: (&flow.Info{ID: 1}).NewRequest(time.Now()),
		Limit:      1 << 20, Logger: slog.New(slog.DiscardHandler),
		t: t, done: make(chan func(), 64),
	}
	s.StreamInfo.HTTP.Protocol = codec.HTTP11
	s.ctx, s.cancel = context.WithCancel(t.Context())
	t.Cleanup(func() {
		s.Finish()
		s.asyncs.Wait()
	})
	return s
}

// Start makes the filter.
func (s *Stream) Start(f filter.Factory) *Stream {
	s.Filter = f.New(s)
	return s
}

// Finish ends the request: End is called, contexts end, nothing fires any more.
func (s *Stream) Finish() {
	if s.Ended {
		return
	}
	s.Ended = true
	s.cancel()
	s.timers = nil
	if s.Filter != nil {
		s.Filter.End()
	}
}

// Advance lets d pass: what After was asked for in it runs, in the order of
// time. It does not touch the clock of package time; in a synctest bubble sleep
// first.
func (s *Stream) Advance(d time.Duration) {
	until := s.now + d
	for {
		next := s.nextTimer(until)
		if next == nil {
			break
		}
		s.now = next.at
		next.stopped = true
		next.then()
	}
	s.now = until
}

func (s *Stream) nextTimer(until time.Duration) *timer {
	s.timers = slices.DeleteFunc(s.timers, func(t *timer) bool { return t.stopped })
	var next *timer
	for _, t := range s.timers {
		if t.at <= until && (next == nil || t.at < next.at) {
			next = t
		}
	}
	return next
}

// Timers is how many calls of After wait, and Next in how long the first is
// due (-1 if there is none).
func (s *Stream) Timers() (n int, next time.Duration) {
	first := s.nextTimer(1 << 62)
	if first == nil {
		return 0, -1
	}
	return len(s.timers), first.at - s.now
}

// Wait waits for all work that Async has begun, and runs what it returned.
func (s *Stream) Wait() {
	for s.waiting > 0 {
		then := <-s.done
		s.waiting--
		if then != nil && !s.Ended {
			then()
		}
	}
}

// The rest is filter.Stream.

func (s *Stream) Info() *flow.Info                    { return s.StreamInfo }
func (s *Stream) Request() *message.Head              { return s.StreamInfo.HTTP.Request }
func (s *Stream) Response() *message.Head             { return s.StreamInfo.HTTP.Response }
func (s *Stream) Route() *config.Route                { return s.RouteFound }
func (s *Stream) VirtualHost() *config.VirtualHost    { return s.Host }
func (s *Stream) Cluster() string                     { return s.ClusterIs }
func (s *Stream) ClearRoute()                         { s.Cleared++ }
func (s *Stream) Overrides() []*config.FilterOverride { return s.Overriding }
func (s *Stream) HeldRequest() []byte                 { return s.req.data }
func (s *Stream) HeldResponse() []byte                { return s.resp.data }
func (s *Stream) OfferALPN(protocols []string)        { s.Offered = protocols }
func (s *Stream) Rand() uint64                        { return s.Random }
func (s *Stream) PPM(ppm uint32) bool                 { return ppm >= 1e6 || s.Random%1e6 < uint64(ppm) }
func (s *Stream) Log() *slog.Logger                   { return s.Logger }

// Override is the last of Overriding.
func (s *Stream) Override() *config.FilterOverride {
	if len(s.Overriding) == 0 {
		return nil
	}
	return s.Overriding[len(s.Overriding)-1]
}

// Async runs work at once in a goroutine; what it returns runs in Wait.
func (s *Stream) Async(work func(ctx context.Context) (then func())) {
	s.waiting++
	s.asyncs.Go(func() { s.done <- work(s.ctx) })
}

// After is run by Advance.
func (s *Stream) After(d time.Duration, then func()) (stop func()) {
	t := &timer{at: s.now + max(d, 0), then: then}
	s.timers = append(s.timers, t)
	return func() { t.stopped = true }
}

// LimitRequest is filter.RequestLimiter.
func (s *Stream) LimitRequest(bytes int) { s.Limit = bytes }

// AddResponseTrailers adds to what the response's trailers are.
func (s *Stream) AddResponseTrailers(t message.Fields) {
	h := s.StreamInfo.HTTP
	h.ResponseTrailers = append(h.ResponseTrailers, t...)
}
