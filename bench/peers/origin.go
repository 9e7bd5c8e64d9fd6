package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// What a client asks of an origin with its first byte.
const (
	askDownload = 'D' // bytes without end
	askUpload   = 'U' // bytes are taken
	askEcho     = 'E' // bytes come back
)

// loadBuffer is the buffer of clients and servers, in bytes.
const loadBuffer = 64 << 10

// origin is the server behind the proxies.
type origin struct {
	ln      net.Listener
	serving sync.WaitGroup
	resumed atomic.Int64          // TLS connections that resumed a session
	broken  atomic.Pointer[error] // of a connection that was not the TLS that it should be

	mu   sync.Mutex
	open map[net.Conn]struct{} // guarded by mu; nil when closed
}

// newOrigin serves at a free port; with config, in TLS.
func newOrigin(config *tls.Config) (*origin, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return serveOrigin(ln, config), nil
}

func serveOrigin(ln net.Listener, config *tls.Config) *origin {
	o := &origin{ln: ln, open: map[net.Conn]struct{}{}}
	o.serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			o.mu.Lock()
			if o.open != nil {
				o.open[c] = struct{}{}
				o.serving.Go(func() { o.serve(c, config) })
			} else {
				c.Close()
			}
			o.mu.Unlock()
		}
	})
	return o
}

func (o *origin) addr() string { return o.ln.Addr().String() }

func (o *origin) close() {
	o.ln.Close()
	o.mu.Lock()
	for c := range o.open {
		c.Close()
	}
	o.open = nil
	o.mu.Unlock()
	o.serving.Wait()
}

func (o *origin) serve(raw net.Conn, config *tls.Config) {
	defer func() {
		raw.Close()
		o.mu.Lock()
		delete(o.open, raw)
		o.mu.Unlock()
	}()
	c := raw
	if config != nil {
		secure := tls.Server(raw, config)
		if secure.Handshake() != nil {
			return // a probe, or one that is refused
		}
		state := secure.ConnectionState()
		if err := sameTLS(state); err != nil {
			o.broken.CompareAndSwap(nil, &err)
			return
		}
		if state.DidResume {
			o.resumed.Add(1)
		}
		c = secure
	}
	var ask [1]byte
	if _, err := io.ReadFull(c, ask[:]); err != nil {
		return
	}
	switch ask[0] {
	case askDownload:
		forever(c.Write, loadBuffer)
	case askUpload:
		forever(c.Read, loadBuffer)
	case askEcho:
		echo(c)
	}
}

// forever reads into, or writes, one buffer until an error.
func forever(move func([]byte) (int, error), size int) {
	buf := make([]byte, size)
	for {
		if _, err := move(buf); err != nil {
			return
		}
	}
}

func echo(c net.Conn) {
	buf := make([]byte, 4<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			break
		}
		if _, err := c.Write(buf[:n]); err != nil {
			break
		}
	}
	// The client's close_notify is answered, as a server's should be.
	if s, ok := c.(*tls.Conn); ok {
		_ = s.Close()
	}
}

// originMain is a process that is nothing but an origin, on the proxies' CPU:
// what there is to measure without a proxy. It ends when it is killed.
func originMain(addr, dir string, secure bool) error {
	if err := raiseFiles(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	var config *tls.Config
	if secure {
		ids, err := loadIdentities(dir)
		if err != nil {
			return err
		}
		config = ids.serverTLS(true)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	o := serveOrigin(ln, config)
	o.serving.Wait()
	return nil
}

// askOnce makes one round trip of one byte.
func askOnce(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	if _, err := c.Write([]byte{askEcho, 'x'}); err != nil {
		return err
	}
	var got [1]byte
	if _, err := io.ReadFull(c, got[:]); err != nil {
		return err
	}
	if got[0] != 'x' {
		return errors.New("the echo is another")
	}
	return nil
}
