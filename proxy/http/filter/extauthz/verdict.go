package extauthz

import (
	"fmt"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/http/message"
)

// valid reports whether all fields can be written.
func (v *verdict) valid() bool {
	for _, list := range []message.Fields{v.set, v.add, v.appended} {
		for _, f := range list {
			if !validField(f) {
				return false
			}
		}
	}
	for _, f := range v.response {
		if !validField(f.Field) {
			return false
		}
	}
	return true
}

func validField(f message.Field) bool {
	if f.Name == "" || strings.ContainsFunc(strings.TrimPrefix(f.Name, ":"), notToken) {
		return false
	}
	return !strings.ContainsAny(f.Value, "\x00\r\n")
}

// notToken is of RFC 9110, section 5.6.2.
func notToken(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
}

// denial are the fields of our answer. As in Envoy, one that may be there more
// than once is, and one that is to be joined to what is there needs something
// that is.
func (v *verdict) denial() message.Fields {
	out := append(append(message.Fields(nil), v.set...), v.add...)
	for _, f := range v.appended {
		if have, there := out.Joined(f.Name); there {
			out.Set(f.Name, have+","+f.Value)
		}
	}
	for _, name := range []string{"content-length", "transfer-encoding", "connection", ":status"} {
		out.Del(name) // of the service's answer, not of ours
	}
	return out
}

// changes reports whether anything of the request is to be changed.
func (v *verdict) changes() bool {
	return len(v.set)+len(v.add)+len(v.appended)+len(v.remove)+len(v.querySet)+len(v.queryRemove) > 0
}

// change does to the request what the service says. What the rules do not allow
// is left out, or an error if they say so.
func (v *verdict) change(h *message.Head, rules *config.HeaderMutationRules) error {
	for _, list := range []struct {
		fields message.Fields
		do     func(f message.Field)
	}{
		{v.set, func(f message.Field) { h.Set(f.Name, f.Value) }},
		{v.add, func(f message.Field) { h.Fields.Add(f.Name, f.Value) }},
		{v.appended, func(f message.Field) { join(h, f) }},
	} {
		for _, f := range list.fields {
			ok, err := allowed(rules, f.Name)
			if err != nil {
				return err
			}
			if ok {
				list.do(f)
			}
		}
	}
	for _, name := range v.remove {
		if strings.HasPrefix(name, ":") || name == "host" {
			continue // never, whatever the rules are
		}
		ok, err := allowed(rules, name)
		if err != nil {
			return err
		}
		if ok {
			h.Fields.Del(name)
		}
	}
	v.changeQuery(h)
	return nil
}

// join adds to a field that is there, after a comma.
func join(h *message.Head, f message.Field) {
	if have, there := h.Get(f.Name); there {
		h.Set(f.Name, have+","+f.Value)
	}
}

// allowed is what the rules say of a field: no error is that it is left out.
func allowed(r *config.HeaderMutationRules, name string) (bool, error) {
	if r == nil || permitted(r, name) {
		return true, nil
	}
	if r.DisallowIsError {
		return false, fmt.Errorf("header %q may not be changed", name)
	}
	return false, nil
}

// permitted is HeaderMutationRules; source: its proto.
func permitted(r *config.HeaderMutationRules, name string) bool {
	switch {
	case r.Disallow != nil && r.Disallow.Match(name):
		return false
	case r.Allow != nil && r.Allow.Match(name):
		return true
	case r.DisallowAll:
		return false
	case r.DisallowSystem && strings.HasPrefix(name, ":"):
		return false
	case name == "host" || name == ":authority" || name == ":scheme" || name == ":method":
		return r.AllowAllRouting
	case strings.HasPrefix(name, "x-envoy-"):
		return r.AllowEnvoy
	}
	return true
}

// changeQuery sets and removes parameters; the others stay as they are.
func (v *verdict) changeQuery(h *message.Head) {
	if len(v.querySet)+len(v.queryRemove) == 0 {
		return
	}
	base, query, _ := strings.Cut(h.Path, "?")
	var params []string
	if query != "" {
		params = strings.Split(query, "&")
	}
	without := func(name string) {
		kept := params[:0]
		for _, p := range params {
			if key, _, _ := strings.Cut(p, "="); unescaped(key) != name {
				kept = append(kept, p)
			}
		}
		params = kept
	}
	for _, p := range v.querySet {
		without(p[0])
		params = append(params, escaped(p[0])+"="+escaped(p[1]))
	}
	for _, name := range v.queryRemove {
		without(name)
	}
	h.Path = base
	if len(params) > 0 {
		h.Path += "?" + strings.Join(params, "&")
	}
}
