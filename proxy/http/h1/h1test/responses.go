package h1test

import "strings"

// Response is what a server says to a request for /.
type Response struct {
	Name, Method, Bytes string
	// FIN: and then it ends.
	FIN bool
	// Want is what a client makes of it, in one line: reset=3 is a protocol
	// error, for which Envoy answers 502, reset=7 the end of the connection, 503.
	Want string
	// Reused: the connection is used for another request.
	Reused bool
	// Lenient marks what Envoy 1.40 takes and we do not.
	Lenient bool
}

// Responses are right and wrong ones.
func Responses() []Response { return append(right(), wrong()...) }

// right are responses that are taken.
func right() []Response {
	return []Response{
		{"by length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", false, "200 content-length=3 body=abc end", true, false},
		{"with chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", false, "200 transfer-encoding=chunked body=abc end", true, false},
		{"with trailers", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: v\r\n\r\n", false, "200 transfer-encoding=chunked body=abc end", true, false},
		{"by the end", "GET", "HTTP/1.1 200 OK\r\n\r\nabc", true, "200 body=abc end", false, false},
		{"of 1.0", "GET", "HTTP/1.0 200 OK\r\n\r\nabc", true, "200 body=abc end", false, false},
		{"of 1.0 with a length", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", false, "200 content-length=3 body=abc end", false, false},
		{"of 1.0 that keeps alive", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc", false, "200 connection=keep-alive content-length=3 body=abc end", true, false},
		{"that closes", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc", false, "200 connection=close content-length=3 body=abc end", false, false},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", false, "204 end", true, false},
		{"204 with a length of 0", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", false, "204 end", true, false},
		{"304 with a length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, "304 content-length=5 end", true, false},
		{"to HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, "200 content-length=5 end", true, false},
		{"to HEAD with chunks", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, "200 transfer-encoding=chunked end", true, false},
		{"informational first", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", false, "200 content-length=3 body=abc end", true, false},
		{"no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc", false, "200 content-length=3 body=abc end", true, false},
		{"a reason that is not ASCII", "GET", "HTTP/1.1 200 O\xe9K\r\nContent-Length: 3\r\n\r\nabc", false, "200 content-length=3 body=abc end", true, false},
		{"999", "GET", "HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n", false, "999 content-length=0 end", true, false},
		{"more than the response", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", false, "200 content-length=3 body=abc end", false, false},
		{"a second response", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, "200 content-length=0 end", false, false},
	}
}

// wrong are responses that are not.
func wrong() []Response {
	return []Response{
		{"no response", "GET", "", true, " reset=7 ", false, false},
		{"a cut head", "GET", "HTTP/1.1 200 OK\r\nContent-Le", true, " reset=3 http1.codec_error", false, false},
		{"a cut body", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", true, "200 content-length=5 body=abc reset=3 http1.codec_error", false, false},
		{"a cut chunked body", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", true, "200 transfer-encoding=chunked body=abc reset=3 http1.codec_error", false, false},
		{"both lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", false, " reset=3 http1.content_length_and_chunked_not_allowed", false, false},
		{"gzip", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", false, " reset=3 http1.invalid_transfer_encoding", false, false},
		{"gzip, chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\nabc", false, " reset=3 http1.invalid_transfer_encoding", false, false},
		{"two lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", false, " reset=3 http1.codec_error", false, false},
		{"a length that is none", "GET", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc", false, " reset=3 http1.codec_error", false, false},
		{"204 with a length", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc", false, " reset=3 http1.content_length_not_allowed", false, false},
		{"204 with chunks", "GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false, " reset=3 http1.transfer_encoding_not_allowed", false, false},
		{"a status of 2 digits", "GET", "HTTP/1.1 20 OK\r\nContent-Length: 3\r\n\r\nabc", false, " reset=3 http1.codec_error", false, false},
		{"a status below 100", "GET", "HTTP/1.1 099 OK\r\nContent-Length: 3\r\n\r\nabc", false, " reset=3 http1.codec_error", false, false},
		{"a control character in the reason", "GET", "HTTP/1.1 200 O\x01K\r\n\r\n", false, " reset=3 http1.invalid_characters", false, false},
		{"another protocol", "GET", "hello\r\n\r\n", false, " reset=3 http1.codec_error", false, false},
		{"an empty line first", "GET", "\r\nHTTP/1.1 200 OK\r\n\r\n", false, " reset=3 http1.codec_error", false, false},
		{"a space before a colon", "GET", "HTTP/1.1 200 OK\r\nX : a\r\n\r\n", false, " reset=3 http1.codec_error", false, false},
		{"a control character", "GET", "HTTP/1.1 200 OK\r\nX: \x01\r\n\r\n", false, " reset=3 http1.invalid_characters", false, false},
		{"101 fields", "GET", "HTTP/1.1 200 OK\r\n" + Many(101) + "\r\n", false, " reset=3 http1.too_many_headers", false, false},
		{"a head above 80 KiB", "GET", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 82000) + "\r\n\r\n", false, " reset=3 http1.headers_too_large", false, false},
		{"version 1.2", "GET", "HTTP/1.2 200 OK\r\nContent-Length: 3\r\n\r\nabc", false, " reset=3 http1.codec_error", false, lenient},
		{"a status of 4 digits", "GET", "HTTP/1.1 2000 OK\r\n\r\n", false, " reset=3 http1.codec_error", false, lenient},
		{"chunks in 1.0", "GET", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", false, " reset=3 http1.invalid_transfer_encoding", false, lenient},
		{"lines with LF alone", "GET", "HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", false, " reset=3 http1.codec_error", false, lenient},
		{"a folded line", "GET", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", false, " reset=3 http1.codec_error", false, lenient},
		{"101 that nobody asked for", "GET", "HTTP/1.1 101 Switching Protocols\r\n\r\n", false, " reset=3 http1.codec_error", false, lenient},
	}
}
