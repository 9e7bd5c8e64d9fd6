package hcm

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/flow"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
	"outrider/proxy/http/route"
)

// stream is one request with its answer. Its lock is held whenever anything of
// it runs; what it calls (senders, the pool) never calls back.
//
// It receives what the downstream connection reads (codec.Receiver); its
// attempts receive what the upstream connections read.
type stream struct {
	mu   sync.Mutex
	m    *Manager
	conn *conn
	down codec.Sender
	info *flow.Info
	http *flow.HTTP

	links  []link
	found  *route.Match // nil: not looked for, or no route
	random uint64       // for what routes decide by chance; 0: not drawn yet
	asked  bool         // found is current
	table  *route.Table

	// requestEnd: all of the request has come. begun: the head of the answer
	// has been sent. answered: an answer of ours is on its way, the request
	// goes no further. over: nothing may happen any more.
	requestEnd, begun, answered, over bool
	replying, flushing                bool
	closing                           bool   // the connection ends with the answer
	upgrade                           string // the upgrade's type, "" if none
	offer                             []string

	// Credit. taken bytes of the request have come and were not said to be
	// consumed; unsent bytes of the answer wait in the downstream connection.
	taken, unsent int

	router router
	clock  clock
	ctx    context.Context // nil until somebody asks
	cancel context.CancelFunc
}

func newStream(cn *conn, s codec.Sender) *stream {
	st := &stream{m: cn.m, conn: cn, down: s}
	st.info = cn.info.NewRequest(st.clock.now())
	st.http = st.info.HTTP
	st.http.Protocol = s.Conn().Protocol()
	st.router.s = st
	st.clock.s = st
	st.clock.touchNow()
	return st
}

// lock begins an event: what calls the stream.
func (s *stream) lock() {
	s.mu.Lock()
	s.clock.event = time.Time{}
}

// unlock ends an event, and is deferred: what panics in it, in a filter most
// likely, ends its request and nothing else, whichever goroutine it was in.
func (s *stream) unlock() {
	if p := recover(); p != nil {
		s.m.panicked(p)
		s.broken()
	}
	s.mu.Unlock()
}

// broken ends the request after a panic, as well as that goes.
func (s *stream) broken() {
	defer func() {
		if again := recover(); again != nil {
			s.m.panicked(again)
		}
	}()
	if !s.over {
		s.http.Details = "internal_error"
		s.down.Reset(codec.InternalError)
		s.finish()
	}
}

// context ends with the request.
func (s *stream) context() context.Context {
	if s.ctx == nil {
		s.ctx, s.cancel = context.WithCancel(context.Background())
	}
	return s.ctx
}

// OnHead is the head of the request (codec.Receiver). The codec has called
// Request for it just now, so it is of the same event.
func (s *stream) OnHead(h *message.Head, end bool) {
	s.mu.Lock()
	defer s.unlock()
	if s.over {
		h.Release()
		return
	}
	s.http.Request = h
	if h.Minor10 {
		s.http.Protocol = codec.HTTP10
	}
	s.http.RequestHeadBytes = headSize(h)
	s.ended(end)
	s.clock.start()
	s.m.started(s)
	if !s.prepare(h) {
		return
	}
	if s.upgrade != "" {
		if s.match(); s.found != nil && !s.upgradeAllowed() {
			s.upgradeRefused()
			return
		}
	}
	s.continueExpected(h)
	s.makeLinks()
	s.requests().head(0, end)
	s.settle()
}

// makeLinks makes the filters of the request: those that its route, or their
// own configuration, does not disable.
func (s *stream) makeLinks() {
	list := s.m.filters
	if s.upgrade != "" {
		if own, ok := s.m.upgrades[s.upgrade]; ok {
			list = own
		}
	}
	if len(list) == 0 {
		return
	}
	s.match()
	s.links = make([]link, 0, len(list))
	for i := range list {
		f := &list[i]
		disabled := f.disabled
		if s.found != nil {
			if o := s.found.Override(f.name); o != nil {
				disabled = o.Disabled
			}
		}
		if disabled {
			continue
		}
		s.links = append(s.links, link{stream: s, name: f.name, at: len(s.links)})
		l := &s.links[len(s.links)-1]
		if l.filter = f.attach(l); l.filter == nil {
			s.links = s.links[:len(s.links)-1]
		}
	}
}

// OnData is a part of the request's body (codec.Receiver).
func (s *stream) OnData(p []byte, end bool) {
	s.lock()
	defer s.unlock()
	if s.over {
		return
	}
	s.info.Received.Add(uint64(len(p)))
	s.ended(end)
	s.taken += len(p)
	if s.answered {
		s.drop()
		return
	}
	s.requests().data(0, p, end)
	s.settle()
}

// OnTrailers ends the request (codec.Receiver).
func (s *stream) OnTrailers(t message.Fields) {
	s.lock()
	defer s.unlock()
	if s.over {
		return
	}
	s.http.RequestTrailers = t
	s.ended(true)
	if s.answered {
		return
	}
	s.requests().trailers(0)
	s.settle()
}

// ended notes that the request has come in whole.
func (s *stream) ended(end bool) {
	now := s.clock.touchNow()
	if !end {
		return
	}
	s.requestEnd = true
	s.http.LastDownstreamRx = now
	s.clock.requestDone()
	s.router.requestDone()
}

