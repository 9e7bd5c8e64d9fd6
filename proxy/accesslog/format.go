// Package accesslog writes one line for each connection, in Envoy's formats:
// text or JSON, with Envoy's operators.
package accesslog

import (
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/flow"
)

// value is what an operator makes of a connection: nil for nothing.
type value func(info *flow.Info, event string) any

// part is a piece of a text format: a literal, or an operator.
type part struct {
	literal string
	value   value
	name    string
}

// format is a compiled text format.
type format []part

// parse compiles a text format: %OPERATOR%, %OPERATOR(argument)%,
// %OPERATOR(argument):LENGTH%, and %% for a percent sign.
func parse(text string) (format, error) {
	var out format
	for text != "" {
		i := strings.IndexByte(text, '%')
		if i < 0 {
			out = append(out, part{literal: text})
			break
		}
		if i > 0 {
			out = append(out, part{literal: text[:i]})
			text = text[i:]
		}
		if strings.HasPrefix(text, "%%") {
			out = append(out, part{literal: "%"})
			text = text[2:]
			continue
		}
		p, rest, err := parseOperator(text)
		if err != nil {
			return nil, err
		}
		out, text = append(out, p), rest
	}
	return out, nil
}

// parseOperator reads one operator at the start of text.
func parseOperator(text string) (part, string, error) {
	body := text[1:]
	end := strings.IndexAny(body, "(:%")
	if end < 0 {
		return part{}, "", fmt.Errorf("%q does not end with %%", text)
	}
	name, rest := body[:end], body[end:]
	argument, hasArgument := "", false
	if rest[0] == '(' {
		close := strings.Index(rest, ")")
		if close < 0 {
			return part{}, "", fmt.Errorf("%%%s: the argument does not end with )", name)
		}
		argument, rest, hasArgument = rest[1:close], rest[close+1:], true
	}
	limit := -1
	if strings.HasPrefix(rest, ":") {
		digits, _, _ := strings.Cut(rest[1:], "%")
		n, err := strconv.Atoi(digits)
		if err != nil || n < 0 {
			return part{}, "", fmt.Errorf("%%%s: %q is no length", name, digits)
		}
		limit, rest = n, rest[1+len(digits):]
	}
	if !strings.HasPrefix(rest, "%") {
		return part{}, "", fmt.Errorf("%%%s does not end with %%", name)
	}
	v, err := operator(name, argument, hasArgument)
	if err != nil {
		return part{}, "", err
	}
	if limit >= 0 {
		v = truncated(v, limit)
	}
	return part{value: v, name: name}, rest[1:], nil
}

func truncated(v value, limit int) value {
	return func(info *flow.Info, event string) any {
		switch s := v(info, event).(type) {
		case string:
			return s[:min(len(s), limit)]
		default:
			return s
		}
	}
}

// text renders the format; what is not there is "-", or nothing if omit.
func (f format) text(b []byte, info *flow.Info, event string, omit bool) []byte {
	for _, p := range f {
		if p.value == nil {
			b = append(b, p.literal...)
			continue
		}
		switch v := p.value(info, event).(type) {
		case nil:
			if !omit {
				b = append(b, '-')
			}
		case string:
			b = appendPrintable(b, v)
		case uint64:
			b = strconv.AppendUint(b, v, 10)
		case *structpb.Value:
			b = append(b, jsonOf(v)...)
		}
	}
	return b
}

// appendPrintable keeps a peer from writing lines of its own.
func appendPrintable(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == 0x7f {
			b = fmt.Appendf(b, `\x%02x`, c)
		} else {
			b = append(b, c)
		}
	}
	return b
}

// single is the operator's value, if the format is nothing but one operator:
// JSON keeps its type.
func (f format) single() (value, bool) {
	if len(f) == 1 && f[0].value != nil {
		return f[0].value, true
	}
	return nil, false
}
