package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// counted is a Buffer that knows whether it is held.
type counted struct {
	b    [16]byte
	held bool
}

func (c *counted) Take() []byte { c.held = true; return c.b[:] }
func (c *counted) Drop()        { c.held = false }

// unlazy hides ReadLazy.
type unlazy struct{ Conn }

func TestReadLazyHoldsNoBufferWhileItWaits(t *testing.T) {
	for name, wrap := range map[string]func(Conn) Conn{
		"socket": func(c Conn) Conn { return c },
		"other":  func(c Conn) Conn { return unlazy{c} },
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			peer, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			nc, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			c, b := wrap(Plain(nc)), &counted{}
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if n, err := ReadLazy(c, b); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || b.held {
				t.Errorf("at the deadline %d, %v, held %v", n, err, b.held)
			}
			_ = c.SetReadDeadline(time.Time{})
			go io.WriteString(peer, "hello")
			n, err := ReadLazy(c, b)
			if err != nil || string(b.b[:n]) != "hello" || !b.held {
				t.Errorf("read %q, %v, held %v", b.b[:n], err, b.held)
			}
			b.Drop()
			_ = peer.(*net.TCPConn).CloseWrite()
			if n, err := ReadLazy(c, b); n != 0 || err != io.EOF || b.held {
				t.Errorf("at the end %d, %v, held %v", n, err, b.held)
			}
		})
	}
}
