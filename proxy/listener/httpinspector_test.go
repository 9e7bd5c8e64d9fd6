package listener

import (
	"slices"
	"strings"
	"testing"

	"outrider/proxy/config"
)

// The answers are Envoy 1.40's, but for those that Envoy gives only when it has
// the whole line.
func TestFirstLinesAreToldAsEnvoyTellsThem(t *testing.T) {
	for line, want := range map[string]string{
		"GET /\n": "http/1.0", "GET /\r\n": "http/1.0", "GET / HTTP/1.0\r\n": "http/1.0",
		"GET / HTTP/1.2\r\n": "http/1.0", "GET / HTTP/2.0\r\n": "http/1.0",
		"GET / HTTP/1.1\n": "http/1.1", "GET  / HTTP/1.1\r\n": "http/1.1", "GET\t/ HTTP/1.1\r\n": "http/1.1",
		"FOO / HTTP/1.1\r\n": "http/1.1", "M-SEARCH * HTTP/1.1\r\n": "http/1.1", "G_T! /x HTTP/1.1\r\n": "http/1.1",
		"GET http://a/ HTTP/1.1\r\n": "http/1.1", "CONNECT a:1 HTTP/1.1\r\n": "http/1.1", "CONNECT / HTTP/1.1\r\n": "http/1.1",
		"OPTIONS * HTTP/1.1\r\n": "http/1.1", "PRI * HTTP/1.1\r\n": "http/1.1", "GET /\x00 HTTP/1.1\r\n": "http/1.1",
		" GET / HTTP/1.1\r\n": "", "get / http/1.1\r\n": "", "GET a HTTP/1.1\r\n": "", "GET ?q HTTP/1.1\r\n": "",
		"HELO example.com\r\n": "", "EHLO x\r\n": "", "\r\nGET / HTTP/1.1\r\n": "", "GET\r\n": "", "GET \r\n": "",
		"GET / foo\r\n": "", "GET / HTTP/1.1 x\r\n": "", "G@T / HTTP/1.1\r\n": "", "GET /\xe9 HTTP/1.1\r\n": "", "GET /\tx HTTP/1.1\r\n": "",
		"\x01\x02\x03": "", "\x00\n": "",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": "h2c", "PRI * HTTP/2.0\r\n\r\nXX": "http/1.0",
		"": "undecided", "P": "undecided", "abc": "undecided", "GET /": "undecided", "GET / HTTP/1.1": "undecided", "PRI * HTTP/2.0\r\n": "undecided",
	} {
		got, decided := requestProtocol([]byte(line))
		if !decided {
			got = "undecided"
		}
		if got != want {
			t.Errorf("%q is %q, want %q", line, got, want)
		}
	}
}

func TestHTTPIsFoundInPiecesAndCounted(t *testing.T) {
	for text, want := range map[string]struct{ protocol, counted string }{
		"GET / HTTP/1.1\r\nhost: a":            {"http/1.1", "http_inspector.http11_found"},
		"GET / HTTP/1.0\r\nhost: a":            {"http/1.0", "http_inspector.http10_found"},
		http2Preface + "frames":                {"h2c", "http_inspector.http2_found"},
		"HELO a\r\n":                           {"", "http_inspector.http_not_found"},
		"GET /" + strings.Repeat("a", maxPeek): {"", "http_inspector.http_not_found"},
	} {
		r := newRig(t, config.Listener{FiltersTimeout: forever}, httpFilter)
		client, server := pair(t)
		send(t, client, []byte(text)[:1])
		info, done := r.run(t.Context(), server)
		r.waits(t, 1)
		send(t, client, []byte(text)[1:])
		if err := <-done; err != nil || strings.Join(info.ALPNs, ",") != want.protocol {
			t.Errorf("%.20q: %v %v, want %q", text, info.ALPNs, err, want.protocol)
		}
		r.wantCounts(t, want.counted)
	}
}

func TestHTTPIsNotLookedForInTLS(t *testing.T) {
	r := newRig(t, config.Listener{FiltersTimeout: forever}, tlsFilter, httpFilter)
	client, server := pair(t)
	send(t, client, captured(t))
	info := newInfo(server)
	wantTLS(t, info, r.Run(t.Context(), server, info))
	r.wantCounts(t, "tls_inspector.alpn_found tls_inspector.sni_found tls_inspector.tls_found")
}

// FuzzRequestProtocol: no panic, a decision stands whatever follows, and is one
// of four.
func FuzzRequestProtocol(f *testing.F) {
	for _, seed := range []string{"GET / HTTP/1.1\r\n", http2Preface, "GET http://a/b HTTP/1.0\n", "HELO x\r\n", "PRI * HTTP/2.0\r\n\r\nXX"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		protocol, decided := requestProtocol(b)
		if !decided {
			return
		}
		if !slices.Contains([]string{"", "http/1.0", "http/1.1", "h2c"}, protocol) {
			t.Errorf("%q is %q", b, protocol)
		}
		for _, more := range []string{"x", "\n", " / HTTP/1.1\r\n"} {
			if again, still := requestProtocol(append(slices.Clone(b), more...)); !still || again != protocol {
				t.Errorf("%q is %q, with %q it is %q", b, protocol, more, again)
			}
		}
	})
}
