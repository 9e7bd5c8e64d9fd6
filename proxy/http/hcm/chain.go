package hcm

import (
	"context"
	"log/slog"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
)

// link is one filter on one request. It is the filter.Stream that the filter
// sees.
type link struct {
	*stream
	name   string
	filter filter.Filter
	at     int // its place in stream.links
	req    held
	resp   held
	limit  int // of the request that it holds; 0: the connection's
	// version is what the filter is of, if its configuration comes by discovery.
	version *discovery
}

// held is what a filter has stopped of one message.
type held struct {
	state    filter.Action // Continue: nothing is held
	head     bool          // the head is held
	data     []byte
	end      bool // the message has ended with what is held
	trailers bool // they are held
}

// way is one direction through the filters: how to call one, and where a
// message goes after the last.
type way struct {
	s        *stream
	response bool
}

func (s *stream) requests() way  { return way{s, false} }
func (s *stream) responses() way { return way{s, true} }

// order is the i-th filter of the way: responses pass in the reverse.
func (w way) order(i int) *link {
	if w.response {
		return &w.s.links[len(w.s.links)-1-i]
	}
	return &w.s.links[i]
}

func (w way) place(l *link) int {
	if w.response {
		return len(w.s.links) - 1 - l.at
	}
	return l.at
}

func (w way) held(l *link) *held {
	if w.response {
		return &l.resp
	}
	return &l.req
}

// stopped reports that nothing may go on any more: the request is over, or it
// was answered while it was still coming.
func (w way) stopped() bool {
	return w.s.over || !w.response && w.s.answered
}

// head takes the head from the i-th filter on.
func (w way) head(i int, end bool) {
	for ; i < len(w.s.links); i++ {
		l := w.order(i)
		if h := w.held(l); h.state == filter.StopAll {
			h.head, h.end = true, end
			return
		}
		act := w.callHead(l, end)
		if w.stopped() {
			return
		}
		if act != filter.Continue {
			h := w.held(l)
			h.state, h.head, h.end = act, true, end
			return
		}
	}
	if w.response {
		w.s.sendHead(end)
		return
	}
	w.s.routeHead(end)
}

func (w way) callHead(l *link, end bool) filter.Action {
	if w.response {
		return l.filter.ResponseHead(w.s.http.Response, end)
	}
	return l.filter.RequestHead(w.s.http.Request, end)
}

// data takes a part of the body from the i-th filter on.
func (w way) data(i int, p []byte, end bool) {
	for ; i < len(w.s.links); i++ {
		l := w.order(i)
		h := w.held(l)
		if h.state == filter.StopAll {
			w.hold(l, p, end)
			return
		}
		out, act := w.callData(l, p, end)
		if w.stopped() {
			return
		}
		if act != filter.Continue {
			h.state = act
			w.hold(l, out, end)
			return
		}
		if p = out; h.state == filter.Stop {
			if p = w.release(i, h, p, end); w.stopped() {
				return
			}
		}
		if w.lateTrailers(&end) {
			defer w.trailers(i + 1)
		}
	}
	if len(p) == 0 && !end {
		return
	}
	if w.response {
		w.s.sendData(p, end)
		return
	}
	w.s.routeData(p, end)
}

// lateTrailers reports that a filter has added trailers to a message that was
// about to end.
func (w way) lateTrailers(end *bool) bool {
	if !w.response || !*end || len(w.s.http.ResponseTrailers) == 0 {
		return false
	}
	*end = false
	return true
}

// release sends the head on that the i-th filter held, and returns the data
// that it held with p after.
func (w way) release(i int, h *held, p []byte, end bool) []byte {
	had := *h
	*h = held{}
	if had.head {
		w.head(i+1, end && len(had.data) == 0 && len(p) == 0 && !had.trailers)
	}
	if len(had.data) == 0 {
		return p
	}
	return append(had.data, p...)
}

func (w way) callData(l *link, p []byte, end bool) ([]byte, filter.Action) {
	if w.response {
		return l.filter.ResponseData(p, end)
	}
	return l.filter.RequestData(p, end)
}

// hold keeps p, within the limit where the filter waits for more of it.
func (w way) hold(l *link, p []byte, end bool) {
	h, limit := w.held(l), w.s.bufferLimit()
	if l.limit > 0 && !w.response {
		limit = l.limit
	}
	h.end = h.end || end
	h.data = append(h.data, p...)
	if h.state == filter.Stop {
		w.s.keptAside(w.response)
	}
	if h.state == filter.Stop && len(h.data) > limit {
		w.s.tooLarge(w.response)
	}
}

