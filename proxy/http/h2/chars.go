package h2

// Classes of characters in names and values, as nghttp2 has them, which Envoy
// uses.
const (
	inToken     = 1 << iota // RFC 9110, section 5.6.2
	inName                  // a token without upper case
	inValue                 // RFC 9110, section 5.5
	inPath                  // no blanks, no control characters
	inAuthority             // RFC 3986, section 3.2, without user and password
	inScheme                // RFC 3986, section 3.1
)

//nolint:gochecknoglobals // a table
var classes = func() (t [256]uint8) {
	for c := range t {
		if c >= 0x20 && c != 0x7f || c == '\t' {
			t[c] |= inValue
		}
		if c > 0x20 && c != 0x7f {
			t[c] |= inPath
		}
	}
	mark := func(set string, class uint8) {
		for i := range len(set) {
			t[set[i]] |= class
		}
	}
	const lower, upper, digits = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
	mark("!#$%&'*+-.^_`|~"+digits+lower, inToken|inName)
	mark(upper, inToken)
	mark("!$%&'()*+,-.:;=[]_~"+digits+lower+upper, inAuthority)
	mark("+-."+digits+lower+upper, inScheme)
	return t
}()

func validName(s string) bool { return s != "" && all(s, inName) }

func validToken(s string) bool { return s != "" && all(s, inToken) }

func validAuthority(s string) bool { return s != "" && all(s, inAuthority) }

// trimmed is a value without blanks at its ends. RFC 9113, section 8.2.1, calls
// a message with them malformed, but clients send them, and Envoy takes them.
func trimmed(s string) string {
	for s != "" && blank(s[0]) {
		s = s[1:]
	}
	for s != "" && blank(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
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
