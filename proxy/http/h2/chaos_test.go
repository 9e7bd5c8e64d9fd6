package h2

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"outrider/proxy/relay"
)

// Streams that are given up at any time, by either end, leave nothing behind:
// no stream, and all of the connections' windows.
func TestCancelledStreamsLeaveNothingBehind(t *testing.T) {
	up, err := net.Dial("tcp", standardServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch rand.IntN(4) {
		case 0:
			panic(http.ErrAbortHandler)
		case 1:
			io.CopyN(io.Discard, r.Body, 1000)
			w.Write(make([]byte, 100_000))
		default:
			io.Copy(w, r.Body)
		}
	})))
	if err != nil {
		t.Fatal(err)
	}
	near, down := tcpPair(t)
	o := Options{InitialStreamWindow: 65535, InitialConnWindow: 200_000, PrematureResetCount: 1 << 20}
	cl := NewClient(relay.Plain(up), &pool{}, o)
	srv := NewServer(relay.Plain(down), &bridge{up: cl}, o)
	var ended sync.WaitGroup
	ended.Go(func() { srv.Serve(); cl.Close() })
	ended.Go(func() { cl.Run() })
	c := standardClient(t, near)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 30 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(8000))*time.Microsecond)
				req, _ := http.NewRequestWithContext(ctx, "POST", "http://x/", bytes.NewReader(make([]byte, rand.IntN(300_000))))
				if resp, err := c.Do(req); err == nil {
					io.CopyN(io.Discard, resp.Body, rand.Int64N(300_000))
					resp.Body.Close()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	// Each window is as large as ever: a body that needs it all goes through.
	for i := 0; ; i++ {
		body := make([]byte, 400_000)
		resp, err := c.Post("http://x/", "", bytes.NewReader(body))
		if err != nil { // the server's mood
			if i == 100 {
				t.Fatal(err)
			}
			continue
		}
		got, err := io.ReadAll(resp.Body)
		if err == nil && len(got) == len(body) {
			break
		}
	}
	for srv.Active() != 0 || cl.Active() != 0 {
		time.Sleep(time.Millisecond)
	}
	for name, x := range map[string]*conn{"server": srv.(*server).conn, "client": cl.(*client).conn} {
		x.mu.Lock()
		if got := x.recvWindow + int64(x.credit); got != 200_000 {
			t.Errorf("%s: %d bytes of the connection's window are lost", name, 200_000-got)
		}
		if x.pendingBytes != 0 || len(x.streams) != 0 {
			t.Errorf("%s: %d bytes wait in %d streams", name, x.pendingBytes, len(x.streams))
		}
		x.mu.Unlock()
	}
	near.Close()
	ended.Wait()
}
