package listener

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/soheilhy/cmux"

	"outrider/proxy/config"
)

// BenchmarkSniff tells TLS by its ClientHello, over a TCP connection that
// carries one hello after another: each is written, sniffed and read. The
// baselines are reading it without looking, and cmux with its matcher for TLS,
// which reads the first bytes only and knows no server name.
func BenchmarkSniff(b *testing.B) {
	b.Run("none", func(b *testing.B) { benchSniff(b, func(c net.Conn) net.Conn { return c }) })
	b.Run("tls_inspector", func(b *testing.B) {
		r := newRig(b, config.Listener{FiltersTimeout: 15 * time.Second}, tlsFilter)
		benchSniff(b, func(c net.Conn) net.Conn {
			info := newInfo(c)
			if err := r.Run(b.Context(), c, info); err != nil || info.SNI != "orders.shop" {
				b.Fatal(info.SNI, err)
			}
			return c
		})
	})
	b.Run("cmux", func(b *testing.B) {
		in := make(chan net.Conn)
		m := cmux.New(&fed{conns: in, closed: make(chan struct{})})
		ln := m.Match(cmux.TLS())
		go m.Serve()
		benchSniff(b, func(c net.Conn) net.Conn {
			in <- kept{c}
			out, err := ln.Accept()
			if err != nil {
				b.Fatal(err)
			}
			return out
		})
		close(in)
	})
}

func benchSniff(b *testing.B, sniff func(net.Conn) net.Conn) {
	client, server := pair(b)
	hello := captured(b)
	buf := make([]byte, len(hello))
	b.ReportAllocs()
	b.SetBytes(int64(len(hello)))
	for b.Loop() {
		if _, err := client.Write(hello); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(sniff(server), buf); err != nil {
			b.Fatal(err)
		}
	}
}

// fed is a listener whose connections come over a channel.
type fed struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (f *fed) Accept() (net.Conn, error) {
	if c, ok := <-f.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (f *fed) Close() error   { return nil }
func (f *fed) Addr() net.Addr { return &net.TCPAddr{} }

// kept is a connection that stays open.
type kept struct{ net.Conn }

func (kept) Close() error                    { return nil }
func (kept) SetReadDeadline(time.Time) error { return nil }