// trailers takes the trailers from the i-th filter on.
func (w way) trailers(i int) {
	for ; i < len(w.s.links); i++ {
		l := w.order(i)
		h := w.held(l)
		if h.state == filter.StopAll {
			h.trailers = true
			return
		}
		act := w.callTrailers(l)
		if w.stopped() {
			return
		}
		if act != filter.Continue {
			h.state, h.trailers = act, true
			return
		}
		if h.state == filter.Stop {
			if p := w.release(i, h, nil, false); len(p) > 0 && !w.stopped() {
				w.data(i+1, p, false)
			}
			if w.stopped() {
				return
			}
		}
	}
	if w.response {
		w.s.sendTrailers()
		return
	}
	w.s.routeTrailers()
}

func (w way) callTrailers(l *link) filter.Action {
	if w.response {
		return l.filter.ResponseTrailers(&w.s.http.ResponseTrailers)
	}
	return l.filter.RequestTrailers(&w.s.http.RequestTrailers)
}

// resume goes on after what l has stopped. After StopAll the filter has not
// seen the data yet.
func (w way) resume(l *link) {
	h := w.held(l)
	if h.state == filter.Continue || w.stopped() {
		return
	}
	was := *h
	*h = held{}
	i := w.place(l)
	if was.head {
		w.head(i+1, was.end && len(was.data) == 0 && !was.trailers)
	}
	from := i + 1
	if was.state == filter.StopAll {
		from = i
	}
	bodyEnd := was.end && !was.trailers
	if !w.stopped() && (len(was.data) > 0 || bodyEnd && !was.head) {
		w.data(from, was.data, bodyEnd)
	}
	if !w.stopped() && was.trailers {
		w.trailers(from)
	}
	w.s.settle()
}

// The rest is filter.Stream.

func (l *link) Info() *flow.Info         { return l.info }
func (l *link) Request() *message.Head   { return l.http.Request }
func (l *link) Response() *message.Head  { return l.http.Response }
func (l *link) Reply(r filter.Reply)     { l.reply(r) }
func (l *link) ResumeRequest()           { l.requests().resume(l) }
func (l *link) ResumeResponse()          { l.responses().resume(l) }
func (l *link) HeldRequest() []byte      { return l.req.data }
func (l *link) HeldResponse() []byte     { return l.resp.data }
func (l *link) OfferALPN(names []string) { l.offer = names }
func (l *link) Rand() uint64             { return l.m.deps.Rand() }
func (l *link) PPM(ppm uint32) bool      { return ppm >= 1e6 || l.m.deps.Rand()%1e6 < uint64(ppm) }
func (l *link) Log() *slog.Logger        { return l.m.log }

// LimitRequest is filter.RequestLimiter.
func (l *link) LimitRequest(bytes int) { l.limit = bytes }

func (l *link) InjectResponse(p []byte, end bool) {
	w := l.responses()
	if !w.stopped() {
		w.data(w.place(l)+1, p, end)
		l.settle()
	}
}

func (l *link) AddResponseTrailers(t message.Fields) {
	l.http.ResponseTrailers = append(l.http.ResponseTrailers, t...)
}

// Route is the route, chosen at the first call.
func (l *link) Route() *config.Route {
	if m := l.match(); m != nil {
		return m.Route
	}
	return nil
}

// VirtualHost is the route's.
func (l *link) VirtualHost() *config.VirtualHost {
	if m := l.match(); m != nil {
		return m.VirtualHost
	}
	return nil
}

// Cluster is the route's cluster.
func (l *link) Cluster() string {
	if m := l.match(); m != nil {
		return m.Cluster
	}
	return ""
}

// ClearRoute has the route chosen anew.
func (l *link) ClearRoute() { l.clearRoute() }

// Override is the most specific override of this filter.
func (l *link) Override() *config.FilterOverride {
	if m := l.match(); m != nil {
		return m.Override(l.name)
	}
	return nil
}

// Overrides are all, the least specific first.
func (l *link) Overrides() []*config.FilterOverride {
	if m := l.match(); m != nil {
		return m.Overrides(l.name)
	}
	return nil
}

// Async runs work beside the request.
func (l *link) Async(work func(ctx context.Context) (then func())) {
	s := l.stream
	ctx := s.context()
	s.conn.asyncs.Go(func() {
		then := l.guarded(ctx, work)
		if then == nil {
			return
		}
		s.lock()
		defer s.unlock()
		if !s.over {
			then()
			s.settle()
		}
	})
}

// guarded runs work. If it panics the request ends.
func (l *link) guarded(ctx context.Context, work func(ctx context.Context) (then func())) (then func()) {
	defer func() {
		if p := recover(); p != nil {
			l.stream.m.panicked(p)
			then = l.stream.broken
		}
	}()
	return work(ctx)
}

// After runs then with the lock held, later.
func (l *link) After(d time.Duration, then func()) (stop func()) {
	s := l.stream
	stopped := false // guarded by s.mu
	t := time.AfterFunc(d, func() {
		s.lock()
		defer s.unlock()
		if !s.over && !stopped {
			then()
			s.settle()
		}
	})
	return func() {
		stopped = true
		t.Stop()
	}
}
