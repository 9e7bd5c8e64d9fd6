package decode

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// The walker turns a tree into a message, as proto3 JSON says, and goes on
// after a mistake so that all are reported. Fields go by their proto name or
// their JSON name. Mistakes are reported with proto names.

// fill sets the fields of m from n.
func (d *decoder) fill(m protoreflect.Message, n *node, place at) {
	if d.fillWellKnown(m, n, place) || n.kind == isNull {
		return
	}
	if n.kind != isObject {
		place.bad("%s is not an object (%s)", n.show(), m.Descriptor().FullName())
		return
	}
	fields := m.Descriptor().Fields()
	set := map[protoreflect.Name]string{}
	for i, key := range n.keys {
		fd := fields.ByName(protoreflect.Name(key))
		if fd == nil {
			fd = fields.ByJSONName(key)
		}
		if fd == nil {
			d.unknownField(place.in(key), m.Descriptor())
			continue
		}
		if n.items[i].kind == isNull && !takesNull(fd) {
			continue // null is unset
		}
		in := place.in(string(fd.Name()))
		if !claim(set, fd, in) {
			continue
		}
		d.fillField(m, fd, n.items[i], in)
	}
}

// claim notes that fd is set, and reports a field, or oneof, set before.
func claim(set map[protoreflect.Name]string, fd protoreflect.FieldDescriptor, place at) bool {
	slot := fd.Name()
	if o := fd.ContainingOneof(); o != nil {
		slot = "oneof " + o.Name()
	}
	before, taken := set[slot]
	set[slot] = string(fd.Name())
	switch {
	case !taken:
		return true
	case before == string(fd.Name()):
		place.bad("is there twice, under its proto name and its JSON name")
	default:
		place.bad("cannot be set together with %s", before)
	}
	return false
}

func (d *decoder) unknownField(place at, in protoreflect.MessageDescriptor) {
	msg := fmt.Sprintf("is not a field of %s", in.FullName())
	if d.opts.AllowUnknownStatic {
		d.warn(place, msg)
		return
	}
	place.bad("%s", msg)
}

// takesNull reports whether JSON's null is a value of fd rather than nothing.
func takesNull(fd protoreflect.FieldDescriptor) bool {
	if fd.IsList() || fd.IsMap() {
		return false
	}
	return fd.Message() != nil && fd.Message().FullName() == "google.protobuf.Value"
}

func (d *decoder) fillField(m protoreflect.Message, fd protoreflect.FieldDescriptor, n *node, place at) {
	switch {
	case fd.IsMap():
		d.fillMap(m.Mutable(fd).Map(), fd, n, place)
	case fd.IsList():
		d.fillList(m.Mutable(fd).List(), fd, n, place)
	case fd.Message() != nil:
		d.fill(m.Mutable(fd).Message(), n, place)
	default:
		if v, ok := scalar(fd, n, place); ok {
			m.Set(fd, v)
		}
	}
}

func (d *decoder) fillList(list protoreflect.List, fd protoreflect.FieldDescriptor, n *node, place at) {
	if n.kind != isList {
		place.bad("%s is not a list", n.show())
		return
	}
	for i, item := range n.items {
		in := place.item("", i)
		if fd.Message() != nil {
			if item.kind == isNull && fd.Message().FullName() != "google.protobuf.Value" {
				in.bad("null is not an element of a list")
			}
			d.fill(list.AppendMutable().Message(), item, in)
			continue
		}
		v, ok := scalar(fd, item, in)
		if !ok {
			v = list.NewElement() // keeps the indices of what follows
		}
		list.Append(v)
	}
}

func (d *decoder) fillMap(m protoreflect.Map, fd protoreflect.FieldDescriptor, n *node, place at) {
	if n.kind != isObject {
		place.bad("%s is not an object (a map)", n.show())
		return
	}
	value := fd.MapValue()
	for i, key := range n.keys {
		in := place.entry("", key)
		k, ok := scalar(fd.MapKey(), &node{kind: isString, text: key}, in)
		if !ok {
			continue
		}
		if value.Message() != nil {
			d.fill(m.Mutable(k.MapKey()).Message(), n.items[i], in)
		} else if v, ok := scalar(value, n.items[i], in); ok {
			m.Set(k.MapKey(), v)
		}
	}
}

