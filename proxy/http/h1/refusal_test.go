package h1

import (
	"fmt"
	"strings"
	"testing"

	"outrider/proxy/http/codec"
)

const (
	get  = "GET /x HTTP/1.1\r\nHost: a\r\n"
	post = "POST /x HTTP/1.1\r\nHost: a\r\n"
	chnk = post + "Transfer-Encoding: chunked\r\n\r\n"
)

// lenient marks what Envoy 1.40 takes and we do not: two readers may see two
// messages in it. All other rows are what Envoy 1.40 answers to these bytes.
const lenient = true

var refusals = []struct {
	name, bytes string
	status      int
	details     string
	lenient     bool
}{
	{"two hosts", get + "Host: b\r\n\r\n", 400, detailCodec, lenient},
	{"two equal hosts", get + "Host: a\r\n\r\n", 400, detailCodec, lenient},
	{"a host with a space", "GET /x HTTP/1.1\r\nHost: a b\r\n\r\n", 400, detailAuthority, false},
	{"a host with a slash", "GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, detailAuthority, false},
	{"a host with a quote", "GET /x HTTP/1.1\r\nHost: \"b\r\n\r\n", 400, detailAuthority, false},
	{"version 1.0", "GET /x HTTP/1.0\r\nHost: a\r\n\r\n", 426, detailVersion, false},
	{"version 1.2", "GET /x HTTP/1.2\r\nHost: a\r\n\r\n", 426, detailVersion, false},
	{"version 2.0", "GET /x HTTP/2.0\r\nHost: a\r\n\r\n", 426, detailVersion, false},
	{"no version", "GET /x\r\n\r\n", 426, detailVersion, false},
	{"version 1.10", "GET /x HTTP/1.10\r\nHost: a\r\n\r\n", 400, detailCodec, false},
	{"version in lower case", "GET /x http/1.1\r\nHost: a\r\n\r\n", 400, detailCodec, false},
	{"version 1", "GET /x HTTP/1\r\nHost: a\r\n\r\n", 400, detailCodec, false},
	{"another protocol", "GET /x XTTP/1.1\r\nHost: a\r\n\r\n", 400, detailCodec, false},
	{"an unknown method", "FOO /x HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailCodec, false},
	{"a method in lower case", "get /x HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailCodec, false},
	{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, detailCodec, false},
	{"a space first", " " + get + "\r\n", 400, detailCodec, false},
	{"an LF first", "\n" + get + "\r\n", 400, detailCodec, lenient},
	{"lines with LF alone", "GET /x HTTP/1.1\nHost: a\n\n", 400, detailCodec, lenient},
	{"one line with LF alone", get + "X: y\nZ: w\r\n\r\n", 400, detailCodec, lenient},
	{"an end with LF alone", "GET /x HTTP/1.1\r\nHost: a\r\n\n", 400, detailCodec, lenient},
	{"a CR in a value", get + "X: a\rb\r\n\r\n", 400, detailChars, lenient},
	{"two CRs at the end of a line", get + "X: a\r\r\n\r\n", 400, detailChars, lenient},
	{"a CR in a name", get + "X\r: a\r\n\r\n", 400, detailChars, false}, // Envoy: http1.codec_error
	{"a folded line", get + "X: a\r\n b\r\n\r\n", 400, detailCodec, lenient},
	{"a folded line with a tab", get + "X: a\r\n\tb\r\n\r\n", 400, detailCodec, lenient},
	{"a folded first line", "GET /x HTTP/1.1\r\n Host: a\r\n\r\n", 400, detailCodec, false},
	{"a space before the colon", get + "X : a\r\n\r\n", 400, detailCodec, false},
	{"a tab before the colon", get + "X\t: a\r\n\r\n", 400, detailCodec, false},
	{"a space in a name", get + "X Y: a\r\n\r\n", 400, detailCodec, false},
	{"no name", get + ": a\r\n\r\n", 400, detailCodec, false},
	{"no colon", get + "XY\r\n\r\n", 400, detailCodec, false},
	{"NUL in a value", get + "X: a\x00b\r\n\r\n", 400, detailChars, false},
	{"a control character in a value", get + "X: a\x01b\r\n\r\n", 400, detailChars, false},
	{"DEL in a value", get + "X: a\x7fb\r\n\r\n", 400, detailChars, false},
	{"FF in a value", get + "X: a\x0cb\r\n\r\n", 400, detailChars, false},
	{"a name that is not ASCII", get + "X\xe9: a\r\n\r\n", 400, detailCodec, false},
	{"a parenthesis in a name", get + "X(: a\r\n\r\n", 400, detailCodec, false},
	{"a slash in a name", get + "X/y: a\r\n\r\n", 400, detailCodec, false},
	{"NUL in a name", get + "X\x00: a\r\n\r\n", 400, detailChars, false},

	{"both lengths", post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, detailBothLengths, false},
	{"both lengths, one of them 0", post + "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, detailBothLengths, false},
	{"two equal lengths", post + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, detailCodec, false},
	{"two lengths", post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400, detailCodec, false},
	{"a list of lengths", post + "Content-Length: 3, 3\r\n\r\nabc", 400, detailCodec, false},
	{"a length with a sign", post + "Content-Length: +3\r\n\r\nabc", 400, detailCodec, false},
	{"a negative length", post + "Content-Length: -3\r\n\r\nabc", 400, detailCodec, false},
	{"a hexadecimal length", post + "Content-Length: 0x3\r\n\r\nabc", 400, detailCodec, false},
	{"an empty length", post + "Content-Length:\r\n\r\nabc", 400, detailCodec, false},
	{"a length in two parts", post + "Content-Length: 3 3\r\n\r\nabc", 400, detailCodec, false},
	{"a length of 20 digits", post + "Content-Length: 99999999999999999999\r\n\r\nabc", 400, detailCodec, false},
	{"a length above 63 bits", post + "Content-Length: 9223372036854775808\r\n\r\nabc", 400, detailCodec, lenient},
	{"gzip", post + "Transfer-Encoding: gzip\r\n\r\n", 501, detailEncoding, false},
	{"gzip, chunked", post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, detailEncoding, false},
	{"chunked, gzip", post + "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 501, detailEncoding, false},
	{"chunked twice", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501, detailEncoding, false},
	{"chunked and identity", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 501, detailEncoding, false},
	{"identity", post + "Transfer-Encoding: identity\r\n\r\n", 501, detailEncoding, false},
	{"an empty transfer-encoding", post + "Transfer-Encoding:\r\n\r\n", 501, detailEncoding, false},
	{"xchunked", post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, detailEncoding, false},
	{"VT before chunked", post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400, detailChars, false},
	{"chunked and a comma", post + "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", 501, detailEncoding, false},
	{"chunked in quotes", post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 501, detailEncoding, false},
	{"chunked with a parameter", post + "Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n", 501, detailEncoding, false},
	{"gzip and a length", post + "Transfer-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", 400, detailBothLengths, false},

	{"LF in an extension", chnk + "3;a\nabc\r\n0\r\n\r\n", 400, detailCodec, false},
	{"CR in an extension", chnk + "3;a\rb\r\nabc\r\n0\r\n\r\n", 400, detailCodec, false},
	{"NUL in an extension", chnk + "3;a\x00b\r\nabc\r\n0\r\n\r\n", 400, detailCodec, lenient},
	{"an extension of 5000 bytes", chnk + "3;" + strings.Repeat("a", 5000) + "\r\nabc\r\n0\r\n\r\n", 400, detailCodec, lenient},
	{"a word after the size", chnk + "3 abc\r\nabc\r\n0\r\n\r\n", 400, detailCodec, lenient},
	{"a space before the size", chnk + " 3\r\nabc\r\n0\r\n\r\n", 400, detailCodec, false},
	{"LF after the size", chnk + "3\nabc\r\n0\r\n\r\n", 400, detailCodec, false},
	{"LF after a chunk", chnk + "3\r\nabc\n0\r\n\r\n", 400, detailCodec, lenient},
	{"a chunk that is longer", chnk + "3\r\nabcd\r\n0\r\n\r\n", 400, detailCodec, lenient},
	{"CR and a letter after a chunk", chnk + "3\r\nabc\rx0\r\n\r\n", 400, detailCodec, false},
	{"a negative chunk", chnk + "-3\r\nabc\r\n0\r\n\r\n", 400, detailCodec, false},
	{"a chunk of 0x3", chnk + "0x3\r\nabc\r\n0\r\n\r\n", 400, detailCodec, false},
	{"no size", chnk + "\r\nabc\r\n0\r\n\r\n", 400, detailCodec, false},
	{"a size that is no number", chnk + "zz\r\nabc\r\n0\r\n\r\n", 400, detailCodec, false},
	{"a chunk above 64 bits", chnk + "fffffffffffffffff\r\nabc\r\n0\r\n\r\n", 400, detailCodec, false},
	{"a chunk of 64 bits", chnk + "ffffffffffffffff\r\nabc", 400, detailCodec, lenient},
	{"LF at the end", chnk + "0\r\n\n", 400, detailCodec, lenient},
	{"LF after the last size", chnk + "0\n\r\n", 400, detailCodec, false},
	{"a trailer without a colon", chnk + "0\r\nT v\r\n\r\n", 400, detailCodec, false},
	{"a control character in a trailer", chnk + "0\r\nT: \x01\r\n\r\n", 400, detailChars, false},
	{"a space before a trailer's colon", chnk + "0\r\nT : v\r\n\r\n", 400, detailCodec, false},
	{"a folded trailer", chnk + "0\r\nT: v\r\n x\r\n\r\n", 400, detailCodec, lenient},
	{"trailers above the limit", chnk + "0\r\na: " + strings.Repeat("b", 70000) + "\r\n\r\n", 431, detailTooLarge, false},

	{"a head above the limit", get + "X: " + strings.Repeat("a", 62000) + "\r\n\r\n", 431, detailTooLarge, false},
	{"101 fields", get + many(100) + "\r\n", 431, detailTooMany, false},
	{"a target above the limit", "GET /" + strings.Repeat("a", 62000) + " HTTP/1.1\r\nHost: a\r\n\r\n", 431, detailTooLarge, false},
	{"a line without an end", "GET /" + strings.Repeat("a", 70000), 431, detailTooLarge, false},
	{"a method without an end", strings.Repeat("A", 70000), 431, detailTooLarge, false},

	{"a URL of ftp", "GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailScheme, false},
	{"a URL without a host", "GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailURL, false},
	{"a URL with a bad port", "GET http://b:x/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailURL, false},
	{"a URL with a port too high", "GET http://b:99999/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailURL, false},
	{"GET *", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailURL, false},
	{"a relative path", "GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailCodec, false},
	{"a space in the target", "GET /x y HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailCodec, false},
	{"two spaces before the target", "GET  /x HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailCodec, lenient},
	{"tabs around the target", "GET\t/x\tHTTP/1.1\r\nHost: a\r\n\r\n", 400, detailCodec, lenient},
	{"a tab in the target", "GET /x\ty HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailCodec, false},
	{"a control character in the target", "GET /x\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailChars, false},
	{"NUL in the target", "GET /x\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailChars, false},
	{"a target that is not ASCII", "GET /x\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailCodec, false},
	{"DEL in the target", "GET /x\x7f HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailChars, false},
	{"a space after the version", "GET /x HTTP/1.1 \r\nHost: a\r\n\r\n", 400, detailCodec, lenient},
	{"a CR in the target", "GET /x\r HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailChars, lenient},
	{"CONNECT without a port", "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailURL, false},
	{"CONNECT to a path", "CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailURL, false},
	{"CONNECT with a length", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 400, detailBody, false},
	{"CONNECT with chunks", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501, detailEncoding, false},
	{"CONNECT to a URL", "CONNECT http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, detailURL, false},
	{"Connection nominates a pseudo-header", get + "Connection: :path\r\n\r\n", 400, detailConnection, false},
	{"Connection nominates X-Forwarded-For", get + "Connection: x-forwarded-for\r\n\r\n", 400, detailConnection, false},
	{"Connection nominates X-Forwarded-Host", get + "Connection: X-Forwarded-Host\r\n\r\n", 400, detailConnection, false},
	{"Connection nominates many fields", get + "Connection: a,b,c,d,e,f,g,h,i,j,k\r\n\r\n", 400, detailConnection, false},
	{"TE is long", get + "Connection: te\r\nTE: " + strings.Repeat("a", 300) + "\r\n\r\n", 400, detailConnection, false},
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "a%d: b\r\n", i)
	}
	return b.String()
}

func TestServerRefusesWhatCanBeReadInTwoWays(t *testing.T) {
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			var status int
			var details string
			a := newApp(nil)
			v := serve(t, a, Options{Mistake: func(s int, d string) { status, details = s, d }})
			v.write(c.bytes)
			want := fmt.Sprintf("HTTP/1.1 %d %s\r\ncontent-length: %d\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n%[2]s",
				c.status, phrase(c.status), len(phrase(c.status)))
			if got := v.rest(); got != want {
				t.Errorf("answered %q, want %q", got, want)
			}
			v.nc.Close()
			e := v.ended()
			if e.By != codec.ByUs || e.Err == nil {
				t.Errorf("ended by %s with %v, want by us with an error", e.By, e.Err)
			}
			if status != c.status || details != c.details {
				t.Errorf("told of %d %s, want %d %s", status, details, c.status, c.details)
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
		{"100 fields", get + many(99) + "\r\n", ""},
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

func TestRequestsThatNobodyTakesAreAnswered(t *testing.T) {
	a := newApp(nil)
	a.no = true
	v := serve(t, a, Options{})
	v.write(get + "\r\n")
	if got := v.rest(); !strings.HasPrefix(got, "HTTP/1.1 503 Service Unavailable\r\n") {
		t.Errorf("answered %q", got)
	}
}
