package h2

import (
	"strings"

	"outrider/proxy/http/message"
)

// beginBlock leaves room for the header of a HEADERS frame; mu is held, from
// here to endBlock.
func (c *conn) beginBlock() (start int) {
	b := c.buffer()
	start = len(b.b)
	b.b = append(b.b, make([]byte, frameHeaderSize)...)
	c.enc.begin()
	return start
}

// endBlock completes the frame, or the frames if one is too small.
func (c *conn) endBlock(start int, id uint32, end bool) {
	b := c.out
	f := frame{kind: frameHeaders, flags: flagEndHeaders, stream: id, length: len(b.b) - start - frameHeaderSize}
	if end {
		f.flags |= flagEndStream
	}
	if f.length <= maxFrame {
		appendFrame(b.b[:start], f)
		c.queued()
		return
	}
	rest := append([]byte(nil), b.b[start+frameHeaderSize:]...)
	b.b = b.b[:start]
	f.flags &^= flagEndHeaders
	for len(rest) > 0 {
		f.length = min(len(rest), maxFrame)
		if f.length == len(rest) {
			f.flags |= flagEndHeaders
		}
		b.b = appendFrame(b.b, f)
		b.b = append(b.b, rest[:f.length]...)
		c.queued()
		rest = rest[f.length:]
		f.kind, f.flags = frameContinuation, 0
	}
}

// put encodes one field of a block that is begun.
func (c *conn) put(name, value string) {
	c.out.b = c.enc.field(c.out.b, name, value, indexingOf(name, value))
}

// putField is put for a field of a message.
func (c *conn) putField(f *message.Field) {
	if f.Sensitive {
		c.out.b = c.enc.field(c.out.b, f.Name, f.Value, never)
		return
	}
	c.put(f.Name, f.Value)
}

// indexingOf keeps credentials out of tables, which tell others whose fields
// share them (RFC 7541, section 7.1), and fields that are likely to have another
// value in the next message: to keep those costs more than it saves. nghttp2,
// which Envoy uses, has a list of such names as well.
func indexingOf(name, value string) indexing {
	switch name {
	case "authorization", "proxy-authorization":
		return never
	case "x-request-id", "traceparent", "tracestate", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid",
		"content-length", "etag", "last-modified", "if-none-match", "if-modified-since", "location",
		"cookie", "set-cookie", "grpc-timeout", "age":
		return unindexed
	case ":path":
		if len(value) > 128 || strings.IndexByte(value, '?') >= 0 {
			return unindexed
		}
	}
	if len(name)+len(value) > 1024 {
		return unindexed
	}
	return indexed
}

// encodeHead writes a head; mu is held.
func (c *conn) encodeHead(s *stream, h *message.Head, end bool) {
	start := c.beginBlock()
	upgraded := s.upgrade != ""
	if h.Status != 0 {
		status := h.Status
		if upgraded && status == 101 {
			status = 200
		}
		c.put(":status", message.StatusText(status))
	} else {
		c.putRequest(s, h)
	}
	for i := range h.Fields {
		f := &h.Fields[i]
		if unwanted(f.Name, f.Value) || upgraded && f.Name == "content-length" && f.Value == "0" {
			continue
		}
		c.putField(f)
	}
	c.endBlock(start, s.id, end)
}

// putRequest writes the pseudo-headers of a request.
func (c *conn) putRequest(s *stream, h *message.Head) {
	method := h.Method
	if s.upgrade != "" {
		method = "CONNECT"
	}
	c.put(":method", method)
	if s.upgrade != "" {
		c.put(":protocol", s.upgrade)
	}
	if !s.connect {
		scheme, path := h.Scheme, h.Path
		if scheme == "" {
			scheme = "http"
		}
		if path == "" {
			path = "/"
		}
		c.put(":scheme", scheme)
		c.putField(&message.Field{Name: ":path", Value: path, Sensitive: h.PathSensitive})
	}
	if h.Authority != "" {
		c.put(":authority", h.Authority)
	}
}

// unwanted reports whether a field has no place in HTTP/2 (RFC 9113, section
// 8.2.2).
func unwanted(name, value string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host":
		return true
	case "te":
		return !strings.EqualFold(value, "trailers")
	}
	return name == "" || name[0] == ':'
}

// encodeTrailers writes the last block of a stream; mu is held. It is false,
// and nothing is written, if there is nothing to say.
func (c *conn) encodeTrailers(s *stream, t message.Fields) bool {
	some := false
	start := c.beginBlock()
	for i := range t {
		if !unwanted(t[i].Name, t[i].Value) {
			c.putField(&t[i])
			some = true
		}
	}
	if !some {
		c.out.b = c.out.b[:start]
		return false
	}
	c.endBlock(start, s.id, true)
	return true
}
