package h1

import "encoding/binary"

// Tables of what may be where. An entry of tokenChars is the character in lower
// case, 0 if it may not be in a token (RFC 9110, section 5.6.2).
//
//nolint:gochecknoglobals // tables
var (
	tokenChars = tokenTable()
	valueChars = table(func(c byte) bool { return c == '\t' || c >= 0x20 && c != 0x7f })
	pathChars  = table(func(c byte) bool { return c > 0x20 && c < 0x7f })
	hostChars  = charset("!$%&'()*+,-.:;=@[]_~")
)

func tokenTable() *[256]byte {
	var t [256]byte
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		t[c] = c
	}
	for c := byte('a'); c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = c, c
	}
	for c := byte('0'); c <= '9'; c++ {
		t[c] = c
	}
	return &t
}

func table(ok func(byte) bool) *[256]bool {
	var t [256]bool
	for i := range t {
		t[i] = ok(byte(i))
	}
	return &t
}

// charset is letters, digits and the characters of more.
func charset(more string) *[256]bool {
	return table(func(c byte) bool {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			return true
		}
		for i := range len(more) {
			if more[i] == c {
				return true
			}
		}
		return false
	})
}

// all reports whether every byte of s is in t.
func all[T string | []byte](t *[256]bool, s T) bool {
	for i := range len(s) {
		if !t[s[i]] {
			return false
		}
	}
	return true
}

// Eight bytes at once: lowBits has the lowest bit of each, highBits the highest.
const (
	lowBits  = 0x0101010101010101
	highBits = 0x8080808080808080
)

// validValue reports whether p may be a field's value.
func validValue(p []byte) bool {
	for len(p) >= 8 {
		x := binary.LittleEndian.Uint64(p)
		del := x ^ 0x7f*lowBits
		// A byte below 0x20, or a DEL: the byte before it may be told as well,
		// which a look at each byte puts right.
		if ((x-0x20*lowBits)&^x|(del-lowBits)&^del)&highBits != 0 && !all(valueChars, p[:8]) {
			return false
		}
		p = p[8:]
	}
	return all(valueChars, p)
}

// methods are those that Envoy takes, all others are a mistake.
//
//nolint:gochecknoglobals // a table
var methods = map[string]bool{
	"ACL": true, "BIND": true, "CHECKOUT": true, "CONNECT": true, "COPY": true, "DELETE": true, "GET": true,
	"HEAD": true, "LINK": true, "LOCK": true, "MERGE": true, "MKACTIVITY": true, "MKCALENDAR": true, "MKCOL": true,
	"MOVE": true, "MSEARCH": true, "NOTIFY": true, "OPTIONS": true, "PATCH": true, "POST": true, "PROPFIND": true,
	"PROPPATCH": true, "PURGE": true, "PUT": true, "QUERY": true, "REBIND": true, "REPORT": true, "SEARCH": true,
	"SOURCE": true, "SUBSCRIBE": true, "TRACE": true, "UNBIND": true, "UNLINK": true, "UNLOCK": true, "UNSUBSCRIBE": true,
}

// equalFold compares ASCII text with lower, which is in lower case.
func equalFold(s, lower string) bool {
	if len(s) != len(lower) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// hasToken reports whether a list of tokens has lower.
func hasToken(list, lower string) bool {
	for len(list) > 0 {
		var token string
		token, list = nextToken(list)
		if equalFold(token, lower) {
			return true
		}
	}
	return false
}

// nextToken cuts the first token, without white space, off a list.
func nextToken(list string) (token, rest string) {
	end := len(list)
	for i := range len(list) {
		if list[i] == ',' {
			end, rest = i, list[i+1:]
			break
		}
	}
	return trim(list[:end]), rest
}

// trim takes spaces and tabs off both ends.
func trim(s string) string {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// decimal is a content-length; -1 if it is none. A sign, a list or more than
// an int64 holds is none.
func decimal(s string) int64 {
	if s == "" || len(s) > 18 {
		return bigDecimal(s)
	}
	var n int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return -1
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n
}

// bigDecimal is decimal of many digits.
func bigDecimal(s string) int64 {
	const most = 1<<63 - 1
	if s == "" {
		return -1
	}
	var n int64
	for i := range len(s) {
		d := int64(s[i]) - '0'
		if d < 0 || d > 9 || n > (most-d)/10 {
			return -1
		}
		n = n*10 + d
	}
	return n
}
