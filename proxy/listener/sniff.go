package listener

import (
	"bytes"
	"errors"
	"fmt"

	"outrider/proxy/config"
	"outrider/tlsmux/hello"
)

// errHelloTooLarge ends a connection whose ClientHello is over the limit.
var errHelloTooLarge = errors.New("the ClientHello is larger than max_client_hello_size")

// tls looks for a ClientHello (Envoy: tls_inspector). What is no TLS goes on
// as plaintext.
func (i *inspection) tls(cfg *config.TLSInspector) error {
	limit := cfg.MaxClientHello
	if limit <= 0 || limit > maxPeek {
		limit = maxPeek
	}
	for want := 1; ; {
		if err := i.more(want); err != nil {
			// A client that ends after a few bytes that are no whole hello is
			// not told from plaintext by waiting longer.
			return err
		}
		b := i.peek.bytes()
		h, err := hello.Parse(b[:min(len(b), limit)])
		switch {
		case err == nil:
			i.foundTLS(h)
			return nil
		case errors.Is(err, hello.ErrIncomplete) && len(b) >= limit:
			i.stats.HelloTooLarge.Inc()
			return fmt.Errorf("%w of %d bytes", errHelloTooLarge, limit)
		case errors.Is(err, hello.ErrIncomplete):
			want = min(hello.Need(b), limit)
			continue
		}
		i.stats.TLSNotFound.Inc()
		if errors.Is(err, hello.ErrMalformed) {
			i.info.DownstreamFailure = err.Error()
		}
		if cfg.CloseOnParseError {
			return err
		}
		return nil
	}
}

func (i *inspection) foundTLS(h *hello.Hello) {
	i.tlsd = true
	i.info.TransportProtocol = "tls"
	i.info.SNI, i.info.ALPNs = h.ServerName, h.ALPN
	i.stats.TLSFound.Inc()
	count(h.ServerName != "", i.stats.SNIFound, i.stats.SNINotFound)
	count(len(h.ALPN) > 0, i.stats.ALPNFound, i.stats.ALPNNotFound)
}

func count(found bool, yes, no interface{ Inc() }) {
	if found {
		yes.Inc()
	} else {
		no.Inc()
	}
}

// http2Preface is RFC 9113, section 3.4.
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// maxRequestLine is how far http_inspector looks for the end of the first
// line (Envoy: Config::MAX_INSPECT_SIZE is 8 KiB at first, 64 KiB at most; a
// line over this is no HTTP to us).
const maxRequestLine = 8 << 10

// http tells HTTP/1 and HTTP/2 by their first line (Envoy: http_inspector). It
// has nothing to do for TLS.
func (i *inspection) http() error {
	if i.tlsd {
		return nil
	}
	for want := 1; ; want = i.peek.n + 1 {
		if err := i.more(want); err != nil {
			return err
		}
		protocol, decided := requestProtocol(i.peek.bytes())
		if !decided && i.peek.n < maxRequestLine {
			continue
		}
		i.foundHTTP(protocol)
		return nil
	}
}

func (i *inspection) foundHTTP(protocol string) {
	switch protocol {
	case "":
		i.stats.HTTPNotFound.Inc()
		return
	case "http/1.0":
		i.stats.HTTP10Found.Inc()
	case "http/1.1":
		i.stats.HTTP11Found.Inc()
	case "h2c":
		i.stats.HTTP2Found.Inc()
	}
	i.info.ALPNs = []string{protocol}
}

// requestProtocol is the protocol of the first bytes of a connection: h2c,
// http/1.0, http/1.1, or "" for none. It is not decided while more bytes could
// make it another.
func requestProtocol(b []byte) (protocol string, decided bool) {
	n := min(len(b), len(http2Preface))
	if string(b[:n]) == http2Preface[:n] {
		return "h2c", n == len(http2Preface)
	}
	line, _, ended := bytes.Cut(b, []byte("\n"))
	method, rest, spaced := bytes.Cut(line, []byte(" "))
	if !isToken(method) {
		return "", true
	}
	if !spaced {
		return "", ended || len(method) > maxMethod
	}
	if !ended {
		return "", false
	}
	target, version, spaced := bytes.Cut(bytes.TrimSuffix(rest, []byte("\r")), []byte(" "))
	if !spaced || len(target) == 0 {
		return "", true
	}
	switch string(version) {
	case "HTTP/1.1":
		return "http/1.1", true
	case "HTTP/1.0":
		return "http/1.0", true
	}
	return "", true
}

// maxMethod is the longest method that is waited for.
const maxMethod = 32

// isToken reports whether b could begin a method (RFC 9110, section 5.6.2).
func isToken(b []byte) bool {
	for _, c := range b {
		if c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '-' {
			continue
		}
		return false
	}
	return true
}
