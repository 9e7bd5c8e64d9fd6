// Package h1 is HTTP/1.0 and HTTP/1.1 on the wire (RFC 9112), for both sides
// of a connection, behind the interface of package codec.
//
// One goroutine reads: it parses heads in the buffer that they were read into,
// and hands on bodies from there. One writes what the Senders have put into the
// connection's buffer. An idle connection has no buffer of either kind.
//
// It is strict where two readers of one message could see different messages:
// lines end with CR LF, a head has one Host, one length of one kind, no folded
// lines, and every chunk ends where it says. Envoy is more lenient with bare
// LF and CR, folded lines, several Hosts and what follows a chunk's data.
package h1
