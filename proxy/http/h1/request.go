package h1

import (
	"bytes"
	"strings"

	"outrider/proxy/http/message"
)

// requestLine is where the parts of a request's first line are.
type requestLine struct {
	method       int // ends
	target, last int // begins, ends
	version      string
	connect      bool
}

// parse takes the line apart. Versions that are not 1.1 are HTTP/1.0, as for
// Envoy; a line without one is HTTP/0.9.
func (l *requestLine) parse(line []byte) *mistake {
	*l = requestLine{}
	l.method = bytes.IndexByte(line, ' ')
	if l.method < 0 {
		return bad("not a request: %q", excerpt(line))
	}
	method := line[:l.method]
	if !methods[string(method)] {
		return bad("unknown method: %q", excerpt(line))
	}
	l.connect = string(method) == "CONNECT"
	l.target = l.method + 1
	l.last = len(line)
	l.version = "0.9"
	if i := bytes.IndexByte(line[l.target:], ' '); i >= 0 {
		l.last = l.target + i
		if l.version = version(line[l.last+1:]); l.version == "" {
			return badFirst(line, "bad version")
		}
	}
	return l.checkTarget(line[l.target:l.last])
}

// checkTarget refuses what is neither a path nor a URL nor, for CONNECT, an
// authority.
func (l *requestLine) checkTarget(target []byte) *mistake {
	for _, c := range target {
		if !pathChars[c] {
			return badFirst(target, "a character that may not be in a target")
		}
	}
	switch {
	case len(target) == 0:
		return bad("no target")
	case target[0] == '/', target[0] == '*', l.connect:
		return nil
	}
	i := bytes.Index(target, []byte("://"))
	if i <= 0 || !alphabetic(target[:i]) {
		return bad("target %q", excerpt(target))
	}
	return nil
}

func alphabetic(s []byte) bool {
	for _, c := range s {
		if c |= 0x20; c < 'a' || c > 'z' {
			return false
		}
	}
	return true
}

// badFirst is a mistake in the first line, which Envoy tells from others by
// its control characters.
func badFirst(line []byte, what string) *mistake {
	m := bad("%s: %q", what, excerpt(line))
	for _, c := range line {
		if c < 0x20 && c != '\t' || c == 0x7f {
			m.details = detailChars
			break
		}
	}
	return m
}