// scalar is n as a value of fd's kind.
func scalar(fd protoreflect.FieldDescriptor, n *node, place at) (protoreflect.Value, bool) {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return boolean(fd, n, place)
	case protoreflect.StringKind:
		return text(n, place)
	case protoreflect.BytesKind:
		return binary(n, place)
	case protoreflect.EnumKind:
		return enum(fd.Enum(), n, place)
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return float(fd.Kind(), n, place)
	default:
		return integer(fd.Kind(), n, place)
	}
}

func boolean(fd protoreflect.FieldDescriptor, n *node, place at) (protoreflect.Value, bool) {
	isKey := fd.ContainingMessage().IsMapEntry() && n.kind == isString
	if n.kind != isBool && (!isKey || n.text != "true" && n.text != "false") {
		place.bad("%s is not a boolean", n.show())
		return protoreflect.Value{}, false
	}
	return protoreflect.ValueOfBool(n.text == "true"), true
}

func text(n *node, place at) (protoreflect.Value, bool) {
	switch {
	case n.kind == isNumber || n.kind == isBool:
		place.bad("%s is not a string: put it in quotes", n.show())
	case n.kind != isString:
		place.bad("%s is not a string", n.show())
	case !utf8.ValidString(n.text):
		place.bad("%s is not UTF-8", n.show())
	default:
		return protoreflect.ValueOfString(n.text), true
	}
	return protoreflect.Value{}, false
}

// binary reads base64, of either alphabet, padded or not.
func binary(n *node, place at) (protoreflect.Value, bool) {
	if n.kind == isString {
		s := strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(n.text), "=")
		if b, err := base64.RawStdEncoding.DecodeString(s); err == nil {
			return protoreflect.ValueOfBytes(b), true
		}
	}
	if n.kind == isString { // perhaps a key: not shown
		place.bad("%d characters are not base64", len(n.text))
	} else {
		place.bad("%s is not base64", n.show())
	}
	return protoreflect.Value{}, false
}

func enum(ed protoreflect.EnumDescriptor, n *node, place at) (protoreflect.Value, bool) {
	if ed.FullName() == "google.protobuf.NullValue" {
		return protoreflect.ValueOfEnum(0), true
	}
	if n.kind == isString {
		if v := ed.Values().ByName(protoreflect.Name(n.text)); v != nil {
			return protoreflect.ValueOfEnum(v.Number()), true
		}
	}
	if i, _, ok := n.integer(); ok && n.kind == isNumber && i == int64(int32(i)) {
		if v := ed.Values().ByNumber(protoreflect.EnumNumber(i)); v != nil {
			return protoreflect.ValueOfEnum(v.Number()), true
		}
	}
	place.bad("%s is not one of %s", n.show(), enumNames(ed))
	return protoreflect.Value{}, false
}

func enumNames(ed protoreflect.EnumDescriptor) string {
	var names []string
	for i := range ed.Values().Len() {
		names = append(names, string(ed.Values().Get(i).Name()))
	}
	return strings.Join(names, ", ")
}

func float(k protoreflect.Kind, n *node, place at) (protoreflect.Value, bool) {
	if n.kind == isNumber || n.kind == isString {
		bits := 64
		if k == protoreflect.FloatKind {
			bits = 32
		}
		f, err := strconv.ParseFloat(strings.Replace(n.text, "Infinity", "Inf", 1), bits)
		if err == nil && bits == 32 {
			return protoreflect.ValueOfFloat32(float32(f)), true
		} else if err == nil {
			return protoreflect.ValueOfFloat64(f), true
		}
	}
	place.bad("%s is not a number", n.show())
	return protoreflect.Value{}, false
}

func integer(k protoreflect.Kind, n *node, place at) (protoreflect.Value, bool) {
	i, u, ok := n.integer()
	if !ok {
		place.bad("%s is not an integer", n.show())
		return protoreflect.Value{}, false
	}
	var v protoreflect.Value
	switch k {
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		ok = i >= 0 && u <= math.MaxUint32
		v = protoreflect.ValueOfUint32(uint32(u))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		ok = i >= 0
		v = protoreflect.ValueOfUint64(u)
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		ok = u <= math.MaxInt64
		v = protoreflect.ValueOfInt64(i)
	default:
		ok = i == int64(int32(i)) && u <= math.MaxInt32
		v = protoreflect.ValueOfInt32(int32(i))
	}
	if !ok {
		place.bad("%s is out of range for a field of type %s", n.show(), k)
	}
	return v, ok
}
