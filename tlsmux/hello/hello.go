// Package hello reads a TLS ClientHello from bytes that were only peeked at:
// the server name and the protocols, before anything is decided.
//
// It agrees with a real handshake on what it reports, and with itself: a
// result for some bytes holds for any longer stream that begins with them.
package hello

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Hello is what a filter chain is chosen by.
type Hello struct {
	// ServerName is in lower case, as ASCII knows it; "" if the client sent
	// none. A dot at its end is kept. It need not be UTF-8.
	ServerName string
	// ALPN are the protocols offered, in the client's order. A list that
	// cannot be read counts as none: the handshake itself will refuse it.
	ALPN []string
	// Legacy is legacy_version: what the client speaks at most, if it sent no
	// supported_versions.
	Legacy uint16
	// Versions are those of supported_versions; nil if there are none.
	Versions []uint16
}

// Errors of Parse. ErrIncomplete asks for more bytes; the others are final.
var (
	ErrIncomplete = errors.New("the ClientHello is not complete yet")
	// ErrNotTLS means that the stream does not begin with a handshake record
	// that begins with a ClientHello.
	ErrNotTLS = errors.New("not TLS")
	// ErrMalformed means TLS records whose ClientHello cannot be read.
	ErrMalformed = errors.New("malformed ClientHello")
	// ErrExtension means a ClientHello whose server name cannot be read. It
	// is an ErrMalformed.
	ErrExtension = fmt.Errorf("%w: bad server_name extension", ErrMalformed)
)

// Sizes and numbers of the protocol.
const (
	recordHeader    = 5       // RFC 8446, section 5.1
	handshakeHeader = 4       // RFC 8446, section 4
	maxRecord       = 1 << 14 // RFC 8446, section 5.1
	maxEmpty        = 32      // empty records in a row; BoringSSL: kMaxEmptyRecords
	maxSession      = 32      // RFC 8446, section 4.1.2
	maxName         = 255     // BoringSSL: TLSEXT_MAXLEN_host_name
	typeHandshake   = 22      // RFC 8446, section 5.1
	typeClientHello = 1       // RFC 8446, section 4
	extServerName   = 0       // RFC 6066, section 3
	extALPN         = 16      // RFC 7301, section 3.1
	extVersions     = 43      // RFC 8446, section 4.2.1
	hostName        = 0       // RFC 6066, section 3
)

// Parse reads the ClientHello at the start of b, which may span several
// records and need not end with the stream. While bytes are missing it returns
// ErrIncomplete, without allocating. It takes time in proportion to b.
//
// It accepts what BoringSSL accepts up to the point where the server name is
// known, which is what Envoy's tls_inspector goes by.
func Parse(b []byte) (*Hello, error) {
	m, err := locate(b)
	if err != nil {
		return nil, err
	}
	return parseBody(m.bytes(b)[handshakeHeader:])
}

// Need is how many bytes at least the stream must have before Parse can find
// the ClientHello that b begins: more than b has. With it, a slow client does
// not make us look at every byte. (That there is none may show before.)
func Need(b []byte) int {
	m, _ := locate(b)
	return max(m.end, len(b)+1)
}

// message is where the handshake message is in the stream.
type message struct {
	size  int  // with its header; 0 while unknown
	first int  // where its first record's payload begins
	whole bool // it is all in that record
	end   int  // of the message, or of what must be seen next
}

// locate walks the records until the message ends, and says as soon as it can
// that there is none.
func locate(b []byte) (message, error) {
	var m message
	var header [handshakeHeader]byte
	empty := 0
	for off, got := 0, 0; ; {
		n, err := record(b[off:])
		if err != nil {
			m.end = off + recordHeader
			return m, afterFirst(off, err)
		}
		if n == 0 {
			if empty++; empty > maxEmpty {
				return m, afterFirst(off, ErrNotTLS)
			}
			off += recordHeader
			continue
		}
		empty = 0
		payload := b[off+recordHeader : min(len(b), off+recordHeader+n)]
		if got == 0 {
			m.first = off + recordHeader
			if len(payload) > 0 && payload[0] != typeClientHello {
				return m, ErrNotTLS
			}
		}
		if got < handshakeHeader {
			copy(header[got:], payload)
			if got+len(payload) >= handshakeHeader {
				m.size = handshakeHeader + int(header[1])<<16 + int(header[2])<<8 + int(header[3])
			}
		}
		want := max(m.size, handshakeHeader) - got // what is missing at the start of this record
		m.end = off + recordHeader + min(want, n)
		switch {
		case m.size > 0 && len(payload) >= want:
			m.whole = got == 0
			return m, nil
		case len(payload) < n:
			return m, ErrIncomplete
		}
		got += n
		off += recordHeader + n
	}
}

// record is the length of the record's payload that b begins with. It checks
// as much of its header as is there. Any minor version will do, as for
// BoringSSL before a version is chosen.
func record(b []byte) (int, error) {
	switch {
	case len(b) > 0 && b[0] != typeHandshake, len(b) > 1 && b[1] != 3:
		return 0, ErrNotTLS
	case len(b) < recordHeader:
		return 0, ErrIncomplete
	}
	n := int(binary.BigEndian.Uint16(b[3:]))
	if n > maxRecord {
		return 0, ErrNotTLS
	}
	return n, nil
}

