package decode

import (
	"fmt"
	"strings"
)

// FieldError is one mistake: Path is where, in the words of the file, Msg is
// what is wrong with what stands there. Paths go through typed_config:
// static_resources.listeners[0].filter_chains[2].filters[0].typed_config.cluster.
type FieldError struct {
	Path string // "" is the whole text or resource
	Msg  string // begins with what was refused, or with a verb

	// alone says that the mistake is of the message at Path itself, and that
	// what stands in its fields is worth looking at.
	alone bool
}

func (e *FieldError) Error() string {
	if e.Path == "" {
		return e.Msg
	}
	return e.Path + ": " + e.Msg
}

// Errors are all mistakes of one text or resource, never none.
type Errors []*FieldError

// Error is one line a mistake.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the single mistakes to errors.As.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i, one := range e {
		out[i] = one
	}
	return out
}

// at is a place in the configuration, where mistakes are reported.
type at struct {
	d    *decoder
	path string
}

// in is the field name of the message at a.
func (a at) in(name string) at { return at{a.d, join(a.path, name)} }

// item is element i of the list field name of the message at a.
func (a at) item(name string, i int) at { return at{a.d, fmt.Sprintf("%s[%d]", join(a.path, name), i)} }

// entry is the value of key in the map field name of the message at a.
func (a at) entry(name, key string) at {
	return at{a.d, fmt.Sprintf("%s[%q]", join(a.path, name), key)}
}

// bad reports a mistake at a.
func (a at) bad(format string, args ...any) {
	a.d.found = append(a.d.found, &FieldError{Path: a.path, Msg: fmt.Sprintf(format, args...)})
}

// warn reports what is accepted with a remark.
func (d *decoder) warn(place at, msg string) {
	d.warnings = append(d.warnings, (&FieldError{Path: place.path, Msg: msg}).Error())
}

func join(path, name string) string {
	switch {
	case path == "":
		return name
	case name == "":
		return path
	}
	return path + "." + name
}

// settle ends a phase of decoding. A mistake of this phase that lies within, or
// around, one of an earlier phase is a consequence of it and is left out.
func (d *decoder) settle() {
	seen := map[FieldError]bool{}
	var fresh Errors
	for _, e := range d.found {
		if !seen[*e] && !d.explained(e.Path) {
			seen[*e] = true
			fresh = append(fresh, e)
		}
	}
	d.errs = append(d.errs, fresh...)
	d.found = nil
}

func (d *decoder) explained(path string) bool {
	for _, e := range d.errs {
		if within(e.Path, path) || !e.alone && within(path, e.Path) {
			return true
		}
	}
	return false
}

// within reports whether path is outer or lies inside it.
func within(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (outer == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}

// result is the error for all that was found, nil for nothing.
func (d *decoder) result() error {
	d.settle()
	if len(d.errs) == 0 {
		return nil
	}
	return d.errs
}
