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
	"google.golang.org/protobuf/types/known/anypb"
)

// encode is m as Envoy prints it: proto field names in the order of their
// numbers, one space of indentation, "@type" first, and what is sensitive
// redacted. protojson has another order, and spaces at random.
func encode(m proto.Message) []byte {
	var b bytes.Buffer
	e := encoder{&b}
	e.message(m.ProtoReflect(), false)
	var out bytes.Buffer
	if json.Indent(&out, b.Bytes(), "", " ") != nil {
		return b.Bytes()
	}
	out.WriteByte('\n')
	return out.Bytes()
}

type encoder struct{ *bytes.Buffer }

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
	case strings.HasPrefix(string(name), "google.protobuf.") && name != "google.protobuf.Empty":
		e.wellKnown(m, hide)
	default:
		e.WriteByte('{')
		e.fields(m, hide, true)
		e.WriteByte('}')
	}
}

func (e encoder) fields(m protoreflect.Message, hide, first bool) {
	var set []protoreflect.FieldDescriptor
	m.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		set = append(set, fd)
		return true
	})
	slices.SortFunc(set, func(a, b protoreflect.FieldDescriptor) int { return int(a.Number()) - int(b.Number()) })
	for _, fd := range set {
		if !first {
			e.WriteByte(',')
		}
		first = false
		e.text(string(fd.Name()))
		e.WriteByte(':')
		e.field(m.Get(fd), fd, hide || sensitive(fd))
	}
}

// sensitive is udpa.annotations.sensitive, which Envoy's protos put on keys
// and passwords.
func sensitive(fd protoreflect.FieldDescriptor) bool {
	v, ok := proto.GetExtension(fd.Options(), annotations.E_Sensitive).(bool)
	return ok && v
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

func (e encoder) mapping(m protoreflect.Map, fd protoreflect.FieldDescriptor, hide bool) {
	var keys []protoreflect.MapKey
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int { return strings.Compare(a.String(), b.String()) })
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
		out, err := json.Marshal(v.Float())
		if err != nil {
			out = []byte("0")
		}
		e.Write(out)
	default:
		e.WriteString(v.String())
	}
}

func (e encoder) any(m protoreflect.Message, hide bool) {
	packed, ok := m.Interface().(*anypb.Any)
	if !ok {
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
	case strings.HasPrefix(string(inner.ProtoReflect().Descriptor().FullName()), "google.protobuf."):
		e.WriteString(`,"value":`)
		e.wellKnown(inner.ProtoReflect(), hide)
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
