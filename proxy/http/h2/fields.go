package h2

import (
	"strconv"
	"strings"

	"outrider/proxy/http/message"
)

// refuse notes the first mistake.
func (b *block) refuse(detail, what string) {
	if b.bad == "" {
		b.bad, b.what = detail, what
	}
}

// field is called for each field of the block. fine says that its characters
// were looked at before; it is true if they are good.
func (b *block) field(name, value string, fine bool) bool {
	if b.section == discarded || b.bad != "" || b.over {
		return fine
	}
	b.size += len(name) + len(value)
	b.count++
	if b.size > b.conn.o.MaxHeaderBytes || b.count > b.conn.o.MaxHeaders {
		b.over = true
		return fine
	}
	if !fine && !all(value, inValue) {
		b.refuse(detailHeader, "the value of "+strconv.Quote(name)+" has a character that is not allowed")
		return false
	}
	if strings.HasPrefix(name, ":") {
		b.pseudo(name, value)
		if b.conn.dec.never && name == ":path" && b.head != nil {
			b.head.PathSensitive = true
		}
		return true
	}
	if !fine && !validName(name) {
		b.refuse(detailHeader, "the name "+strconv.Quote(name)+" is not allowed")
		return false
	}
	b.regular = true
	b.plain(name, trimmed(value))
	return true
}

// plain takes a field that is no pseudo-header.
func (b *block) plain(name, value string) {
	fields := &b.fields
	if b.head != nil {
		fields = &b.head.Fields
	}
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		b.refuse(detailHeader, name+" is not of HTTP/2")
		return
	case "te":
		if !strings.EqualFold(value, "trailers") {
			b.refuse(detailHeader, "te is "+strconv.Quote(value))
			return
		}
	case "content-length":
		if !b.contentLength(value) {
			return
		}
	case "host":
		if b.section == requestHead {
			b.takeHost(value)
			return
		}
	case "cookie":
		if b.joinCookie(fields, value) {
			return
		}
	}
	*fields = append(*fields, message.Field{Name: name, Value: value, Sensitive: b.conn.dec.never})
}

// contentLength takes the field, and reports whether it is to be kept.
func (b *block) contentLength(value string) bool {
	n, err := strconv.ParseUint(value, 10, 63)
	if err != nil || value[0] == '+' {
		b.refuse(detailHeader, "content-length is "+strconv.Quote(value))
		return false
	}
	if b.declared >= 0 {
		b.refuse(detailHeader, "content-length is there twice")
		return false
	}
	b.declared = int64(n)
	return true
}

// takeHost keeps host for a request without :authority, which wins otherwise.
func (b *block) takeHost(value string) {
	if b.host != "" || !validAuthority(value) {
		b.refuse(detailHeader, "host is "+strconv.Quote(value))
		return
	}
	b.host = value
}

// joinCookie appends a crumb to the cookie that is there (RFC 9113, section
// 8.2.3).
func (b *block) joinCookie(fields *message.Fields, value string) bool {
	if b.cookie == 0 {
		b.cookie = len(*fields) + 1
		return false
	}
	c := &(*fields)[b.cookie-1]
	c.Sensitive = c.Sensitive || b.conn.dec.never
	switch {
	case c.Value == "":
		c.Value = value
	case value != "":
		c.Value += "; " + value
	}
	return true
}

// pseudo takes a pseudo-header.
func (b *block) pseudo(name, value string) {
	bit, into := b.pseudoOf(name)
	switch {
	case b.regular:
		b.refuse(detailHeader, name+" after other fields")
	case bit == 0:
		b.refuse(detailHeader, name+" is not allowed here")
	case b.seen&bit != 0:
		b.refuse(detailHeader, name+" is there twice")
	case bit == seenStatus:
		b.status(value)
	default:
		*into = value
	}
	b.seen |= bit
}

// pseudoOf is where a pseudo-header goes; 0 if it has no place in the section.
func (b *block) pseudoOf(name string) (uint8, *string) {
	if b.section == responseHead && name == ":status" {
		return seenStatus, nil
	}
	if b.section != requestHead {
		return 0, nil
	}
	switch name {
	case ":method":
		return seenMethod, &b.head.Method
	case ":scheme":
		return seenScheme, &b.head.Scheme
	case ":authority":
		return seenAuthority, &b.head.Authority
	case ":path":
		return seenPath, &b.head.Path
	case ":protocol":
		if b.conn.o.AllowConnect {
			return seenProtocol, &b.protocol
		}
	}
	return 0, nil
}

func (b *block) status(value string) {
	n, err := strconv.Atoi(value)
	if err != nil || len(value) != 3 || n < 100 || n == 101 {
		b.refuse(detailHeader, ":status is "+strconv.Quote(value))
		return
	}
	b.head.Status = n
}

// checkRequest looks at what a request must have.
func (b *block) checkRequest() {
	h := b.head
	if b.seen&seenAuthority == 0 {
		h.Authority = b.host
	}
	connect := h.Method == "CONNECT"
	switch {
	case b.bad != "":
	case !validToken(h.Method):
		b.refuse(detailHeader, ":method is "+strconv.Quote(h.Method))
	case !validAuthority(h.Authority):
		b.refuse(detailHeader, ":authority is "+strconv.Quote(h.Authority))
	case b.seen&seenProtocol != 0 && (!connect || b.protocol == ""):
		b.refuse(detailMessaging, ":protocol without CONNECT, or empty")
	case connect && b.seen&seenProtocol == 0:
		if b.seen&(seenScheme|seenPath) != 0 {
			b.refuse(detailMessaging, "a CONNECT with :scheme or :path")
		}
	case h.Scheme == "" || !all(h.Scheme, inScheme):
		b.refuse(detailHeader, ":scheme is "+strconv.Quote(h.Scheme))
	case !validPath(h):
		b.refuse(detailHeader, ":path is "+strconv.Quote(h.Path))
	}
}

// validPath is of a request with a path: "*" is for OPTIONS.
func validPath(h *message.Head) bool {
	if h.Path == "*" {
		return h.Method == "OPTIONS"
	}
	return strings.HasPrefix(h.Path, "/") && all(h.Path, inPath)
}
