// Package h1test is what peers may say in HTTP/1 that is wrong, and what becomes
// of it: for the tests of package h1, and for a comparison with Envoy.
package h1test

import (
	"fmt"
	"strings"
)

// Beginnings of requests. The first two lack the empty line.
const (
	Get     = "GET /x HTTP/1.1\r\nHost: a\r\n"
	Post    = "POST /x HTTP/1.1\r\nHost: a\r\n"
	Chunked = Post + "Transfer-Encoding: chunked\r\n\r\n"
)

// Refused is a request that a server refuses.
type Refused struct {
	Name, Bytes string
	Status      int
	// Details are Envoy's response code details.
	Details string
	// Lenient marks what Envoy 1.40 takes: two readers may see two messages in
	// it. All other rows are what Envoy answers to these bytes.
	Lenient bool
}

const lenient = true

// Envoy's response code details.
const (
	codecError    = "http1.codec_error"
	badChars      = "http1.invalid_characters"
	tooLarge      = "http1.headers_too_large"
	tooMany       = "http1.too_many_headers"
	badURL        = "http1.invalid_url"
	badScheme     = "http1.invalid_scheme"
	badEncoding   = "http1.invalid_transfer_encoding"
	bothLengths   = "http1.content_length_and_chunked_not_allowed"
	body          = "http1.body_disallowed"
	badConnection = "http1.connection_header_rejected"
	badAuthority  = "http.invalid_authority"
	lowVersion    = "low_version"
)

// Refusals are requests that are refused.
func Refusals() []Refused {
	var out []Refused
	for _, rows := range [][]Refused{heads(), lengths(), chunks(), targets()} {
		out = append(out, rows...)
	}
	return out
}

// Many are n fields.
func Many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "a%d: b\r\n", i)
	}
	return b.String()
}

