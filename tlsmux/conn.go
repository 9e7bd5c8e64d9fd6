package tlsmux

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// Conn is a connection after its handshake. Read, ReadReady and
// WaitReadable are for one goroutine at a time, Write and CloseWrite for
// another.
//
// Its Read ends with io.EOF after a close_notify, and after a bare FIN between
// two records, as Envoy takes both for the end of the stream. A FIN within a
// record is io.ErrUnexpectedEOF: there, bytes are certainly missing.
type Conn struct {
	*tls.Conn
	records *records
	state   *State
	side    Side

	// Reading side.
	first  [1]byte
	peeked bool // first is the next byte to read
	rest   bool // crypto/tls may have the rest of a record
	over   bool // crypto/tls has met the end or a failure, and will say so again
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
	n := 1
	if c.peeked {
		p[0], c.peeked = c.first[0], false
	} else {
		var err error
		n, err = c.Conn.Read(p)
		if c.noted(n == len(p), err); err != nil {
			return n, c.readFailure(err)
		}
	}
	for n < len(p) && (c.rest || c.records.hasRecord()) {
		m, err := c.readNow(p[n:])
		n += m
		if err != nil {
			break // there are bytes to return first; crypto/tls says it again
		}
	}
	return n, nil
}

// readNow reads without waiting, or fails with errWouldBlock.
func (c *Conn) readNow(p []byte) (int, error) {
	c.records.nonblock = true
	n, err := c.Conn.Read(p)
	c.records.nonblock = false
	c.noted(n == len(p), err)
	return n, err
}

// noted keeps what a read of crypto/tls tells about the next.
func (c *Conn) noted(filled bool, err error) {
	c.rest = filled
	c.over = err != nil && !errors.Is(err, errWouldBlock{}) && !errors.Is(err, os.ErrDeadlineExceeded)
}

func (c *Conn) readFailure(err error) error {
	if err != io.EOF && alertOf(err) != 0 {
		return failure(c.side, err)
	}
	return err
}

// ReadReady reads what can be had without waiting, up to len(p): 0 and nil if
// that is nothing.
func (c *Conn) ReadReady(p []byte) (int, error) {
	n := 0
	if c.peeked && len(p) > 0 {
		p[0], c.peeked = c.first[0], false
		n = 1
	}
	for n < len(p) {
		m, err := c.readNow(p[n:])
		n += m
		switch {
		case errors.Is(err, errWouldBlock{}):
			return n, nil
		case err != nil:
			return n, c.readFailure(err)
		}
	}
	return n, nil
}

// peek decrypts what is there until there is a byte of application data.
func (c *Conn) peek() error {
	n, err := c.readNow(c.first[:])
	c.peeked = n == 1
	return err
}

// WaitReadable waits, without a buffer, until there is application data, the
// end or a failure. Records without any (session tickets, key updates) are
// dealt with in here, and it waits on. The end, and what crypto/tls refuses, is
// for Read to say.
func (c *Conn) WaitReadable() error {
	for !c.peeked && !c.over {
		if !c.rest {
			if err := c.records.await(); err != nil {
				return err
			}
		}
		if err := c.peek(); err != nil && !c.over && !errors.Is(err, errWouldBlock{}) {
			return err
		}
	}
	return nil
}

// Write writes all of p, however many records that makes, in one system call
// for each 64 KiB.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) <= maxPlaintext {
		return c.Conn.Write(p) // one record: it is one system call anyway
	}
	written := 0
	for len(p) > 0 {
		n, err := c.writeAtOnce(p[:min(len(p), 4*maxPlaintext)])
		written += n
		if err != nil {
			return written, err
		}
		p = p[n:]
	}
	return written, nil
}

func (c *Conn) writeAtOnce(p []byte) (int, error) {
	buf := c.records.cork()
	n, err := c.Conn.Write(p)
	if ferr := c.records.uncork(buf); err == nil && ferr != nil {
		return 0, ferr
	}
	return n, err
}

// CloseWrite sends a close_notify and a FIN (RFC 8446, section 6.1). The other
// direction goes on.
func (c *Conn) CloseWrite() error {
	err := c.Conn.CloseWrite()
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
	err := c.Conn.Close()
	if errors.Is(err, errWouldBlock{}) || errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return nil // only the close_notify was lost
	}
	return err
}

// NetConn is the connection beneath TLS.
func (c *Conn) NetConn() net.Conn { return c.records.Conn }
