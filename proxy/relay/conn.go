// Package relay moves bytes between two connections: half-close in both
// directions, idle timeout, counts; nothing allocated per byte and no buffer
// held by an idle connection.
package relay

import "net"

// Conn is one side of a relay: a TCP or unix connection, or TLS over one.
type Conn interface {
	net.Conn
	// CloseWrite ends our direction: a FIN, or over TLS a close_notify and a
	// FIN. The other direction goes on.
	CloseWrite() error
	// WaitReadable blocks, holding no buffer, until Read would return at once
	// or the read deadline passes.
	WaitReadable() error
}
