package cel

import (
	"strings"
	"time"

	"outrider/proxy/http/message"
)

// ofHead is an attribute of the request's head; there is none of it where it is
// not to be seen.
func ofHead(show func(h *message.Head) (string, bool)) getter {
	return func(s *Subject) (any, bool) {
		if s.Request == nil {
			return nil, false
		}
		return show(s.Request)
	}
}

func header(name string) getter {
	return ofHead(func(h *message.Head) (string, bool) { return h.Get(name) })
}

// requestAttributes are request.*.
func requestAttributes() map[string]getter {
	return map[string]getter{
		"path":      header(":path"),
		"host":      header(":authority"),
		"scheme":    header(":scheme"),
		"method":    header(":method"),
		"referer":   header("referer"),
		"id":        header("x-request-id"),
		"useragent": header("user-agent"),
		"url_path": ofHead(func(h *message.Head) (string, bool) {
			path, _, _ := strings.Cut(h.Path, "?")
			return path, true
		}),
		"query": ofHead(func(h *message.Head) (string, bool) {
			_, query, _ := strings.Cut(h.Path, "?")
			query, _, _ = strings.Cut(query, "#")
			return query, true
		}),
		"headers":       func(s *Subject) (any, bool) { return headers{head: s.Request}, true },
		"headers_bytes": func(s *Subject) (any, bool) { return headBytes(s, false), true },
		"time":          func(s *Subject) (any, bool) { return s.Info.Start, true },
		"size": func(s *Subject) (any, bool) {
			if s.Request != nil {
				if text, ok := s.Request.Get("content-length"); ok {
					return atoi(text)
				}
			}
			return int64(s.Info.Received.Load()), true
		},
		"total_size": func(s *Subject) (any, bool) {
			return int64(s.Info.Received.Load()) + headBytes(s, false), true
		},
		"duration": func(s *Subject) (any, bool) {
			end := s.Info.End
			if end.IsZero() {
				end = time.Now()
			}
			return end.Sub(s.Info.Start), true
		},
		"protocol": func(s *Subject) (any, bool) {
			if s.Info.HTTP == nil {
				return nil, false
			}
			return present(s.Info.HTTP.Protocol.String())
		},
	}
}

// headBytes are those of a head: 0 where it is not to be seen.
func headBytes(s *Subject, response bool) int64 {
	switch {
	case s.Info.HTTP == nil:
		return 0
	case response && s.Response != nil:
		return int64(s.Info.HTTP.ResponseHeadBytes)
	case !response && s.Request != nil:
		return int64(s.Info.HTTP.RequestHeadBytes)
	}
	return 0
}

// responseAttributes are response.*.
func responseAttributes() map[string]getter {
	return map[string]getter{
		"code": func(s *Subject) (any, bool) {
			if s.Info.HTTP == nil || s.Info.HTTP.Status == 0 {
				return nil, false
			}
			return int64(s.Info.HTTP.Status), true
		},
		"code_details": func(s *Subject) (any, bool) {
			if s.Info.HTTP == nil {
				return nil, false
			}
			return present(s.Info.HTTP.Details)
		},
		"flags":         func(s *Subject) (any, bool) { return s.Info.Flags.Bits(), true },
		"headers":       func(s *Subject) (any, bool) { return headers{head: s.Response}, true },
		"headers_bytes": func(s *Subject) (any, bool) { return headBytes(s, true), true },
		"trailers": func(s *Subject) (any, bool) {
			if s.Info.HTTP == nil || s.Response == nil {
				return headers{}, true
			}
			return headers{fields: s.Info.HTTP.ResponseTrailers}, true
		},
		"size": func(s *Subject) (any, bool) { return int64(s.Info.Sent.Load()), true },
		"total_size": func(s *Subject) (any, bool) {
			return int64(s.Info.Sent.Load()) + headBytes(s, true), true
		},
		"grpc_status": func(s *Subject) (any, bool) {
			if s.Info.HTTP == nil {
				return nil, false
			}
			return s.Info.HTTP.OwnGRPCStatus()
		},
		"backend_latency": func(s *Subject) (any, bool) {
			h := s.Info.HTTP
			if h == nil || h.LastUpstreamRx.IsZero() || h.FirstUpstreamTx.IsZero() {
				return nil, false
			}
			return h.LastUpstreamRx.Sub(h.FirstUpstreamTx), true
		},
	}
}

// headers are header fields by name, several of one name joined by commas.
type headers struct {
	head   *message.Head // with its pseudo-headers; or
	fields message.Fields
}

func (h headers) get(name string) (any, bool) {
	name = strings.ToLower(name)
	if h.head == nil {
		return joined(h.fields, name)
	}
	if strings.HasPrefix(name, ":") {
		return h.head.Get(name)
	}
	if name == "host" {
		name = ":authority"
		return h.head.Get(name)
	}
	return joined(h.head.Fields, name)
}

func joined(f message.Fields, name string) (any, bool) {
	v, ok := f.Joined(name)
	return v, ok
}

func (h headers) size() int {
	if h.head == nil {
		return len(h.fields)
	}
	return len(h.head.Fields)
}
