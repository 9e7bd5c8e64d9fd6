package h1

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/h1/h1test"
	"outrider/proxy/http/message"
)

// script is a connection whose peer says data, in pieces, and then ends.
type script struct {
	mu     sync.Mutex
	data   []byte
	cuts   []byte
	out    bytes.Buffer
	closed bool
}

func (s *script) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.data) == 0 {
		return 0, io.EOF
	}
	n := len(s.data)
	if len(s.cuts) > 0 {
		n, s.cuts = min(n, int(s.cuts[0])+1), s.cuts[1:]
	}
	n = copy(p, s.data[:n])
	s.data = s.data[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

func (s *script) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func (s *script) CloseWrite() error                { return nil }
func (s *script) WaitReadable() error              { return nil }
func (s *script) LocalAddr() net.Addr              { return nil }
func (s *script) RemoteAddr() net.Addr             { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// fuzzServer is what a server makes of the bytes: the requests, and what it
// answered. Each request is answered when it has come.
func fuzzServer(data, cuts []byte) ([]string, string) {
	a := newApp(func(r *record, what string) {
		r.mu.Lock()
		done, tunnel := r.done, r.head != nil && (r.head.Method == "CONNECT" || r.head.Fields.Has("upgrade"))
		r.mu.Unlock()
		if what == "head" && tunnel {
			r.s.SendHead(respond(map[bool]int{true: 200, false: 101}[r.head.Method == "CONNECT"]), false)
		}
		if done {
			r.s.SendHead(respond(200), true)
			r.s.SendData(nil, true)
		}
	})
	a.came = make(chan *record, len(data)+1)
	s := &script{data: slices.Clone(data), cuts: cuts}
	NewServer(s, a, Options{EnableTrailers: true, AcceptHTTP10: true}).Serve()
	return a.texts(), s.out.String()
}

func FuzzServer(f *testing.F) {
	for _, c := range h1test.Refusals() {
		if len(c.Bytes) < 1000 {
			f.Add([]byte(c.Bytes), []byte{})
		}
	}
	f.Add([]byte(get+"\r\n"+chnk+"3\r\nabc\r\n0\r\nT: v\r\n\r\n"+upgrade+"more"), []byte{3, 50, 1, 1, 1})
	f.Add([]byte("CONNECT a:80 HTTP/1.1\r\n\r\nmore"), []byte{0})
	f.Add([]byte("POST /x HTTP/1.0\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc"+get+"\r\n"), []byte{0})
	var req bytes.Buffer
	r, err := http.NewRequest("PUT", "http://a/x?y", struct{ io.Reader }{strings.NewReader("hello")})
	if err != nil {
		f.Fatal(err)
	}
	_ = r.Write(&req)
	f.Add(req.Bytes(), []byte{7})
	f.Fuzz(func(t *testing.T, data, cuts []byte) {
		if len(data) > 1<<16 {
			return
		}
		whole, answered := fuzzServer(data, nil)
		split, again := fuzzServer(data, cuts)
		if !slices.Equal(whole, split) {
			t.Errorf("in one piece %q, in pieces %q", whole, split)
		}
		if answered != again && !strings.Contains(strings.Join(whole, ""), "reset") {
			t.Errorf("answers %q in one piece, %q in pieces", answered, again)
		}
		agreeWithGo(t, data, whole)
	})
}

// agreeWithGo compares the first request with what net/http makes of the same
// bytes. What we take, it takes as well, and in the same way.
func agreeWithGo(t *testing.T, data []byte, ours []string) {
	if len(ours) == 0 || !strings.HasSuffix(ours[0], " end") || strings.Contains(ours[0], "upgrade") {
		return
	}
	in := bytes.TrimLeft(data, "\r\n")
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in)))
	if err != nil {
		// It looks into URLs, which we do not.
		for _, about := range []string{"header", "length", "Length", "encoding", "Encoding"} {
			if strings.Contains(err.Error(), about) {
				t.Errorf("we read %q, net/http finds %v", ours[0], err)
			}
		}
		return
	}
	if r.Method == "CONNECT" {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Errorf("we read %q, net/http finds %v in its body", ours[0], err)
	}
	got, _, _ := strings.Cut(ours[0], " ")
	if got != r.Method {
		t.Errorf("we read %q, net/http %s", ours[0], r.Method)
	}
	if len(body) > 0 && !strings.Contains(ours[0], "body="+string(body)) {
		t.Errorf("we read %q, net/http the body %q", ours[0], body)
	}
	if len(body) == 0 && strings.Contains(ours[0], " body=") && !strings.Contains(string(data), " body=") {
		t.Errorf("we read %q, net/http no body", ours[0])
	}
}

// fuzzClient is what a client makes of the bytes as the response.
func fuzzClient(head *message.Head, data, cuts []byte) string {
	s := &script{data: slices.Clone(data), cuts: cuts}
	c := NewClient(s, noPool{}, Options{EnableTrailers: true})
	r := newRecord()
	sender, err := c.Open(r)
	if err != nil {
		return err.Error()
	}
	r.s = sender
	sender.SendHead(head, true)
	c.Run()
	return r.text()
}

type noPool struct{}

func (noPool) Freed(codec.Client)   {}
func (noPool) Drained(codec.Client) {}

func FuzzClient(f *testing.F) {
	for _, c := range h1test.Responses() {
		if len(c.Bytes) < 1000 {
			f.Add([]byte(c.Bytes), []byte{}, c.Method == "HEAD")
		}
	}
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: v\r\n\r\n"), []byte{1, 2, 3}, false)
	f.Fuzz(func(t *testing.T, data, cuts []byte, isHead bool) {
		if len(data) > 1<<16 {
			return
		}
		method := "GET"
		if isHead {
			method = "HEAD"
		}
		whole := fuzzClient(ask(method, "/"), data, nil)
		if split := fuzzClient(ask(method, "/"), data, cuts); whole != split {
			t.Errorf("in one piece %q, in pieces %q", whole, split)
		}
	})
}
