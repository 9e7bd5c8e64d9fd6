package hcm

import (
	"fmt"
	"strconv"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/codec"
	"outrider/proxy/http/edit"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
)

// reply answers the request in the upstream's place. Once an answer has begun
// the request can only be reset.
func (s *stream) reply(r filter.Reply) {
	if s.over {
		return
	}
	s.info.Flags.Set(r.Flags)
	s.closing = s.closing || r.Status == 413 // there is more to come, which nobody wants
	s.http.Details = strings.ReplaceAll(r.Details, " ", "_")
	if s.begun {
		s.m.stats.cutOff()
		s.down.Reset(codec.InternalError)
		s.finish()
		return
	}
	s.router.abandon()
	s.answered = true
	s.http.LocalReply = true
	s.m.replies.change(s, &r)
	h, body := s.replyHead(r)
	if s.found != nil {
		if rt := s.found.Route; rt != nil && (rt.Action != nil || r.Details == "direct_response") { // else only the router's own answer has them
			s.found.RewriteResponse(h, s.info)
		}
		if v := s.found.VirtualHost; v != nil && v.AttemptsInReply && s.router.answering {
			h.Fields.Set("x-envoy-attempt-count", strconv.Itoa(s.router.number))
		}
	}
	s.http.Response.Release()
	s.http.Response = h
	s.http.ResponseTrailers = nil
	end := len(body) == 0
	if s.replying { // a filter has refused our own answer
		s.links = s.links[:0]
	}
	s.replying = true
	w := s.responses()
	w.head(0, end)
	if !end && !s.over {
		w.data(0, []byte(body), true)
	}
	s.drop()
}

// replyHead is the head and the body of an answer; for gRPC all is in the head.
func (s *stream) replyHead(r filter.Reply) (*message.Head, string) {
	h := message.NewHead()
	h.Status = r.Status
	req := s.http.Request
	if req != nil && isGRPC(req) && !grpcExcluded(r) {
		h.Status = 200
		h.Fields.Add("content-type", "application/grpc")
		code := grpcStatus(r.Status)
		if r.GRPC != nil {
			code = *r.GRPC
		}
		h.Fields.Add("grpc-status", strconv.Itoa(int(code)))
		if r.Body != "" {
			h.Fields.Add("grpc-message", escapeGRPC(r.Body))
		}
		h.Fields = append(h.Fields, r.Fields...)
		return h, ""
	}
	h.Fields = append(h.Fields, r.Fields...)
	if r.Body != "" {
		h.Fields.Set("content-length", contentLength(len(r.Body)))
		if !h.Fields.Has("content-type") {
			h.Fields.Add("content-type", "text/plain")
		}
	}
	if req != nil && req.Method == "HEAD" {
		return h, ""
	}
	return h, r.Body
}

// grpcExcluded are answers that stay HTTP: what the client's HTTP did wrong.
func grpcExcluded(r filter.Reply) bool { return r.Status >= 300 && r.Status < 400 }

// isGRPC reports whether a request is gRPC: by its content type, which has a
// message format or nothing after it, and as in Envoy no parameters.
func isGRPC(h *message.Head) bool {
	ct, _ := h.Fields.Get("content-type")
	const base = "application/grpc"
	return strings.HasPrefix(ct, base) && (len(ct) == len(base) || ct[len(base)] == '+')
}

// grpcStatus is the gRPC status of an HTTP status (gRPC's
// http-grpc-status-mapping, in which 200 is not).
func grpcStatus(code int) uint32 {
	switch code {
	case 400:
		return 13 // INTERNAL
	case 401:
		return 16 // UNAUTHENTICATED
	case 403:
		return 7 // PERMISSION_DENIED
	case 404:
		return 12 // UNIMPLEMENTED
	case 429, 502, 503, 504:
		return 14 // UNAVAILABLE
	}
	return 2 // UNKNOWN
}

// escapeGRPC is grpc-message's percent-encoding.
func escapeGRPC(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' || r == '%' }) {
		return text
	}
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
			continue
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// upgradeRefused answers a request for an upgrade that is not allowed.
func (s *stream) upgradeRefused() {
	s.m.stats.upgradeRefused.Inc()
	s.reply(filter.Reply{Status: 403, Details: "upgrade_failed"})
}

