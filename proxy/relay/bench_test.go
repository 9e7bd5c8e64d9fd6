package relay

import (
	"context"
	"io"
	"net"
	"runtime"
	"testing"
	"time"
)

const chunk = 1 << 20

// drive writes into one end as fast as the other reads.
func drive(b *testing.B, from io.WriteCloser, to io.ReadCloser) {
	b.SetBytes(chunk)
	b.ReportAllocs()
	msg, got := random(chunk, 1), make([]byte, chunk)
	go func() {
		for {
			if _, err := from.Write(msg); err != nil {
				return
			}
		}
	}()
	b.ResetTimer()
	for range b.N {
		if _, err := io.ReadFull(to, got); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	from.Close()
	to.Close()
}

// BenchmarkThroughput is of one connection, beside the loopback itself and
// io.Copy, which is the simplest relay in Go.
func BenchmarkThroughput(b *testing.B) {
	b.Run("direct", func(b *testing.B) {
		client, server := pair(b)
		drive(b, client, server)
	})
	b.Run("io.Copy", func(b *testing.B) {
		client, down := pair(b)
		up, server := pair(b)
		done := make(chan error, 1)
		go func() { _, err := io.Copy(up, down); done <- err }()
		drive(b, client, server)
		<-done
	})
	for name, wrap := range wraps {
		b.Run(name, func(b *testing.B) {
			client, server, result := relayed(b, wrap, Options{IdleTimeout: time.Hour})
			drive(b, client, server)
			<-result
		})
	}
	b.Run("direct tls", func(b *testing.B) {
		ours, client, _ := newTLS(b).accept(b)
		drive(b, client, ours)
	})
	b.Run("tls in", func(b *testing.B) {
		client, server, result := relayedTLS(b)
		drive(b, client, server)
		<-result
	})
	b.Run("tls out", func(b *testing.B) {
		client, server, result := relayedTLS(b)
		drive(b, server, client)
		<-result
	})
}

func relayedTLS(b *testing.B) (client, server net.Conn, result chan Result) {
	down, tlsClient, _ := newTLS(b).accept(b)
	up, server := pair(b)
	result = make(chan Result, 1)
	go func() {
		result <- Run(context.Background(), down, Plain(up), Options{IdleTimeout: time.Hour})
		down.Close()
		up.Close()
	}()
	return tlsClient, server, result
}

// BenchmarkRoundTrip is the time that a small message takes there and back.
func BenchmarkRoundTrip(b *testing.B) {
	run := func(b *testing.B, client, server net.Conn) {
		defer client.Close()
		defer server.Close()
		b.ReportAllocs()
		msg := make([]byte, 128)
		go io.Copy(server, struct{ io.Reader }{server})
		b.ResetTimer()
		for range b.N {
			client.Write(msg)
			if _, err := io.ReadFull(client, msg); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("direct", func(b *testing.B) {
		client, server := pair(b)
		run(b, client, server)
	})
	b.Run("relay", func(b *testing.B) {
		client, server, _ := relayed(b, Plain, Options{IdleTimeout: time.Hour})
		run(b, client, server)
	})
	b.Run("tls in", func(b *testing.B) {
		client, server, _ := relayedTLS(b)
		run(b, client, server)
	})
}

// BenchmarkIdleMemory reports the bytes that a relay holds while nothing moves,
// without its four sockets' own.
func BenchmarkIdleMemory(b *testing.B) {
	const relays = 500
	for range b.N {
		type link struct{ client, down, up, server *net.TCPConn }
		links := make([]link, relays)
		for i := range links {
			l := &links[i]
			l.client, l.down = pair(b)
			l.up, l.server = pair(b)
		}
		before := inUse()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan Result, relays)
		for _, l := range links {
			go func() { done <- Run(ctx, Plain(l.down), Plain(l.up), Options{IdleTimeout: time.Hour}) }()
		}
		one := make([]byte, 1)
		for _, l := range links {
			l.client.Write(one)
			io.ReadFull(l.server, one)
		}
		b.ReportMetric(float64(inUse()-before)/relays, "B/relay")
		cancel()
		for range relays {
			<-done
		}
		for _, l := range links {
			l.client.Close()
			l.down.Close()
			l.up.Close()
			l.server.Close()
		}
	}
}

func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
