package decode

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// fillWellKnown sets m if it is of a type with a JSON form of its own, and
// reports whether it is.
func (d *decoder) fillWellKnown(m protoreflect.Message, n *node, place at) bool {
	if !hasOwnJSON(m.Descriptor()) {
		return false
	}
	switch v := m.Interface().(type) {
	case *structpb.Value:
		proto.Merge(v, structValue(n, place))
	case *structpb.Struct:
		fillStruct(v, n, place)
	case *structpb.ListValue:
		if n.kind == isList {
			proto.Merge(v, structValue(n, place).GetListValue())
		} else {
			place.bad("%s is not a list", n.show())
		}
	case *anypb.Any:
		d.fillAny(v, n, place)
	default:
		if n.kind != isNull {
			fillByName(m, n, place)
		}
	}
	return true
}

// hasOwnJSON reports whether values of md are not written as objects with its
// fields.
func hasOwnJSON(md protoreflect.MessageDescriptor) bool {
	if md.ParentFile().Package() != "google.protobuf" {
		return false
	}
	return md.Name() != "Empty"
}

func fillByName(m protoreflect.Message, n *node, place at) {
	switch m.Descriptor().Name() {
	case "Duration", "Timestamp", "FieldMask":
		quoted, err := json.Marshal(n.text)
		if n.kind != isString || err != nil || protojson.Unmarshal(quoted, m.Interface()) != nil {
			place.bad("%s is not a %s", n.show(), exampleOf(m.Descriptor().Name()))
		}
		return
	}
	value := m.Descriptor().Fields().ByName("value") // the wrappers
	if value == nil {
		place.bad("%s is not supported by outrider", m.Descriptor().FullName())
		return
	}
	if v, ok := scalar(value, n, place); ok {
		m.Set(value, v)
	}
}

func exampleOf(name protoreflect.Name) string {
	switch name {
	case "Duration":
		return `duration such as "1.5s"`
	case "Timestamp":
		return `time such as "2026-01-02T03:04:05Z"`
	}
	return `field mask such as "a.b,c"`
}

func fillStruct(s *structpb.Struct, n *node, place at) {
	switch n.kind {
	case isNull:
	case isObject:
		s.Fields = structValue(n, place).GetStructValue().GetFields()
	default:
		place.bad("%s is not an object", n.show())
	}
}

func structValue(n *node, place at) *structpb.Value {
	switch n.kind {
	case isBool:
		return structpb.NewBoolValue(n.text == "true")
	case isNumber:
		f, err := strconv.ParseFloat(n.text, 64)
		if err != nil || math.IsInf(f, 0) {
			place.bad("%s is out of range for a number", n.show())
		}
		return structpb.NewNumberValue(f)
	case isString:
		return structpb.NewStringValue(n.text)
	case isList:
		list := &structpb.ListValue{}
		for i, item := range n.items {
			list.Values = append(list.Values, structValue(item, place.item("", i)))
		}
		return structpb.NewListValue(list)
	case isObject:
		s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for i, key := range n.keys {
			s.Fields[key] = structValue(n.items[i], place.in(key))
		}
		return structpb.NewStructValue(s)
	}
	return structpb.NewNullValue()
}

// treeOf is the opposite of structValue.
func treeOf(v *structpb.Value) *node {
	switch k := v.GetKind().(type) {
	case *structpb.Value_BoolValue:
		return &node{kind: isBool, text: strconv.FormatBool(k.BoolValue)}
	case *structpb.Value_NumberValue:
		return &node{kind: isNumber, text: strconv.FormatFloat(k.NumberValue, 'g', -1, 64)}
	case *structpb.Value_StringValue:
		return &node{kind: isString, text: k.StringValue}
	case *structpb.Value_ListValue:
		n := &node{kind: isList}
		for _, item := range k.ListValue.GetValues() {
			n.items = append(n.items, treeOf(item))
		}
		return n
	case *structpb.Value_StructValue:
		return treeOfStruct(k.StructValue)
	}
	return &node{kind: isNull}
}

func treeOfStruct(s *structpb.Struct) *node {
	n := &node{kind: isObject}
	for _, key := range sortedKeys(s.GetFields()) {
		n.keys, n.items = append(n.keys, key), append(n.items, treeOf(s.Fields[key]))
	}
	return n
}

// fillAny packs the message that n describes: its type is "@type", its fields
// stand beside that, or its JSON form under "value".
func (d *decoder) fillAny(a *anypb.Any, n *node, place at) {
	if n.kind != isObject {
		if n.kind != isNull {
			place.bad("%s is not an object with an @type", n.show())
		}
		return
	}
	url := n.get("@type")
	if url == nil || url.kind != isString || url.text == "" {
		place.bad("has no @type")
		return
	}
	m, ok := d.newMessage(url.text)
	if !ok {
		place.in("@type").bad("%q is not a type that outrider supports", shorten(url.text))
		a.TypeUrl = url.text
		return
	}
	rest := &node{kind: isObject}
	for i, key := range n.keys {
		if key != "@type" {
			rest.keys, rest.items = append(rest.keys, key), append(rest.items, n.items[i])
		}
	}
	if hasOwnJSON(m.Descriptor()) {
		if rest = rest.get("value"); rest == nil {
			place.bad("has no value of type %s", m.Descriptor().FullName())
			return
		}
	}
	d.fill(m, rest, place)
	packed, err := proto.MarshalOptions{Deterministic: true}.Marshal(m.Interface())
	if err != nil {
		place.bad("%v", err)
		return
	}
	a.TypeUrl, a.Value = url.text, packed
}

// newMessage is an empty message for a type URL, whose last path element is
// the type's name.
func (d *decoder) newMessage(url string) (protoreflect.Message, bool) {
	name := protoreflect.FullName(url[strings.LastIndexByte(url, '/')+1:])
	mt, ok := d.types.find(name)
	if !ok {
		return nil, false
	}
	return mt.New(), true
}
