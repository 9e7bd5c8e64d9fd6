package decode

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The rules that Envoy's protos carry (protoc-gen-validate) are checked by
// go-control-plane's generated code, whose errors name Go fields; these are put
// into the words of the file here.

type allValidator interface{ ValidateAll() error }

// ruleErrors and ruleError are the generated errors.
type ruleErrors interface{ AllErrors() []error }

type ruleError interface {
	Field() string
	Reason() string
	Cause() error
}

// validate reports every broken rule in m, but not in the Anys it holds.
func (d *decoder) validate(m proto.Message, place at) {
	if v, ok := m.(allValidator); ok {
		d.broken(v.ValidateAll(), m.ProtoReflect(), place)
	}
}

func (d *decoder) broken(err error, m protoreflect.Message, place at) {
	var many ruleErrors
	var one ruleError
	switch {
	case err == nil:
	case errors.As(err, &many):
		for _, e := range many.AllErrors() {
			d.broken(e, m, place)
		}
	case errors.As(err, &one):
		d.brokenField(one, m, place)
	default:
		place.bad("%v", err)
	}
}

func (d *decoder) brokenField(e ruleError, m protoreflect.Message, place at) {
	goName, key, indexed := strings.Cut(strings.TrimSuffix(e.Field(), "]"), "[")
	fd, od := fieldByGoName(m, goName)
	switch {
	case od != nil:
		d.found = append(d.found, &FieldError{Path: place.path, Msg: "one of " + oneofNames(od) + " must be set", alone: true})
		return
	case fd == nil:
		place.in(goName).bad("%s", e.Reason())
		return
	}
	in := place.in(string(fd.Name()))
	v, ok := m.Get(fd), m.Has(fd)
	if indexed {
		if in, v, ok = element(fd, v, key, in); !ok {
			in.bad("%s", e.Reason())
			return
		}
	}
	if e.Cause() != nil && ok && fd.Message() != nil {
		if inner, isMessage := v.Interface().(protoreflect.Message); isMessage {
			d.broken(e.Cause(), inner, in)
			return
		}
	}
	in.bad("%s%s", quoted(v, ok), e.Reason())
}

// element is the value at key of a list or map.
func element(fd protoreflect.FieldDescriptor, v protoreflect.Value, key string, in at) (at, protoreflect.Value, bool) {
	if fd.IsMap() {
		k := protoreflect.ValueOfString(key).MapKey()
		if fd.MapKey().Kind() != protoreflect.StringKind || !v.Map().Has(k) {
			return in.entry("", key), v, false
		}
		return in.entry("", key), v.Map().Get(k), true
	}
	i, err := strconv.Atoi(key)
	if err != nil || !fd.IsList() || i >= v.List().Len() {
		return in, v, false
	}
	return in.item("", i), v.List().Get(i), true
}

// quoted is a scalar as the beginning of an error text, "" for what is no
// scalar.
func quoted(v protoreflect.Value, ok bool) string {
	if !ok {
		return ""
	}
	switch x := v.Interface().(type) {
	case string:
		return fmt.Sprintf("%q: ", shorten(x))
	case int32, int64, uint32, uint64, float32, float64, protoreflect.EnumNumber:
		return fmt.Sprintf("%v: ", x)
	case protoreflect.Message:
		if x.Descriptor().FullName() == "google.protobuf.Duration" {
			return durationText(x) + ": "
		}
		if fd := x.Descriptor().Fields().ByName("value"); fd != nil && fd.Message() == nil && !fd.IsList() {
			return quoted(x.Get(fd), true)
		}
	}
	return ""
}

func durationText(m protoreflect.Message) string {
	fields := m.Descriptor().Fields()
	seconds, nanos := m.Get(fields.ByName("seconds")).Int(), m.Get(fields.ByName("nanos")).Int()
	if nanos == 0 {
		return fmt.Sprintf("%ds", seconds)
	}
	return strconv.FormatFloat(float64(seconds)+float64(nanos)/1e9, 'f', -1, 64) + "s"
}

// fieldByGoName finds what protoc-gen-go calls goName: a field, or else a
// oneof.
func fieldByGoName(m protoreflect.Message, goName string) (protoreflect.FieldDescriptor, protoreflect.OneofDescriptor) {
	same := func(name protoreflect.Name) bool {
		plain := func(s string) string { return strings.ReplaceAll(s, "_", "") }
		return strings.EqualFold(plain(string(name)), plain(goName))
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if same(fields.Get(i).Name()) {
			return fields.Get(i), nil
		}
	}
	oneofs := m.Descriptor().Oneofs()
	for i := range oneofs.Len() {
		if same(oneofs.Get(i).Name()) {
			return nil, oneofs.Get(i)
		}
	}
	return nil, nil
}

func oneofNames(od protoreflect.OneofDescriptor) string {
	var names []string
	for i := range od.Fields().Len() {
		names = append(names, string(od.Fields().Get(i).Name()))
	}
	return strings.Join(names, ", ")
}
