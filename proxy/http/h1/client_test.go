package h1

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/h1/h1test"
	"outrider/proxy/http/message"
	"outrider/proxy/relay"
)

func TestClientMakesOneRequestAfterAnother(t *testing.T) {
	v := call(t, Options{})
	for range 3 {
		v.awaitRoom()
		r := v.open()
		if _, err := v.cl.Open(newRecord()); !errors.Is(err, codec.ErrUnavailable) {
			t.Errorf("a second request beside the first: %v", err)
		}
		r.s.SendHead(ask("POST", "/x", "a", "b"), false)
		r.s.SendData([]byte("abc"), false)
		r.s.SendData([]byte("d"), true)
		v.read("POST /x HTTP/1.1\r\nhost: a\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n")
		v.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
		r.awaitEnd(t)
		if got, want := r.text(), "200 content-length=5 body=hello end"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	v.awaitRoom()
	v.nc.Close()
	if e := v.ended(); e.By != codec.ByFIN || e.Requests != 3 || e.Err != nil {
		t.Errorf("ended %+v", e)
	}
	if v.own.freed < 3 || v.own.drained != 1 {
		t.Errorf("freed %d times, drained %d times", v.own.freed, v.own.drained)
	}
}

func TestClientWritesRequests(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Options
		head *message.Head
		end  bool
		body []string
		want string
	}{
		{"GET", Options{}, ask("GET", "/x?y"), true, nil, "GET /x?y HTTP/1.1\r\nhost: a\r\n\r\n"},
		{"POST without a body", Options{}, ask("POST", "/"), true, nil, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"},
		{"DELETE without a body", Options{}, ask("DELETE", "/"), true, nil, "DELETE / HTTP/1.1\r\nhost: a\r\n\r\n"},
		{"a length", Options{}, ask("GET", "/", "content-length", "3"), false, []string{"abc"}, "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc"},
		{"OPTIONS *", Options{}, ask("OPTIONS", "*"), true, nil, "OPTIONS * HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"},
		{"a URL", Options{SendFullyQualifiedURL: true}, ask("GET", "/x"), true, nil, "GET http://a/x HTTP/1.1\r\nhost: a\r\n\r\n"},
		{"proper case", Options{ProperCaseHeaders: true}, ask("GET", "/x", "x-foo", "b"), true, nil, "GET /x HTTP/1.1\r\nHost: a\r\nX-Foo: b\r\n\r\n"},
		{"a target that would end early", Options{}, ask("GET", "/x y\r\nz"), true, nil, "GET /x%20y%0D%0Az HTTP/1.1\r\nhost: a\r\n\r\n"},
		{"a value that would end early", Options{}, ask("GET", "/", "x", "y\r\nz: \x00"), true, nil, "GET / HTTP/1.1\r\nhost: a\r\nx: y  z:  \r\n\r\n"},
		{"no second Host", Options{}, ask("GET", "/", "host", "b", "transfer-encoding", "chunked"), true, nil, "GET / HTTP/1.1\r\nhost: a\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := call(t, c.o)
			r := v.open()
			r.s.SendHead(c.head, c.end)
			for i, p := range c.body {
				r.s.SendData([]byte(p), i == len(c.body)-1)
			}
			v.read(c.want)
			v.write(okText)
			r.awaitEnd(t)
			v.awaitRoom()
			r = v.open()
			r.s.SendHead(ask("OPTIONS", "*"), true)
			v.read("OPTIONS * HTTP/1.1\r\n")
		})
	}
}

func TestClientReadsResponses(t *testing.T) {
	for _, c := range h1test.Responses() {
		t.Run(c.Name, func(t *testing.T) {
			v := call(t, Options{})
			r := v.open()
			r.s.SendHead(ask(c.Method, "/"), true)
			v.read(c.Method + " / HTTP/1.1\r\nhost: a\r\n\r\n")
			v.write(c.Bytes)
			if c.FIN {
				v.nc.CloseWrite()
			}
			r.awaitEnd(t)
			if got := r.text(); got != c.Want {
				t.Errorf("got %q, want %q", got, c.Want)
			}
			if r.reset != nil && r.reset.Remote != (r.reset.Reason == codec.Closed) {
				t.Errorf("reset %+v", r.reset)
			}
			if !c.Reused {
				e := v.ended()
				if e.Requests != 1 || e.BytesRead == 0 && c.Bytes != "" {
					t.Errorf("ended %+v", e)
				}
				if v.own.room != 0 || !v.cl.Draining() || v.own.drained != 1 {
					t.Errorf("room %d, drained %d times", v.own.room, v.own.drained)
				}
				return
			}
			v.awaitRoom()
			r = v.open()
			r.s.SendHead(ask("GET", "/2"), true)
			v.read("GET /2 HTTP/1.1\r\nhost: a\r\n\r\n")
			v.write(okText)
			r.awaitEnd(t)
		})
	}
}

func TestClientSaysHowAnIdleConnectionEnded(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*called)
		by   codec.Closer
		err  string
	}{
		{"FIN", func(v *called) { v.nc.Close() }, codec.ByFIN, ""},
		{"RST", func(v *called) { v.nc.SetLinger(0); v.nc.Close() }, codec.ByRST, "reset by peer"},
		{"408", func(v *called) { v.write("HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n") }, codec.ByUs, "bytes without a request: HTTP/1.1 408 Request Timeout"},
		{"we", func(v *called) { v.cl.Close() }, codec.ByUs, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := call(t, Options{})
			r := v.open()
			r.s.SendHead(ask("GET", "/"), true)
			v.read("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
			v.write(okText)
			r.awaitEnd(t)
			v.awaitRoom()
			c.end(v)
			e := v.ended()
			if e.By != c.by || e.Requests != 1 || (e.Err == nil) != (c.err == "") || e.Err != nil && !strings.Contains(e.Err.Error(), c.err) {
				t.Errorf("ended %+v, want by %s with %q", e, c.by, c.err)
			}
			if r.reset != nil {
				t.Errorf("a response that was through is reset: %+v", r.reset)
			}
		})
	}
}

