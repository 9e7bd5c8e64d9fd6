package h1

import (
	"strconv"

	"outrider/proxy/http/message"
)

// sendRequest puts a request's head into the buffer; mu is held.
func (s *stream) sendRequest(h *message.Head, end bool) {
	c := s.c
	s.headSent = true
	s.head = h.Method == "HEAD"
	s.connect = h.Method == "CONNECT"
	_, hasLength := length(h.Fields)
	s.upgrade = !s.connect && !hasLength && asksUpgrade(h)
	s.close = hasToken(h.Fields.Value("connection"), "close")
	s.kind, s.left = s.requestBody(h, end)
	q := &c.out
	q.text(h.Method)
	q.text(" ")
	switch {
	case s.connect:
		c.target(h.Authority)
	case c.o.SendFullyQualifiedURL && h.Path != "*":
		scheme := h.Scheme
		if scheme == "" {
			scheme = "http"
		}
		q.text(scheme)
		q.text("://")
		c.target(h.Authority)
		c.target(h.Path)
	default:
		c.target(h.Path)
	}
	q.text(" HTTP/1.1\r\n")
	c.field("host", h.Authority)
	c.fields(h.Fields, s.kind)
	switch {
	case s.kind == bodyChunked:
		c.field("transfer-encoding", "chunked")
	case end && s.kind == bodyNone && hasUsuallyBody(h.Method) && !h.Fields.Has("content-length"):
		c.field("content-length", "0")
	}
	q.text("\r\n")
	if end {
		s.finishBody(nil)
	}
}

// asksUpgrade reports whether a request asks for another protocol.
func asksUpgrade(h *message.Head) bool {
	up, ok := h.Fields.Get("upgrade")
	return ok && up != "" && hasToken(h.Fields.Value("connection"), "upgrade")
}

// hasUsuallyBody is of methods for which Envoy says that there is no body.
func hasUsuallyBody(method string) bool {
	switch method {
	case "GET", "HEAD", "DELETE", "TRACE", "CONNECT":
		return false
	}
	return true
}

// requestBody is how a request's body is sent.
func (s *stream) requestBody(h *message.Head, end bool) (bodyKind, int64) {
	if s.connect || s.upgrade {
		return bodyRaw, 0
	}
	if n, ok := length(h.Fields); ok {
		return bodyLength, n
	}
	if end {
		return bodyNone, 0
	}
	return bodyChunked, 0
}

// length is the content-length, if there is one that is right.
func length(f message.Fields) (int64, bool) {
	v, ok := f.Get("content-length")
	if !ok {
		return 0, false
	}
	n := decimal(v)
	return n, n >= 0
}

// sendResponse puts a response's head into the buffer; mu is held.
func (s *stream) sendResponse(h *message.Head, end bool) {
	c := s.c
	s.headSent = true
	s.status = h.Status
	connection := h.Fields.Value("connection")
	// After a tunnel that was refused, what comes may be meant for the tunnel;
	// after one that nobody asked for, too.
	refused := (s.upgrade || s.connect) && !s.tunnel() || h.Status == 101 && !s.upgrade
	if c.draining || refused || hasToken(connection, "close") {
		s.close = true
	}
	tunnel := s.tunnel()
	if s.kind, s.left = s.responseBody(h, end); s.kind == bodyClose {
		s.close = true
	}
	c.status(h.Status, s.minor10)
	q := &c.out
	c.fieldsBut(h.Fields, s.kind, s.close && !tunnel)
	switch {
	case tunnel:
	case s.close:
		c.field("connection", "close")
	case s.minor10 && connection == "":
		c.field("connection", "keep-alive")
	}
	switch {
	case tunnel || h.Fields.Has("content-length") && s.kind != bodyChunked:
	case s.kind == bodyChunked, s.head && !s.minor10 && h.Status != 204 && h.Status != 304:
		c.field("transfer-encoding", "chunked")
	case end && !s.head && h.Status != 204 && h.Status != 304:
		c.field("content-length", "0")
	}
	q.text("\r\n")
	c.wakeReader() // which waits for what becomes of an upgrade
	if end {
		s.finishBody(nil)
	}
}

// tunnel reports whether what follows the response is raw; mu is held.
func (s *stream) tunnel() bool {
	return s.upgrade && s.status == 101 || s.connect && s.status >= 200 && s.status < 300
}

// responseBody is how a response's body is sent.
func (s *stream) responseBody(h *message.Head, end bool) (bodyKind, int64) {
	switch {
	case s.tunnel():
		return bodyRaw, 0
	case s.head, h.Status == 204, h.Status == 304, h.Status == 101:
		return bodyNone, 0
	}
	if n, ok := length(h.Fields); ok {
		return bodyLength, n
	}
	switch {
	case end:
		return bodyNone, 0
	case s.minor10:
		return bodyClose, 0
	}
	return bodyChunked, 0
}

// informational puts a 1xx response into the buffer; mu is held. Clients of
// HTTP/1.0 know none.
func (c *conn) informational(s *stream, h *message.Head) {
	if s.minor10 {
		return
	}
	c.status(h.Status, false)
	c.fields(h.Fields, bodyRaw)
	c.out.text("\r\n")
}

