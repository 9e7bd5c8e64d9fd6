package h2

import (
	"strings"

	"golang.org/x/net/http2/hpack"

	"outrider/proxy/http/message"
)

// encoded is where the encoder puts its bytes: the connection's buffer.
type encoded struct{ c *conn }

func (e encoded) Write(p []byte) (int, error) {
	b := e.c.out // taken by beginBlock
	b.b = append(b.b, p...)
	return len(p), nil
}

// beginBlock leaves room for the header of a HEADERS frame; mu is held, from
// here to endBlock.
func (c *conn) beginBlock() (start int) {
	b := c.buffer()
	start = len(b.b)
	b.b = append(b.b, make([]byte, frameHeaderSize)...)
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
	if c.encodeFirst || !changing(name, value) {
		c.encodeFirst = false
		c.enc.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: name == "authorization"}) //nolint:errcheck // encoded does not fail
		return
	}
	b := c.out
	if name == ":path" {
		b.b = append(b.b, staticPath)
	} else {
		b.b = append(b.b, 0)
		b.b = appendString(b.b, name)
	}
	b.b = appendString(b.b, value)
}

// staticPath is the index of :path in HPACK's static table, as a literal
// without indexing.
const staticPath = 4

// changing reports whether a field is likely to have another value in the next
// message: to keep it in the table costs more than it saves. nghttp2, which
// Envoy uses, has a list of such names as well.
func changing(name, value string) bool {
	switch name {
	case "x-request-id", "traceparent", "tracestate", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid",
		"content-length", "etag", "last-modified", "if-none-match", "if-modified-since", "location",
		"cookie", "set-cookie", "grpc-timeout", "age":
		return true
	case ":path":
		return len(value) > 128 || strings.IndexByte(value, '?') >= 0
	}
	return len(name)+len(value) > 1024
}

// appendString appends a string without Huffman coding (RFC 7541, section 5.2).
func appendString(b []byte, s string) []byte {
	n := len(s)
	if n < 127 {
		b = append(b, byte(n))
	} else {
		b = append(b, 127)
		for n -= 127; n >= 128; n >>= 7 {
			b = append(b, byte(0x80|n&0x7f))
		}
		b = append(b, byte(n))
	}
	return append(b, s...)
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
		c.put(f.Name, f.Value)
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
		c.put(":path", path)
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
			c.put(t[i].Name, t[i].Value)
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
