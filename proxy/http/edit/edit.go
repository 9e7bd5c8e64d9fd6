// Package edit changes header fields and trailers as the configuration says:
// what is added (HeaderValueOption) and what is removed.
package edit

import (
	"fmt"
	"slices"
	"strings"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/message"
)

// Formatter compiles a text in the language of access logs.
type Formatter = func(text string, omitEmpty bool) (func(*flow.Info) string, error)

// Add is one compiled HeaderValueOption.
type Add struct {
	name      string
	literal   string
	format    func(*flow.Info) string // nil: literal is the value
	action    config.HeaderAction
	keepEmpty bool
}

// CompileAdds compiles options, all of which are tried.
func CompileAdds(options []config.HeaderValueOption, format Formatter) ([]Add, error) {
	var out []Add
	for i, o := range options {
		a, err := compileAdd(o, format)
		if err != nil {
			return nil, fmt.Errorf("[%d] %q: %w", i, o.Name, err)
		}
		out = append(out, a)
	}
	return out, nil
}

func compileAdd(o config.HeaderValueOption, format Formatter) (Add, error) {
	a := Add{name: strings.ToLower(o.Name), literal: o.Value, action: o.Action, keepEmpty: o.KeepEmpty}
	if a.name == "" {
		return a, fmt.Errorf("the header has no name")
	}
	if o.Action < config.HeaderAppend || o.Action > config.HeaderOverwriteIfExists {
		return a, fmt.Errorf("append_action: %d is not an action", o.Action)
	}
	if !strings.Contains(o.Value, "%") {
		return a, nil
	}
	f, err := format(o.Value, true)
	if err != nil {
		return a, fmt.Errorf("value: %w", err)
	}
	a.format = f
	return a, nil
}

// Apply changes a message's head.
func (a *Add) Apply(h *message.Head, info *flow.Info) {
	if !strings.HasPrefix(a.name, ":") && (a.name != "host" || h.Method == "") {
		a.ApplyFields(&h.Fields, info)
		return
	}
	value := a.value(info)
	was, has := h.Get(a.name)
	switch {
	case !a.wants(value, has):
	case a.action == config.HeaderAppend && has:
		h.Set(a.name, was+","+value)
	default:
		h.Set(a.name, value)
	}
}

// ApplyFields changes fields or trailers.
func (a *Add) ApplyFields(f *message.Fields, info *flow.Info) {
	value := a.value(info)
	switch {
	case !a.wants(value, f.Has(a.name)):
	case a.action == config.HeaderAppend, a.action == config.HeaderAddIfAbsent:
		f.Add(a.name, value)
	default:
		f.Set(a.name, value)
	}
}

// wants reports whether anything is to be done with a header that is there, or
// not. An empty value adds nothing, unless it is said that it does.
func (a *Add) wants(value string, has bool) bool {
	if value == "" && !a.keepEmpty {
		return false
	}
	switch a.action {
	case config.HeaderAddIfAbsent:
		return !has
	case config.HeaderOverwriteIfExists:
		return has
	default:
		return true
	}
}

// value is fit for a header: what comes from a peer through a format could
// hold line ends.
func (a *Add) value(info *flow.Info) string {
	if a.format == nil {
		return a.literal
	}
	v := a.format(info)
	if !strings.ContainsAny(v, "\r\n\x00") {
		return strings.Trim(v, " \t")
	}
	clean := strings.NewReplacer("\r", " ", "\n", " ", "\x00", " ")
	return strings.Trim(clean.Replace(v), " \t")
}

// Mutations are compiled config.HeaderMutates, in their order.
type Mutations []mutation

// mutation is one of them: add, remove or match is set.
type mutation struct {
	add    *Add
	remove string
	match  *certs.StringMatcher
}

// Compile compiles mutations.
func Compile(list []config.HeaderMutate, format Formatter) (Mutations, error) {
	var out Mutations
	for i, m := range list {
		one := mutation{remove: strings.ToLower(m.Remove), match: m.RemoveOnMatch}
		switch {
		case m.Append != nil:
			add, err := compileAdd(*m.Append, format)
			if err != nil {
				return nil, fmt.Errorf("[%d].append %q: %w", i, m.Append.Name, err)
			}
			one.add = &add
		case m.Remove == "" && m.RemoveOnMatch == nil:
			return nil, fmt.Errorf("[%d]: neither append nor remove is set", i)
		}
		out = append(out, one)
	}
	return out, nil
}

// Apply changes a message's head. Pseudo-headers and the host are never
// removed.
func (m Mutations) Apply(h *message.Head, info *flow.Info) {
	for i := range m {
		if m[i].add != nil {
			m[i].add.Apply(h, info)
			continue
		}
		m[i].cut(&h.Fields)
	}
}

// ApplyFields changes fields or trailers.
func (m Mutations) ApplyFields(f *message.Fields, info *flow.Info) {
	for i := range m {
		if m[i].add != nil {
			m[i].add.ApplyFields(f, info)
			continue
		}
		m[i].cut(f)
	}
}

func (m *mutation) cut(f *message.Fields) {
	if m.match == nil {
		f.Del(m.remove)
		return
	}
	*f = slices.DeleteFunc(*f, func(x message.Field) bool { return m.match.Match(x.Name) })
}
