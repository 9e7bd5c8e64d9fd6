// Package relay moves bytes between two connections: half-close in both
// directions, idle timeout, counts; nothing allocated per byte and no buffer
// held by an idle connection.
//
// Between two plaintext sockets the kernel moves the bytes (splice, on Linux)
// while there are many. Where TLS is on a side, as many records as there are go
// out in one write.
package relay

import "net"

// Conn is one side of a relay: a TCP or unix connection, or TLS over one.
// Its Read should bring all that is there, however many records that is: one
// read leaves in one write.
type Conn interface {
	net.Conn
	// CloseWrite ends our direction: a FIN, or over TLS a close_notify and a
	// FIN. The other direction goes on.
	CloseWrite() error
	// WaitReadable blocks, holding no buffer, until Read would return at once
	// or the read deadline passes.
	WaitReadable() error
}
