package hcm

import (
	"strconv"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
)

// sendHead sends the head of the answer after the last filter.
func (s *stream) sendHead(end bool) {
	h := s.http.Response
	s.finishHead(h)
	s.begun = true
	s.http.Status = h.Status
	s.http.ResponseHeadBytes = headSize(h)
	s.http.FirstDownstreamTx = s.clock.touchNow()
	s.down.SendHead(h, end)
	if s.m.cfg.LogOnTunnel && s.tunnels(h) {
		s.m.logAll(s, "DownstreamTunnelSuccessfullyEstablished")
	}
	if end {
		s.responseDone(s.http.FirstDownstreamTx)
	}
}

// finishHead makes the head that of this hop.
func (s *stream) finishHead(h *message.Head) {
	cfg := s.m.cfg
	if s.upgrade == "" || h.Status != 101 {
		dropConnection(h)
	}
	dropHop(&h.Fields)
	if !h.Fields.Has("date") {
		h.Fields.Add("date", dates.at(s.clock.now()))
	}
	switch cfg.ServerHeader {
	case config.ServerOverwrite:
		h.Fields.Set("server", cfg.ServerName)
	case config.ServerAppendIfAbsent:
		if !h.Fields.Has("server") {
			h.Fields.Add("server", cfg.ServerName)
		}
	}
	if cfg.AlwaysSetRequestID && s.http.RequestID != "" {
		h.Fields.Set("x-request-id", s.http.RequestID)
	}
	if cfg.Via != "" {
		appendTo(&h.Fields, "via", ", ", cfg.Via)
	}
	if s.m.failing() && !s.conn.draining.Load() {
		s.m.stats.drainClose.Inc()
		s.conn.drain()
	}
	early := !s.requestEnd && s.http.LocalReply // the client would have to send the rest for nothing
	if (s.conn.draining.Load() || s.closing || early) && !s.conn.http2 && h.Status != 101 {
		s.closing = true
		h.Fields.Set("connection", "close")
	}
}

// sendData sends a part of the answer's body.
func (s *stream) sendData(p []byte, end bool) {
	now := s.clock.touchNow()
	s.info.Sent.Add(uint64(len(p)))
	gone := s.down.SendData(p, end)
	s.unsent += len(p) - gone
	s.router.credit(gone)
	if end {
		s.responseDone(now)
	}
}

// sendTrailers ends the answer.
func (s *stream) sendTrailers() {
	s.down.SendTrailers(s.http.ResponseTrailers)
	s.responseDone(s.clock.touchNow())
}

// responseDone is the end of the answer. What is left of the request is not
// wanted.
func (s *stream) responseDone(now time.Time) {
	s.http.LastDownstreamTx = now
	s.answered = true
	if !s.requestEnd {
		s.down.Reset(codec.NoError)
		s.unsent = 0
	}
	if s.unsent > 0 {
		s.flushing = true
		if s.found != nil && s.found.Route != nil && s.found.Route.Action != nil && s.found.Route.Action.FlushTimeout != nil {
			s.clock.setIdle(*s.found.Route.Action.FlushTimeout)
		}
		return
	}
	s.finish()
}

// sendInformational passes on a 1xx answer.
func (s *stream) sendInformational(h *message.Head) {
	if h.Status == 100 && !s.m.cfg.Proxy100Continue {
		return // it was answered here
	}
	dropHop(&h.Fields)
	s.down.SendHead(h, false)
}

// continueExpected answers Expect: 100-continue, where that is not left to the
// upstream.
func (s *stream) continueExpected(h *message.Head) {
	if s.m.cfg.Proxy100Continue || !hasToken(h.Fields.Value("expect"), "100-continue") {
		return
	}
	h.Fields.Del("expect")
	s.m.stats.classes[1].Inc()
	s.m.stats.rqCompleted.Inc()
	c := message.NewHead()
	c.Status = 100
	s.down.SendHead(c, false)
	c.Release()
}

// dates is the Date field, made once a second.
var dates = &dateCache{}

func contentLength(n int) string { return strconv.Itoa(n) }
