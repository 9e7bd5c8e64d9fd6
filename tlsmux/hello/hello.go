// Package hello reads a TLS ClientHello from bytes that were only peeked at:
// the server name and the protocols, before anything is decided.
//
// It agrees with a real handshake on what it reports, and with itself: a
// result for some bytes holds for any longer stream that begins with them.
package hello

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Hello is what a filter chain is chosen by.
type Hello struct {
	// ServerName is lower case; "" if the client sent none.
	ServerName string
	// ALPN are the protocols offered, in the client's order.
	ALPN []string
	// Versions are those of supported_versions; if the extension is absent,
	// the one legacy version.
	Versions []uint16
}

// Errors of Parse. ErrIncomplete asks for more bytes; the others are final.
var (
	ErrIncomplete = errors.New("the ClientHello is not complete yet")
	// ErrNotTLS means that the first bytes are no TLS handshake record.
	ErrNotTLS = errors.New("not TLS")
	// ErrMalformed means TLS records whose ClientHello cannot be read.
	ErrMalformed = errors.New("malformed ClientHello")
)

// Sizes and numbers of the protocol.
const (
	recordHeader    = 5       // RFC 8446, section 5.1
	handshakeHeader = 4       // RFC 8446, section 4
	maxRecord       = 1 << 14 // RFC 8446, section 5.1
	typeHandshake   = 22      // RFC 8446, section 5.1
	typeClientHello = 1       // RFC 8446, section 4
	extServerName   = 0       // RFC 6066, section 3
	extALPN         = 16      // RFC 7301, section 3.1
	extVersions     = 43      // RFC 8446, section 4.2.1
	hostName        = 0       // RFC 6066, section 3
)