// heads are mistakes in lines, and too much of them.
func heads() []Refused {
	return []Refused{
		{"two hosts", Get + "Host: b\r\n\r\n", 400, codecError, lenient},
		{"two equal hosts", Get + "Host: a\r\n\r\n", 400, codecError, lenient},
		{"a host with a space", "GET /x HTTP/1.1\r\nHost: a b\r\n\r\n", 400, badAuthority, false},
		{"a host with a slash", "GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, badAuthority, false},
		{"a host with a quote", "GET /x HTTP/1.1\r\nHost: \"b\r\n\r\n", 400, badAuthority, false},
		{"version 1.0", "GET /x HTTP/1.0\r\nHost: a\r\n\r\n", 426, lowVersion, false},
		{"version 1.2", "GET /x HTTP/1.2\r\nHost: a\r\n\r\n", 426, lowVersion, false},
		{"version 2.0", "GET /x HTTP/2.0\r\nHost: a\r\n\r\n", 426, lowVersion, false},
		{"no version", "GET /x\r\n\r\n", 426, lowVersion, false},
		{"version 1.10", "GET /x HTTP/1.10\r\nHost: a\r\n\r\n", 400, codecError, false},
		{"version in lower case", "GET /x http/1.1\r\nHost: a\r\n\r\n", 400, codecError, false},
		{"version 1", "GET /x HTTP/1\r\nHost: a\r\n\r\n", 400, codecError, false},
		{"another protocol", "GET /x XTTP/1.1\r\nHost: a\r\n\r\n", 400, codecError, false},
		{"an unknown method", "FOO /x HTTP/1.1\r\nHost: a\r\n\r\n", 400, codecError, false},
		{"a method in lower case", "get /x HTTP/1.1\r\nHost: a\r\n\r\n", 400, codecError, false},
		{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, codecError, false},
		{"a ClientHello", "\x16\x03\x01\x00\x05hello\r\n\r\n", 400, codecError, false},
		{"chunks in version 1.0", "POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 426, lowVersion, false},
		{"a space first", " " + Get + "\r\n", 400, codecError, false},
		{"an LF first", "\n" + Get + "\r\n", 400, codecError, lenient},
		{"lines with LF alone", "GET /x HTTP/1.1\nHost: a\n\n", 400, codecError, lenient},
		{"one line with LF alone", Get + "X: y\nZ: w\r\n\r\n", 400, codecError, lenient},
		{"an end with LF alone", "GET /x HTTP/1.1\r\nHost: a\r\n\n", 400, codecError, lenient},
		{"a CR in a value", Get + "X: a\rb\r\n\r\n", 400, badChars, lenient},
		{"two CRs at the end of a line", Get + "X: a\r\r\n\r\n", 400, badChars, lenient},
		{"a CR in a name", Get + "X\r: a\r\n\r\n", 400, codecError, false},
		{"a folded line", Get + "X: a\r\n b\r\n\r\n", 400, codecError, lenient},
		{"a folded line with a tab", Get + "X: a\r\n\tb\r\n\r\n", 400, codecError, lenient},
		{"a folded first line", "GET /x HTTP/1.1\r\n Host: a\r\n\r\n", 400, codecError, false},
		{"a space before the colon", Get + "X : a\r\n\r\n", 400, codecError, false},
		{"a tab before the colon", Get + "X\t: a\r\n\r\n", 400, codecError, false},
		{"a space in a name", Get + "X Y: a\r\n\r\n", 400, codecError, false},
		{"no name", Get + ": a\r\n\r\n", 400, codecError, false},
		{"no colon", Get + "XY\r\n\r\n", 400, codecError, false},
		{"NUL in a value", Get + "X: a\x00b\r\n\r\n", 400, badChars, false},
		{"a control character in a value", Get + "X: a\x01b\r\n\r\n", 400, badChars, false},
		{"DEL in a value", Get + "X: a\x7fb\r\n\r\n", 400, badChars, false},
		{"FF in a value", Get + "X: a\x0cb\r\n\r\n", 400, badChars, false},
		{"a name that is not ASCII", Get + "X\xe9: a\r\n\r\n", 400, codecError, false},
		{"a parenthesis in a name", Get + "X(: a\r\n\r\n", 400, codecError, false},
		{"a slash in a name", Get + "X/y: a\r\n\r\n", 400, codecError, false},
		{"NUL in a name", Get + "X\x00: a\r\n\r\n", 400, badChars, false},
		{"a head above the limit", Get + "X: " + strings.Repeat("a", 62000) + "\r\n\r\n", 431, tooLarge, false},
		{"101 fields", Get + Many(100) + "\r\n", 431, tooMany, false},
		{"a target above the limit", "GET /" + strings.Repeat("a", 62000) + " HTTP/1.1\r\nHost: a\r\n\r\n", 431, tooLarge, false},
		{"a line without an end", "GET /" + strings.Repeat("a", 70000), 431, tooLarge, false},
		{"a method without an end", strings.Repeat("A", 70000), 431, tooLarge, false},
	}
}

// lengths are bodies whose length is not clear.
func lengths() []Refused {
	return []Refused{
		{"both lengths", Post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, bothLengths, false},
		{"both lengths, one of them 0", Post + "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, bothLengths, false},
		{"two equal lengths", Post + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, codecError, false},
		{"two lengths", Post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400, codecError, false},
		{"a list of lengths", Post + "Content-Length: 3, 3\r\n\r\nabc", 400, codecError, false},
		{"a length with a sign", Post + "Content-Length: +3\r\n\r\nabc", 400, codecError, false},
		{"a negative length", Post + "Content-Length: -3\r\n\r\nabc", 400, codecError, false},
		{"a hexadecimal length", Post + "Content-Length: 0x3\r\n\r\nabc", 400, codecError, false},
		{"an empty length", Post + "Content-Length:\r\n\r\nabc", 400, codecError, false},
		{"a length in two parts", Post + "Content-Length: 3 3\r\n\r\nabc", 400, codecError, false},
		{"a length of 20 digits", Post + "Content-Length: 99999999999999999999\r\n\r\nabc", 400, codecError, false},
		{"a length above 63 bits", Post + "Content-Length: 9223372036854775808\r\n\r\nabc", 400, codecError, lenient},
		{"gzip", Post + "Transfer-Encoding: gzip\r\n\r\n", 501, badEncoding, false},
		{"gzip, chunked", Post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, badEncoding, false},
		{"chunked, gzip", Post + "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 501, badEncoding, false},
		{"chunked twice", Post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501, badEncoding, false},
		{"chunked and identity", Post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 501, badEncoding, false},
		{"identity", Post + "Transfer-Encoding: identity\r\n\r\n", 501, badEncoding, false},
		{"an empty transfer-encoding", Post + "Transfer-Encoding:\r\n\r\n", 501, badEncoding, false},
		{"xchunked", Post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, badEncoding, false},
		{"VT before chunked", Post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400, badChars, false},
		{"chunked and a comma", Post + "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", 501, badEncoding, false},
		{"chunked in quotes", Post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 501, badEncoding, false},
		{"chunked with a parameter", Post + "Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n", 501, badEncoding, false},
		{"gzip and a length", Post + "Transfer-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", 400, bothLengths, false},
	}
}

// chunks are mistakes in chunked bodies.
func chunks() []Refused {
	return []Refused{
		{"LF in an extension", Chunked + "3;a\nabc\r\n0\r\n\r\n", 400, codecError, false},
		{"CR in an extension", Chunked + "3;a\rb\r\nabc\r\n0\r\n\r\n", 400, codecError, false},
		{"NUL in an extension", Chunked + "3;a\x00b\r\nabc\r\n0\r\n\r\n", 400, codecError, lenient},
		{"an extension of 5000 bytes", Chunked + "3;" + strings.Repeat("a", 5000) + "\r\nabc\r\n0\r\n\r\n", 400, codecError, lenient},
		{"a word after the size", Chunked + "3 abc\r\nabc\r\n0\r\n\r\n", 400, codecError, lenient},
		{"a space before the size", Chunked + " 3\r\nabc\r\n0\r\n\r\n", 400, codecError, false},
		{"LF after the size", Chunked + "3\nabc\r\n0\r\n\r\n", 400, codecError, false},
		{"LF after a chunk", Chunked + "3\r\nabc\n0\r\n\r\n", 400, codecError, lenient},
		{"a chunk that is longer", Chunked + "3\r\nabcd\r\n0\r\n\r\n", 400, codecError, lenient},
		{"CR and a letter after a chunk", Chunked + "3\r\nabc\rx0\r\n\r\n", 400, codecError, false},
		{"a negative chunk", Chunked + "-3\r\nabc\r\n0\r\n\r\n", 400, codecError, false},
		{"a chunk of 0x3", Chunked + "0x3\r\nabc\r\n0\r\n\r\n", 400, codecError, false},
		{"no size", Chunked + "\r\nabc\r\n0\r\n\r\n", 400, codecError, false},
		{"a size that is no number", Chunked + "zz\r\nabc\r\n0\r\n\r\n", 400, codecError, false},
		{"a chunk above 64 bits", Chunked + "fffffffffffffffff\r\nabc\r\n0\r\n\r\n", 400, codecError, false},
		{"a chunk of 64 bits", Chunked + "ffffffffffffffff\r\nabc", 400, codecError, lenient},
		{"LF at the end", Chunked + "0\r\n\n", 400, codecError, lenient},
		{"LF after the last size", Chunked + "0\n\r\n", 400, codecError, false},
		{"a trailer without a colon", Chunked + "0\r\nT v\r\n\r\n", 400, codecError, false},
		{"a control character in a trailer", Chunked + "0\r\nT: \x01\r\n\r\n", 400, badChars, false},
		{"a space before a trailer's colon", Chunked + "0\r\nT : v\r\n\r\n", 400, codecError, false},
		{"a folded trailer", Chunked + "0\r\nT: v\r\n x\r\n\r\n", 400, codecError, lenient},
		{"trailers above the limit", Chunked + "0\r\na: " + strings.Repeat("b", 70000) + "\r\n\r\n", 431, tooLarge, false},
	}
}

// targets are mistakes in what is asked for, and in Connection.
func targets() []Refused {
	return []Refused{
		{"a URL of ftp", "GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, badScheme, false},
		{"a URL without a host", "GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n", 400, badURL, false},
		{"a URL with a bad port", "GET http://b:x/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, badURL, false},
		{"a URL with a port too high", "GET http://b:99999/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, badURL, false},
		{"GET *", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, badURL, false},
		{"a relative path", "GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400, codecError, false},
		{"a space in the target", "GET /x y HTTP/1.1\r\nHost: a\r\n\r\n", 400, codecError, false},
		{"two spaces before the target", "GET  /x HTTP/1.1\r\nHost: a\r\n\r\n", 400, codecError, lenient},
		{"tabs around the target", "GET\t/x\tHTTP/1.1\r\nHost: a\r\n\r\n", 400, codecError, lenient},
		{"a tab in the target", "GET /x\ty HTTP/1.1\r\nHost: a\r\n\r\n", 400, codecError, false},
		{"a control character in the target", "GET /x\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400, badChars, false},
		{"NUL in the target", "GET /x\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, badChars, false},
		{"a target that is not ASCII", "GET /x\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", 400, codecError, false},
		{"DEL in the target", "GET /x\x7f HTTP/1.1\r\nHost: a\r\n\r\n", 400, badChars, false},
		{"a space after the version", "GET /x HTTP/1.1 \r\nHost: a\r\n\r\n", 400, codecError, lenient},
		{"a CR in the target", "GET /x\r HTTP/1.1\r\nHost: a\r\n\r\n", 400, badChars, lenient},
		{"CONNECT without a port", "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", 400, badURL, false},
		{"CONNECT to a path", "CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n", 400, badURL, false},
		{"CONNECT with a length", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 400, body, false},
		{"CONNECT with chunks", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501, badEncoding, false},
		{"CONNECT to a URL", "CONNECT http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, badURL, false},
		{"Connection nominates a pseudo-header", Get + "Connection: :path\r\n\r\n", 400, badConnection, false},
		{"Connection nominates X-Forwarded-For", Get + "Connection: x-forwarded-for\r\n\r\n", 400, badConnection, false},
		{"Connection nominates X-Forwarded-Host", Get + "Connection: X-Forwarded-Host\r\n\r\n", 400, badConnection, false},
		{"Connection nominates many fields", Get + "Connection: a,b,c,d,e,f,g,h,i,j,k\r\n\r\n", 400, badConnection, false},
		{"TE is long", Get + "Connection: te\r\nTE: " + strings.Repeat("a", 300) + "\r\n\r\n", 400, badConnection, false},
	}
}
