package h1

import (
	"bytes"
	"strings"
	"sync"
	"time"

	"outrider/proxy/http/message"
)

// known are the fields that the codec itself looks at.
type known uint8

const (
	other known = iota
	fieldHost
	fieldConnection
	fieldLength
	fieldEncoding
	fieldUpgrade
	fieldProxyConnection
)

// span is where a field is, in bytes from the beginning of its block.
type span struct {
	name, nameEnd, value, valueEnd uint32
	known                          known
}

// block takes apart the lines of one head, or of the trailers, as they come:
// what it finds does not depend on how the bytes were split. The names are made
// lower case in the buffer.
type block struct {
	limit, maxFields int
	trailers         bool // there is no first line
	noBlank          bool // nothing may be before the first line
	timeout          time.Duration
	drop             bool // check only

	at, seen int // bytes taken; bytes looked at for the end of the line
	first    int // the end of the first line, without CR LF; 0 is none yet
	spans    []span
	// counts of known fields
	hosts, lengths, encodings int
}

//nolint:gochecknoglobals // a pool has no state of its own
var blocks = sync.Pool{New: func() any { return &block{spans: make([]span, 0, 64)} }}

func newBlock(o *Options, trailers bool) *block {
	b := blocks.Get().(*block)
	*b = block{spans: b.spans[:0], limit: o.MaxHeaderBytes, maxFields: o.MaxHeaders, trailers: trailers}
	return b
}

func (b *block) release() { blocks.Put(b) }

// progress is how far feed came.
type progress uint8

const (
	needMore  progress = iota
	blankLine          // an empty line before the first
	firstLine          // p[:b.first] is for the caller to look at
	complete           // b.at are the bytes of the block
)

// feed takes the complete lines of p, which begins where the block begins.
func (b *block) feed(p []byte) (progress, *mistake) {
	for {
		i := bytes.IndexByte(p[b.seen:], '\n')
		if i < 0 {
			b.seen = len(p)
			if len(p) > b.limit {
				return needMore, b.tooLarge()
			}
			return needMore, nil
		}
		line, from := p[b.at:b.seen+i], b.at
		b.at += len(line) + 1
		b.seen = b.at
		if b.at > b.limit {
			return needMore, b.tooLarge()
		}
		if len(line) == 0 || line[len(line)-1] != '\r' {
			return needMore, bad("a line ends with LF alone: %q", excerpt(line))
		}
		line = line[:len(line)-1]
		first := !b.trailers && b.first == 0
		switch {
		case first && len(line) == 0 && !b.noBlank:
			return blankLine, nil
		case first && len(line) == 0:
			return needMore, bad("an empty line before the head")
		case first:
			b.first = len(line)
			return firstLine, nil
		case len(line) == 0:
			return complete, nil
		}
		if m := b.field(line, from); m != nil {
			return needMore, m
		}
	}
}

func (b *block) tooLarge() *mistake {
	return refused(431, detailTooLarge, "more than %d bytes of header fields", b.limit)
}

// field takes one line, which begins at from.
func (b *block) field(line []byte, from int) *mistake {
	n := 0
	for ; n < len(line); n++ {
		c := tokenChars[line[n]]
		if c == 0 {
			break
		}
		line[n] = c
	}
	switch {
	case n == len(line), line[n] != ':', n == 0:
		return badName(line, n)
	}
	v, end := n+1, len(line)
	for v < end && (line[v] == ' ' || line[v] == '\t') {
		v++
	}
	for end > v && (line[end-1] == ' ' || line[end-1] == '\t') {
		end--
	}
	if !validValue(line[v:end]) {
		return refused(400, detailChars, "the value of %q has a character that may not be there", excerpt(line[:n]))
	}
	if b.drop {
		return nil
	}
	k := b.note(line[:n])
	b.spans = append(b.spans, span{uint32(from), uint32(from + n), uint32(from + v), uint32(from + end), k})
	if len(b.spans) > b.maxFields {
		return refused(431, detailTooMany, "more than %d header fields", b.maxFields)
	}
	return nil
}

func badName(line []byte, n int) *mistake {
	switch {
	case n < len(line) && (line[0] == ' ' || line[0] == '\t'):
		return bad("a folded line: %q", excerpt(line))
	case n < len(line) && (line[n] < 0x20 && line[n] != '\t' && line[n] != '\r' || line[n] == 0x7f):
		return refused(400, detailChars, "a header name with a control character: %q", excerpt(line))
	}
	return bad("not a header field: %q", excerpt(line))
}

// note counts the fields that the codec looks at.
func (b *block) note(name []byte) known {
	switch len(name) {
	case 4:
		if string(name) == "host" {
			b.hosts++
			return fieldHost
		}
	case 7:
		if string(name) == "upgrade" {
			return fieldUpgrade
		}
	case 10:
		if string(name) == "connection" {
			return fieldConnection
		}
	case 14:
		if string(name) == "content-length" {
			b.lengths++
			return fieldLength
		}
	case 16:
		if string(name) == "proxy-connection" {
			return fieldProxyConnection
		}
	case 17:
		if string(name) == "transfer-encoding" {
			b.encodings++
			return fieldEncoding
		}
	}
	return other
}

// framing is what a head says about its own message and the connection.
type framing struct {
	host, connection, encoding, upgrade, proxyConnection string
	hosts, lengths, encodings                            int
	length                                               int64 // -1: none
}

// fields are the fields as parts of text, which is the whole block, without
// Host of a request.
func (b *block) fields(text string, f message.Fields, request bool) (message.Fields, framing) {
	fr := framing{hosts: b.hosts, lengths: b.lengths, encodings: b.encodings, length: -1}
	for i := range b.spans {
		s := &b.spans[i]
		value := text[s.value:s.valueEnd]
		switch s.known {
		case fieldHost:
			if fr.host = value; request {
				continue
			}
		case fieldConnection:
			fr.connection = join(fr.connection, value)
		case fieldProxyConnection:
			fr.proxyConnection = join(fr.proxyConnection, value)
		case fieldUpgrade:
			fr.upgrade = join(fr.upgrade, value)
		case fieldEncoding:
			fr.encoding = join(fr.encoding, value)
		case fieldLength:
			fr.length = decimal(value)
		case other:
		}
		f = append(f, message.Field{Name: text[s.name:s.nameEnd], Value: value})
	}
	return f, fr
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return strings.Join([]string{a, b}, ",")
}

// keepsAlive is what the head says about the connection after the message.
func (f *framing) keepsAlive(minor10 bool) bool {
	if f.connection == "" && f.proxyConnection == "" {
		return !minor10
	}
	if hasToken(f.connection, "close") || hasToken(f.proxyConnection, "close") {
		return false
	}
	return !minor10 || hasToken(f.connection, "keep-alive") || hasToken(f.proxyConnection, "keep-alive")
}

// checkLengths refuses what different readers could read differently. It
// reports whether the message is chunked.
func (f *framing) checkLengths(o *Options) (chunked bool, m *mistake) {
	switch {
	case f.lengths > 1:
		return false, bad("%d content-length fields", f.lengths)
	case f.lengths == 1 && f.length < 0:
		return false, bad("content-length is not a number")
	case f.encodings == 0:
		return false, nil
	}
	chunked = f.encodings == 1 && equalFold(f.encoding, "chunked")
	if f.lengths > 0 && !(chunked && o.AllowChunkedLength) {
		return false, refused(400, detailBothLengths, "both content-length and transfer-encoding")
	}
	if !chunked {
		return false, refused(501, detailEncoding, "transfer-encoding %q", f.encoding)
	}
	return true, nil
}
