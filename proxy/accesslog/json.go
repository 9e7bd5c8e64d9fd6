package accesslog

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"
)

// node is one value of a json_format.
type node interface {
	// append renders the value; it is false, with nothing appended, if omit
	// and there is none.
	append(b []byte, e *entry, omit bool) ([]byte, bool)
}

// object is a JSON object, its keys in order: a Struct has none of its own, and
// Envoy sorts them too.
type object []member

type member struct {
	key   string // as JSON, with the colon
	value node
}

type list []node

// fixed is JSON that is the same in each line.
type fixed string

// typed is a format of one operator, whose value keeps its type.
type typed struct{ *operator }

func parseJSON(s *structpb.Struct) (object, error) {
	var out object
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(s.GetFields())) {
		n, err := parseValue(s.GetFields()[key])
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
		out = append(out, member{key: string(append(appendQuoted(nil, key), ':')), value: n})
	}
	return out, errors.Join(errs...)
}

func parseValue(v *structpb.Value) (node, error) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		f, err := parse(k.StringValue)
		if len(f) == 1 && f[0].operator != nil {
			return typed{f[0].operator}, err
		}
		return f, err
	case *structpb.Value_StructValue:
		return parseJSON(k.StructValue)
	case *structpb.Value_ListValue:
		var out list
		var errs []error
		for i, one := range k.ListValue.GetValues() {
			n, err := parseValue(one)
			if err != nil {
				errs = append(errs, fmt.Errorf("[%d]: %w", i, err))
			}
			out = append(out, n)
		}
		return out, errors.Join(errs...)
	case *structpb.Value_NumberValue:
		return fixed(appendNumber(nil, k.NumberValue)), nil
	}
	return nil, errors.New("only strings, numbers, objects and lists can be logged")
}

func (o object) append(b []byte, e *entry, omit bool) ([]byte, bool) {
	start := len(b)
	b = append(b, '{')
	for i := range o {
		before := len(b)
		if before > start+1 {
			b = append(b, ',')
		}
		b = append(b, o[i].key...)
		var ok bool
		if b, ok = o[i].value.append(b, e, omit); !ok {
			b = b[:before]
		}
	}
	if omit && len(b) == start+1 {
		return b[:start], false
	}
	return append(b, '}'), true
}

func (l list) append(b []byte, e *entry, omit bool) ([]byte, bool) {
	start := len(b)
	b = append(b, '[')
	for _, n := range l {
		before := len(b)
		if before > start+1 {
			b = append(b, ',')
		}
		var ok bool
		if b, ok = n.append(b, e, omit); !ok {
			b = b[:before]
		}
	}
	return append(b, ']'), true
}

func (f fixed) append(b []byte, _ *entry, _ bool) ([]byte, bool) { return append(b, f...), true }

func (t typed) append(b []byte, e *entry, omit bool) ([]byte, bool) {
	start, ok := len(b), false
	if t.json != nil {
		b, ok = t.json(b, e)
	} else if b, ok = t.text(append(b, '"'), e); ok {
		b = append(escaped(b, start+1), '"')
	}
	switch {
	case ok:
		return b, true
	case omit:
		return b[:start], false
	}
	return append(b[:start], "null"...), true
}

// append renders a format of several parts as one string.
func (f format) append(b []byte, e *entry, omit bool) ([]byte, bool) {
	b = append(b, '"')
	start := len(b)
	b = f.plain(b, e, omit)
	return append(escaped(b, start), '"'), true
}

func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	start := len(b)
	return append(escaped(append(b, s...), start), '"')
}

// escaped escapes b[start:] for a JSON string. Bytes that are not UTF-8 are
// taken for Latin-1, as Envoy does it.
func escaped(b []byte, start int) []byte {
	clean := true
	for _, c := range b[start:] {
		if c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			clean = false
			break
		}
	}
	if clean {
		return b
	}
	raw := append([]byte(nil), b[start:]...)
	valid := utf8.Valid(raw)
	b = b[:start]
	for _, c := range raw {
		b = appendEscaped(b, c, valid)
	}
	return b
}

func appendEscaped(b []byte, c byte, valid bool) []byte {
	switch {
	case c == '"' || c == '\\':
		return append(b, '\\', c)
	case c == '\n':
		return append(b, `\n`...)
	case c == '\r':
		return append(b, `\r`...)
	case c == '\t':
		return append(b, `\t`...)
	case c == '\b':
		return append(b, `\b`...)
	case c == '\f':
		return append(b, `\f`...)
	case c < ' ', c >= utf8.RuneSelf && !valid:
		return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
	}
	return append(b, c)
}

// appendNumber prints whole numbers without a fraction or an exponent.
func appendNumber(b []byte, v float64) []byte {
	abs := math.Abs(v)
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return append(b, "null"...) // JSON has no such number
	case v == math.Trunc(v) && abs < 1<<63:
		return strconv.AppendInt(b, int64(v), 10)
	case abs >= 1e-5 && abs < 1e15:
		return strconv.AppendFloat(b, v, 'f', -1, 64)
	}
	return strconv.AppendFloat(b, v, 'e', -1, 64)
}

// appendValue is v as JSON.
func appendValue(b []byte, v *structpb.Value) []byte {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return appendQuoted(b, k.StringValue)
	case *structpb.Value_NumberValue:
		return appendNumber(b, k.NumberValue)
	case *structpb.Value_BoolValue:
		return strconv.AppendBool(b, k.BoolValue)
	case *structpb.Value_StructValue:
		return appendStruct(b, k.StructValue)
	case *structpb.Value_ListValue:
		b = append(b, '[')
		for i, one := range k.ListValue.GetValues() {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendValue(b, one)
		}
		return append(b, ']')
	}
	return append(b, "null"...)
}

func appendStruct(b []byte, s *structpb.Struct) []byte {
	b = append(b, '{')
	for i, key := range slices.Sorted(maps.Keys(s.GetFields())) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendQuoted(b, key), ':')
		b = appendValue(b, s.GetFields()[key])
	}
	return append(b, '}')
}