// Parse reads the ClientHello at the start of b, which may span several
// records and need not end with the stream. While bytes are missing it returns
// ErrIncomplete, without allocating.
func Parse(b []byte) (*Hello, error) {
	size, err := messageSize(b)
	if err != nil {
		return nil, err
	}
	body, err := message(b, size)
	if err != nil {
		return nil, err
	}
	h, err := parseBody(body[handshakeHeader:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return h, nil
}

// Need is how many bytes at least the stream must have before Parse can say
// more than it says of b: a lower bound, so that a slow client does not make
// us look at every byte.
func Need(b []byte) int {
	if len(b) < recordHeader+handshakeHeader {
		return len(b) + 1
	}
	end := 0
	for missing, _ := messageSize(b); missing > 0 && end+recordHeader <= len(b); {
		n := recordLength(b[end:])
		end += recordHeader + n
		missing -= n
	}
	return max(end, len(b)+1)
}

func recordLength(b []byte) int { return int(binary.BigEndian.Uint16(b[3:])) }

// messageSize is the length of the handshake message with its header. It
// checks every byte that is there, so that what is not TLS is known from the
// first byte that is wrong.
func messageSize(b []byte) (int, error) {
	if err := checkRecord(b); err != nil {
		return 0, err
	}
	if len(b) < recordHeader+1 {
		return 0, ErrIncomplete
	}
	if b[recordHeader] != typeClientHello {
		return 0, ErrNotTLS
	}
	var header [handshakeHeader]byte
	if n := gather(header[:], b); n < handshakeHeader {
		return 0, incompleteOr(b)
	}
	return handshakeHeader + int(header[1])<<16 + int(header[2])<<8 + int(header[3]), nil
}

// checkRecord checks as much of a record header as is there. Any minor version
// will do, as for BoringSSL before a version is chosen.
func checkRecord(b []byte) error {
	switch {
	case len(b) > 0 && b[0] != typeHandshake, len(b) > 1 && b[1] != 3:
		return ErrNotTLS
	case len(b) < recordHeader:
		return ErrIncomplete
	}
	if n := recordLength(b); n == 0 || n > maxRecord {
		return ErrNotTLS
	}
	return nil
}

// incompleteOr is ErrIncomplete, unless a later record is already wrong.
func incompleteOr(b []byte) error {
	for first := true; len(b) > 0; first = false {
		if err := checkRecord(b); err != nil {
			if errors.Is(err, ErrNotTLS) && !first {
				return ErrMalformed
			}
			return err
		}
		n := recordHeader + recordLength(b)
		if n > len(b) {
			break
		}
		b = b[n:]
	}
	return ErrIncomplete
}

// gather copies the records' payload into dst, and returns how much there was.
func gather(dst, b []byte) int {
	got := 0
	for got < len(dst) && len(b) >= recordHeader {
		n := recordLength(b)
		payload := b[recordHeader:min(len(b), recordHeader+n)]
		got += copy(dst[got:], payload)
		if len(payload) < n {
			break
		}
		b = b[recordHeader+n:]
	}
	return got
}

// message is the whole handshake message, from one record as it is, from
// several put together.
func message(b []byte, size int) ([]byte, error) {
	if recordLength(b) >= size {
		if len(b) < recordHeader+size {
			return nil, ErrIncomplete
		}
		return b[recordHeader : recordHeader+size], nil
	}
	if len(b) < recordHeader+size { // each record adds a header
		return nil, incompleteOr(b)
	}
	whole, err := spanned(b, size)
	if err != nil {
		return nil, err
	}
	out := make([]byte, size)
	gather(out, b[:whole])
	return out, nil
}

// spanned is the length of the records that hold size bytes of payload.
func spanned(b []byte, size int) (int, error) {
	end := 0
	for size > 0 {
		if err := checkRecord(b[end:]); err != nil {
			if errors.Is(err, ErrNotTLS) {
				return 0, ErrMalformed
			}
			return 0, err
		}
		n := min(recordLength(b[end:]), size)
		end += recordHeader + n
		if end > len(b) {
			return 0, ErrIncomplete
		}
		size -= n
	}
	return end, nil
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
func (r *reader) vector8() *reader  { return r.sub(r.uint8()) }
func (r *reader) vector16() *reader { return r.sub(r.uint16()) }

func (r *reader) sub(n int) *reader {
	b := r.take(n)
	return &reader{b: b, bad: r.bad}
}

// parseBody reads RFC 8446, section 4.1.2.
func parseBody(b []byte) (*Hello, error) {
	r := &reader{b: b}
	legacy := r.uint16()
	r.take(32) // random
	if session := r.vector8(); len(session.b) > 32 {
		return nil, errors.New("session ID of more than 32 bytes")
	}
	if suites := r.vector16(); len(suites.b) == 0 || len(suites.b)%2 != 0 {
		return nil, errors.New("no list of cipher suites")
	}
	if compressions := r.vector8(); len(compressions.b) == 0 {
		return nil, errors.New("no list of compressions")
	}
	if r.bad {
		return nil, errors.New("it ends within a field")
	}
	h := &Hello{}
	if len(r.b) > 0 {
		if err := h.extensions(r); err != nil {
			return nil, err
		}
	}
	if h.Versions == nil {
		h.Versions = []uint16{uint16(legacy)}
	}
	return h, nil
}

func (h *Hello) extensions(r *reader) error {
	all := r.vector16()
	if r.bad || len(r.b) > 0 {
		return errors.New("extensions do not end with the message")
	}
	var seen [3]bool
	for len(all.b) > 0 {
		kind, data := all.uint16(), all.vector16()
		if all.bad {
			return errors.New("an extension does not end")
		}
		slot, ok := slotOf(kind)
		if !ok {
			continue
		}
		if seen[slot] {
			return fmt.Errorf("extension %d twice", kind)
		}
		seen[slot] = true
		if !h.extension(kind, data) {
			return fmt.Errorf("extension %d cannot be read", kind)
		}
	}
	return nil
}

func (h *Hello) extension(kind int, data *reader) bool {
	switch kind {
	case extServerName:
		return h.serverName(data)
	case extALPN:
		return h.protocols(data)
	default:
		return h.versions(data)
	}
}

// serverName reads RFC 6066, section 3: one host name.
func (h *Hello) serverName(r *reader) bool {
	list := r.vector16()
	if r.bad || len(r.b) > 0 || len(list.b) == 0 {
		return false
	}
	for len(list.b) > 0 {
		kind, name := list.uint8(), list.vector16()
		if list.bad || len(name.b) == 0 {
			return false
		}
		if kind != hostName {
			continue
		}
		if h.ServerName != "" || strings.IndexByte(string(name.b), 0) >= 0 {
			return false
		}
		h.ServerName = strings.ToLower(string(name.b))
	}
	return true
}

// protocols reads RFC 7301, section 3.1.
func (h *Hello) protocols(r *reader) bool {
	list := r.vector16()
	if r.bad || len(r.b) > 0 || len(list.b) == 0 {
		return false
	}
	for len(list.b) > 0 {
		name := list.vector8()
		if list.bad || len(name.b) == 0 {
			return false
		}
		h.ALPN = append(h.ALPN, string(name.b))
	}
	return true
}

// versions reads RFC 8446, section 4.2.1.
func (h *Hello) versions(r *reader) bool {
	list := r.vector8()
	if r.bad || len(r.b) > 0 || len(list.b) == 0 || len(list.b)%2 != 0 {
		return false
	}
	for len(list.b) > 0 {
		h.Versions = append(h.Versions, uint16(list.uint16()))
	}
	return true
}

// slotOf numbers the extensions that are read.
func slotOf(kind int) (slot int, ok bool) {
	switch kind {
	case extServerName:
		return 0, true
	case extALPN:
		return 1, true
	case extVersions:
		return 2, true
	}
	return 0, false
}
