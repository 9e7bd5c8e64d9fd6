package decode

import (
	"maps"
	"strings"
	"sync"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// treatment is what becomes of a field that is set.
type treatment int

const (
	refused treatment = iota
	refusedUnlessFalse
	ignored
	works
)

// fields is what outrider does with the fields of one message. A field that is
// not named is refused.
type fields struct {
	works string // names, with blanks between
	// ignored are accepted without effect, each with its reason. Nothing that
	// decides who may do what is ever here.
	ignored map[string]string
	// refused are refused with a reason; to be told what to use instead.
	refused map[string]string
	// unlessFalse are BoolValues that are refused unless they are false, which
	// is their default.
	unlessFalse string
}

func (f fields) of(fd protoreflect.FieldDescriptor) (treatment, string) {
	name := string(fd.Name())
	if why, ok := f.ignored[name]; ok {
		return ignored, why
	}
	if contains(f.works, name) {
		return works, ""
	}
	if contains(f.unlessFalse, name) {
		return refusedUnlessFalse, f.refused[name]
	}
	return refused, f.refused[name]
}

func contains(list, name string) bool {
	for word := range strings.FieldsSeq(list) {
		if word == name {
			return true
		}
	}
	return false
}

// supported is the rule for a message; false means that the whole message is
// refused.
func supported(name protoreflect.FullName) (fields, bool) {
	f, ok := allSupport()[name]
	return f, ok
}

// allSupport is all tables in one.
//
//nolint:gochecknoglobals // a table, made of the others once
var allSupport = sync.OnceValue(func() map[protoreflect.FullName]fields {
	all := map[protoreflect.FullName]fields{}
	for _, table := range supportTables() {
		maps.Copy(all, table)
	}
	return all
})

func supportTables() []map[protoreflect.FullName]fields {
	return []map[protoreflect.FullName]fields{bootstrapSupport, listenerSupport, filterSupport, clusterSupport, tlsSupport, httpSupport, routeSupport, httpFilterSupport, httpAuthSupport, processSupport, dnsSupport}
}
