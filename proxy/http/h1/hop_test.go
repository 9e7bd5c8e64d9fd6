package h1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
)

// mirror sends each body back as it comes, within the credit that it has.
type mirror struct{}

func (m *mirror) Request(s codec.Sender) codec.Receiver { return &mirrored{s: s} }
func (m *mirror) Idle()                                 {}

type mirrored struct {
	s codec.Sender
}

func (m *mirrored) OnHead(h *message.Head, end bool) {
	r := respond(200)
	if n, ok := h.Fields.Get("content-length"); ok {
		r.Fields.Add("content-length", n)
	}
	r.Fields.Add("x-path", h.Path)
	h.Release()
	m.s.SendHead(r, end)
	r.Release()
}

func (m *mirrored) OnData(p []byte, end bool) {
	if n := m.s.SendData(p, end); n > 0 {
		m.s.Consumed(n)
	}
}
func (m *mirrored) OnTrailers(t message.Fields) { m.s.SendTrailers(t) }
func (m *mirrored) OnReset(codec.Reset)         {}
func (m *mirrored) OnGone(n int)                { m.s.Consumed(n) }

// Bodies of any size and framing come back through a server and a client, on
// connections that are used again and again, pipelined and not.
func TestHopChangesNothing(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			for range 5 {
				hopOnce(t, rnd)
			}
		})
	}
	wg.Wait()
}

// hopOnce makes requests over one connection.
func hopOnce(t *testing.T, rnd *rand.Rand) {
	o := Options{EnableTrailers: true, BufferLimit: 1 << (12 + rnd.IntN(9))}
	nc := startHop(t, &mirror{}, o)
	_ = nc.SetDeadline(time.Now().Add(patience))
	const n = 20
	bodies := make([][]byte, n)
	for i := range bodies {
		bodies[i] = randomBody(rnd)
	}
	chunked := rnd.IntN(2) == 0
	go func() { // pipelined
		w := bufio.NewWriter(nc)
		for i, body := range bodies {
			writeRequest(w, i, body, chunked)
		}
		_ = w.Flush()
	}()
	br := bufio.NewReader(nc)
	for i, body := range bodies {
		r, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Errorf("response %d: %v", i, err)
			return
		}
		got, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("response %d: %d bytes, want %d; %v", i, len(got), len(body), err)
			return
		}
		if r.Header.Get("X-Path") != fmt.Sprintf("/%d", i) || chunked && r.Trailer.Get("T") != fmt.Sprint(i) {
			t.Errorf("response %d has head %v and trailers %v", i, r.Header, r.Trailer)
		}
	}
}

func randomBody(rnd *rand.Rand) []byte {
	b := make([]byte, rnd.IntN(1<<rnd.IntN(21)))
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

func writeRequest(w *bufio.Writer, i int, body []byte, chunked bool) {
	fmt.Fprintf(w, "POST /%d HTTP/1.1\r\nHost: a\r\n", i)
	if !chunked {
		fmt.Fprintf(w, "Content-Length: %d\r\n\r\n", len(body))
		_, _ = w.Write(body)
		return
	}
	fmt.Fprint(w, "Transfer-Encoding: chunked\r\n\r\n")
	for k := 1; len(body) > 0; k *= 3 {
		n := min(k, len(body))
		fmt.Fprintf(w, "%x;ext\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	fmt.Fprintf(w, "0\r\nT: %d\r\n\r\n", i)
}

// moody is a mirror that resets some of its requests.
type moody struct {
	mu  sync.Mutex
	rnd *rand.Rand // guarded by mu
}

func (m *moody) Idle() {}
func (m *moody) Request(s codec.Sender) codec.Receiver {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &moodyStream{mirrored: mirrored{s: s}, calls: m.rnd.IntN(12), reason: codec.Reason(m.rnd.IntN(3))}
}

type moodyStream struct {
	mirrored
	calls  int // until it resets
	reason codec.Reason
}

func (m *moodyStream) OnData(p []byte, end bool) {
	if m.calls--; m.calls == 0 {
		m.s.Reset(m.reason)
		return
	}
	m.mirrored.OnData(p, end)
}

// However a connection ends, everything on both sides of the hop ends.
func TestHopEndsInAnyCase(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	for i := range 150 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			o := Options{BufferLimit: 1 << (10 + rnd.IntN(10)), CloseDelay: time.Millisecond}
			nc := startHop(t, &moody{rnd: rand.New(rand.NewPCG(uint64(i), 2))}, o).(*net.TCPConn)
			_ = nc.SetDeadline(time.Now().Add(time.Duration(1+rnd.IntN(20)) * time.Millisecond))
			body, linger, half := randomBody(rnd), rnd.IntN(2) == 0, rnd.IntN(2) == 0
			go func() {
				w := bufio.NewWriter(nc)
				for k := range 5 {
					writeRequest(w, k, body, k%2 == 0)
				}
				_ = w.Flush()
				if half {
					_ = nc.CloseWrite()
				}
			}()
			_, _ = io.Copy(io.Discard, nc)
			if linger {
				_ = nc.SetLinger(0)
			}
			_ = nc.Close() // the cleanup waits for all
		})
	}
}
