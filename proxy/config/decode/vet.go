package decode

import (
	"fmt"
	"slices"
	"strings"

	udpav1 "github.com/cncf/xds/go/udpa/type/v1"
	xdstypev3 "github.com/cncf/xds/go/xds/type/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// vet refuses every field that is set in m and not implemented, in all that m
// holds, through typed_config too.
func (d *decoder) vet(m protoreflect.Message, place at) {
	d.depth++
	defer func() { d.depth-- }()
	if d.depth > maxDepth {
		place.bad("is nested deeper than %d messages", maxDepth)
		d.tooDeep = true
		return
	}
	name := m.Descriptor().FullName()
	d.vetUnknown(m, place)
	if hasOwnJSON(m.Descriptor()) {
		return
	}
	rule, ok := supported(name)
	if !ok {
		place.bad("%s is not supported by outrider", name)
		return
	}
	for _, fd := range populated(m) {
		in := place.in(string(fd.Name()))
		switch how, why := rule.of(fd); {
		case how == works:
			d.vetField(m, fd, in)
		case how == ignored, how == refusedUnlessFalse && isFalse(m.Get(fd)):
		case why != "":
			in.bad("is not supported by outrider: %s", why)
		default:
			in.bad("is not supported by outrider")
		}
	}
}

// vetUnknown refuses fields that came over the wire with numbers that the
// message does not have.
func (d *decoder) vetUnknown(m protoreflect.Message, place at) {
	for b := m.GetUnknown(); len(b) > 0; {
		number, _, n := protowire.ConsumeField(b)
		if n < 0 {
			place.bad("has bytes that are no field of %s", m.Descriptor().FullName())
			return
		}
		place.bad("has field number %d, which %s has not", number, m.Descriptor().FullName())
		b = b[n:]
	}
}

// populated are the fields that are set, in the order of the message.
func populated(m protoreflect.Message) []protoreflect.FieldDescriptor {
	var out []protoreflect.FieldDescriptor
	m.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		out = append(out, fd)
		return true
	})
	slices.SortFunc(out, func(a, b protoreflect.FieldDescriptor) int { return a.Index() - b.Index() })
	return out
}

// isFalse reports whether v is a BoolValue of false.
func isFalse(v protoreflect.Value) bool {
	m, ok := v.Interface().(protoreflect.Message)
	return ok && m.Descriptor().FullName() == "google.protobuf.BoolValue" && !m.Get(m.Descriptor().Fields().ByName("value")).Bool()
}

func (d *decoder) vetField(m protoreflect.Message, fd protoreflect.FieldDescriptor, in at) {
	v := m.Get(fd)
	switch {
	case fd.IsMap():
		if fd.MapValue().Message() == nil {
			return
		}
		v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
			d.vetMessage(m, e.Message(), in.entry("", k.String()))
			return true
		})
	case fd.Message() == nil:
	case fd.IsList():
		for i := range v.List().Len() {
			d.vetMessage(m, v.List().Get(i).Message(), in.item("", i))
		}
	default:
		d.vetMessage(m, v.Message(), in)
	}
}

// vetMessage vets m, a field's value in parent, and what is in it if it is an
// Any.
func (d *decoder) vetMessage(parent, m protoreflect.Message, place at) {
	a, ok := m.Interface().(*anypb.Any)
	if !ok {
		d.vet(m, place)
		return
	}
	if isOptional(parent) && !d.handles(a) {
		d.left[a] = true
		d.warn(place, fmt.Sprintf("%q is not supported by outrider, and optional: it is left out", shorten(a.GetTypeUrl())))
		return
	}
	inner := d.open(a, place)
	if inner == nil {
		return
	}
	name := inner.ProtoReflect().Descriptor().FullName()
	if d.opts.HTTPFilters[name] != nil {
		d.insides = append(d.insides, inside{inner, place})
		return
	}
	if _, ok := supported(name); !ok && !hasOwnJSON(inner.ProtoReflect().Descriptor()) {
		place.bad("extension %s is not supported by outrider", extensionName(parent, name))
		return
	}
	d.insides = append(d.insides, inside{inner, place})
	d.vet(inner.ProtoReflect(), place)
}

// isOptional reports whether m says that its extension may be left out.
func isOptional(m protoreflect.Message) bool {
	switch m.Descriptor().FullName() {
	case "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter", "envoy.config.route.v3.FilterConfig":
		return m.Get(m.Descriptor().Fields().ByName("is_optional")).Bool()
	}
	return false
}

// handles reports whether the type of what is in a is supported. What cannot
// be read is left to open.
func (d *decoder) handles(a *anypb.Any) bool {
	m, ok := d.newMessage(a.GetTypeUrl())
	if !ok {
		return false
	}
	url := a.GetTypeUrl()
	switch s := m.Interface().(type) {
	case *udpav1.TypedStruct:
		if proto.Unmarshal(a.GetValue(), s) == nil {
			url = s.GetTypeUrl()
		}
	case *xdstypev3.TypedStruct:
		if proto.Unmarshal(a.GetValue(), s) == nil {
			url = s.GetTypeUrl()
		}
	}
	name := protoreflect.FullName(url[strings.LastIndexByte(url, '/')+1:])
	_, ok = supported(name)
	return ok || d.opts.HTTPFilters[name] != nil
}

// extensionName is how the configuration calls an extension, and its type.
func extensionName(parent protoreflect.Message, typeName protoreflect.FullName) string {
	fd := parent.Descriptor().Fields().ByName("name")
	if fd == nil || fd.Kind() != protoreflect.StringKind || parent.Get(fd).String() == "" {
		return string(typeName)
	}
	return fmt.Sprintf("%s (%s)", shorten(parent.Get(fd).String()), typeName)
}

// open is the message in a, nil if there is none that can be read, which is
// reported at place once. A TypedStruct is decoded into the type that it names.
func (d *decoder) open(a *anypb.Any, place at) proto.Message {
	if m, known := d.opened[a]; known {
		return m
	}
	m := d.unpack(a.GetTypeUrl(), a.GetValue(), place)
	d.opened[a] = m
	return m
}

func (d *decoder) unpack(url string, value []byte, place at) proto.Message {
	m, ok := d.newMessage(url)
	if !ok {
		place.in("@type").bad("%q is not a type that outrider supports", shorten(url))
		return nil
	}
	if err := proto.Unmarshal(value, m.Interface()); err != nil {
		place.bad("not a %s: %v", m.Descriptor().FullName(), strings.TrimPrefix(err.Error(), "proto: "))
		return nil
	}
	switch s := m.Interface().(type) {
	case *udpav1.TypedStruct:
		return d.fromStruct(s.GetTypeUrl(), s.GetValue(), place)
	case *xdstypev3.TypedStruct:
		return d.fromStruct(s.GetTypeUrl(), s.GetValue(), place)
	}
	return m.Interface()
}

// fromStruct decodes the content of a TypedStruct, with field paths through
// its value.
func (d *decoder) fromStruct(url string, value *structpb.Struct, place at) proto.Message {
	m, ok := d.newMessage(url)
	if !ok {
		place.in("type_url").bad("%q is not a type that outrider supports", shorten(url))
		return nil
	}
	d.fill(m, treeOfStruct(value), place.in("value"))
	return m.Interface()
}
