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
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
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
	for name, link := range map[string]func(*testing.T, Options) (client, server end, result chan Result){
		"splice": func(t *testing.T, o Options) (client, server end, result chan Result) {
			return ends(relayed(t, Plain, o))
		},
		"copy": func(t *testing.T, o Options) (client, server end, result chan Result) {
			return ends(relayed(t, wraps["copy"], o))
		},
		"unix": relayedUnix,
	} {
		for _, size := range []int{0, 1, 1000, bufferSize, bufferSize + 1, 5 << 20} {
			t.Run(fmt.Sprintf("%s/%d", name, size), func(t *testing.T) {
				var n [4]atomic.Uint64
				client, server, result := link(t, Options{
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

// end is the outside of a relay.
type end interface {
	io.ReadWriteCloser
	CloseWrite() error
}

func ends(client, server *net.TCPConn, result chan Result) (end, end, chan Result) {
	return client, server, result
}

// relayedUnix is a relay between two unix sockets.
func relayedUnix(t *testing.T, o Options) (client, server end, result chan Result) {
	t.Helper()
	a, down := unixPair(t)
	up, b := unixPair(t)
	result = make(chan Result, 1)
	go func() {
		result <- Run(context.Background(), Plain(down), Plain(up), o)
		down.Close()
		up.Close()
	}()
	return a, b, result
}

func unixPair(t *testing.T) (near, far *net.UnixConn) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.UnixConn), s.(*net.UnixConn)
}

func random(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// send writes b in pieces of random size, then ends its direction.
func send(c end, b []byte, seed uint64) {
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
	var in, out atomic.Uint64
	client, server, result := relayed(t, Plain, Options{
		FromDownstream: &in, ToUpstream: &out,
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
	if in.Load() != 4 || out.Load() != 4 {
		t.Errorf("counted %d in, %d out, want the 4 that were not the prologue's", in.Load(), out.Load())
	}
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
		if took := time.Since(start); r.Cause != Idle || took != 110*time.Minute {
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
		if took := time.Since(start); r.Cause != Idle || took != 11*time.Minute {
			t.Errorf("ended after %s with %+v, want idle a minute after the half-close", took, r)
		}
		server.Close()
		down.Close()
		up.Close()
	})
}

func TestARelayWithoutIdleTimeoutEndsAfterTheHalfCloseTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, down := net.Pipe()
		up, server := net.Pipe()
		result := make(chan Result, 1)
		go func() { result <- Run(t.Context(), silent{down}, silent{up}, Options{HalfCloseTimeout: time.Minute}) }()
		start := time.Now()
		time.Sleep(48 * time.Hour)
		server.Close()
		r := <-result
		if took := time.Since(start); r.Cause != Idle || took != 48*time.Hour+time.Minute || r.FirstEOF != 'u' {
			t.Errorf("ended after %s with %+v, want idle a minute after the half-close", took, r)
		}
		client.Close()
		down.Close()
		up.Close()
	})
}

func TestAnIdleRelayHoldsNoPipeAndNoneIsLeftBehind(t *testing.T) {
	client, server, result := relayed(t, Plain, Options{})
	before := descriptors(t) // the spares of other tests may go away meanwhile
	for range 3 {
		go client.Write(random(2<<20, 1))
		if n, err := io.Copy(io.Discard, io.LimitReader(server, 2<<20)); n != 2<<20 || err != nil {
			t.Fatal(n, err)
		}
	}
	client.CloseWrite()
	if _, err := server.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err) // the direction is over, the relay goes on
	}
	if held := pipes.Load() - int64(len(spares)); held != 0 {
		t.Errorf("%d pipes are held by a direction that is over", held)
	}
	server.Close()
	<-result
	for len(spares) > 0 {
		(<-spares).close()
	}
	if after := descriptors(t); after > before || pipes.Load() != 0 {
		t.Errorf("%d descriptors, before there were %d; %d pipes", after, before, pipes.Load())
	}
}

func TestAPipeThatIsNotEmptyIsClosed(t *testing.T) {
	client, server, result := relayed(t, Plain, Options{})
	go client.Write(random(32<<20, 1))
	io.ReadFull(server, make([]byte, 1<<20)) // then it is full, with a pipe in use
	server.SetLinger(0)
	server.Close()
	if r := <-result; r.Cause != UpstreamReset {
		t.Errorf("result %+v, want an upstream reset", r)
	}
	for len(spares) > 0 {
		p := <-spares
		if n, err := unix.Read(p.r, make([]byte, 1)); err != unix.EAGAIN {
			t.Errorf("a spare pipe has bytes of another relay: %d %v", n, err)
		}
		p.close()
	}
	if n := pipes.Load(); n != 0 {
		t.Errorf("%d pipes are left behind", n)
	}
}

func TestWithoutPipesItCopies(t *testing.T) {
	pipes.Add(maxPipes)
	defer pipes.Add(-maxPipes)
	for len(spares) > 0 {
		(<-spares).close()
	}
	client, server, result := relayed(t, Plain, Options{})
	want := random(3<<20, 1)
	go send(client, want, 1)
	if got, err := io.ReadAll(server); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	server.Close()
	<-result
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
	if n > poolAllocs+0.5 {
		t.Errorf("%v allocations a message, want none", n)
	}
	client.Close()
	server.Close()
	<-result
}