// OnReset says that the client is gone, or has given the request up
// (codec.Receiver).
func (s *stream) OnReset(r codec.Reset) {
	s.lock()
	defer s.unlock()
	if s.over {
		return
	}
	s.m.stats.downstreamReset(r)
	switch {
	case r.Details != "" && !r.Remote && r.Reason != codec.Closed:
		s.info.Flags.Set(flow.DownstreamProtocolError)
		s.http.Details = r.Details
	case r.Reason == codec.Closed:
		s.info.Flags.Set(flow.DownstreamConnectionTermination)
		s.http.Details = "downstream_remote_disconnect"
		if r.End != nil && r.End.By == codec.ByUs {
			s.http.Details = "downstream_local_disconnect"
		}
	default:
		s.info.Flags.Set(flow.DownstreamRemoteReset)
		s.http.Details = "http2.remote_reset"
	}
	s.finish()
}

// OnGone says that bytes of the answer have left (codec.Receiver).
func (s *stream) OnGone(n int) {
	s.lock()
	defer s.unlock()
	if s.over {
		return
	}
	s.clock.touchNow()
	s.unsent -= n
	s.router.credit(n)
	if s.flushing && s.unsent <= 0 {
		s.finish()
		return
	}
	s.settle()
}

// credit tells the client's connection that n bytes of the request have gone
// on.
func (s *stream) credit(n int) {
	if n = min(n, s.taken); n > 0 {
		s.taken -= n
		s.down.Consumed(n)
	}
}

// keptAside says that a filter holds what has come, within its limit.
func (s *stream) keptAside(response bool) {
	if response {
		s.router.credit(s.router.taken())
		return
	}
	s.credit(s.taken)
}

// drop takes the rest of a request that nobody wants.
func (s *stream) drop() { s.credit(s.taken) }

// settle gives back what is owed on both sides once nothing waits: filters may
// have made the body shorter.
func (s *stream) settle() {
	if s.over {
		return
	}
	if s.taken > 0 && s.router.waiting() == 0 && !s.holds(false) {
		s.credit(s.taken)
	}
	if n := s.router.taken(); n > 0 && s.unsent == 0 && !s.holds(true) {
		s.router.credit(n)
	}
}

// holds reports that a filter holds data of one way.
func (s *stream) holds(response bool) bool {
	for i := range s.links {
		h := &s.links[i].req
		if response {
			h = &s.links[i].resp
		}
		if len(h.data) > 0 {
			return true
		}
	}
	return false
}

// bufferLimit is per_connection_buffer_limit_bytes, or the route's
// per_request_buffer_limit_bytes, in bytes.
func (s *stream) bufferLimit() int {
	if s.found != nil {
		if r := s.found.Route; r != nil && r.BufferLimit != nil {
			return int(*r.BufferLimit)
		}
		if v := s.found.VirtualHost; v != nil && v.BufferLimit != nil {
			return int(*v.BufferLimit)
		}
	}
	if l := s.m.deps.Listener; l != nil && l.PerConnectionBufferLimit > 0 {
		return int(l.PerConnectionBufferLimit)
	}
	return 1 << 20
}

// match is the route, found once.
func (s *stream) match() *route.Match {
	if s.asked {
		return s.found
	}
	s.asked = true
	if s.table == nil {
		s.table = s.m.routes.Load()
	}
	if s.table == nil {
		return nil
	}
	s.found, _ = s.table.Find(s.routeRequest())
	s.noteRoute()
	return s.found
}

func (s *stream) routeRequest() *route.Request {
	if s.random == 0 { // one for the request: a route that is looked for again is the same
		s.random = s.m.deps.Rand()
	}
	return &route.Request{
		Head: s.http.Request, Info: s.info, Scheme: s.http.Request.Scheme,
		Internal: s.http.Request.Fields.Value("x-envoy-internal") == "true", Random: s.random,
	}
}

func (s *stream) noteRoute() {
	if s.found == nil {
		return
	}
	if s.found.VirtualHost != nil {
		s.http.VirtualHost = s.found.VirtualHost.Name
	}
	if s.found.Route != nil {
		s.http.RouteName, s.info.Route = s.found.Route.Name, s.found.Route.Name
		if m, ok := s.found.Route.Metadata.(interface {
			GetFilterMetadata() map[string]*structpb.Struct
		}); ok {
			s.http.RouteMetadata = m.GetFilterMetadata()
		}
	}
	if s.found.Cluster != "" && s.m.deps.Clusters.Get(s.found.Cluster) != nil {
		s.info.UpstreamCluster = s.found.Cluster
	}
	s.clock.routeIdle()
}

func (s *stream) clearRoute() { s.asked, s.found = false, nil }

// finish ends the request: it is logged and counted, and nothing happens to it
// any more.
func (s *stream) finish() {
	if s.over {
		return
	}
	s.over = true
	s.clock.stop()
	s.router.abandon()
	if s.cancel != nil {
		s.cancel()
	}
	if m, ok := s.down.(codec.Metered); ok {
		s.http.DownstreamWireReceived, s.http.DownstreamWireSent = m.Wire()
	}
	for i := range s.links {
		s.endFilter(&s.links[i])
	}
	s.info.End = s.clock.now()
	s.m.ended(s)
	s.conn.active.Add(-1)
	s.conn.idleSince(s.info.End)
	s.http.Request.Release()
	s.http.Response.Release()
	s.http.Request, s.http.Response = nil, nil
}

// endFilter ends one filter; what panics there is not to keep the others, nor
// the log, from their end.
func (s *stream) endFilter(l *link) {
	defer func() {
		if p := recover(); p != nil {
			s.m.panicked(p)
		}
		if l.version != nil {
			l.version.release()
		}
	}()
	if l.filter != nil { // else to make it has panicked
		l.filter.End()
	}
}

// headSize is about how many bytes a request's head has (Envoy:
// request_headers_bytes).
func headSize(h *message.Head) int {
	return h.Fields.Size() + len(h.Method) + len(h.Path) + len(h.Authority) + len(h.Scheme) + 32
}
