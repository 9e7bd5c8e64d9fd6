package tlsmux

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// linked is a server of ours and a crypto/tls client, connected.
func linked(tb testing.TB, cfg *tls.Config, wrap func(net.Conn) net.Conn) (ours *Conn, theirs *tls.Conn, socket *net.TCPConn) {
	tb.Helper()
	m := newMesh(tb)
	sc := m.serverConfig()
	sc.RequireClientCertificate = false
	near, far := tcpPair(tb)
	var c net.Conn = far
	if wrap != nil {
		c = wrap(far)
	}
	cfg = cfg.Clone()
	cfg.InsecureSkipVerify, cfg.DynamicRecordSizingDisabled = true, true
	theirs = tls.Client(near, cfg)
	done := make(chan error, 1)
	go func() { done <- theirs.Handshake() }()
	ours, err := NewServer(sc, noFeeds()).Handshake(context.Background(), c)
	if err := errors.Join(err, <-done); err != nil {
		tb.Fatal(err)
	}
	return ours, theirs, near
}

func random(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// room is the room that a lazy read takes.
type room struct{ p []byte }

func (r room) Take() []byte { return r.p[:len(r.p):len(r.p)] }
func (r room) Drop()        {}

// wrapped hides the descriptor.
type wrapped struct{ net.Conn }

func TestBytesGoThroughInOrderInEachWayOfReading(t *testing.T) {
	data := random(3<<20+7, 1)
	reads := map[string]func(*Conn, []byte) (int, error){
		"read": func(c *Conn, p []byte) (int, error) { return c.Read(p) },
		"wait and read": func(c *Conn, p []byte) (int, error) {
			if err := c.WaitReadable(); err != nil {
				return 0, err
			}
			return c.Read(p)
		},
		"lazily": func(c *Conn, p []byte) (int, error) { return c.ReadLazy(room{p}) },
	}
	wraps := map[string]func(net.Conn) net.Conn{"socket": nil, "no descriptor": func(c net.Conn) net.Conn { return wrapped{c} }}
	for vname, version := range versions {
		for wname, wrap := range wraps {
			for rname, read := range reads {
				for _, size := range []int{1 << 10, 16 << 10, 64<<10 + 1} {
					t.Run(fmt.Sprintf("%s/%s/%s/%d", vname, wname, rname, size), func(t *testing.T) {
						ours, theirs, _ := linked(t, &tls.Config{MaxVersion: version}, wrap)
						go func() {
							r := rand.New(rand.NewPCG(1, 2))
							for b := data; len(b) > 0; {
								n := min(len(b), 1+r.IntN(100<<10))
								theirs.Write(b[:n])
								b = b[n:]
							}
							theirs.CloseWrite()
						}()
						got, buf := make([]byte, 0, len(data)), make([]byte, size)
						for {
							n, err := read(ours, buf)
							got = append(got, buf[:n]...)
							if err == io.EOF {
								break
							}
							if err != nil || n == 0 {
								t.Fatal(n, err)
							}
						}
						if sha256.Sum256(got) != sha256.Sum256(data) {
							t.Errorf("%d bytes differ, want %d", len(got), len(data))
						}
						if ours.records.buf != nil {
							t.Error("a buffer is held at the end")
						}
					})
				}
			}
		}
	}
}

// counting counts writes.
type counting struct {
	net.Conn
	writes atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func TestOneSystemCallForEach256KiBWritten(t *testing.T) {
	var c *counting
	ours, theirs, _ := linked(t, &tls.Config{}, func(n net.Conn) net.Conn { c = &counting{Conn: n}; return c })
	data := random(1<<20, 3)
	before := c.writes.Load()
	go func() {
		if n, err := ours.Write(data); n != len(data) || err != nil {
			t.Error(n, err)
		}
		ours.CloseWrite()
	}()
	got, err := io.ReadAll(theirs)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	if n := c.writes.Load() - before; n != 4+1 {
		t.Errorf("%d writes for 1 MiB and a close_notify, want 5", n)
	}
}

func TestManyRecordsAreReadAtOnce(t *testing.T) {
	ours, theirs, _ := linked(t, &tls.Config{}, nil)
	for range 10 {
		theirs.Write(make([]byte, 1000))
	}
	if err := ours.WaitReadable(); err != nil {
		t.Fatal(err)
	}
	total, reads := 0, 0
	for total < 10000 {
		n, err := ours.Read(make([]byte, 64<<10))
		if err != nil {
			t.Fatal(err)
		}
		total, reads = total+n, reads+1
	}
	if reads > 3 {
		t.Errorf("%d reads for 10 records that had come", reads)
	}
}

// A server's session tickets come after the handshake, and are no data.
func TestWaitReadableWaitsForApplicationData(t *testing.T) {
	m := newMesh(t)
	near, far := tcpPair(t)
	done := make(chan *Conn, 1)
	go func() {
		s, err := NewServer(m.serverConfig(), noFeeds()).Handshake(context.Background(), far)
		if err != nil {
			t.Error(err)
		}
		done <- s
	}()
	c, err := NewClient(m.clientConfig(), noFeeds()).Handshake(context.Background(), near, ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server := <-done
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if err := c.WaitReadable(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v, want the deadline: there were only tickets", err)
	}
	if c.records.buf != nil {
		t.Error("a buffer is held while waiting")
	}
	c.SetReadDeadline(time.Time{})
	server.Write([]byte("data"))
	if err := c.WaitReadable(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if n, err := c.Read(buf); string(buf[:n]) != "data" || err != nil {
		t.Errorf("got %q %v", buf[:n], err)
	}
}

// trickle writes each byte by itself.
type trickle struct{ net.Conn }

func (c trickle) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func TestPartOfARecordHoldsNoBuffer(t *testing.T) {
	m := newMesh(t)
	sc := m.serverConfig()
	sc.RequireClientCertificate = false
	near, far := tcpPair(t)
	hold := &holding{Conn: near, free: make(chan int, 1)}
	theirs := tls.Client(hold, &tls.Config{InsecureSkipVerify: true})
	done := make(chan error, 1)
	go func() { done <- theirs.Handshake() }()
	ours, err := NewServer(sc, noFeeds()).Handshake(context.Background(), far)
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	hold.on = true
	for _, part := range []int{3, 5, 40} {
		hold.free <- part
		if _, err := theirs.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		ours.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if err := ours.WaitReadable(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%d bytes of a record: got %v, want the deadline", part, err)
		}
		if ours.records.buf != nil {
			t.Errorf("%d bytes of a record hold a buffer", part)
		}
		ours.SetReadDeadline(time.Time{})
		near.Write(hold.rest)
		if err := ours.WaitReadable(); err != nil {
			t.Fatal(err)
		}
		if n, err := ours.Read(make([]byte, 1000)); n != 100 || err != nil {
			t.Fatalf("got %d %v, want 100", n, err)
		}
	}
}

// holding lets only the beginning of each write through.
type holding struct {
	net.Conn
	on   bool
	free chan int
	rest []byte
}

func (h *holding) Write(p []byte) (int, error) {
	if !h.on {
		return h.Conn.Write(p)
	}
	n := <-h.free
	h.rest = bytes.Clone(p[n:])
	if _, err := h.Conn.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

func TestByteByByteIsReadAsWell(t *testing.T) {
	m := newMesh(t)
	sc := m.serverConfig()
	sc.RequireClientCertificate = false
	near, far := tcpPair(t)
	theirs := tls.Client(trickle{near}, &tls.Config{InsecureSkipVerify: true})
	go func() {
		theirs.Write([]byte("hello"))
		theirs.CloseWrite()
		near.CloseWrite()
	}()
	ours, err := NewServer(sc, noFeeds()).Handshake(context.Background(), far)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(ours); string(got) != "hello" || err != nil {
		t.Errorf("got %q %v", got, err)
	}
}

func TestHowAConnectionEnds(t *testing.T) {
	cases := map[string]struct {
		end  func(theirs *tls.Conn, socket *net.TCPConn)
		want func(error) bool
	}{
		"close_notify": {func(c *tls.Conn, _ *net.TCPConn) { c.CloseWrite() }, func(err error) bool { return err == io.EOF }},
		"bare FIN":     {func(_ *tls.Conn, s *net.TCPConn) { s.CloseWrite() }, func(err error) bool { return err == io.EOF }},
		"FIN in a record": {func(_ *tls.Conn, s *net.TCPConn) { s.Write([]byte{23, 3, 3, 1, 0, 1}); s.CloseWrite() },
			func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"FIN in a header": {func(_ *tls.Conn, s *net.TCPConn) { s.Write([]byte{23, 3}); s.CloseWrite() },
			func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"RST": {func(_ *tls.Conn, s *net.TCPConn) { s.SetLinger(0); s.Close() },
			func(err error) bool { return err != nil && err != io.EOF }},
		"forged record": {func(_ *tls.Conn, s *net.TCPConn) { s.Write(append([]byte{23, 3, 3, 0, 32}, make([]byte, 32)...)) },
			func(err error) bool { return err != nil && err != io.EOF }},
		"record too long": {func(_ *tls.Conn, s *net.TCPConn) { s.Write([]byte{23, 3, 3, 0xff, 0xff, 0}) },
			func(err error) bool { return err != nil && err != io.EOF }},
	}
	for name, c := range cases {
		for _, wait := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%t", name, wait), func(t *testing.T) {
				ours, theirs, socket := linked(t, &tls.Config{}, nil)
				theirs.Write([]byte("x"))
				if n, err := ours.Read(make([]byte, 10)); n != 1 || err != nil {
					t.Fatal(n, err)
				}
				c.end(theirs, socket)
				var err error
				for n := 0; n == 0 && err == nil; {
					if wait {
						if err = ours.WaitReadable(); err == nil {
							n, err = ours.Read(make([]byte, 10))
						}
					} else {
						n, err = ours.Read(make([]byte, 10))
					}
				}
				if !c.want(err) {
					t.Fatalf("got %v", err)
				}
				if _, again := ours.Read(make([]byte, 10)); !c.want(again) {
					t.Errorf("then %v", again)
				}
				if again := ours.WaitReadable(); again != nil && !c.want(again) {
					t.Errorf("then, waiting, %v", again)
				}
			})
		}
	}
}

func TestOneDirectionGoesOnAfterTheOtherHasEnded(t *testing.T) {
	ours, theirs, socket := linked(t, &tls.Config{}, nil)
	if err := ours.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(theirs); len(got) != 0 || err != nil {
		t.Fatalf("got %q %v, want the end", got, err)
	}
	if n, err := socket.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("beneath: got %d %v, want a FIN", n, err)
	}
	theirs.Write([]byte("still here"))
	theirs.CloseWrite()
	if got, err := io.ReadAll(ours); string(got) != "still here" || err != nil {
		t.Errorf("got %q %v", got, err)
	}
}

func TestCloseDoesNotWaitForAPeerThatDoesNotRead(t *testing.T) {
	for _, blocked := range []bool{false, true} {
		ours, _, _ := linked(t, &tls.Config{}, nil)
		beneath := ours.NetConn()
		beneath.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		for {
			if _, err := beneath.Write(make([]byte, 256<<10)); err != nil {
				break // the socket is full
			}
		}
		beneath.SetWriteDeadline(time.Time{})
		var writer sync.WaitGroup
		if blocked {
			writer.Go(func() {
				for {
					if _, err := ours.Write(make([]byte, 64<<10)); err != nil {
						return
					}
				}
			})
			for held := 0; held < 10000; runtime.Gosched() { // until the writer waits for the socket
				if held++; ours.records.mu.TryLock() {
					ours.records.mu.Unlock()
					held = 0
				}
			}
		}
		start := time.Now()
		if err := ours.Close(); err != nil {
			t.Error(err)
		}
		writer.Wait()
		if took := time.Since(start); took > time.Second {
			t.Errorf("took %s (a write was blocked: %t)", took, blocked)
		}
	}
}

func TestAfterALostWriteNothingIsWritten(t *testing.T) {
	ours, _, _ := linked(t, &tls.Config{}, nil)
	ours.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	var first error
	for first == nil {
		_, first = ours.Write(make([]byte, 256<<10))
	}
	ours.SetWriteDeadline(time.Time{})
	if n, err := ours.Write(make([]byte, 100<<10)); n != 0 || err == nil {
		t.Errorf("got %d %v: the peer would see records missing", n, err)
	}
}

func TestBothDirectionsAtOnce(t *testing.T) {
	ours, theirs, _ := linked(t, &tls.Config{}, nil)
	up, down := random(4<<20, 5), random(4<<20, 6)
	var all sync.WaitGroup
	send := func(c io.Writer, b []byte, end func() error) {
		defer end()
		for len(b) > 0 {
			n, err := c.Write(b[:min(len(b), 100<<10)])
			if err != nil {
				t.Error(err)
				return
			}
			b = b[n:]
		}
	}
	receive := func(c io.Reader, want []byte) {
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	}
	all.Go(func() { send(ours, down, ours.CloseWrite) })
	all.Go(func() { send(theirs, up, theirs.CloseWrite) })
	all.Go(func() { receive(ours, up) })
	all.Go(func() { receive(theirs, down) })
	all.Wait()
}

func TestReadingDoesNotAllocate(t *testing.T) {
	ours, theirs, _ := linked(t, &tls.Config{}, nil)
	msg, buf := make([]byte, 40<<10), make([]byte, 64<<10)
	n := testing.AllocsPerRun(100, func() {
		theirs.Write(msg)
		for got := 0; got < len(msg); {
			if err := ours.WaitReadable(); err != nil {
				t.Fatal(err)
			}
			n, err := ours.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got += n
		}
		ours.Write(msg)
		io.ReadFull(theirs, buf[:len(msg)])
	})
	if n > 12 { // crypto/tls's own: one for each nonce, one for each Write
		t.Errorf("%v allocations for 80 KiB", n)
	}
}

// script is a connection that gives its bytes in pieces of given sizes.
type script struct {
	net.Conn
	data  []byte
	sizes []byte
}

func (s *script) Write(p []byte) (int, error) { return len(p), nil }

func (s *script) Read(p []byte) (int, error) {
	if len(s.data) == 0 {
		return 0, io.EOF
	}
	n := 1
	if len(s.sizes) > 0 {
		n, s.sizes = int(s.sizes[0])+1, s.sizes[1:]
	}
	n = copy(p, s.data[:min(n, len(s.data))])
	s.data = s.data[n:]
	return n, nil
}

// FuzzRecords: whatever comes, in whatever pieces, is handed on unchanged to
// its last byte, never more than one record in a Read, with no buffer held at
// the end.
func FuzzRecords(f *testing.F) {
	f.Add([]byte{22, 3, 1, 0, 2, 9, 9, 23, 3, 3, 0, 1, 7}, []byte{3, 200, 1})
	f.Add([]byte{23, 3, 3, 0, 0, 23, 3, 3, 0xff, 0xff, 1}, []byte{})
	f.Fuzz(func(t *testing.T, data, sizes []byte) {
		r := newRecords(&script{data: data, sizes: sizes})
		var got []byte
		p := make([]byte, 600)
		for {
			n, err := r.Read(p)
			if crossesRecord(data, len(got), n) {
				t.Fatalf("bytes %d to %d are of two records", len(got), len(got)+n)
			}
			got = append(got, p[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil || n == 0 {
				t.Fatal(n, err)
			}
		}
		if !bytes.Equal(got, data) {
			t.Fatalf("got %x, want %x", got, data)
		}
		if r.buf != nil {
			t.Fatal("a buffer is held")
		}
	})
}

// crossesRecord reports whether n bytes at from end in another record than the
// one they begin in.
func crossesRecord(data []byte, from, n int) bool {
	for start := 0; start+5 <= len(data); {
		end := start + 5 + int(data[start+3])<<8 + int(data[start+4])
		if from < end {
			return from+n > end
		}
		start = end
	}
	return false
}
