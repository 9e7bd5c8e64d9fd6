package pathnorm

import "strings"

// canonical is the path as the URL library of Chromium, which Envoy uses, has
// it: without dot segments, with slashes for backslashes, unreserved characters
// not escaped and those escaped that no path may have. It is false if there is
// a NUL.
func canonical(s string) (string, bool) {
	if isCanonical(s) {
		return s, true
	}
	w := writer{out: make([]byte, 0, len(s)+8)}
	if s == "" || !isSlash(s[0]) {
		w.out = append(w.out, '/')
	}
	for i := 0; i < len(s); {
		n, ok := w.take(s, i)
		if !ok {
			return s, false
		}
		i += n
	}
	return string(w.out), true
}

// isCanonical reports whether canonical has nothing to do; it may be false for
// a path that has its form.
func isCanonical(s string) bool {
	if s == "" || s[0] != '/' {
		return false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%' || c == '\\' || mustEscape(c):
			return false
		case c == '.' && s[i-1] == '/': // s[0] is a slash
			return false
		}
	}
	return true
}

// writer writes a path.
type writer struct{ out []byte }

// take writes what stands at s[i], and says how many bytes it was.
func (w *writer) take(s string, i int) (n int, ok bool) {
	if n := dot(s, i); n > 0 {
		return w.dot(s, i, n), true
	}
	switch c := s[i]; {
	case c == '\\':
		w.out = append(w.out, '/')
	case c == '%':
		return w.escaped(s, i)
	case c == 0:
		return 0, false
	case mustEscape(c):
		w.out = append(w.out, '%', digits[c>>4], digits[c&15])
	default:
		w.out = append(w.out, c)
	}
	return 1, true
}

const digits = "0123456789ABCDEF"

// dot writes the dot at s[i], of n bytes, or does what a segment of one or two
// dots says.
func (w *writer) dot(s string, i, n int) int {
	if len(w.out) == 0 || w.out[len(w.out)-1] != '/' {
		w.out = append(w.out, '.')
		return n
	}
	next := i + n
	if next == len(s) {
		return n
	}
	if isSlash(s[next]) {
		return n + 1
	}
	second := dot(s, next)
	switch {
	case second == 0 || next+second < len(s) && !isSlash(s[next+second]):
		w.out = append(w.out, '.')
		return n
	case next+second < len(s):
		second++
	}
	w.up()
	return n + second
}

// up takes the last segment away, of what ends with a slash.
func (w *writer) up() {
	end := len(w.out) - 1
	if i := strings.LastIndexByte(string(w.out[:end]), '/'); i >= 0 {
		w.out = w.out[:i+1]
	}
}

// escaped writes what begins with a % at s[i]: what needs no escape without
// it, and all else as it is.
func (w *writer) escaped(s string, i int) (n int, ok bool) {
	c, is := unescape(s, i)
	switch {
	case !is:
		w.out = append(w.out, '%')
		return 1, true
	case c == 0:
		return 0, false
	case unreserved(c):
		w.out = append(w.out, c)
	default:
		w.out = append(w.out, s[i:i+3]...)
	}
	return 3, true
}

// dot is how many bytes a dot at s[i] has, escaped or not; 0 if there is none.
func dot(s string, i int) int {
	if s[i] == '.' {
		return 1
	}
	if c, ok := unescape(s, i); ok && c == '.' {
		return 3
	}
	return 0
}

func isSlash(c byte) bool { return c == '/' || c == '\\' }

// unreserved is of RFC 3986, section 2.3, without the dot.
func unreserved(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '~'
}

// mustEscape is of the characters that Chromium escapes in a path.
func mustEscape(c byte) bool {
	return c <= ' ' || c >= 0x7f || strings.IndexByte("\"#<>?^`{|}", c) >= 0
}
