package filtertest

import (
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
)

// RequestHead gives the filter the head of the request.
func (s *Stream) RequestHead(h *message.Head, end bool) {
	s.t.Helper()
	s.StreamInfo.HTTP.Request = h
	s.requests().headIn(end)
}

// RequestData gives the filter a part of the request's body.
func (s *Stream) RequestData(p string, end bool) {
	s.t.Helper()
	s.requests().dataIn([]byte(p), end)
}

// RequestTrailers ends the request; pairs are names and values.
func (s *Stream) RequestTrailers(pairs ...string) {
	s.t.Helper()
	s.StreamInfo.HTTP.RequestTrailers = fields(s.t, pairs)
	s.requests().trailersIn()
}

// ResponseHead gives the filter the head of the upstream's response.
func (s *Stream) ResponseHead(h *message.Head, end bool) {
	s.t.Helper()
	s.StreamInfo.HTTP.Response = h
	s.StreamInfo.HTTP.Status = h.Status
	s.responses().headIn(end)
}

// ResponseData gives the filter a part of the response's body.
func (s *Stream) ResponseData(p string, end bool) {
	s.t.Helper()
	s.responses().dataIn([]byte(p), end)
}

// ResponseTrailers ends the response; pairs are names and values.
func (s *Stream) ResponseTrailers(pairs ...string) {
	s.t.Helper()
	s.StreamInfo.HTTP.ResponseTrailers = fields(s.t, pairs)
	s.responses().trailersIn()
}

// Reply is the filter's answer, which passes the filter's own response methods
// like any response. It stays HTTP for gRPC too.
func (s *Stream) Reply(r filter.Reply) {
	s.Replied = &r
	s.Replies++
	h := s.StreamInfo.HTTP
	s.StreamInfo.Flags.Set(r.Flags)
	h.Details = r.Details
	if s.Down.Head != nil {
		s.Reset = true
		s.Finish()
		return
	}
	h.Status, h.LocalReply, h.LocalReplyBody = r.Status, true, r.Body
	h.Response = message.NewHead()
	h.Response.Status = r.Status
	h.Response.Fields = append(h.Response.Fields, r.Fields...)
	h.ResponseTrailers = nil
	s.resp = direction{}
	w := s.responses()
	if s.replying { // the filter has refused its own answer
		w.headOut(r.Body == "")
		if r.Body != "" {
			w.dataOut([]byte(r.Body), true)
		}
		return
	}
	s.replying = true
	w.headIn(r.Body == "")
	if r.Body != "" && !s.Ended && s.Replied == &r {
		w.dataIn([]byte(r.Body), true)
	}
}

// ResumeRequest goes on with what is held of the request.
func (s *Stream) ResumeRequest() { s.requests().resume() }

// ResumeResponse goes on with what is held of the response.
func (s *Stream) ResumeResponse() { s.responses().resume() }

// InjectResponse lets bytes of the response out past the filter.
func (s *Stream) InjectResponse(p []byte, end bool) {
	if !s.Ended {
		s.responses().dataOut(p, end)
	}
}

// way is one direction: what is held of it, where it goes.
type way struct {
	s        *Stream
	d        *direction
	out      *Message
	response bool
}

func (s *Stream) requests() way  { return way{s, &s.req, &s.Up, false} }
func (s *Stream) responses() way { return way{s, &s.resp, &s.Down, true} }

// stopped reports that nothing goes on any more.
func (w way) stopped() bool { return w.s.Ended || !w.response && w.s.Replies > 0 }

func (w way) headIn(end bool) {
	if w.stopped() {
		return
	}
	act := filter.Continue
	if f := w.s.Filter; f != nil && w.response {
		act = f.ResponseHead(w.s.Response(), end)
	} else if f != nil {
		act = f.RequestHead(w.s.Request(), end)
	}
	switch {
	case w.stopped() || w.out.Head != nil:
	case act != filter.Continue:
		w.d.state, w.d.head, w.d.end = act, true, end
	default:
		w.headOut(end)
	}
}

func (w way) dataIn(p []byte, end bool) {
	if w.stopped() {
		return
	}
	if w.d.state == filter.StopAll {
		w.hold(p, end)
		return
	}
	act := filter.Continue
	if f := w.s.Filter; f != nil && w.response {
		p, act = f.ResponseData(p, end)
	} else if f != nil {
		p, act = f.RequestData(p, end)
	}
	if w.stopped() {
		return
	}
	if act != filter.Continue {
		w.d.state = act
		w.hold(p, end)
		return
	}
	had := w.release(end && len(p) == 0)
	w.dataOut(append(had, p...), end)
}

func (w way) trailersIn() {
	if w.stopped() {
		return
	}
	if w.d.state == filter.StopAll {
		w.d.trailers = true
		return
	}
	act := filter.Continue
	if f := w.s.Filter; f != nil && w.response {
		act = f.ResponseTrailers(&w.s.StreamInfo.HTTP.ResponseTrailers)
	} else if f != nil {
		act = f.RequestTrailers(&w.s.StreamInfo.HTTP.RequestTrailers)
	}
	if w.stopped() {
		return
	}
	if act != filter.Continue {
		w.d.state, w.d.trailers = act, true
		return
	}
	if had := w.release(false); len(had) > 0 {
		w.dataOut(had, false)
	}
	w.trailersOut()
}

// release sends on the head that was held, and returns the data.
func (w way) release(end bool) []byte {
	had := *w.d
	*w.d = direction{}
	if had.head {
		w.headOut(end && len(had.data) == 0)
	}
	return had.data
}

func (w way) resume() {
	if w.stopped() || w.d.state == filter.Continue {
		return
	}
	was := *w.d
	*w.d = direction{}
	bodyEnd := was.end && !was.trailers
	if was.head {
		w.headOut(bodyEnd && len(was.data) == 0)
	}
	data, trailers := w.dataOut, w.trailersOut
	if was.state == filter.StopAll { // the filter has not seen it yet
		data, trailers = w.dataIn, w.trailersIn
	}
	if len(was.data) > 0 || bodyEnd && !was.head {
		data(was.data, bodyEnd)
	}
	if was.trailers && !w.stopped() {
		trailers()
	}
}

func (w way) hold(p []byte, end bool) {
	w.d.data = append(w.d.data, p...)
	w.d.end = w.d.end || end
	if w.d.state != filter.Stop || len(w.d.data) <= w.s.Limit {
		return
	}
	if w.response {
		w.s.Reply(filter.Reply{Status: 500, Body: "Internal Server Error", Details: "response_payload_too_large"})
		return
	}
	w.s.Reply(filter.Reply{Status: 413, Body: "Payload Too Large", Details: "request_payload_too_large"})
}

func (w way) headOut(end bool) {
	w.out.Head = w.s.Request()
	if w.response {
		w.out.Head = w.s.Response()
	}
	w.out.End = end
}

func (w way) dataOut(p []byte, end bool) {
	w.out.Body = append(w.out.Body, p...)
	if end && w.response && len(w.s.StreamInfo.HTTP.ResponseTrailers) > 0 {
		w.trailersOut() // the filter has added them
		return
	}
	w.out.End = end
}

func (w way) trailersOut() {
	w.out.Trailers = w.s.StreamInfo.HTTP.RequestTrailers
	if w.response {
		w.out.Trailers = w.s.StreamInfo.HTTP.ResponseTrailers
	}
	w.out.End = true
}
