package tlsmux

import (
	"errors"
	"io"
	"net"
	"syscall"

	"outrider/tlsmux/wait"
)

// Conn is a connection after its handshake. Read, ReadLazy and WaitReadable
// are for one goroutine at a time, Write and CloseWrite for another.
//
// Its Read ends with io.EOF after a close_notify, and after a bare FIN between
// two records, as Envoy takes both for the end of the stream. A FIN within a
// record is io.ErrUnexpectedEOF: there, bytes are certainly missing.
type Conn struct {
	*records
	layer layer
	state *State
	side  Side
}

// layer makes application data of records, and records of application data:
// layer13 for TLS 1.3, crypto/tls for what came before. Its Read returns at
// least one byte or an error, with all that is there without asking the kernel
// again.
type layer interface {
	Read(p []byte) (int, error)
	ReadLazy(b wait.Buffer) (int, error)
	WaitReadable() error
	Write(p []byte) (int, error)
	// closeWrite sends a close_notify.
	closeWrite() error
	// close sends one if there is room for it.
	close() error
}

// State is what the handshake established.
func (c *Conn) State() *State { return c.state }

// Read reads at least one byte, and with it all that is there without asking
// the kernel again, however many records that is.
//
// The alert of a peer that refuses us after the handshake, as TLS 1.3 has it
// for a client's certificate, is a *HandshakeError.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.layer.Read(p)
	return n, c.failure(err)
}

// ReadLazy is WaitReadable and Read: b is asked for room when there is
// something to decrypt into it.
func (c *Conn) ReadLazy(b wait.Buffer) (int, error) {
	n, err := c.layer.ReadLazy(b)
	return n, c.failure(err)
}

func (c *Conn) failure(err error) error {
	if err != nil && err != io.EOF && alertOf(err) != 0 {
		return failure(c.side, err)
	}
	return err
}

// WaitReadable waits, without a buffer, until there is application data, the
// end or a failure. Records without any (session tickets, key updates) are
// dealt with in here, and it waits on. The end, and what is refused, is for
// Read to say.
func (c *Conn) WaitReadable() error { return c.layer.WaitReadable() }

// Write writes all of p, however many records that makes, in one system call
// for as many as a buffer holds: four, or sixteen of a large write.
func (c *Conn) Write(p []byte) (int, error) { return c.layer.Write(p) }

// CloseWrite sends a close_notify and a FIN (RFC 8446, section 6.1). The other
// direction goes on.
func (c *Conn) CloseWrite() error {
	err := c.layer.closeWrite()
	half, ok := c.NetConn().(interface{ CloseWrite() error })
	if !ok {
		return err
	}
	if cerr := half.CloseWrite(); cerr != nil && !errors.Is(cerr, syscall.ENOTCONN) {
		return errors.Join(err, cerr)
	}
	return err
}

// Close closes at once. A close_notify goes out if there is room for it.
func (c *Conn) Close() error {
	c.records.closing.Store(true)
	err := c.layer.close()
	if errors.Is(err, errWouldBlock{}) || errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return nil // only the close_notify was lost
	}
	return err
}

// NetConn is the connection beneath TLS.
func (c *Conn) NetConn() net.Conn { return c.records.Conn }
