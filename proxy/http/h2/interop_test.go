package h2

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"

	"golang.org/x/net/http2"
)

// standardServer serves h over HTTP/2 without TLS with net/http.
func standardServer(t testing.TB, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: &p}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return l.Addr().String()
}

// standardClient is x/net's client on one connection.
func standardClient(t testing.TB, nc net.Conn) *http.Client {
	t.Helper()
	cc, err := new(http2.Transport).NewClientConn(nc)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: cc}
}

// throughBridge is a client whose requests go through our server and our client
// to a net/http server.
func throughBridge(t testing.TB, h http.Handler, o Options) *http.Client {
	t.Helper()
	up, err := net.Dial("tcp", standardServer(t, h))
	if err != nil {
		t.Fatal(err)
	}
	client, down := tcpPair(t)
	wait, _, _ := startBridge(t, down, up, o)
	t.Cleanup(func() { client.Close(); wait() })
	return standardClient(t, client)
}

func TestBridgeCarriesRequestsOfTheStandardLibrary(t *testing.T) {
	c := throughBridge(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("server: %v", err)
		}
		w.Header().Set("Trailer", "x-sum")
		w.Header().Set("x-path", r.URL.String())
		w.Header().Set("x-host", r.Host)
		w.Header().Set("x-te", r.Trailer.Get("x-sent"))
		w.WriteHeader(201)
		w.Write(body)
		w.Header().Set("x-sum", fmt.Sprintf("%x", sha256.Sum256(body)))
	}), Options{})
	for _, size := range []int{0, 1, 1000, 16384, 70000, 3 << 20, 40 << 20} {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(rand.Uint32())
		}
		req, _ := http.NewRequest("POST", "http://shop.test/a?b=c", bytes.NewReader(body))
		if size%2 == 0 {
			req.ContentLength = -1
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("%d bytes: got %d, %v", size, len(got), err)
		}
		if resp.StatusCode != 201 || resp.Header.Get("x-path") != "/a?b=c" || resp.Header.Get("x-host") != "shop.test" {
			t.Errorf("got %d, %v", resp.StatusCode, resp.Header)
		}
		if want := fmt.Sprintf("%x", sha256.Sum256(body)); resp.Trailer.Get("x-sum") != want {
			t.Errorf("trailer: got %v, want %s", resp.Trailer, want)
		}
	}
}

func TestBridgeCarriesManyStreamsAtOnce(t *testing.T) {
	c := throughBridge(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}), Options{})
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for range 20 {
				body := bytes.Repeat([]byte{byte(i)}, rand.IntN(200000))
				resp, err := c.Post("http://x/", "", bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || !bytes.Equal(got, body) {
					t.Errorf("got %d bytes, %v; want %d", len(got), err, len(body))
				}
			}
		})
	}
	wg.Wait()
}
