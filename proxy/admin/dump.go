package admin

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// configDump answers /config_dump.
func (a *handler) configDump(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s := selection{mask: q.Get("mask"), resource: q.Get("resource")}
	if text := q.Get("name_regex"); text != "" {
		var err error
		if s.names, err = regexp.Compile(`\A(?:` + text + `)\z`); err != nil {
			refuseDump(w, http.StatusBadRequest, fmt.Sprintf("INVALID_ARGUMENT: Error while parsing name_regex from %s: %v", text, err))
			return
		}
	}
	parts := a.sections(q.Has("include_eds"))
	var out *adminv3.ConfigDump
	var problem string
	status := http.StatusBadRequest
	if s.resource != "" {
		out, problem = s.elements(parts)
		if out == nil && problem == "" {
			status, problem = http.StatusNotFound, s.resource+" not found in config dump"
		}
	} else {
		out, problem = s.sections(parts)
	}
	if problem != "" {
		refuseDump(w, status, problem)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(encode(out, false, a.opts.Types)) // the client has gone: there is nobody to tell
}

func refuseDump(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain")
	refuse(w, status, text)
}

// selection is what a request wants of the dump.
type selection struct {
	mask, resource string
	names          *regexp.Regexp // nil: all
}

// sections are the parts that the mask fits, or why there are none.
func (s selection) sections(parts []proto.Message) (*adminv3.ConfigDump, string) {
	out := &adminv3.ConfigDump{}
	for _, part := range parts {
		s.keepNamed(part.ProtoReflect())
		if s.mask != "" && trim(part.ProtoReflect(), newMask(s.mask)) != nil {
			continue
		}
		out.Configs = append(out.Configs, pack(part))
	}
	if s.mask != "" && len(out.Configs) == 0 {
		return nil, "FieldMask " + s.mask + " could not be successfully applied to any configs."
	}
	return out, ""
}

// elements are those of one repeated field of one section, or why there are
// none; nil and "" if no section has the field.
func (s selection) elements(parts []proto.Message) (*adminv3.ConfigDump, string) {
	for _, part := range parts {
		m := part.ProtoReflect()
		fd := m.Descriptor().Fields().ByName(protoreflect.Name(s.resource))
		if fd == nil {
			continue
		}
		if !fd.IsList() {
			return nil, fmt.Sprintf("%s is not a repeated field. Use ?mask=%s to get only this field", s.resource, s.resource)
		}
		s.keepNamed(m)
		out := &adminv3.ConfigDump{}
		for list, i := m.Get(fd).List(), 0; i < list.Len(); i++ {
			one := list.Get(i).Message()
			if s.mask != "" {
				if err := trim(one, newMask(s.mask)); err != nil {
					return nil, fmt.Sprintf("FieldMask %s could not be successfully used.", s.mask)
				}
			}
			out.Configs = append(out.Configs, pack(one.Interface()))
		}
		return out, ""
	}
	return nil, ""
}

// keepNamed keeps of every list the elements whose resource has a name that
// matches.
func (s selection) keepNamed(m protoreflect.Message) {
	if s.names == nil {
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if !fd.IsList() || fd.Message() == nil {
			return true
		}
		kept := m.NewField(fd)
		for i := range v.List().Len() {
			if s.names.MatchString(nameOf(v.List().Get(i).Message())) {
				kept.List().Append(v.List().Get(i))
			}
		}
		m.Set(fd, kept)
		return true
	})
}

// nameOf is the name of a dumped resource: its own, or that of the message in
// its Any.
func nameOf(m protoreflect.Message) string {
	if name := cmp.Or(textField(m, "name"), textField(m, "cluster_name")); name != "" {
		return name
	}
	found := ""
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Message() == nil || fd.IsList() || fd.IsMap() {
			return true
		}
		if packed, ok := v.Message().Interface().(*anypb.Any); ok {
			if one, err := packed.UnmarshalNew(); err == nil {
				found = nameOf(one.ProtoReflect())
			}
			return false
		}
		return true
	})
	return found
}

func textField(m protoreflect.Message, name protoreflect.Name) string {
	fd := m.Descriptor().Fields().ByName(name)
	if fd == nil || fd.Kind() != protoreflect.StringKind || fd.IsList() {
		return ""
	}
	return m.Get(fd).String()
}

// pack is m as Any; nil for nil.
func pack(m proto.Message) *anypb.Any {
	if m == nil {
		return nil
	}
	packed, err := anypb.New(m)
	if err != nil {
		return nil // m was decoded from text or bytes: it has all that it requires
	}
	return packed
}
