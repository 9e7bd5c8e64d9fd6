package cel

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// kind is what a token is.
type kind int

const (
	end kind = iota
	identifier
	operator // value is the operator
	text_    // value is the text
	integer  // value has its digits
	unsigned
	float
)

type token struct {
	kind  kind
	value string
	at    int // byte
}

// operators are those of two bytes first.
var operators = []string{ //nolint:gochecknoglobals // a table
	"&&", "||", "==", "!=", "<=", ">=", "(", ")", "[", "]", ".", ",", "?", ":", "!", "<", ">", "+", "-", "*", "/", "%",
}

// next reads a token.
func (p *parser) next() error {
	p.skipSpace()
	p.token = token{at: p.at}
	rest := p.text[p.at:]
	switch {
	case rest == "":
		return nil
	case isLetter(rest[0]):
		if quote, raw := prefixed(rest); quote > 0 {
			return p.literal(quote, raw)
		}
		p.take(identifier, span(rest, func(c byte) bool { return isLetter(c) || isDigit(c) }))
		return nil
	case isDigit(rest[0]) || rest[0] == '.' && len(rest) > 1 && isDigit(rest[1]):
		return p.number()
	case rest[0] == '"' || rest[0] == '\'':
		return p.literal(0, false)
	}
	for _, op := range operators {
		if strings.HasPrefix(rest, op) {
			p.take(operator, len(op))
			return nil
		}
	}
	c, _ := utf8.DecodeRuneInString(rest)
	return p.wrong("%q is not understood", c)
}

func (p *parser) take(k kind, length int) {
	p.token = token{kind: k, value: p.text[p.at : p.at+length], at: p.at}
	p.at += length
}

func (p *parser) skipSpace() {
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f':
			p.at++
		case strings.HasPrefix(p.text[p.at:], "//"):
			for p.at < len(p.text) && p.text[p.at] != '\n' {
				p.at++
			}
		default:
			return
		}
	}
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }

// span is how many bytes of s are so.
func span(s string, so func(byte) bool) int {
	n := 0
	for n < len(s) && so(s[n]) {
		n++
	}
	return n
}

// prefixed is where the quote is of a text with the prefix r; 0 if it is none.
func prefixed(s string) (quote int, raw bool) {
	if len(s) > 1 && (s[0] == 'r' || s[0] == 'R') && (s[1] == '"' || s[1] == '\'') {
		return 1, true
	}
	return 0, false
}

// number reads a literal of a number.
func (p *parser) number() error {
	rest := p.text[p.at:]
	if strings.HasPrefix(rest, "0x") || strings.HasPrefix(rest, "0X") {
		p.take(integer, 2+span(rest[2:], func(c byte) bool {
			return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
		}))
	} else {
		n, k := span(rest, isDigit), integer
		if n+1 < len(rest) && rest[n] == '.' && isDigit(rest[n+1]) {
			n, k = n+1+span(rest[n+1:], isDigit), float
		}
		if e := exponent(rest[n:]); e > 0 {
			n, k = n+e, float
		}
		p.take(k, n)
	}
	if p.kind == integer && p.at < len(p.text) && (p.text[p.at] == 'u' || p.text[p.at] == 'U') {
		p.kind = unsigned
		p.at++
	}
	if p.at < len(p.text) && (isLetter(p.text[p.at]) || isDigit(p.text[p.at])) {
		return p.wrong("%q is no number", p.text[p.token.at:p.at+1])
	}
	return nil
}

// exponent is how long the e+5 is that s begins with.
func exponent(s string) int {
	if s == "" || s[0] != 'e' && s[0] != 'E' {
		return 0
	}
	n := 1
	if len(s) > 1 && (s[1] == '+' || s[1] == '-') {
		n = 2
	}
	digits := span(s[n:], isDigit)
	if digits == 0 {
		return 0
	}
	return n + digits
}

// literal reads a text in quotes, one or three at each end.
func (p *parser) literal(prefix int, raw bool) error {
	start := p.at
	rest := p.text[p.at+prefix:]
	quote := rest[:1]
	if strings.HasPrefix(rest, strings.Repeat(quote, 3)) {
		quote = rest[:3]
	}
	rest = rest[len(quote):]
	for n := 0; n < len(rest); n++ {
		switch {
		case strings.HasPrefix(rest[n:], quote):
			value, err := unescape(rest[:n], raw)
			if err != nil {
				return p.wrong("the text %q: %w", rest[:n], err)
			}
			p.at += prefix + 2*len(quote) + n
			p.token = token{kind: text_, value: value, at: start}
			return nil
		case rest[n] == '\\':
			n++ // in a raw text too, it keeps a quote from ending it
		case rest[n] == '\n' && len(quote) == 1:
			return p.wrong("a text does not end")
		}
	}
	return p.wrong("a text does not end")
}

var errEscape = errors.New("an escape is not understood")

// unescape is a text without its escapes.
func unescape(s string, raw bool) (string, error) {
	if raw || !strings.Contains(s, `\`) {
		return s, nil
	}
	var b strings.Builder
	for s != "" {
		if s[0] != '\\' {
			b.WriteByte(s[0])
			s = s[1:]
			continue
		}
		if len(s) > 1 && strings.ContainsRune("\"'`?", rune(s[1])) {
			b.WriteByte(s[1])
			s = s[2:]
			continue
		}
		if len(s) > 1 && s[1] == 'X' {
			s = `\x` + s[2:]
		}
		c, _, rest, err := strconv.UnquoteChar(s, 0)
		if err != nil {
			return "", errEscape
		}
		b.WriteRune(c)
		s = rest
	}
	return b.String(), nil
}

// wrong is an error at the token that is read.
func (p *parser) wrong(format string, args ...any) error {
	return fmt.Errorf("at byte %d: "+format, append([]any{p.token.at}, args...)...)
}
