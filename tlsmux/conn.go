package tlsmux

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
)

// Conn is a connection after its handshake. Read and Write may be used by one
// goroutine each at a time.
type Conn struct {
	*tls.Conn
	records *records
	state   *State
}

// State is what the handshake established.
func (c *Conn) State() *State { return c.state }

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

// ReadReady reads what can be had without waiting, up to len(p): 0 and nil if
// that is nothing.
func (c *Conn) ReadReady(p []byte) (int, error) {
	c.records.nonblock = true
	defer func() { c.records.nonblock = false }()
	n := 0
	for n < len(p) {
		m, err := c.Conn.Read(p[n:])
		n += m
		if err != nil {
			if errors.As(err, &errWouldBlock{}) {
				return n, nil
			}
			return n, err
		}
	}
	return n, nil
}

// WaitReadable waits, without a buffer, until there are bytes to decrypt. They
// may be of no application data: ReadReady then has none.
func (c *Conn) WaitReadable() error {
	err := c.records.waitReadable()
	if err == io.EOF {
		return nil // Read says it
	}
	return err
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

// NetConn is the connection beneath TLS.
func (c *Conn) NetConn() net.Conn { return c.records.Conn }
