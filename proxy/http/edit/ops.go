package edit

import (
	"errors"
	"fmt"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/message"
)

// Ops are the changes of one level of a route configuration. The zero value
// changes nothing.
type Ops struct {
	adds   []Add
	remove []string
}

// CompileOps compiles what is added and removed. Pseudo-headers and the host
// are refused: they have rewrites of their own.
func CompileOps(add []config.HeaderValueOption, remove []string, format Formatter) (Ops, error) {
	var errs []error
	var out Ops
	for i, o := range add {
		if protected(o.Name) {
			errs = append(errs, fmt.Errorf("headers_to_add[%d]: %q: :-prefixed or host headers may not be modified", i, o.Name))
		}
	}
	for i, name := range remove {
		if protected(name) {
			errs = append(errs, fmt.Errorf("headers_to_remove[%d]: %q: :-prefixed or host headers may not be removed", i, name))
		}
		out.remove = append(out.remove, strings.ToLower(name))
	}
	adds, err := CompileAdds(add, format)
	if err != nil {
		errs = append(errs, fmt.Errorf("headers_to_add%w", err))
	}
	out.adds = adds
	return out, errors.Join(errs...)
}

func protected(name string) bool {
	return strings.HasPrefix(name, ":") || strings.EqualFold(name, "host")
}

// Apply changes a message's head in Envoy's order: removals, then all values
// are computed from what is left, then those that replace are written, then
// those that are added.
func (o *Ops) Apply(h *message.Head, info *flow.Info) {
	for _, name := range o.remove {
		h.Fields.Del(name)
	}
	var room [8]string
	values := room[:0]
	var wanted uint64 // of the first 64
	var more []bool   // of the others
	for i := range o.adds {
		v := o.adds[i].value(info)
		is := o.adds[i].wants(v, h.Fields.Has(o.adds[i].name))
		values = append(values, v)
		switch {
		case i >= 64:
			more = append(more, is)
		case is:
			wanted |= 1 << i
		}
	}
	for _, replace := range [...]bool{true, false} {
		for i := range o.adds {
			is := i < 64 && wanted&(1<<i) != 0 || i >= 64 && more[i-64]
			if is && o.adds[i].replaces() == replace {
				o.adds[i].write(&h.Fields, values[i])
			}
		}
	}
}

func (a *Add) replaces() bool {
	return a.action == config.HeaderOverwrite || a.action == config.HeaderOverwriteIfExists
}

func (a *Add) write(f *message.Fields, value string) {
	if a.replaces() {
		f.Set(a.name, value)
		return
	}
	if was, there := f.Joined(a.name); there && was != "" && message.Inline(a.name) {
		f.Set(a.name, was+","+value)
		return
	}
	f.Add(a.name, value)
}
