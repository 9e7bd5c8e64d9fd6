// Package accesslog writes one line for each connection or request, in Envoy's formats:
// text or JSON, with Envoy's operators.
//
// What an operator cannot know here, though Envoy could, is refused when the
// format is compiled; what a TCP connection does not have is "-", or null in
// JSON, as with Envoy.
package accesslog

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"outrider/proxy/flow"
)

// entry is what one line is of.
type entry struct {
	info  *flow.Info
	event string
	now   time.Time
	cel   expressions // of the filter; nil if it has none
}

// operator prints one value of an entry.
type operator struct {
	// text appends the value; it is false, with nothing appended, if there is
	// none.
	text func(b []byte, e *entry) ([]byte, bool)
	// json appends the value as JSON; nil if it is text as a JSON string.
	json func(b []byte, e *entry) ([]byte, bool)
}

// format is a compiled text format.
type format []part

// part is a literal, or an operator.
type part struct {
	literal  string
	operator *operator // nil: literal
}

// command is one operator in a text; source: Envoy, substitution formatter.
// The argument is the shortest that makes the whole fit, so it may have
// parentheses in it.
func command() *regexp.Regexp {
	return regexp.MustCompile(`^%([A-Z0-9_]+)(?:\((.*?)\))?(?::([0-9]+))?%`)
}

// parse compiles a text format: %OPERATOR%, %OPERATOR(argument)%,
// %OPERATOR(argument):LENGTH%, and %% for a percent sign.
func parse(text string) (format, error) {
	var out format
	operators, syntax := operators(), command()
	literal := func(s string) {
		if n := len(out); n > 0 && out[n-1].operator == nil {
			out[n-1].literal += s
		} else {
			out = append(out, part{literal: s})
		}
	}
	for text != "" {
		plain, rest, found := strings.Cut(text, "%")
		if plain != "" {
			literal(plain)
		}
		if !found {
			break
		}
		if text = "%" + rest; strings.HasPrefix(rest, "%") {
			literal("%")
			text = rest[1:]
			continue
		}
		m := syntax.FindStringSubmatch(text)
		if m == nil {
			return nil, fmt.Errorf("%q does not begin with an operator", text)
		}
		op, err := compileOperator(operators, m[1], m[2], m[3])
		if err != nil {
			return nil, err
		}
		out = append(out, part{operator: op})
		text = text[len(m[0]):]
	}
	return out, nil
}

// compileOperator is the operator with its argument and the number after the
// colon, "" for none.
func compileOperator(operators map[string]spec, name, argument, length string) (*operator, error) {
	s, ok := operators[name]
	switch {
	case !ok:
		return nil, fmt.Errorf("%%%s%% is no operator that outrider knows", name)
	case s.refused != "":
		return nil, fmt.Errorf("%%%s%% is refused: %s", name, s.refused)
	case s.argument == noArgument && (argument != "" || length != ""):
		return nil, fmt.Errorf("%%%s%% takes neither an argument nor a length", name)
	case s.argument == needsArgument && argument == "":
		return nil, fmt.Errorf("%%%s%% needs an argument", name)
	case !s.length && length != "":
		return nil, fmt.Errorf("%%%s%% takes no length", name)
	}
	op, err := s.make(argument)
	if err != nil {
		return nil, fmt.Errorf("%%%s(%s)%%: %w", name, argument, err)
	}
	if length == "" {
		return &op, nil
	}
	n, err := strconv.Atoi(length)
	if err != nil {
		return nil, fmt.Errorf("%%%s%%: length %s is too large", name, length)
	}
	return truncated(&op, n), nil
}

// truncated is op with no more than n bytes of text. JSON values that are not
// text stay whole, as in Envoy.
func truncated(op *operator, n int) *operator {
	out := &operator{json: op.json, text: func(b []byte, e *entry) ([]byte, bool) {
		start := len(b)
		b, ok := op.text(b, e)
		return b[:min(len(b), start+n)], ok
	}}
	return out
}

// text renders the format; what is not there is "-", or nothing if omit.
// Control characters that a peer has sent cannot begin a line of their own.
func (f format) text(b []byte, e *entry, omit bool) []byte {
	return f.render(b, e, omit, printable)
}

// plain is text for use in a JSON string, which escapes on its own.
func (f format) plain(b []byte, e *entry, omit bool) []byte {
	return f.render(b, e, omit, nil)
}

func (f format) render(b []byte, e *entry, omit bool, escape func(b []byte, start int) []byte) []byte {
	for i := range f {
		p := &f[i]
		if p.operator == nil {
			b = append(b, p.literal...)
			continue
		}
		start, ok := len(b), false
		b, ok = p.operator.text(b, e)
		switch {
		case ok && escape != nil:
			b = escape(b, start)
		case !ok && !omit:
			b = append(b, '-')
		}
	}
	return b
}

// printable replaces the control characters of b[start:] by \xNN.
func printable(b []byte, start int) []byte {
	for i := start; i < len(b); i++ {
		if b[i] >= ' ' && b[i] != 0x7f {
			continue
		}
		raw := append([]byte(nil), b[i:]...)
		b = b[:i]
		for _, c := range raw {
			if c < ' ' || c == 0x7f {
				b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
			} else {
				b = append(b, c)
			}
		}
		break
	}
	return b
}

const hexDigits = "0123456789abcdef"
