package hcm

import (
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/h1"
	"outrider/proxy/http/h2"
	"outrider/proxy/http/message"
)

// codecOptions are those of the downstream connections.
func (m *Manager) codecOptions() (h1.Options, h2.Options) {
	cfg := m.cfg
	limit := 0
	if m.deps.Listener != nil {
		limit = int(m.deps.Listener.PerConnectionBufferLimit)
	}
	one, two := cfg.HTTP1, cfg.HTTP2
	root := m.deps.Stats.Root()
	return h1.Options{
			AcceptHTTP10: one.AcceptHTTP10, DefaultHost: one.DefaultHost, NoAbsoluteURL: !one.AllowAbsoluteURL,
			EnableTrailers: one.EnableTrailers, AllowChunkedLength: one.AllowChunkedLength,
			ProperCaseHeaders: one.ProperCase, MaxHeaderBytes: int(cfg.MaxRequestHeadersKB) << 10,
			MaxHeaders: int(cfg.Common.MaxHeaders), BufferLimit: limit, HeadTimeout: cfg.RequestHeadersTimeout, CloseDelay: delay(cfg), Stats: h1.NewStats(root), Log: m.log,
		}, h2.Options{
			MaxConcurrentStreams: two.MaxStreams, InitialStreamWindow: two.StreamWindow, InitialConnWindow: two.ConnWindow,
			HeaderTableSize: two.HeaderTableSize, AllowConnect: two.AllowConnect,
			MaxHeaderBytes: int(cfg.MaxRequestHeadersKB) << 10, MaxHeaders: int(cfg.Common.MaxHeaders),
			MaxOutboundFrames: int(two.MaxOutboundFrames), MaxOutboundControlFrames: int(two.MaxOutboundControlFrames),
			MaxEmptyDataFrames: limitOf(two.MaxEmptyDataFrames), MaxPriorityPerStream: limitOf(two.MaxPriority),
			MaxWindowUpdatesPerData: limitOf(two.MaxWindowUpdates), PrematureResets: m.stats.prematureResets,
			KeepaliveInterval: two.KeepaliveInterval, KeepaliveTimeout: two.KeepaliveTimeout,
			KeepaliveIdle: two.KeepaliveIdle, KeepaliveJitterPercent: two.KeepaliveJitterPercent,
			StreamErrorsOnly: two.StreamErrorsOnly, BufferLimit: limit, CloseDelay: delay(cfg),
			Stats: h2.NewStats(root), Log: m.log,
		}
}

// delay is delayed_close_timeout, whose 0 is for the codec's negative.
func delay(cfg *config.HTTPConnectionManager) time.Duration {
	if cfg.DelayedCloseTimeout == 0 {
		return -1
	}
	return cfg.DelayedCloseTimeout
}

// limitOf is an optional limit as package h2 has it: its 0 is the default.
func limitOf(v *uint32) int {
	switch {
	case v == nil:
		return 0
	case *v == 0:
		return -1
	}
	return int(*v)
}

// Refuse answers a request that the codec could not read, so that it is logged
// and counted like the others (h1.Refuser).
func (cn *conn) Refuse(s codec.Sender, r h1.Refusal) codec.Receiver {
	st := cn.Request(s).(*stream)
	st.mu.Lock()
	defer st.unlock()
	st.requestEnd = true
	st.http.Request = message.NewHead()
	reply := filter.Reply{Status: r.Status, Body: r.Body, Details: r.Details}
	if r.Timeout {
		cn.m.stats.headerTimeout.Inc()
		st.closing = true
	} else {
		cn.m.stats.protocolError.Inc()
		reply.Flags = flow.DownstreamProtocolError
	}
	st.reply(reply)
	return st
}

// OnMistake answers what the codec could not read of the rest of a request, for
// the same reason (h1.Mistaken).
func (s *stream) OnMistake(r h1.Refusal) bool {
	s.lock()
	defer s.unlock()
	if s.over || s.begun {
		return false
	}
	s.requestEnd = true
	s.m.stats.protocolError.Inc()
	s.reply(filter.Reply{Status: r.Status, Body: r.Body, Details: r.Details, Flags: flow.DownstreamProtocolError})
	return true
}
