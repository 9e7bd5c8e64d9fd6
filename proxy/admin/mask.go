package admin

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// mask is a google.protobuf.FieldMask as a tree: nil takes the whole field.
type mask map[string]mask

func newMask(text string) mask {
	root := mask{}
	for path := range strings.SplitSeq(text, ",") {
		at := root
		names := strings.Split(path, ".")
		for i, name := range names {
			below, there := at[name]
			switch {
			case there && below == nil: // the whole field is taken already
			case i == len(names)-1:
				at[name] = nil
			case !there:
				at[name] = mask{}
			}
			if at = at[name]; at == nil {
				break
			}
		}
	}
	return root
}

// trim clears everything in m that k does not name. A path goes through
// messages and Any, not through repeated fields, as in Envoy; the error names
// one that is nowhere. Then m may be trimmed in part.
func trim(m protoreflect.Message, k mask) error {
	if packed, ok := m.Interface().(*anypb.Any); ok {
		return trimAny(packed, k)
	}
	fields := m.Descriptor().Fields()
	for name, below := range k {
		fd := fields.ByName(protoreflect.Name(name))
		if fd == nil || below != nil && (fd.Message() == nil || fd.IsList() || fd.IsMap()) {
			return fmt.Errorf("%s has no field %q that can be masked", m.Descriptor().FullName(), name)
		}
		if below == nil {
			continue
		}
		inner := m.Get(fd).Message() // an empty one if it is not set: the path is checked
		if m.Has(fd) {
			inner = m.Mutable(fd).Message()
		}
		if err := trim(inner, below); err != nil {
			return err
		}
	}
	m.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if _, ok := k[string(fd.Name())]; !ok {
			m.Clear(fd)
		}
		return true
	})
	return nil
}

func trimAny(packed *anypb.Any, k mask) error {
	if packed.GetTypeUrl() == "" {
		return nil
	}
	inner, err := packed.UnmarshalNew()
	if err != nil {
		return err
	}
	if err := trim(inner.ProtoReflect(), k); err != nil {
		return err
	}
	return packed.MarshalFrom(inner)
}
