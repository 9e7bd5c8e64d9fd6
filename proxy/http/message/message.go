// Package message is a request or a response as every HTTP version has it:
// what it is about, its header fields, its trailers. A codec makes and writes
// them; routing and filters read and change them.
package message

import (
	"slices"
	"strings"
	"sync"
)

// Field is one header field. The name is in lower case, as on the wire of
// HTTP/2; the value has no white space around it.
type Field struct {
	Name, Value string
	// Sensitive says that no HPACK table may have it: the sender's wish for every
	// hop (RFC 7541, section 6.2.3).
	Sensitive bool
}

// Fields are header fields or trailers in the order of the wire. A name may be
// there more than once.
type Fields []Field

// Get is the first value of name; "" and false if there is none.
func (f Fields) Get(name string) (string, bool) {
	for i := range f {
		if f[i].Name == name {
			return f[i].Value, true
		}
	}
	return "", false
}

// Value is the first value of name, "" if there is none.
func (f Fields) Value(name string) string {
	v, _ := f.Get(name)
	return v
}

// Has reports whether name is there.
func (f Fields) Has(name string) bool {
	_, ok := f.Get(name)
	return ok
}

// Values are all values of name in their order, not split at commas; nil if
// there are none.
func (f Fields) Values(name string) []string {
	var out []string
	for i := range f {
		if f[i].Name == name {
			out = append(out, f[i].Value)
		}
	}
	return out
}

// Joined is all values of name joined by commas, as Envoy compares and logs
// them; false if there are none.
func (f Fields) Joined(name string) (string, bool) {
	first, ok := f.Get(name)
	if !ok {
		return "", false
	}
	n := 0
	for i := range f {
		if f[i].Name == name {
			n++
		}
	}
	if n == 1 {
		return first, true
	}
	return strings.Join(f.Values(name), ","), true
}

// Add appends a field.
func (f *Fields) Add(name, value string) { *f = append(*f, Field{Name: name, Value: value}) }

// Set makes value the only value of name: the first field of that name keeps
// its place, further ones go.
func (f *Fields) Set(name, value string) {
	for i := range *f {
		if (*f)[i].Name != name {
			continue
		}
		(*f)[i].Value = value
		rest := (*f)[i+1:]
		kept := slices.DeleteFunc(rest, func(x Field) bool { return x.Name == name })
		*f = (*f)[:i+1+len(kept)]
		return
	}
	f.Add(name, value)
}

// Del removes every field of that name and reports whether there was one.
func (f *Fields) Del(name string) bool {
	for i := range *f {
		if (*f)[i].Name == name {
			*f = slices.DeleteFunc(*f, func(x Field) bool { return x.Name == name })
			return true
		}
	}
	return false
}

// Size is how many bytes the names and values have.
func (f Fields) Size() int {
	n := 0
	for i := range f {
		n += len(f[i].Name) + len(f[i].Value)
	}
	return n
}

// Head is the head of a request (Method is set) or of a response (Status is
// set). It belongs to one goroutine at a time: whoever gets it from a codec
// owns it, and may Release it.
type Head struct {
	// Of a request. Path has the query, and is "*" or "" (CONNECT) where the
	// request has no path. Authority is the Host field of HTTP/1, which is not
	// among the Fields. Scheme is "" if the request did not say it.
	Method, Scheme, Authority, Path string
	// PathSensitive is Field.Sensitive of :path.
	PathSensitive bool
	// Status is the response's status code, 0 for a request.
	Status int
	// Minor10 says that an HTTP/1.0 message it is.
	Minor10 bool

	Fields Fields

	room [24]Field // where Fields begin
}

// NewHead is an empty head, from the pool.
func NewHead() *Head {
	h := heads.Get().(*Head)
	h.Fields = h.room[:0]
	return h
}

// Release gives the head back to the pool: nobody may use it, nor its Fields,
// after. It may be called on nil.
func (h *Head) Release() {
	if h == nil {
		return
	}
	clear(h.Fields)
	*h = Head{}
	heads.Put(h)
}

var heads = sync.Pool{New: func() any { return new(Head) }}

// Clone is a copy that shares nothing with h.
func (h *Head) Clone() *Head {
	out := NewHead()
	out.Method, out.Scheme, out.Authority, out.Path = h.Method, h.Scheme, h.Authority, h.Path
	out.Status, out.Minor10, out.PathSensitive = h.Status, h.Minor10, h.PathSensitive
	out.Fields = append(out.Fields, h.Fields...)
	return out
}

// Get is the value of a field or of a pseudo-header (":path"); values of
// several fields are joined by commas. False if it is not there.
func (h *Head) Get(name string) (string, bool) {
	if strings.HasPrefix(name, ":") {
		v := h.pseudo(name)
		return v, v != ""
	}
	if name == "host" && h.Method != "" {
		return h.Authority, h.Authority != ""
	}
	return h.Fields.Joined(name)
}

// Value is Get without the second result.
func (h *Head) Value(name string) string {
	v, _ := h.Get(name)
	return v
}

func (h *Head) pseudo(name string) string {
	switch name {
	case ":method":
		return h.Method
	case ":scheme":
		return h.Scheme
	case ":authority":
		return h.Authority
	case ":path":
		return h.Path
	case ":status":
		if h.Status != 0 {
			return StatusText(h.Status)
		}
	}
	return ""
}

// Set makes value the only value of a field or of a request's pseudo-header.
// ":status" and unknown pseudo-headers are left as they are.
func (h *Head) Set(name, value string) {
	switch name {
	case ":method":
		h.Method = value
	case ":scheme":
		h.Scheme = value
	case ":authority", "host":
		h.Authority = value
	case ":path":
		h.Path = value
	default:
		if !strings.HasPrefix(name, ":") {
			h.Fields.Set(name, value)
		}
	}
}

// StatusText is a status code in decimal digits; codes of three digits cost no
// allocation.
func StatusText(code int) string {
	if code < 100 || code > 999 {
		return "000"
	}
	return digits[(code-100)*3 : (code-100)*3+3]
}

var digits = func() string {
	b := make([]byte, 0, 900*3)
	for i := 100; i < 1000; i++ {
		b = append(b, byte('0'+i/100), byte('0'+i/10%10), byte('0'+i%10))
	}
	return string(b)
}()
