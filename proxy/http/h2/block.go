package h2

import (
	"encoding/binary"
	"fmt"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
)

// Envoy's response code details of what is wrong with a message.
const (
	detailHeader    = "http2.invalid.header.field"
	detailMessaging = "http2.violation.of.messaging.rule"
	detailTooMany   = "http2.too_many_headers"
)

// section is what a header block is.
type section uint8

const (
	discarded section = iota // of a stream that is gone; HPACK still needs it
	requestHead
	responseHead
	trailerSection
)

// block is a header block while it is decoded. It is of the goroutine that
// reads.
type block struct {
	conn *conn

	// While CONTINUATION has to come.
	open   bool
	first  frame
	pieces int
	bytes  []byte

	section section
	head    *message.Head
	fields  message.Fields // of trailers
	wire    int            // bytes of the block, with one frame's header
	size    int
	count   int
	cookie  int // where the joined cookie is, plus one
	regular bool
	seen    uint8 // pseudo-headers
	// protocol is :protocol of an extended CONNECT, host the field of that name.
	protocol, host string
	declared       int64  // content-length; -1 is none
	bad            string // the detail of the first mistake, "" is none
	what           string
	over           bool // over the limits
}

const (
	seenMethod = 1 << iota
	seenScheme
	seenAuthority
	seenPath
	seenStatus
	seenProtocol
)

// blockLimit bounds the bytes of a block before decoding, for CONTINUATION
// frames may be many. Huffman coding makes a header at most four times as
// long, and never indexed fields may repeat what was in the limit.
func (c *conn) blockLimit() int { return 2*c.o.MaxHeaderBytes + maxFrame }

// pieceLimit bounds the CONTINUATION frames of a block: nghttp2, which Envoy
// uses, takes 8; more are taken if limits of larger heads need them.
func (c *conn) pieceLimit() int { return 8 + c.blockLimit()/4096 }

func (c *conn) takeHeaders(f frame, p []byte) error {
	if f.stream == 0 {
		return connErrorf(codeProtocol, "HEADERS on stream 0")
	}
	p, err := unpad(f, p)
	if err != nil {
		return err
	}
	if f.has(flagPriority) {
		if len(p) < 5 {
			return connErrorf(codeFrameSize, "HEADERS of %d bytes with priority", len(p))
		}
		if binary.BigEndian.Uint32(p)&maxStreamID == f.stream {
			return connErrorf(codeProtocol, "stream %d depends on itself", f.stream)
		}
		p = p[5:]
	}
	if f.has(flagEndHeaders) {
		return c.takeBlock(f, p)
	}
	c.block.open, c.block.first, c.block.pieces = true, f, 0
	c.block.bytes = append(c.block.bytes[:0], p...)
	return nil
}

func (c *conn) takeContinuation(f frame, p []byte) error {
	b := &c.block
	if !b.open || f.stream != b.first.stream {
		return connErrorf(codeProtocol, "CONTINUATION on stream %d without HEADERS", f.stream)
	}
	b.pieces++
	if b.pieces > c.pieceLimit() || len(b.bytes)+len(p) > c.blockLimit() {
		return connErrorf(codeEnhanceYourCalm, "a header block of more than %d bytes in %d frames", len(b.bytes)+len(p), b.pieces)
	}
	b.bytes = append(b.bytes, p...)
	if !f.has(flagEndHeaders) {
		return nil
	}
	b.open = false
	bytes := b.bytes
	b.bytes = nil
	return c.takeBlock(b.first, bytes)
}

// takeBlock gives a whole header block to its stream.
func (c *conn) takeBlock(f frame, p []byte) error {
	c.mu.Lock()
	s := c.streams[f.stream]
	c.mu.Unlock()
	if s == nil {
		return c.side.newStream(f, p)
	}
	if s.remoteDone { // written by this goroutine only
		return connErrorf(codeStreamClosed, "HEADERS after the end of stream %d", f.stream)
	}
	if s.gotHead {
		return c.takeTrailers(s, f, p)
	}
	return c.side.response(s, f, p)
}

// decode decodes a block. Only a mistake in the compression is an error; what
// is wrong with the fields is in the block.
func (c *conn) decode(sec section, p []byte) error {
	b := &c.block
	b.section, b.head, b.fields, b.wire = sec, nil, nil, frameHeaderSize+len(p)
	b.size, b.count, b.cookie, b.regular, b.seen = 0, 0, 0, false, 0
	b.protocol, b.host, b.declared, b.bad, b.what, b.over = "", "", -1, "", "", false
	if sec == requestHead || sec == responseHead {
		b.head = message.NewHead()
	}
	if err := c.dec.decode(p); err != nil {
		b.head.Release()
		return connErrorf(codeCompression, "%s", err)
	}
	return nil
}

// malformed ends the stream, and unless StreamErrorsOnly is set also the
// connection, for a message that breaks a rule.
func (c *conn) malformed(s *stream, detail, what string) error {
	c.o.Stats.MessagingError.Inc()
	if c.o.StreamErrorsOnly {
		c.streamError(s, codeProtocol, detail, what)
		return nil
	}
	mistake := &connError{code: codeProtocol, what: what}
	c.reset(s, codec.Reset{Reason: codec.ProtocolError, Code: uint32(codeProtocol), Details: detail, Err: mistake})
	return mistake
}

// takeTrailers takes the last header block of a stream.
func (c *conn) takeTrailers(s *stream, f frame, p []byte) error {
	if err := c.decode(trailerSection, p); err != nil {
		return err
	}
	b := &c.block
	c.o.Stats.Trailers.Inc()
	if !f.has(flagEndStream) {
		b.refuse(detailMessaging, "a second header block that does not end the stream")
	}
	if b.over {
		c.overLimits(s)
		return nil
	}
	if b.bad != "" {
		return c.malformed(s, b.bad, b.what)
	}
	if !s.countBody(0, true) {
		c.wrongLength(s)
		return nil
	}
	c.mu.Lock()
	muted := s.muted
	s.taken += uint64(b.wire)
	s.remoteDone = true
	c.settle(s)
	c.mu.Unlock()
	if !muted {
		s.r.OnTrailers(b.fields)
	}
	b.fields = nil
	return nil
}

// countBody counts n bytes of a body. It is false if there are more or less
// than content-length says.
func (s *stream) countBody(n int, end bool) bool {
	s.received += int64(n)
	switch {
	case s.noBody:
		return s.received == 0
	case s.declared < 0:
		return true
	}
	return s.received == s.declared || s.received < s.declared && !end
}

// wrongLength ends a stream whose body is not as long as it said. Only the
// stream: so does Envoy.
func (c *conn) wrongLength(s *stream) {
	c.o.Stats.MessagingError.Inc()
	c.streamError(s, codeProtocol, detailMessaging, "the body is not as long as content-length says")
}

// overLimits ends a stream whose head or trailers are more than we take. Of a
// response it is told as if the server had reset it, as by Envoy.
func (c *conn) overLimits(s *stream) {
	c.o.Stats.HeaderOverflow.Inc()
	what := &connError{what: fmt.Sprintf("more than %d fields or %d bytes of fields", c.o.MaxHeaders, c.o.MaxHeaderBytes)}
	r := codec.Reset{Reason: codec.ProtocolError, Code: uint32(codeInternal), Details: detailTooMany, Err: what}
	if !c.server {
		r.Reason, r.Remote = codec.RemoteOther, true
	}
	c.resetFor(s, r)
}