// afterFirst is err for a record at off: what follows a handshake record is
// TLS, though a bad one.
func afterFirst(off int, err error) error {
	if off > 0 && err == ErrNotTLS { //nolint:errorlint // it is made here
		return fmt.Errorf("%w: a record at byte %d that is no handshake", ErrMalformed, off)
	}
	return err
}

// bytes are the message: a part of b if it is in one record, else put
// together.
func (m message) bytes(b []byte) []byte {
	if m.whole {
		return b[m.first:m.end]
	}
	out := make([]byte, 0, m.size)
	for off := m.first - recordHeader; off < m.end; {
		n := int(binary.BigEndian.Uint16(b[off+3:]))
		out = append(out, b[off+recordHeader:min(m.end, off+recordHeader+n)]...)
		off += recordHeader + n
	}
	return out
}

// reader takes the message apart; after the first failure it only fails.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uint8() int {
	if b := r.take(1); b != nil {
		return int(b[0])
	}
	return 0
}

func (r *reader) uint16() int {
	if b := r.take(2); b != nil {
		return int(binary.BigEndian.Uint16(b))
	}
	return 0
}

// vector8 and vector16 are a vector with its length before it.
func (r *reader) vector8() reader  { return r.sub(r.uint8()) }
func (r *reader) vector16() reader { return r.sub(r.uint16()) }

func (r *reader) sub(n int) reader {
	b := r.take(n)
	return reader{b: b, bad: r.bad}
}

// parseBody reads RFC 8446, section 4.1.2.
func parseBody(b []byte) (*Hello, error) {
	r := reader{b: b}
	h := &Hello{Legacy: uint16(r.uint16())}
	r.take(32) // random
	session, suites, compressions := r.vector8(), r.vector16(), r.vector8()
	switch {
	case r.bad:
		return nil, malformed("it ends within a field")
	case len(session.b) > maxSession:
		return nil, malformed("a session ID of %d bytes", len(session.b))
	case len(suites.b) == 0 || len(suites.b)%2 != 0:
		return nil, malformed("a list of cipher suites of %d bytes", len(suites.b))
	case len(compressions.b) == 0:
		return nil, malformed("no compression method")
	case len(r.b) == 0:
		return h, nil // no extensions, as in TLS 1.0
	}
	extensions := r.vector16()
	if r.bad || len(r.b) > 0 {
		return nil, malformed("the extensions do not end with it")
	}
	if err := h.extensions(extensions); err != nil {
		return nil, err
	}
	return h, nil
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

func (h *Hello) extensions(r reader) error {
	var space [32]uint16 // more than any client sends
	seen := space[:0]
	for len(r.b) > 0 {
		kind, data := r.uint16(), r.vector16()
		if r.bad {
			return malformed("an extension does not end")
		}
		seen = append(seen, uint16(kind))
		switch kind {
		case extServerName:
			if !h.serverName(data) {
				return ErrExtension
			}
		case extALPN:
			h.ALPN = protocols(data)
		case extVersions:
			h.Versions = versions(data)
		}
	}
	slices.Sort(seen)
	for i := 1; i < len(seen); i++ {
		if seen[i] == seen[i-1] {
			return malformed("extension %d twice", seen[i])
		}
	}
	return nil
}

// serverName reads RFC 6066, section 3: one name, which is a host name.
func (h *Hello) serverName(r reader) bool {
	list := r.vector16()
	kind, name := list.uint8(), list.vector16()
	if r.bad || len(r.b) > 0 || list.bad || len(list.b) > 0 || kind != hostName {
		return false
	}
	if len(name.b) == 0 || len(name.b) > maxName || bytes.IndexByte(name.b, 0) >= 0 {
		return false
	}
	h.ServerName = lower(name.b)
	return true
}

// lower is ASCII's lower case: a name need not be UTF-8.
func lower(b []byte) string {
	var space [maxName]byte
	out := append(space[:0], b...)
	for i, c := range out {
		if 'A' <= c && c <= 'Z' {
			out[i] = c + 'a' - 'A'
		}
	}
	return string(out)
}

// protocols reads RFC 7301, section 3.1; nil if it cannot.
func protocols(r reader) []string {
	list := r.vector16()
	if r.bad || len(r.b) > 0 {
		return nil
	}
	all := string(list.b) // the names are parts of one string
	var out []string
	for at := 0; at < len(all); {
		end := at + 1 + int(all[at])
		if end == at+1 || end > len(all) {
			return nil
		}
		out = append(out, all[at+1:end])
		at = end
	}
	return out
}

// versions reads RFC 8446, section 4.2.1; nil if it cannot.
func versions(r reader) []uint16 {
	list := r.vector8()
	if r.bad || len(r.b) > 0 || len(list.b)%2 != 0 {
		return nil
	}
	var out []uint16
	for len(list.b) > 0 {
		out = append(out, uint16(list.uint16()))
	}
	return out
}