// tooLarge ends a request whose filter wanted more of a message than may be
// kept.
func (s *stream) tooLarge(response bool) {
	if response {
		s.m.stats.responseTooLarge.Inc()
		s.reply(filter.Reply{Status: 500, Body: "Internal Server Error", Details: "response_payload_too_large"})
		return
	}
	s.m.stats.tooLarge.Inc()
	s.reply(filter.Reply{Status: 413, Body: "Payload Too Large", Details: "request_payload_too_large"})
}

// upgradeAllowed reports whether the manager, or the route in its place,
// allows an upgrade.
func (s *stream) upgradeAllowed() bool {
	if s.found != nil && s.found.Route != nil && s.found.Route.Action != nil {
		for _, u := range s.found.Route.Action.Upgrades {
			if u.Type == s.upgrade {
				return u.Enabled
			}
		}
	}
	for _, u := range s.m.cfg.Upgrades {
		if u.Type == s.upgrade {
			return u.Enabled
		}
	}
	return false
}

// localReplies is local_reply_config, compiled.
type localReplies struct {
	mappers []replyMapper
	body    *bodyFormat
}

type replyMapper struct {
	cfg   config.LocalReplyMapper
	takes func(*flow.Info) bool
	body  *bodyFormat
	ops   []edit.Add
}

type bodyFormat struct {
	text        func(*flow.Info) string
	contentType string
}

func newLocalReplies(cfg *config.LocalReplyConfig, d Deps) (*localReplies, error) {
	out := &localReplies{}
	if cfg == nil {
		return out, nil
	}
	var err error
	if out.body, err = newBodyFormat(cfg.Body, d); err != nil {
		return nil, fmt.Errorf("local_reply_config.body_format: %w", err)
	}
	for i, m := range cfg.Mappers {
		one := replyMapper{cfg: m}
		if one.takes, err = d.LogFilter(m.Filter); err == nil {
			one.body, err = newBodyFormat(m.Format, d)
		}
		if err == nil {
			one.ops, err = edit.CompileAdds(m.Headers, d.Format)
		}
		if err != nil {
			return nil, fmt.Errorf("local_reply_config.mappers[%d]: %w", i, err)
		}
		out.mappers = append(out.mappers, one)
	}
	return out, nil
}

func newBodyFormat(cfg *config.BodyFormat, d Deps) (*bodyFormat, error) {
	if cfg == nil {
		return nil, nil
	}
	text, err := d.BodyFormat(cfg.Log)
	if err != nil {
		return nil, err
	}
	out := &bodyFormat{text: text, contentType: cfg.ContentType}
	if out.contentType == "" {
		out.contentType = "text/plain"
		if cfg.Log.JSON != nil {
			out.contentType = "application/json"
		}
	}
	return out, nil
}

// bodies are the body_formats of direct responses, each compiled once.
type bodies struct {
	made filter.Attached[config.BodyFormat, compiledBody]
}

type compiledBody struct {
	text        func(*flow.Info) string
	contentType string
	err         error
}

func (b *bodies) of(cfg *config.BodyFormat, d Deps) (compiledBody, error) {
	c := b.made.Of(cfg, func() compiledBody {
		f, err := newBodyFormat(cfg, d)
		if err != nil {
			return compiledBody{err: err}
		}
		return compiledBody{text: f.text, contentType: f.contentType}
	})
	return c, c.err
}

// change applies the first mapper that takes the answer, then the format.
func (l *localReplies) change(s *stream, r *filter.Reply) {
	s.http.Status = r.Status
	s.http.LocalReplyBody = r.Body
	body := l.body
	for i := range l.mappers {
		m := &l.mappers[i]
		if !m.takes(s.info) {
			continue
		}
		for i := range m.ops {
			m.ops[i].ApplyFields(&r.Fields, s.info)
		}
		if m.cfg.Status != 0 {
			r.Status = int(m.cfg.Status)
			s.http.Status = r.Status
		}
		if m.cfg.Body != nil {
			r.Body = *m.cfg.Body
			s.http.LocalReplyBody = r.Body
		}
		if m.body != nil {
			body = m.body
		}
		break
	}
	if body != nil {
		r.Body = body.text(s.info)
		r.Fields.Set("content-type", body.contentType)
	}
}