// version is "1.1" of HTTP/1.1; "" of what is none.
func version(b []byte) string {
	switch {
	case string(b) == "HTTP/1.1":
		return "1.1"
	case string(b) == "HTTP/1.0":
		return "1.0"
	case len(b) == 8 && string(b[:5]) == "HTTP/" && digit(b[5]) && b[6] == '.' && digit(b[7]):
		return string(b[5:])
	}
	return ""
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// request is what a server knows of a request's head.
type request struct {
	head *message.Head
	body bodyKind
	left int64 // of a body by length
	// close: the connection ends after the response. upgrade: what follows a
	// 101 is raw.
	close, upgrade bool
}

// readRequest reads a head.
func (c *conn) readRequest() (request, error) {
	b := newBlock(c.o, false)
	defer b.release()
	b.timeout = c.o.HeadTimeout
	var line requestLine
	err := c.readBlock(b, line.parse)
	c.unlimitHead()
	if err != nil {
		return request{}, err
	}
	text := string(c.in.data()[:b.at])
	c.in.start += b.at
	r := request{head: message.NewHead()}
	h := r.head
	h.Method, h.Path = text[:line.method], text[line.target:line.last]
	h.Minor10 = line.version != "1.1"
	var f framing
	h.Fields, f = b.fields(text, h.Fields, true)
	h.Authority = f.host
	if m := r.check(c.o, line, f); m != nil {
		h.Release()
		return request{}, m
	}
	return r, nil
}

// check refuses a head that cannot be understood in one way only, and finds out
// what follows it.
func (r *request) check(o *Options, line requestLine, f framing) *mistake {
	h := r.head
	chunked, m := f.checkLengths(o)
	if m != nil {
		return m
	}
	if h.Minor10 && chunked && o.AcceptHTTP10 {
		return refused(400, detailEncoding, "transfer-encoding in HTTP/1.0")
	}
	if f.hosts > 1 {
		return bad("%d Host fields", f.hosts)
	}
	r.close = !f.keepsAlive(h.Minor10)
	r.setBody(chunked, f)
	if chunked && f.lengths > 0 {
		h.Fields.Del("content-length")
	}
	if m := r.connectionOptions(f); m != nil {
		return m
	}
	if m := r.target(o, line.connect, f); m != nil {
		return m
	}
	if !all(hostChars, h.Authority) {
		return refused(400, detailAuthority, "host %q", excerpt([]byte(h.Authority)))
	}
	if h.Minor10 && (!o.AcceptHTTP10 || line.version != "1.0") {
		return refused(426, detailVersion, "HTTP/%s", line.version)
	}
	if h.Authority == "" && h.Minor10 {
		h.Authority = o.DefaultHost
	}
	return nil
}

func (r *request) setBody(chunked bool, f framing) {
	switch {
	case chunked:
		r.body = bodyChunked
	case f.length > 0:
		r.body, r.left = bodyLength, f.length
	}
}

// connectionOptions deals with Connection and Upgrade.
func (r *request) connectionOptions(f framing) *mistake {
	h := r.head
	if h.Method == "CONNECT" {
		return r.asTunnel(f)
	}
	if f.connection == "" {
		return nil
	}
	if f.upgrade != "" && hasToken(f.connection, "upgrade") {
		// A message with a body has to be read first, so it is not upgraded
		// (RFC 9110, section 7.8: an upgrade may be ignored).
		if r.body == bodyNone && !h.Minor10 && !equalFold(f.upgrade, "h2c") {
			r.upgrade = true
			return nil
		}
		dropUpgrade(h, f.connection)
		f.connection, _ = h.Fields.Joined("connection")
	}
	return sanitizeConnection(h, f.connection)
}

// asTunnel is for CONNECT, which has no body but what follows.
func (r *request) asTunnel(f framing) *mistake {
	switch r.body {
	case bodyChunked:
		return refused(501, detailEncoding, "transfer-encoding with CONNECT")
	case bodyLength:
		return refused(400, detailBody, "content-length with CONNECT")
	case bodyNone, bodyRaw, bodyClose:
	}
	if f.lengths > 0 {
		r.head.Fields.Del("content-length")
	}
	r.body = bodyRaw
	return nil
}

// target makes authority and path of the request's target.
func (r *request) target(o *Options, connect bool, f framing) *mistake {
	h := r.head
	target := h.Path
	switch {
	case connect:
		if !hostPort(target, true) {
			return refused(400, detailURL, "CONNECT to %q", excerpt([]byte(target)))
		}
		h.Authority, h.Path = target, ""
		return nil
	case target[0] == '/', o.NoAbsoluteURL:
		return nil
	case target[0] == '*':
		if target != "*" || h.Method != "OPTIONS" {
			return refused(400, detailURL, "target %q", excerpt([]byte(target)))
		}
		return nil
	}
	return absoluteURL(h, target)
}

// absoluteURL takes authority and path from a URL; Host does not count then
// (RFC 9112, section 3.2.2).
func absoluteURL(h *message.Head, url string) *mistake {
	scheme, rest, _ := strings.Cut(url, "://")
	switch {
	case equalFold(scheme, "http"):
		h.Scheme = "http"
	case equalFold(scheme, "https"):
		h.Scheme = "https"
	default:
		return refused(400, detailScheme, "scheme %q", excerpt([]byte(scheme)))
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	host := rest[:end]
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	if !hostPort(host, false) {
		return refused(400, detailURL, "authority %q", excerpt([]byte(host)))
	}
	h.Authority, h.Path = host, rest[end:]
	if h.Path == "" {
		h.Path = "/"
	}
	return nil
}

// hostPort reports whether s is a host with, if demanded, a port.
func hostPort(s string, demanded bool) bool {
	host, port, has := s, "", false
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		host, port, has = s[:i], s[i+1:], true
	}
	if host == "" || !all(hostChars, host) || demanded && !has {
		return false
	}
	n := decimal(port)
	return !has || n >= 0 && n <= 65535 && len(port) <= 5
}
