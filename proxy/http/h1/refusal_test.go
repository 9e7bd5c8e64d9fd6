package h1

import (
	"fmt"
	"strings"
	"testing"

	"outrider/proxy/http/codec"
	"outrider/proxy/http/h1/h1test"
)

const (
	get  = h1test.Get
	post = h1test.Post
	chnk = h1test.Chunked
)

func TestServerRefusesWhatCanBeReadInTwoWays(t *testing.T) {
	for _, c := range h1test.Refusals() {
		t.Run(c.Name, func(t *testing.T) {
			var status int
			var details string
			a := newApp(nil)
			v := serve(t, a, Options{Mistake: func(s int, d string) { status, details = s, d }})
			v.write(c.Bytes)
			want := fmt.Sprintf("HTTP/1.1 %d %s\r\ncontent-length: %d\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n%[2]s",
				c.Status, phrase(c.Status), len(phrase(c.Status)))
			if got := v.rest(); got != want {
				t.Errorf("answered %q, want %q", got, want)
			}
			v.nc.Close()
			e := v.ended()
			if e.By != codec.ByUs || e.Err == nil {
				t.Errorf("ended by %s with %v, want by us with an error", e.By, e.Err)
			}
			if status != c.Status || details != c.Details {
				t.Errorf("told of %d %s, want %d %s", status, details, c.Status, c.Details)
			}
			for _, r := range a.requests {
				if !strings.Contains(r.text(), "reset") {
					t.Errorf("a request went on: %s", r.text())
				}
			}
		})
	}
}

