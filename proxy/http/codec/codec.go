// Package codec is the one small stream interface between what HTTP/1 and
// HTTP/2 are on the wire and what the proxy does with requests. Packages h1
// and h2 implement it, each for both sides of a connection.
//
// # Threads
//
// A connection has one goroutine that reads, parses and calls its Receivers,
// and one that writes what was put into the connection's buffer. So:
//
//   - The methods of Sender may be called from any goroutine, also from within
//     a Receiver's method. They never block and never call a Receiver: what
//     they lead to is told later, from the connection's own goroutines.
//   - The methods of one Receiver are called one after another, except OnGone,
//     which may come from the writer at any time. The connection holds no lock
//     of its own when it calls.
//   - After OnReset nothing more is called. After a stream has ended in both
//     directions nothing more is called but OnGone.
//
// # Flow control
//
// Memory is bounded by credit. A receiver gets data as it comes and has to say
// Consumed when the bytes have gone on; as long as too many have not, the
// connection takes no more from the peer (HTTP/2: the stream's window stays
// closed; HTTP/1: the connection is not read). SendData says how many bytes
// count as gone at once, because there is room in the connection's buffer and
// in the peer's window; OnGone says it of the rest.
package codec

import (
	"errors"
	"time"

	"outrider/proxy/http/message"
)

// Protocol is the HTTP version of a connection.
type Protocol uint8

const (
	HTTP10 Protocol = iota + 1
	HTTP11
	HTTP2
)

// String is %PROTOCOL%.
func (p Protocol) String() string {
	switch p {
	case HTTP10:
		return "HTTP/1.0"
	case HTTP11:
		return "HTTP/1.1"
	case HTTP2:
		return "HTTP/2"
	}
	return ""
}

// Sender is the proxy's end of one stream: of a request that it received (it
// sends the response) or of one that it makes.
//
// A message is SendHead, any number of SendData, at most one SendTrailers; the
// call with end set, or SendTrailers, is the last. Informational responses
// (100 to 199 but 101) come before the head. Calls after the last, or after a
// reset, do nothing.
type Sender interface {
	// SendHead writes h at once and keeps nothing of it.
	SendHead(h *message.Head, end bool)
	// SendData copies p. It reports how many bytes of p count as gone already;
	// OnGone tells of the others.
	SendData(p []byte, end bool) (gone int)
	SendTrailers(t message.Fields)
	// Reset ends the stream in both directions: what was not written is
	// dropped, except where the message was complete. There is no OnReset
	// then, and no OnGone. After both messages are through it does nothing.
	Reset(r Reason)
	// Consumed says that n bytes that were given to OnData have gone on.
	Consumed(n int)
	// Conn is the connection that the stream is of.
	Conn() Conn
}

// Metered is what a Sender may be besides: it knows how many bytes its stream
// took on the wire so far, heads and framing with them, without TLS. What waits
// in the buffer counts as sent.
type Metered interface {
	Wire() (received, sent uint64)
}

// Receiver gets what comes on a stream.
type Receiver interface {
	// OnHead begins the message; informational responses come through it as
	// well, before. h belongs to the receiver from then on.
	OnHead(h *message.Head, end bool)
	// OnData brings bytes of the body; p is good until OnData returns, and is
	// empty if there is only the end to tell.
	OnData(p []byte, end bool)
	// OnTrailers ends the message.
	OnTrailers(t message.Fields)
	// OnReset says that the stream is over before its messages were through.
	OnReset(r Reset)
	// OnGone says that n more bytes, which SendData did not report, are gone.
	OnGone(n int)
}

// Reason is why a stream was reset.
type Reason uint8

const (
	// NoError: the response is complete and the rest of the request is not
	// wanted (RFC 9113 section 8.1). HTTP/1 closes the connection.
	NoError Reason = iota
	// Cancel: nobody wants the stream any more.
	Cancel
	// InternalError: we cannot go on.
	InternalError
	// ProtocolError: the peer broke the protocol on this stream.
	ProtocolError
	// Refused: the stream was not processed; it may be tried again
	// (REFUSED_STREAM, or above the last stream of a GOAWAY).
	Refused
	// ConnectError: the peer reset a CONNECT.
	ConnectError
	// Overload: a limit of ours was met (ENHANCE_YOUR_CALM).
	Overload
	// Closed: the connection ended; Reset.End says how.
	Closed
	// RemoteOther: the peer reset the stream with a code that is none of these.
	RemoteOther
)