// status puts the first line of a response into the buffer.
func (c *conn) status(code int, minor10 bool) {
	version := "HTTP/1.1 "
	if minor10 {
		version = "HTTP/1.0 "
	}
	c.out.text(version)
	c.out.text(message.StatusText(code))
	c.out.text(" ")
	c.out.text(phrase(code))
	c.out.text("\r\n")
}

// fields puts header fields into the buffer, without those that frame the
// message in another way than kind.
func (c *conn) fields(f message.Fields, kind bodyKind) { c.fieldsBut(f, kind, false) }

// fieldsBut is fields without Connection, if so demanded.
func (c *conn) fieldsBut(f message.Fields, kind bodyKind, noConnection bool) {
	lengths := 0
	for i := range f {
		switch name := f[i].Name; {
		case name == "transfer-encoding", name == "host", name == "" || name[0] == ':':
			continue
		case name == "connection" && noConnection:
			continue
		case name == "content-length":
			if lengths++; lengths > 1 || kind > bodyLength || decimal(f[i].Value) < 0 {
				continue
			}
		}
		c.field(f[i].Name, f[i].Value)
	}
}

// field puts one field into the buffer. A name that is none is left out; a
// character that would end the value becomes a space (RFC 9110, section 5.5).
func (c *conn) field(name, value string) {
	for i := range len(name) {
		if tokenChars[name[i]] == 0 {
			c.o.Log.Debug("header field left out", "name", name)
			return
		}
	}
	if c.o.ProperCaseHeaders {
		name = properCase(name)
	}
	b := c.out.room(len(name) + len(value) + len(": \r\n"))
	n := copy(b, name)
	n += copy(b[n:], ": ")
	v := b[n : n+copy(b[n:], value)]
	if !validValue(v) {
		for i := range v {
			if !valueChars[v[i]] {
				v[i] = ' '
			}
		}
	}
	copy(b[n+len(v):], "\r\n")
	c.out.fill(b)
}

// target puts a part of a request's target into the buffer. What would end it
// is written as %20 and so on.
func (c *conn) target(s string) {
	clean := true
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			clean = false
			break
		}
	}
	if clean {
		c.out.text(s)
		return
	}
	const hex = "0123456789ABCDEF"
	b := make([]byte, 0, len(s)+32)
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			b = append(b, '%', hex[s[i]>>4], hex[s[i]&15])
			continue
		}
		b = append(b, s[i])
	}
	c.out.add(b)
}

// properCase is Content-Type of content-type.
func properCase(name string) string {
	b := []byte(name)
	up := true
	for i, c := range b {
		letter := c >= 'a' && c <= 'z'
		if up && letter {
			b[i] = c - 'a' + 'A'
		}
		up = !letter && !digit(c) && (c < 'A' || c > 'Z')
	}
	return string(b)
}

// encodeData puts a part of the body into the buffer; mu is held. What is more
// than the length that was said is dropped, and so is the body of a message
// that has none.
func (s *stream) encodeData(p []byte) {
	q := &s.c.out
	if len(p) == 0 {
		return
	}
	switch s.kind {
	case bodyChunked:
		var line [18]byte
		q.add(append(strconv.AppendInt(line[:0], int64(len(p)), 16), '\r', '\n'))
		q.add(p)
		q.text("\r\n")
	case bodyLength:
		if int64(len(p)) > s.left {
			s.c.o.Log.Debug("body is longer than its content-length", "bytes", int64(len(p))-s.left)
			p, s.close = p[:s.left], true
		}
		s.left -= int64(len(p))
		q.add(p)
	case bodyClose:
		q.add(p)
	case bodyRaw:
		if s.agreed() {
			q.add(p)
			return
		}
		s.held = append(s.held, p...)
	case bodyNone:
	}
}

// agreed reports whether raw bytes may be sent: a server's answer was that they
// may, a client has to wait for that.
func (s *stream) agreed() bool { return s.c.server || s.connect || s.status == 101 }

// finishBody ends the message; mu is held. One that is shorter than it said
// ends the connection, for the peer would wait for the rest.
func (s *stream) finishBody(t message.Fields) {
	c := s.c
	s.ended = true
	switch s.kind {
	case bodyChunked:
		c.out.text("0\r\n")
		if c.o.EnableTrailers {
			c.trailers(t)
		}
		c.out.text("\r\n")
	case bodyLength:
		if s.left > 0 && !s.head {
			c.o.Log.Debug("body is shorter than its content-length", "bytes", s.left)
			c.abort()
			return
		}
	case bodyRaw:
		if !s.agreed() {
			return // the end is held as well
		}
		c.halfClose = true
	case bodyNone, bodyClose:
	}
	s.localDone = true
	c.settle(s)
}

// trailers puts trailers into the buffer, without those that would be taken for
// the message's head.
func (c *conn) trailers(t message.Fields) {
	for i := range t {
		switch t[i].Name {
		case "transfer-encoding", "content-length", "host", "connection", "trailer":
			continue
		}
		if t[i].Name != "" && t[i].Name[0] != ':' {
			c.field(t[i].Name, t[i].Value)
		}
	}
}

// abort ends the connection after what is in the buffer; mu is held.
func (c *conn) abort() {
	c.draining = true
	c.stopLocked(errShort)
}
