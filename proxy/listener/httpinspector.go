package listener

import (
	"bytes"
	"strings"
)

// http2Preface is RFC 9113, section 3.4.
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// http tells HTTP/1 and HTTP/2 by their first line (Envoy: http_inspector). It
// has nothing to do for TLS. A first line of more than maxPeek is no HTTP to it,
// where Envoy takes up to 64 KiB.
func (i *inspection) http() error {
	if i.tls || i.info.TransportProtocol == "tls" {
		return nil
	}
	for want := 1; ; want = i.peek.n + 1 {
		if err := i.more(want); err != nil {
			return err
		}
		protocol, decided := requestProtocol(i.peek.bytes())
		if decided || i.peek.n == maxPeek {
			i.foundHTTP(protocol)
			return nil
		}
	}
}

func (i *inspection) foundHTTP(protocol string) {
	switch protocol {
	case "http/1.0":
		i.stats.http10.Inc()
	case "http/1.1":
		i.stats.http11.Inc()
	case "h2c":
		i.stats.http2.Inc()
	default:
		i.stats.httpNotFound.Inc()
		return
	}
	i.info.ALPNs = []string{protocol}
}

// requestProtocol is the protocol of the first bytes of a connection: h2c,
// http/1.0, http/1.1, or "" for none. It is not decided while more bytes could
// make it another. Unlike Envoy, which waits for the end of the line, it knows
// by the first byte that cannot be of a method that a binary protocol is none.
func requestProtocol(b []byte) (protocol string, decided bool) {
	n := min(len(b), len(http2Preface))
	if string(b[:n]) == http2Preface[:n] {
		if n < len(http2Preface) {
			return "", false
		}
		return "h2c", true
	}
	line, _, ended := bytes.Cut(b, []byte("\n"))
	method, rest := word(line)
	if len(method) == 0 || !isToken(method) {
		return "", true
	}
	if !ended {
		return "", false
	}
	target, rest := word(bytes.TrimLeftFunc(rest, blank))
	version, rest := word(bytes.TrimLeftFunc(rest, blank))
	switch {
	case len(bytes.TrimFunc(rest, blank)) > 0, !isTarget(string(method), target):
		return "", true
	case string(version) == "HTTP/1.1":
		return "http/1.1", true
	case len(version) == 0, isVersion(version): // none is HTTP/0.9
		return "http/1.0", true
	}
	return "", true
}

// word is b up to the first blank, and the rest. What Envoy's parser takes for
// a blank is every byte up to the space.
func word(b []byte) (first, rest []byte) {
	if i := bytes.IndexFunc(b, blank); i >= 0 {
		return b[:i], b[i:]
	}
	return b, nil
}

func blank(r rune) bool { return r <= ' ' }

// isToken reports whether b could be a method (RFC 9110, section 5.6.2).
func isToken(b []byte) bool {
	for _, c := range b {
		if !isAlphanumeric(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
}

// isTarget reports whether Envoy's parser takes b as the target of a request:
// a path, *, or a URL with a scheme; for CONNECT an authority will do.
func isTarget(method string, b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	if len(b) == 0 {
		return false
	}
	if b[0] == '/' || b[0] == '*' || method == "CONNECT" {
		return true
	}
	scheme, _, found := bytes.Cut(b, []byte("://"))
	return found && len(scheme) > 0 && isToken(scheme)
}

// isVersion reports whether b is HTTP/d.d.
func isVersion(b []byte) bool {
	return len(b) == 8 && string(b[:5]) == "HTTP/" && b[6] == '.' && isDigit(b[5]) && isDigit(b[7])
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
