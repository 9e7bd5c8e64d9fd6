package tlsmux

import (
	"crypto/tls"
	"errors"
	"os"

	"outrider/tlsmux/wait"
)

// cryptoTLS is the record layer of crypto/tls: for TLS 1.2 and before, and
// where the keys of a handshake are not to be had (handOver).
type cryptoTLS struct {
	*tls.Conn
	records *records

	// Reading side.
	first  [1]byte
	peeked bool // first is the next byte to read
	rest   bool // crypto/tls may have the rest of a record
	over   bool // crypto/tls has met the end or a failure, and will say so again
}

func (c *cryptoTLS) Read(p []byte) (int, error) {
	n := 1
	if c.peeked {
		p[0], c.peeked = c.first[0], false
	} else {
		var err error
		n, err = c.Conn.Read(p)
		if c.noted(n == len(p), err); err != nil {
			return n, err
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
func (c *cryptoTLS) readNow(p []byte) (int, error) {
	c.records.nonblock = true
	n, err := c.Conn.Read(p)
	c.records.nonblock = false
	c.noted(n == len(p), err)
	return n, err
}

// noted keeps what a read of crypto/tls tells about the next.
func (c *cryptoTLS) noted(filled bool, err error) {
	c.rest = filled
	c.over = err != nil && !errors.Is(err, errWouldBlock{}) && !errors.Is(err, os.ErrDeadlineExceeded)
}

// peek decrypts what is there until there is a byte of application data.
func (c *cryptoTLS) peek() error {
	n, err := c.readNow(c.first[:])
	c.peeked = n == 1
	return err
}

func (c *cryptoTLS) WaitReadable() error {
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

func (c *cryptoTLS) ReadLazy(b wait.Buffer) (int, error) {
	if err := c.WaitReadable(); err != nil {
		return 0, err
	}
	n, err := c.Read(b.Take())
	if n == 0 {
		b.Drop()
	}
	return n, err
}

func (c *cryptoTLS) Write(p []byte) (int, error) {
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

func (c *cryptoTLS) writeAtOnce(p []byte) (int, error) {
	buf := c.records.cork()
	n, err := c.Conn.Write(p)
	if ferr := c.records.uncork(buf); err == nil && ferr != nil {
		return 0, ferr
	}
	return n, err
}

func (c *cryptoTLS) closeWrite() error { return c.Conn.CloseWrite() }
func (c *cryptoTLS) close() error      { return c.Conn.Close() }