// The reader of a response knows that nobody reads the rest of the request, and
// the connection is not used again.
func TestClientEndsWithAResponseBeforeTheEndOfTheRequest(t *testing.T) {
	v := call(t, Options{})
	r := v.open()
	r.s.SendHead(ask("POST", "/"), false)
	r.s.SendData([]byte("abc"), false)
	v.read("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
	v.write("HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
	r.awaitEnd(t)
	r.await(t, "a reset", func() bool { return r.reset != nil })
	if r.reset.Reason != codec.NoError || !r.reset.Remote || !r.done {
		t.Errorf("reset %+v, done %v", r.reset, r.done)
	}
	if e := v.ended(); e.By != codec.ByUs {
		t.Errorf("ended %+v", e)
	}
}

// What comes before the request cannot be its response.
func TestResponseBeforeTheRequestIsNoResponse(t *testing.T) {
	v := call(t, Options{})
	r := v.open()
	v.write(okText)
	r.awaitEnd(t)
	if r.done || r.reset == nil || r.reset.Reason != codec.Closed {
		t.Errorf("got %s", r.text())
	}
	if e := v.ended(); e.By != codec.ByUs || !errors.Is(e.Err, errUnasked) {
		t.Errorf("ended %+v", e)
	}
}

func TestCancelEndsTheConnection(t *testing.T) {
	v := call(t, Options{})
	r := v.open()
	r.s.SendHead(ask("GET", "/"), true)
	v.read("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
	r.s.Reset(codec.Cancel)
	if v.cl.Room() != 0 {
		t.Error("there is room")
	}
	if e := v.ended(); e.By != codec.ByUs || r.reset != nil {
		t.Errorf("ended %+v, reset %+v", e, r.reset)
	}
}

func TestClientDropsARequestThatWasGivenUp(t *testing.T) {
	c, s := tcpPair(t)
	cl := NewClient(relay.Plain(c), newOwner(), Options{})
	sender, err := cl.Open(newRecord())
	if err != nil {
		t.Fatal(err)
	}
	sender.SendHead(ask("POST", "/"), false)
	sender.SendData([]byte("abc"), false)
	sender.Reset(codec.Cancel)
	if e := cl.Run(); e.BytesWritten != 0 {
		t.Errorf("%d bytes written", e.BytesWritten)
	}
	if n, _ := s.Read(make([]byte, 1)); n != 0 {
		t.Error("something was sent")
	}
}

func TestResponseBeforeAResetIsRead(t *testing.T) {
	v := call(t, Options{})
	r := v.open()
	r.s.SendHead(ask("POST", "/"), false)
	v.read("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
	v.write("HTTP/1.1 413 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
	r.await(t, "the response", func() bool { return r.done })
	if got, want := r.text(), "413 connection=close content-length=2 body=no end"; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if e := v.ended(); !e.GoAway {
		t.Errorf("the server said that it closes: %+v", e)
	}
}

func TestGoServerUnderstandsClient(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(echo)}
	done := make(chan struct{})
	go func() { srv.Serve(l); close(done) }()
	defer func() { srv.Close(); <-done }()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	own := newOwner()
	cl := NewClient(relay.Plain(nc), own, Options{EnableTrailers: true})
	ended := make(chan struct{})
	go func() { cl.Run(); close(ended) }()
	defer func() { cl.Close(); <-ended }()
	for range 3 {
		r := newRecord()
		s, err := cl.Open(r)
		if err != nil {
			t.Fatal(err)
		}
		r.s = s
		body := strings.Repeat("abc", 30000)
		s.SendHead(ask("POST", "/x"), false)
		s.SendData([]byte(body), false)
		s.SendTrailers(message.Fields{{Name: "t", Value: "v"}})
		r.awaitEnd(t)
		if r.body.String() != body || r.trailer.Value("u") != "v" {
			t.Errorf("%d bytes came back, trailers %v", r.body.Len(), r.trailer)
		}
		for cl.Room() == 0 {
			<-own.changed
		}
	}
}

// echo sends the body back, and the trailer t as u.
func echo(w http.ResponseWriter, r *http.Request) {
	var b strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := r.Body.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			break
		}
	}
	w.Header().Set("Trailer", "U")
	w.Write([]byte(b.String()))
	w.Header().Set("U", r.Trailer.Get("T"))
}

// A request that is opened in the moment a response ends must not get what the
// server said too much.
func TestThereIsNeverRoomBeforeBytesThatNobodyAskedFor(t *testing.T) {
	for _, extra := range []string{"", "HTTP/1.1 200 OK\r\n\r\n"} {
		c := NewClient(&script{}, noPool{}, Options{}).(*client)
		r := newRecord()
		s, err := c.Open(r)
		if err != nil {
			t.Fatal(err)
		}
		r.s = s
		s.SendHead(ask("GET", "/"), true)
		c.in.end = copy(c.in.Take(), okText+extra)
		if err := c.readResponse(s.(*stream)); err != nil {
			t.Fatal(err)
		}
		if got := c.Room() == 1; got != (extra == "") {
			t.Errorf("room after a response and %q: %v", extra, got)
		}
	}
}