// Envoy 1.40 takes all of these.
func TestServerTakesWhatIsUnusualButClear(t *testing.T) {
	for _, c := range []struct{ name, bytes, want string }{
		{"no host", "GET /x HTTP/1.1\r\n\r\n", "GET  /x end"},
		{"an empty host", "GET /x HTTP/1.1\r\nHost:\r\n\r\n", "GET  /x end"},
		{"a nominated host", get + "Connection: host\r\n\r\n", "GET  /x end"},
		{"user information in Host", "GET /x HTTP/1.1\r\nHost: u@b\r\n\r\n", "GET u@b /x end"},
		{"empty lines first", "\r\n\r\n" + get + "\r\n", "GET a /x end"},
		{"a value that is not ASCII", get + "X: a\xe9b\r\n\r\n", "GET a /x x=a\xe9b end"},
		{"a tab in a value", get + "X: a\tb\r\n\r\n", "GET a /x x=a\tb end"},
		{"white space around a value", get + "X:  \t a \t\r\n\r\n", "GET a /x x=a end"},
		{"an empty value", get + "X:\r\n\r\n", "GET a /x x= end"},
		{"all characters of a name", get + "!#$%&'*+-.^_`|~: a\r\n\r\n", "GET a /x !#$%&'*+-.^_`|~=a end"},
		{"a name in upper case", get + "X-Foo-BAR: A\r\n\r\n", "GET a /x x-foo-bar=A end"},
		{"a length with zeros", post + "Content-Length: 003\r\n\r\nabc", "POST a /x content-length=003 body=abc end"},
		{"a length with white space", post + "Content-Length: 3 \t\r\n\r\nabc", "POST a /x content-length=3 body=abc end"},
		{"chunked in upper case", post + "Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", "POST a /x transfer-encoding=CHUNKED end"},
		{"an extension", chnk + "3;a=\"b;c\"\r\nabc\r\n0;x\r\n\r\n", "POST a /x transfer-encoding=chunked body=abc end"},
		{"a space after the size", chnk + "3 \t\r\nabc\r\n0\r\n\r\n", "POST a /x transfer-encoding=chunked body=abc end"},
		{"zeros before the size", chnk + "0000000000000000000003\r\nabc\r\n000\r\n\r\n", "POST a /x transfer-encoding=chunked body=abc end"},
		{"trailers, which are dropped", chnk + "0\r\nT: v\r\n\r\n", "POST a /x transfer-encoding=chunked end"},
		{"100 fields", get + h1test.Many(99) + "\r\n", ""},
		{"61000 bytes", get + "X: " + strings.Repeat("a", 61000) + "\r\n\r\n", ""},
		{"a URL", "GET http://b/y?z HTTP/1.1\r\nHost: a\r\n\r\n", "GET b /y?z http end"},
		{"a URL without a path", "GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", "GET b / http end"},
		{"a URL with a query alone", "GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n", "GET b ?q http end"},
		{"a URL with a port", "GET http://b:8080/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET b:8080 / http end"},
		{"a URL of https", "GET HTTPS://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET b / https end"},
		{"a URL with user information", "GET http://u:p@b/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET b / http end"},
		{"a URL with an IPv6 address", "GET http://[::1]:80/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET [::1]:80 / http end"},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS a * end"},
		{"delimiters in the target", "GET /\"<>\\^`{|} HTTP/1.1\r\nHost: a\r\n\r\n", "GET a /\"<>\\^`{|} end"},
		{"nominated fields", get + "Connection: x-foo, te\r\nX-Foo: a\r\nTE: gzip, trailers\r\n\r\n", "GET a /x connection=te te=trailers end"},
		{"keep-alive", get + "Connection: keep-alive\r\n\r\n", "GET a /x connection=keep-alive end"},
		{"a nominated length", post + "Connection: content-length\r\nContent-Length: 3\r\n\r\nabc", "POST a /x body=abc end"},
		{"an upgrade without Connection", get + "Upgrade: websocket\r\n\r\n", "GET a /x upgrade=websocket end"},
		{"an upgrade to h2c", get + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n", "GET a /x end"},
		{"an upgrade with a body", post + "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc", "POST a /x content-length=3 body=abc end"},
		{"a GET with a body", get + "Content-Length: 3\r\n\r\nabc", "GET a /x content-length=3 body=abc end"},
		{"expect", post + "Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", "POST a /x expect=100-continue content-length=3 body=abc end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newApp(ok)
			v := serve(t, a, Options{})
			v.write(c.bytes)
			v.read(okText)
			v.write(get + "\r\n")
			v.read(okText)
			if got := a.texts()[0]; c.want != "" && got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// answers is an app that answers mistakes itself.
type answers struct {
	*app
	refusals []Refusal
}

func (a *answers) Refuse(s codec.Sender, r Refusal) codec.Receiver {
	a.refusals = append(a.refusals, r)
	s.SendHead(respond(r.Status, "x", "y"), true)
	return newRecord()
}

func TestOwnerMayAnswerWhatIsRefused(t *testing.T) {
	a := &answers{app: newApp(ok)}
	v := serve(t, a, Options{})
	v.write(get + "\r\nbad\r\n\r\n")
	v.read(okText)
	if got, want := v.rest(), "HTTP/1.1 400 Bad Request\r\nx: y\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"; got != want {
		t.Errorf("answered %q, want %q", got, want)
	}
	if len(a.refusals) != 1 || a.refusals[0].Details != detailCodec || a.refusals[0].Body != "Bad Request" {
		t.Errorf("refused %+v", a.refusals)
	}
	v.nc.Close()
	v.ended()
}

// answering is a receiver that answers mistakes itself.
type answering struct {
	*record
	refusals []Refusal
}

func (a *answering) OnMistake(r Refusal) bool {
	a.refusals = append(a.refusals, r)
	a.s.SendHead(respond(r.Status, "x", "y"), true)
	return true
}

type answeringApp struct {
	head bool // the response begins at once
	r    *answering
}

func (a *answeringApp) Idle() {}
func (a *answeringApp) Request(s codec.Sender) codec.Receiver {
	a.r = &answering{record: newRecord()}
	a.r.s = s
	if a.head {
		s.SendHead(respond(200), false)
	}
	return a.r
}

func TestReceiverMayAnswerAMistakeInItsBody(t *testing.T) {
	for _, c := range []struct {
		name, bytes string
		begun       bool
		answer      string
		told        int
		text        string
	}{
		{"in a chunk", chnk + "3\r\nabc\r\nx\r\n", false,
			"HTTP/1.1 400 Bad Request\r\nx: y\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", 1, "POST a /x transfer-encoding=chunked body=abc"},
		{"after the response has begun", chnk + "3\r\nabc\r\nx\r\n", true,
			"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 0, "POST a /x transfer-encoding=chunked body=abc reset=3 http1.codec_error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &answeringApp{head: c.begun}
			v := serve(t, a, Options{})
			v.write(c.bytes + get + "\r\n")
			if got := v.rest(); got != c.answer {
				t.Errorf("answered %q, want %q", got, c.answer)
			}
			v.nc.Close()
			if e := v.ended(); e.Requests != 1 || e.By != codec.ByUs {
				t.Errorf("ended %+v", e)
			}
			if got := a.r.text(); got != c.text || len(a.r.refusals) != c.told {
				t.Errorf("told %q and %+v, want %q", got, a.r.refusals, c.text)
			}
		})
	}
}

func TestRequestsThatNobodyTakesAreAnswered(t *testing.T) {
	a := newApp(nil)
	a.no = true
	v := serve(t, a, Options{})
	v.write(get + "\r\n")
	if got := v.rest(); !strings.HasPrefix(got, "HTTP/1.1 503 Service Unavailable\r\n") {
		t.Errorf("answered %q", got)
	}
}
