package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a TCP connection with both its ends.
func pair(tb testing.TB) (near, far *net.TCPConn) {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// copying hides the socket, so that the relay copies and does not splice.
type copying struct{ Conn }

// relayed is a relay between two TCP connections with the ends outside.
func relayed(tb testing.TB, wrap func(net.Conn) Conn, o Options) (client, server *net.TCPConn, result chan Result) {
	tb.Helper()
	client, down := pair(tb)
	up, server := pair(tb)
	result = make(chan Result, 1)
	go func() {
		result <- Run(context.Background(), wrap(down), wrap(up), o)
		down.Close()
		up.Close()
	}()
	return client, server, result
}

var wraps = map[string]func(net.Conn) Conn{
	"splice": Plain,
	"copy":   func(c net.Conn) Conn { return copying{Plain(c)} },
}

func TestEveryByteGoesThroughBothWaysInOrder(t *testing.T) {
	for name, wrap := range wraps {
		for _, size := range []int{0, 1, 1000, bufferSize, bufferSize + 1, 5 << 20} {
			t.Run(fmt.Sprintf("%s/%d", name, size), func(t *testing.T) {
				var n [4]atomic.Uint64
				client, server, result := relayed(t, wrap, Options{
					FromDownstream: &n[0], ToUpstream: &n[1], FromUpstream: &n[2], ToDownstream: &n[3],
				})
				up, down := random(size, 1), random(size, 2)
				go send(client, up, 3)
				go send(server, down, 4)
				gotUp, errUp := io.ReadAll(server)
				gotDown, errDown := io.ReadAll(client)
				if errUp != nil || errDown != nil || !bytes.Equal(gotUp, up) || !bytes.Equal(gotDown, down) {
					t.Fatalf("up: %d bytes %x %v, down: %d bytes %x %v, want %d", len(gotUp), sha256.Sum256(gotUp), errUp, len(gotDown), sha256.Sum256(gotDown), errDown, size)
				}
				if r := <-result; r.Cause != Finished || r.Err != nil {
					t.Errorf("result %+v, want finished", r)
				}
				for i := range n {
					if got := n[i].Load(); got != uint64(size) {
						t.Errorf("count %d is %d, want %d", i, got, size)
					}
				}
			})
		}
	}
}

func random(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// send writes b in pieces of random size, then ends its direction.
func send(c *net.TCPConn, b []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, seed))
	for len(b) > 0 {
		n := min(len(b), 1+r.IntN(200<<10))
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
		b = b[n:]
	}
	c.CloseWrite()
}

func TestTheOtherDirectionGoesOnAfterOneSideHasEnded(t *testing.T) {
	for name, wrap := range wraps {
		for _, first := range []byte{'d', 'u'} {
			t.Run(name+"/"+string(first), func(t *testing.T) {
				client, server, result := relayed(t, wrap, Options{})
				a, b := client, server
				if first == 'u' {
					a, b = server, client
				}
				a.CloseWrite()
				if got, err := io.ReadAll(b); len(got) != 0 || err != nil {
					t.Fatalf("got %q %v, want the end", got, err)
				}
				io.WriteString(b, "still here")
				b.CloseWrite()
				if got, err := io.ReadAll(a); string(got) != "still here" || err != nil {
					t.Fatalf("got %q %v", got, err)
				}
				if r := <-result; r.Cause != Finished || r.FirstEOF != first {
					t.Errorf("result %+v, want finished with %c first", r, first)
				}
			})
		}
	}
}

func TestAResetEndsTheOtherSideAndIsNamed(t *testing.T) {
	for name, wrap := range wraps {
		t.Run(name, func(t *testing.T) {
			client, server, result := relayed(t, wrap, Options{})
			io.WriteString(client, "x")
			io.ReadFull(server, make([]byte, 1))
			server.SetLinger(0)
			server.Close()
			if r := <-result; r.Cause != UpstreamReset || r.Err == nil {
				t.Errorf("result %+v, want an upstream reset", r)
			}
			if _, err := client.Read(make([]byte, 1)); err == nil {
				t.Error("the client's connection goes on")
			}
		})
	}
}

