package h1

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/message"
)

func TestServerKeepsTheConnectionForFurtherRequests(t *testing.T) {
	a := newApp(ok)
	v := serve(t, a, Options{})
	for range 3 {
		v.write("GET /x HTTP/1.1\r\nHost: a\r\nX-Y:  z \r\n\r\n")
		v.read(okText)
	}
	v.nc.CloseWrite()
	e := v.ended()
	if e.By != codec.ByFIN || e.Requests != 3 || e.Err != nil {
		t.Errorf("ended %+v", e)
	}
	if want := uint64(3 * len("GET /x HTTP/1.1\r\nHost: a\r\nX-Y:  z \r\n\r\n")); e.BytesRead != want || e.BytesWritten != uint64(3*len(okText)) {
		t.Errorf("%d bytes read, want %d; %d written, want %d", e.BytesRead, want, e.BytesWritten, 3*len(okText))
	}
	if e.LastRead.IsZero() || e.LastRead.Before(e.Opened) || e.At.Before(e.LastRead) {
		t.Errorf("opened %v, last read %v, ended %v", e.Opened, e.LastRead, e.At)
	}
	for _, got := range a.texts() {
		if want := "GET a /x x-y=z end"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if a.idles != 3 && a.idles != 4 { // the end tells it once more
		t.Errorf("idle %d times", a.idles)
	}
}

// Each response is framed as its status, the request's method and version say.
func TestServerFramesResponses(t *testing.T) {
	const chunkedHead = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
	for _, c := range []struct {
		name, request string
		head          *message.Head
		headEnd       bool
		body          []string
		want          string
		closes        bool
	}{
		{"by length", get, respond(200, "content-length", "5"), false, []string{"he", "llo"}, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", false},
		{"in chunks", get, respond(200), false, []string{"he", "", "llo"}, chunkedHead + "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", false},
		{"without a body", get, respond(200), true, nil, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false},
		{"with an empty body", get, respond(200), false, []string{""}, chunkedHead + "0\r\n\r\n", false},
		{"204", get, respond(204), true, nil, "HTTP/1.1 204 No Content\r\n\r\n", false},
		{"204 with a body", get, respond(204), false, []string{"abc"}, "HTTP/1.1 204 No Content\r\n\r\n", false},
		{"304", get, respond(304), true, nil, "HTTP/1.1 304 Not Modified\r\n\r\n", false},
		{"304 with a length", get, respond(304, "content-length", "5"), true, nil, "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", false},
		{"to HEAD", "HEAD / HTTP/1.1\r\nHost: a\r\n", respond(200, "content-length", "5"), false, []string{"hello"}, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", false},
		{"to HEAD without a length", "HEAD / HTTP/1.1\r\nHost: a\r\n", respond(200), true, nil, chunkedHead, false},
		{"no transfer-encoding but ours", get, respond(200, "transfer-encoding", "gzip", "connection", "keep-alive"), false, []string{"a"}, "HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", false},
		{"one length", get, respond(200, "content-length", "1", "content-length", "2"), false, []string{"a"}, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na", false},
		{"no length that is none", get, respond(200, "content-length", "x"), false, []string{"a"}, chunkedHead + "1\r\na\r\n0\r\n\r\n", false},
		{"no lines in values", get, respond(200, "a", "b\r\nc: d", "e f", "g", "content-length", "0"), true, nil, "HTTP/1.1 200 OK\r\na: b  c: d\r\ncontent-length: 0\r\n\r\n", false},
		{"an unknown status", get, respond(299), true, nil, "HTTP/1.1 299 Unknown\r\ncontent-length: 0\r\n\r\n", false},
		{"no more than the length", get, respond(200, "content-length", "2"), false, []string{"abc"}, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", true},
		{"less than the length", get, respond(200, "content-length", "4"), false, []string{"abc"}, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabc", true},
		{"close, as the client said", get + "Connection: close\r\n", respond(200), true, nil, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", true},
		{"close, as the proxy said", get + "Proxy-Connection: close\r\n", respond(200), true, nil, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", true},
		{"close, as the response said", get, respond(200, "connection", "close", "x", "y"), true, nil, "HTTP/1.1 200 OK\r\nx: y\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", true},
		{"to HTTP/1.0", "GET / HTTP/1.0\r\n", respond(200), false, []string{"abc"}, "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nabc", true},
		{"to HTTP/1.0 that keeps alive", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n", respond(200, "content-length", "3"), false, []string{"abc"}, "HTTP/1.0 200 OK\r\ncontent-length: 3\r\nconnection: keep-alive\r\n\r\nabc", false},
		{"to HTTP/1.0 that keeps alive, without a length", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n", respond(200), false, []string{"abc"}, "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nabc", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newApp(nil)
			v := serve(t, a, Options{AcceptHTTP10: true, DefaultHost: "d"})
			v.write(c.request + "\r\n")
			r := a.next(t)
			r.s.SendHead(c.head, c.headEnd)
			for i, p := range c.body {
				if gone := r.s.SendData([]byte(p), i == len(c.body)-1); gone != len(p) {
					t.Errorf("%d of %d bytes are gone", gone, len(p))
				}
			}
			v.read(c.want)
			if c.closes {
				if got := v.rest(); got != "" {
					t.Errorf("after the response came %q", got)
				}
				return
			}
			v.write(get + "\r\n")
			r = a.next(t)
			r.s.SendHead(respond(200), true)
			v.read(okText)
		})
	}
}

func TestServerSendsTrailersIfEnabled(t *testing.T) {
	for _, c := range []struct {
		enabled bool
		want    string
	}{
		{true, "1\r\na\r\n0\r\nx: y\r\n\r\n"},
		{false, "1\r\na\r\n0\r\n\r\n"},
	} {
		a := newApp(nil)
		v := serve(t, a, Options{EnableTrailers: c.enabled})
		v.write(chnk + "3\r\nabc\r\n0\r\nT: v\r\nU: w\r\n\r\n")
		r := a.next(t)
		r.awaitEnd(t)
		want := "POST a /x transfer-encoding=chunked body=abc end"
		if c.enabled {
			want = "POST a /x transfer-encoding=chunked body=abc trailer t=v trailer u=w end"
		}
		if got := r.text(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		r.s.SendHead(respond(200), false)
		r.s.SendData([]byte("a"), false)
		r.s.SendTrailers(message.Fields{{Name: "x", Value: "y"}, {Name: "content-length", Value: "3"}})
		v.read("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + c.want)
	}
}

func TestServerWritesNamesInProperCase(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{ProperCaseHeaders: true})
	v.write(get + "\r\n")
	a.next(t).s.SendHead(respond(200, "x-foo_bar", "y", "etag", "z"), true)
	v.read("HTTP/1.1 200 OK\r\nX-Foo_Bar: y\r\nEtag: z\r\nContent-Length: 0\r\n\r\n")
}

func TestServerAnswersPipelinedRequestsInOrder(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{})
	v.write("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n" +
		"POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /4 HTTP/1.1\r\nHost: a\r\n\r\n")
	for _, want := range []string{"GET a /1 end", "GET a /2 end", "POST a /3 content-length=3 body=abc end", "GET a /4 end"} {
		r := a.next(t)
		r.awaitEnd(t)
		if got := r.text(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if n := len(a.came); n != 0 {
			t.Errorf("another request came before the response of %s", want)
		}
		r.s.SendHead(respond(200, "content-length", "5"), false)
		r.s.SendData([]byte("hello"), true)
		v.read("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
	}
}

func TestServerPassesInformationalResponses(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{})
	v.write(post + "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
	r := a.next(t)
	r.s.SendHead(respond(100), false)
	v.read("HTTP/1.1 100 Continue\r\n\r\n")
	r.s.SendHead(respond(103, "link", "x", "content-length", "3"), false)
	v.read("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
	v.write("abc")
	r.awaitEnd(t)
	r.s.SendHead(respond(200), true)
	v.read(okText)
}

// The client has all of the response before the connection ends, though it has
// more to send.
func TestResponseBeforeTheEndOfTheRequestIsRead(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{})
	v.write(post + "Content-Length: 100000\r\n\r\nabc")
	r := a.next(t)
	r.s.SendHead(respond(413), true)
	r.s.Reset(codec.NoError)
	v.read("HTTP/1.1 413 Payload Too Large\r\n")
	go io.WriteString(v.nc, strings.Repeat("x", 50000))
	if got := v.rest(); got != "content-length: 0\r\n\r\n" {
		t.Errorf("got %q", got)
	}
	v.nc.Close()
	if e := v.ended(); e.By != codec.ByUs {
		t.Errorf("ended %+v", e)
	}
	if r.reset != nil {
		t.Errorf("its own reset came back: %+v", r.reset)
	}
}

func TestResetEndsTheConnection(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{})
	v.write(get + "\r\n" + get + "\r\n")
	r := a.next(t)
	r.s.SendHead(respond(200), false)
	v.read("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
	r.s.Reset(codec.Cancel)
	r.s.SendData([]byte("late"), true)
	if got := v.rest(); got != "" {
		t.Errorf("then came %q", got)
	}
	v.nc.Close()
	if e := v.ended(); e.By != codec.ByUs || e.Requests != 1 {
		t.Errorf("ended %+v", e)
	}
}

func TestClientSeesWhatThereWasOfAResponse(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{})
	v.write(get + "\r\n")
	r := a.next(t)
	r.s.SendHead(respond(200, "content-length", "5"), false)
	r.s.SendData([]byte("abc"), false)
	r.s.Reset(codec.InternalError)
	if got, want := v.rest(), "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestProtocolIsThatOfTheRequest(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{AcceptHTTP10: true})
	v.write("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" + get + "\r\n")
	for _, want := range []codec.Protocol{codec.HTTP10, codec.HTTP11} {
		r := a.next(t)
		if got := r.s.Conn().Protocol(); got != want {
			t.Errorf("protocol %s, want %s", got, want)
		}
		r.s.SendHead(respond(200), true)
	}
}

func TestEndOfTheClientResetsItsRequest(t *testing.T) {
	for _, c := range []struct {
		name, bytes string
		end         func(*served)
		by          codec.Closer
	}{
		{"FIN in the body", post + "Content-Length: 5\r\n\r\nabc", func(v *served) { v.nc.CloseWrite() }, codec.ByFIN},
		{"FIN in a chunk", chnk + "5\r\nabc", func(v *served) { v.nc.CloseWrite() }, codec.ByFIN},
		{"FIN before the response", get + "\r\n", func(v *served) { v.nc.CloseWrite() }, codec.ByFIN},
		{"RST", get + "\r\n", func(v *served) { v.nc.SetLinger(0); v.nc.Close() }, codec.ByRST},
		{"Close of ours", get + "\r\n", func(v *served) { v.srv.Close() }, codec.ByUs},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newApp(nil)
			v := serve(t, a, Options{})
			v.write(c.bytes)
			r := a.next(t)
			r.await(t, "the head", func() bool { return r.head != nil })
			c.end(v)
			r.await(t, "a reset", func() bool { return r.reset != nil })
			e := v.ended()
			if r.reset.Reason != codec.Closed || r.reset.End != e || r.reset.Remote != (c.by != codec.ByUs) {
				t.Errorf("reset %+v", r.reset)
			}
			if e.By != c.by || e.Requests != 1 {
				t.Errorf("ended %+v, want by %s", e, c.by)
			}
		})
	}
}

func TestHeadThatIsCutIsNoRequest(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{})
	v.write("GET /x HTTP/1.1\r\nHo")
	v.nc.CloseWrite()
	if e := v.ended(); e.By != codec.ByFIN || e.Requests != 0 {
		t.Errorf("ended %+v", e)
	}
	if got := v.rest(); got != "" || len(a.requests) != 0 {
		t.Errorf("answered %q, %d requests", got, len(a.requests))
	}
}

func TestDrainClosesAfterTheNextResponse(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{})
	v.write(get + "\r\n")
	r := a.next(t)
	v.srv.Drain(false)
	r.s.SendHead(respond(200), true)
	v.read("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
	if got := v.rest(); got != "" {
		t.Errorf("then came %q", got)
	}
}

func TestDrainTakesTheRequestThatIsOnItsWay(t *testing.T) {
	a := newApp(ok)
	v := serve(t, a, Options{})
	v.srv.Drain(false)
	v.write(get + "\r\n")
	v.read("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
	v.rest()
}

func TestFinalDrainClosesAnIdleConnection(t *testing.T) {
	a := newApp(ok)
	v := serve(t, a, Options{})
	v.write(get + "\r\n")
	v.read(okText)
	v.srv.Drain(false)
	v.srv.Drain(true)
	if got := v.rest(); got != "" {
		t.Errorf("then came %q", got)
	}
}

func TestAbsoluteURLIsAPathIfNotAllowed(t *testing.T) {
	a := newApp(ok)
	v := serve(t, a, Options{NoAbsoluteURL: true})
	v.write("GET http://b/y HTTP/1.1\r\nHost: a\r\n\r\n")
	v.read(okText)
	if got, want := a.texts()[0], "GET a http://b/y end"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestChunkedLengthIsIgnoredIfAllowed(t *testing.T) {
	a := newApp(ok)
	v := serve(t, a, Options{AllowChunkedLength: true})
	v.write(post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n")
	v.read(okText)
	if got, want := a.texts()[0], "POST a /x transfer-encoding=chunked body=abcd end"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestGoClientUnderstandsServer(t *testing.T) {
	a := newApp(nil)
	v := serve(t, a, Options{EnableTrailers: true})
	for range 3 {
		req, err := http.NewRequest("POST", "http://a/x", struct{ io.Reader }{strings.NewReader(strings.Repeat("abc", 50000))})
		if err != nil {
			t.Fatal(err)
		}
		req.Trailer = http.Header{"T": {"v"}}
		sent := make(chan error, 1)
		go func() { sent <- req.Write(v.nc) }()
		r := a.next(t)
		r.awaitEnd(t)
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if r.body.Len() != 150000 || len(r.trailer) != 1 {
			t.Errorf("%d bytes, trailers %v", r.body.Len(), r.trailer)
		}
		r.s.SendHead(respond(200, "x", "y"), false)
		r.s.SendData([]byte("hello "), false)
		r.s.SendData([]byte("there"), false)
		r.s.SendTrailers(message.Fields{{Name: "u", Value: "w"}})
		resp, err := http.ReadResponse(v.br, req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if string(body) != "hello there" || err != nil || resp.Header.Get("X") != "y" || resp.Trailer.Get("U") != "w" {
			t.Errorf("read %q (%v), %v, %v", body, err, resp.Header, resp.Trailer)
		}
	}
}

func TestHeadMayBeLargerThanTheBufferIfAllowed(t *testing.T) {
	a := newApp(ok)
	v := serve(t, a, Options{MaxHeaderBytes: 1 << 20, EnableTrailers: true})
	large := strings.Repeat("a", 300<<10)
	for range 2 {
		v.write(chnk[:len(chnk)-2] + "X: " + large + "\r\n\r\n3\r\nabc\r\n0\r\nT: " + large + "\r\n\r\n" + get + "\r\n")
		v.read(okText + okText)
	}
	if got, want := a.texts()[2], "POST a /x transfer-encoding=chunked x="+large+" body=abc trailer t="+large+" end"; got != want {
		t.Errorf("got %d bytes, want %d", len(got), len(want))
	}
}
