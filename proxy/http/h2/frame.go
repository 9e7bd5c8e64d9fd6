package h2

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// kind is a frame's type (RFC 9113, section 6).
type kind uint8

const (
	frameData kind = iota
	frameHeaders
	framePriority
	frameReset
	frameSettings
	framePushPromise
	framePing
	frameGoAway
	frameWindowUpdate
	frameContinuation
)

const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// errCode is an error code of RFC 9113, section 7.
type errCode uint32

const (
	codeNoError            errCode = 0x0
	codeProtocol           errCode = 0x1
	codeInternal           errCode = 0x2
	codeFlowControl        errCode = 0x3
	codeStreamClosed       errCode = 0x5
	codeFrameSize          errCode = 0x6
	codeRefusedStream      errCode = 0x7
	codeCancel             errCode = 0x8
	codeCompression        errCode = 0x9
	codeConnect            errCode = 0xa
	codeEnhanceYourCalm    errCode = 0xb
	settingTableSize               = 0x1
	settingEnablePush              = 0x2
	settingMaxStreams              = 0x3
	settingInitialWindow           = 0x4
	settingMaxFrameSize            = 0x5
	settingConnectProtocol         = 0x8 // RFC 8441, section 3
)

const (
	preface         = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	frameHeaderSize = 9
	// maxFrame is the largest payload: that which every peer takes, and which
	// we tell of nothing else (RFC 9113, section 4.2).
	maxFrame    = 16384
	maxFrameTop = 1<<24 - 1
	maxWindow   = 1<<31 - 1
	maxStreamID = 1<<31 - 1
)

// frame is a frame's header.
type frame struct {
	kind   kind
	flags  uint8
	stream uint32
	length int
}

func parseFrame(b []byte) frame {
	return frame{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		kind:   kind(b[3]),
		flags:  b[4],
		stream: binary.BigEndian.Uint32(b[5:]) & maxStreamID,
	}
}

func (f frame) has(flag uint8) bool { return f.flags&flag != 0 }

// appendFrame appends a frame's header.
func appendFrame(b []byte, f frame) []byte {
	n, id := f.length, f.stream
	return append(b, byte(n>>16), byte(n>>8), byte(n), byte(f.kind), f.flags, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func appendReset(b []byte, id uint32, code errCode) []byte {
	b = appendFrame(b, frame{kind: frameReset, stream: id, length: 4})
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

func appendWindowUpdate(b []byte, id uint32, n int) []byte {
	b = appendFrame(b, frame{kind: frameWindowUpdate, stream: id, length: 4})
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

func appendPing(b []byte, flags uint8, data []byte) []byte {
	b = appendFrame(b, frame{kind: framePing, flags: flags, length: 8})
	return append(b, data...)
}

// appendGoAway appends GOAWAY with a text for whoever debugs the peer.
func appendGoAway(b []byte, last uint32, code errCode, why string) []byte {
	why = why[:min(len(why), 256)]
	b = appendFrame(b, frame{kind: frameGoAway, length: 8 + len(why)})
	b = binary.BigEndian.AppendUint32(b, last)
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return append(b, why...)
}

type setting struct {
	id    uint16
	value uint32
}

func appendSettings(b []byte, settings []setting) []byte {
	b = appendFrame(b, frame{kind: frameSettings, length: 6 * len(settings)})
	for _, s := range settings {
		b = binary.BigEndian.AppendUint16(b, s.id)
		b = binary.BigEndian.AppendUint32(b, s.value)
	}
	return b
}

// unpad is the payload without its padding.
func unpad(f frame, p []byte) ([]byte, error) {
	if !f.has(flagPadded) {
		return p, nil
	}
	if len(p) == 0 {
		return nil, connErrorf(codeFrameSize, "a padded frame of no bytes")
	}
	pad := int(p[0])
	if pad >= len(p) {
		return nil, connErrorf(codeProtocol, "padding of %d bytes in a payload of %d", pad, len(p))
	}
	return p[1 : len(p)-pad], nil
}

// connError is a mistake of the peer that ends the connection.
type connError struct {
	code errCode
	// details is Envoy's response code detail for the streams; "" is
	// codec_error.
	details string
	what    string
	// silent ends the connection without a GOAWAY, for the peer does not read.
	silent bool
}

func (e *connError) Error() string { return "http/2: " + e.what }

// detail is for the streams that the mistake has ended.
func (e *connError) detail() string {
	if e.details != "" {
		return e.details
	}
	return "codec_error:" + strings.ReplaceAll(e.what, " ", "_")
}

func connErrorf(code errCode, format string, args ...any) *connError {
	return &connError{code: code, what: fmt.Sprintf(format, args...)}
}