func TestContextEndsARelayAtOnce(t *testing.T) {
	_, down := pair(t)
	up, _ := pair(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	result := make(chan Result, 1)
	go func() { result <- Run(ctx, Plain(down), Plain(up), Options{}) }()
	why := errors.New("drained")
	cancel(why)
	if r := <-result; r.Cause != Stopped || !errors.Is(r.Err, why) {
		t.Errorf("result %+v, want stopped by %v", r, why)
	}
}

func TestPrologueReadsFirstAndItsRestIsPassedOn(t *testing.T) {
	client, server, result := relayed(t, Plain, Options{
		DownstreamFirst: func(c Conn) ([]byte, error) {
			b := make([]byte, 4)
			_, err := io.ReadFull(c, b)
			return b[2:], err
		},
	})
	io.WriteString(server, "server first")
	got := make([]byte, 12)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "server first" {
		t.Fatalf("got %q %v: the prologue must not hold the other direction", got, err)
	}
	io.WriteString(client, "abcdef")
	client.CloseWrite()
	all, _ := io.ReadAll(server)
	if string(all) != "cdef" {
		t.Errorf("server got %q, want cdef", all)
	}
	server.Close()
	<-result
}

func TestAPanicIsAnErrorOfThatRelay(t *testing.T) {
	client, _, result := relayed(t, Plain, Options{UpstreamFirst: func(Conn) ([]byte, error) { panic("boom") }})
	r := <-result
	var p *PanicError
	if !errors.As(r.Err, &p) || p.Value != "boom" || len(p.Stack) == 0 {
		t.Errorf("result %+v, want the panic", r)
	}
	client.Close()
}

// silent is one end of a net.Pipe as a Conn; synctest can follow it.
type silent struct{ net.Conn }

func (silent) WaitReadable() error { return nil }
func (s silent) CloseWrite() error { return nil }

func TestIdleTimeoutCountsFromTheLastByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, down := net.Pipe()
		up, server := net.Pipe()
		result := make(chan Result, 1)
		go func() { result <- Run(t.Context(), silent{down}, silent{up}, Options{IdleTimeout: time.Hour}) }()
		start := time.Now()
		time.Sleep(50 * time.Minute)
		go client.Write([]byte("x"))
		io.ReadFull(server, make([]byte, 1))
		r := <-result
		if took := time.Since(start); r.Cause != Idle || took < 110*time.Minute || took > 111*time.Minute {
			t.Errorf("ended after %s with %+v, want idle after 1h50m", took, r)
		}
		client.Close()
		server.Close()
		down.Close()
		up.Close()
	})
}

func TestHalfCloseTimeoutEndsOnlyHalfClosedRelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, down := net.Pipe()
		up, server := net.Pipe()
		result := make(chan Result, 1)
		o := Options{IdleTimeout: time.Hour, HalfCloseTimeout: time.Minute}
		go func() { result <- Run(t.Context(), silent{down}, silent{up}, o) }()
		start := time.Now()
		time.Sleep(10 * time.Minute)
		client.Close() // the relay reads io.EOF
		r := <-result
		if took := time.Since(start); r.Cause != Idle || took > 12*time.Minute || took < 10*time.Minute {
			t.Errorf("ended after %s with %+v, want idle a minute after the half-close", took, r)
		}
		server.Close()
		down.Close()
		up.Close()
	})
}

func TestAnIdleRelayHoldsNoPipe(t *testing.T) {
	client, server, result := relayed(t, Plain, Options{})
	before := descriptors(t)
	go send(client, random(2<<20, 1), 1)
	if n, err := io.Copy(io.Discard, io.LimitReader(server, 2<<20)); n != 2<<20 || err != nil {
		t.Fatal(n, err)
	}
	server.Close()
	<-result
	for len(pipes) > 0 {
		(<-pipes).close()
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, before there were %d", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestMovingBytesDoesNotAllocate(t *testing.T) {
	client, server, result := relayed(t, wraps["copy"], Options{})
	msg, got := random(1024, 1), make([]byte, 1024)
	n := testing.AllocsPerRun(200, func() {
		client.Write(msg)
		io.ReadFull(server, got)
	})
	if n > 0.5 {
		t.Errorf("%v allocations a message, want none", n)
	}
	client.Close()
	server.Close()
	<-result
}

func BenchmarkThroughput(b *testing.B) {
	const chunk = 1 << 20
	run := func(b *testing.B, wrap func(net.Conn) Conn, baseline bool) {
		client, server := pair(b)
		if !baseline {
			var result chan Result
			client, server, result = relayed(b, wrap, Options{})
			defer func() { client.Close(); server.Close(); <-result }()
		}
		msg := random(chunk, 1)
		b.SetBytes(chunk)
		b.ReportAllocs()
		go func() {
			for {
				if _, err := client.Write(msg); err != nil {
					return
				}
			}
		}()
		got := make([]byte, chunk)
		b.ResetTimer()
		for range b.N {
			if _, err := io.ReadFull(server, got); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		client.Close()
		server.Close()
	}
	b.Run("direct", func(b *testing.B) { run(b, nil, true) })
	b.Run("splice", func(b *testing.B) { run(b, Plain, false) })
	b.Run("copy", func(b *testing.B) { run(b, wraps["copy"], false) })
}
