package h2

// Classes of characters in names and values.
const (
	inToken = 1 << iota // RFC 9110, section 5.6.2
	inName              // a token without upper case
	inValue             // RFC 9110, section 5.5, as nghttp2 checks it
)

//nolint:gochecknoglobals // a table
var classes = func() (t [256]uint8) {
	for c := range t {
		if c >= 0x20 && c != 0x7f || c == '\t' {
			t[c] |= inValue
		}
	}
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz" {
		t[c] |= inToken | inName
	}
	for c := 'A'; c <= 'Z'; c++ {
		t[c] |= inToken
	}
	return t
}()

func validName(s string) bool { return s != "" && all(s, inName) }

func validToken(s string) bool { return s != "" && all(s, inToken) }

// validValue is of a field's value: no control characters, and no white space
// at its ends (RFC 9113, section 8.2.1).
func validValue(s string) bool {
	if s == "" {
		return true
	}
	return !blank(s[0]) && !blank(s[len(s)-1]) && all(s, inValue)
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

func all(s string, class uint8) bool {
	for i := range len(s) {
		if classes[s[i]]&class == 0 {
			return false
		}
	}
	return true
}
