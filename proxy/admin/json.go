package admin

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/cncf/xds/go/udpa/annotations"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// encode is m as Envoy prints it: proto field names in the order of their
// numbers, one space of indentation, "@type" first, and what is sensitive
// redacted. protojson has another order, and spaces at random. all shows what
// is not set too, where it has a default. types are those that a TypedStruct may
// hold.
func encode(m proto.Message, all bool, types MessageTypes) []byte {
	var b, out bytes.Buffer
	if types == nil {
		types = protoregistry.GlobalTypes
	}
	encoder{&b, all, types}.message(m.ProtoReflect(), false)
	if json.Indent(&out, b.Bytes(), "", " ") != nil {
		return b.Bytes()
	}
	out.WriteByte('\n')
	return out.Bytes()
}

type encoder struct {
	*bytes.Buffer
	all   bool
	types MessageTypes
}

// MessageTypes finds messages by their type URLs.
type MessageTypes interface {
	FindMessageByURL(url string) (protoreflect.MessageType, error)
}

// redacted stands for what is not shown, as in Envoy.
const redacted = "[redacted]"

func (e encoder) text(s string) {
	out, err := json.Marshal(s)
	if err != nil {
		out = []byte(`""`)
	}
	e.Write(out)
}

// message writes an object, or the JSON form of a well-known type. hide
// redacts every text in it.
func (e encoder) message(m protoreflect.Message, hide bool) {
	name := m.Descriptor().FullName()
	switch {
	case name == "google.protobuf.Any":
		e.any(m, hide)
	case wellKnown(name):
		e.wellKnown(m, hide)
	default:
		e.WriteByte('{')
		e.fields(m, hide, true)
		e.WriteByte('}')
	}
}

// wellKnown types have a JSON form of their own.
func wellKnown(name protoreflect.FullName) bool {
	return name.Parent() == "google.protobuf" && name != "google.protobuf.Empty"
}

// fields writes the fields without the braces; first says that no comma is
// needed before.
func (e encoder) fields(m protoreflect.Message, hide, first bool) {
	typed := e.typedStruct(m)
	for _, fd := range e.shown(m) {
		hide := hide || sensitive(fd)
		if hide && !hasText(fd) {
			continue
		}
		if !first {
			e.WriteByte(',')
		}
		first = false
		e.text(string(fd.Name()))
		e.WriteByte(':')
		switch {
		case typed != nil && fd.Name() == "value":
			e.message(typed.ProtoReflect(), hide)
		case isTypedStruct(m) && fd.Name() == "value":
			e.obscure(m.Get(fd).Message().Interface())
		default:
			e.field(m.Get(fd), fd, hide)
		}
	}
}

// shown are the fields to write, by number.
func (e encoder) shown(m protoreflect.Message) []protoreflect.FieldDescriptor {
	var out []protoreflect.FieldDescriptor
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if fd := fields.Get(i); m.Has(fd) || e.all && !fd.HasPresence() {
			out = append(out, fd)
		}
	}
	slices.SortFunc(out, func(a, b protoreflect.FieldDescriptor) int { return int(a.Number()) - int(b.Number()) })
	return out
}

// sensitive is udpa.annotations.sensitive, which Envoy's protos put on keys
// and passwords.
func sensitive(fd protoreflect.FieldDescriptor) bool {
	v, ok := proto.GetExtension(fd.Options(), annotations.E_Sensitive).(bool)
	return ok && v
}

// hasText says whether a redacted field can be shown as such: numbers are left
// out, as in Envoy.
func hasText(fd protoreflect.FieldDescriptor) bool {
	switch fd.Kind() {
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind, protoreflect.GroupKind:
		return true
	default:
		return false
	}
}

// isTypedStruct says whether m is one of the messages that hold another one
// as a Struct.
func isTypedStruct(m protoreflect.Message) bool {
	switch m.Descriptor().FullName() {
	case "xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct":
		return true
	}
	return false
}

// typedStruct is the message in a TypedStruct, whose annotations say what is
// sensitive; nil if it cannot be read.
func (e encoder) typedStruct(m protoreflect.Message) proto.Message {
	if !isTypedStruct(m) {
		return nil
	}
	fields := m.Descriptor().Fields()
	value, ok := m.Get(fields.ByName("value")).Message().Interface().(*structpb.Struct)
	if !ok {
		return nil
	}
	typ, err := e.types.FindMessageByURL(m.Get(fields.ByName("type_url")).String())
	if err != nil {
		return nil
	}
	text, err := protojson.Marshal(value)
	inner := typ.New().Interface()
	if err != nil || protojson.Unmarshal(text, inner) != nil {
		return nil
	}
	return inner
}

