package accesslog

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/flow"
)

// field is one value of a json_format: exactly one of the pointers is set, or
// none for a constant.
type field struct {
	name   string
	text   *format
	object []field
	list   []field
	fixed  string // JSON
	kind   fieldKind
}

type fieldKind int

const (
	fixedField fieldKind = iota
	textField
	objectField
	listField
)

// parseJSON compiles a json_format. Keys are sorted: a Struct has no order.
func parseJSON(s *structpb.Struct) ([]field, error) {
	var out []field
	for name, v := range s.GetFields() {
		f, err := parseValue(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		f.name = name
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b field) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return out, nil
}

func parseValue(v *structpb.Value) (field, error) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		f, err := parse(k.StringValue)
		return field{kind: textField, text: &f}, err
	case *structpb.Value_StructValue:
		object, err := parseJSON(k.StructValue)
		return field{kind: objectField, object: object}, err
	case *structpb.Value_ListValue:
		out := field{kind: listField}
		for i, one := range k.ListValue.GetValues() {
			f, err := parseValue(one)
			if err != nil {
				return out, fmt.Errorf("[%d]: %w", i, err)
			}
			out.list = append(out.list, f)
		}
		return out, nil
	}
	return field{kind: fixedField, fixed: jsonOf(v)}, nil
}

// jsonOf is v as JSON without the spaces that protojson adds at random.
func jsonOf(v *structpb.Value) string {
	text, err := protojson.Marshal(v)
	if err != nil {
		return "null"
	}
	var plain any
	if json.Unmarshal(text, &plain) != nil {
		return "null"
	}
	out, err := json.Marshal(plain)
	if err != nil {
		return "null"
	}
	return string(out)
}

// appendObject renders an object.
func appendObject(b []byte, fields []field, info *flow.Info, event string, omit bool) []byte {
	b = append(b, '{')
	first := true
	for i := range fields {
		start := len(b)
		if !first {
			b = append(b, ',')
		}
		b = strconv.AppendQuote(b, fields[i].name)
		b = append(b, ':')
		var there bool
		if b, there = fields[i].append(b, info, event, omit); !there && omit {
			b = b[:start]
			continue
		}
		first = false
	}
	return append(b, '}')
}

// append renders one value; there is false for null.
func (f *field) append(b []byte, info *flow.Info, event string, omit bool) (out []byte, there bool) {
	switch f.kind {
	case objectField:
		return appendObject(b, f.object, info, event, omit), true
	case listField:
		b = append(b, '[')
		for i := range f.list {
			if i > 0 {
				b = append(b, ',')
			}
			b, _ = f.list[i].append(b, info, event, omit)
		}
		return append(b, ']'), true
	case fixedField:
		return append(b, f.fixed...), f.fixed != "null"
	}
	if one, ok := f.text.single(); ok {
		return appendTyped(b, one(info, event))
	}
	return appendString(b, string(f.text.text(nil, info, event, omit))), true
}

func appendTyped(b []byte, v any) ([]byte, bool) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), false
	case uint64:
		return strconv.AppendUint(b, v, 10), true
	case *structpb.Value:
		return append(b, jsonOf(v)...), true
	case string:
		return appendString(b, v), true
	}
	return append(b, "null"...), false
}

func appendString(b []byte, s string) []byte {
	text, err := json.Marshal(s)
	if err != nil {
		return append(b, `""`...)
	}
	return append(b, text...)
}