// Reset is how a stream ended before its time.
type Reset struct {
	Reason Reason
	// Remote says that it was the peer who reset the stream.
	Remote bool
	// Code is HTTP/2's error code, if it was a RST_STREAM or a GOAWAY.
	Code uint32
	// Details is Envoy's response code detail of a mistake of the peer
	// (http1.codec_error, http2.invalid.header.field), "" for none.
	Details string
	Err     error // what there is to say; may be nil
	// End is set if the whole connection ended.
	End *End
}

// End is how a connection ended and what it had done until then, so that a
// race for a connection that is being closed is told from a fault.
type End struct {
	By  Closer
	Err error // nil for an end in order
	// BytesRead and BytesWritten are application bytes (inside of TLS).
	BytesRead, BytesWritten uint64
	// Requests were begun on the connection.
	Requests uint64
	Opened   time.Time
	// LastRead is when bytes last came; zero if none did.
	LastRead time.Time
	At       time.Time
	// GoAway says that the peer had announced the end.
	GoAway bool
}

// Closer is who ended a connection.
type Closer uint8

const (
	ByUs Closer = iota + 1
	ByFIN
	ByRST
	ByTLS     // the peer's alert, or bytes that were not right
	ByTimeout // the kernel gave up (keepalive, user timeout)
)

// String is for logs: us, fin, rst, tls, timeout.
func (c Closer) String() string {
	switch c {
	case ByUs:
		return "us"
	case ByFIN:
		return "fin"
	case ByRST:
		return "rst"
	case ByTLS:
		return "tls"
	case ByTimeout:
		return "timeout"
	}
	return ""
}

// Conn is what both sides of a connection have.
type Conn interface {
	Protocol() Protocol
	// Active is how many streams are open.
	Active() int
	// Close ends the connection and resets its streams. What was put into the
	// buffer is written if that is possible at once.
	Close()
	// BufferedAbove reports whether more than the limit waits to be written.
	BufferedAbove() bool
}

// Server is the side of a connection that takes requests.
type Server interface {
	Conn
	// Serve reads requests until the connection ends, and returns when all its
	// streams have ended and what they had to say is written. It closes the
	// connection. It is called once.
	Serve() *End
	// Drain announces the end. The first step (final false) tells the peer to
	// make no more requests but takes those that are on their way (HTTP/2:
	// GOAWAY with the highest stream; HTTP/1: the next response says
	// connection: close); the second takes none. The connection ends with its
	// last stream.
	Drain(final bool)
}

// Requests is who takes the requests of a Server.
type Requests interface {
	// Request begins a request; its OnHead follows at once. nil refuses it.
	Request(s Sender) Receiver
	// Idle says that the last open stream has ended; from the goroutine that
	// reads, before it reads again.
	Idle()
}

// Client is the side of a connection that makes requests.
type Client interface {
	Conn
	// Run reads until the connection ends, resets the streams that are open
	// then, and returns when all is told. It closes the connection. It is
	// called once.
	Run() *End
	// Open begins a request. It fails with ErrUnavailable if the connection
	// takes no more (now or for good: see Room).
	Open(r Receiver) (Sender, error)
	// Room is how many streams may be opened now: 0 for good once the
	// connection is Draining.
	Room() int
	// Draining reports that the connection takes no request any more: GOAWAY,
	// connection: close, or it has ended.
	Draining() bool
}

// Pool is who owns a Client. Its methods are called from the connection's
// goroutine without locks.
type Pool interface {
	// Freed says that a stream has ended, or that the peer allows more: Room
	// may have grown.
	Freed(c Client)
	// Drained says that the connection is Draining now.
	Drained(c Client)
}

// ErrUnavailable says that a connection takes no request.
var ErrUnavailable = errors.New("the connection takes no more requests")