// obscure writes the object of a TypedStruct that cannot be read: each text in it
// might be a key. It stays an object, for who reads dumps looks for one.
func (e encoder) obscure(value proto.Message) {
	s, _ := value.(*structpb.Struct)
	text, err := protojson.Marshal(structpb.NewStructValue(obscured(s)))
	if err != nil || json.Compact(e.Buffer, text) != nil {
		e.WriteString("{}")
	}
}

func obscured(s *structpb.Struct) *structpb.Struct {
	out := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for key, v := range s.GetFields() {
		if inner := v.GetStructValue(); inner != nil {
			out.Fields[key] = structpb.NewStructValue(obscured(inner))
			continue
		}
		out.Fields[key] = structpb.NewStringValue(redacted)
	}
	return out
}

func (e encoder) field(v protoreflect.Value, fd protoreflect.FieldDescriptor, hide bool) {
	switch {
	case fd.IsMap():
		e.mapping(v.Map(), fd, hide)
	case fd.IsList():
		e.WriteByte('[')
		for i := range v.List().Len() {
			if i > 0 {
				e.WriteByte(',')
			}
			e.value(v.List().Get(i), fd, hide)
		}
		e.WriteByte(']')
	default:
		e.value(v, fd, hide)
	}
}

// mapping writes the keys in descending order. Envoy's order is that of its
// hash table; this one has filter_metadata's "istio" before
// "envoy.transport_socket_match", as its dumps do.
func (e encoder) mapping(m protoreflect.Map, fd protoreflect.FieldDescriptor, hide bool) {
	var keys []protoreflect.MapKey
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int { return strings.Compare(b.String(), a.String()) })
	e.WriteByte('{')
	for i, k := range keys {
		if i > 0 {
			e.WriteByte(',')
		}
		e.text(k.String())
		e.WriteByte(':')
		e.value(m.Get(k), fd.MapValue(), hide)
	}
	e.WriteByte('}')
}

func (e encoder) value(v protoreflect.Value, fd protoreflect.FieldDescriptor, hide bool) {
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		e.message(v.Message(), hide)
	case protoreflect.StringKind:
		if hide {
			e.text(redacted)
			return
		}
		e.text(v.String())
	case protoreflect.BytesKind:
		b := v.Bytes()
		if hide {
			b = []byte(redacted)
		}
		e.text(base64.StdEncoding.EncodeToString(b))
	case protoreflect.EnumKind:
		if d := fd.Enum().Values().ByNumber(v.Enum()); d != nil {
			e.text(string(d.Name()))
			return
		}
		e.WriteString(strconv.Itoa(int(v.Enum())))
	case protoreflect.BoolKind:
		e.WriteString(strconv.FormatBool(v.Bool()))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		e.text(v.String())
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		e.float(v, fd)
	default:
		e.WriteString(v.String())
	}
}

func (e encoder) float(v protoreflect.Value, fd protoreflect.FieldDescriptor) {
	var number any = v.Float()
	if fd.Kind() == protoreflect.FloatKind {
		number = float32(v.Float())
	}
	out, err := json.Marshal(number)
	if err != nil {
		e.text(v.String()) // NaN and the infinities are texts
		return
	}
	e.Write(out)
}

func (e encoder) any(m protoreflect.Message, hide bool) {
	packed, ok := m.Interface().(*anypb.Any)
	if !ok || packed.GetTypeUrl() == "" {
		e.WriteString("{}")
		return
	}
	e.WriteString(`{"@type":`)
	e.text(packed.GetTypeUrl())
	inner, err := packed.UnmarshalNew()
	switch {
	case err != nil:
		e.WriteString(`,"value":`)
		e.text(redacted) // what cannot be read might be a key
	case wellKnown(inner.ProtoReflect().Descriptor().FullName()):
		e.WriteString(`,"value":`)
		e.message(inner.ProtoReflect(), hide)
	default:
		e.fields(inner.ProtoReflect(), hide, false)
	}
	e.WriteByte('}')
}

// wellKnown leaves google.protobuf's types to protojson.
func (e encoder) wellKnown(m protoreflect.Message, hide bool) {
	if hide {
		e.text(redacted)
		return
	}
	text, err := protojson.Marshal(m.Interface())
	if err == nil && json.Compact(e.Buffer, text) == nil {
		return
	}
	e.WriteString("null")
}
