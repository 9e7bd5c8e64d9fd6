package route

import (
	"fmt"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/http/message"
)

// query is the first value of a query parameter, as it stands in the path:
// nothing is decoded. One without = has the value "".
func query(path, name string) (string, bool) {
	_, rest, _ := strings.Cut(path, "?")
	for rest != "" {
		var one string
		one, rest, _ = strings.Cut(rest, "&")
		if k, v, _ := strings.Cut(one, "="); k == name {
			return v, true
		}
	}
	return "", false
}

func matchQuery(m *config.QueryMatcher, path string) bool {
	v, there := query(path, m.Name)
	switch {
	case m.Present != nil:
		return there == *m.Present
	case m.String != nil:
		return there && m.String.Match(v)
	}
	return there
}

func whyQuery(m *config.QueryMatcher, path string) string {
	v, there := query(path, m.Name)
	if !there {
		return m.Name + " is not there"
	}
	if m.String != nil {
		return fmt.Sprintf("%s %s: it is %q", m.Name, m.String, v)
	}
	return m.Name + " is there"
}

// cookie is the value of the first cookie of that name, without the quotes
// around it. White space is taken away from before a name, and from nowhere
// else.
func cookie(h *message.Head, name string) (string, bool) {
	for i := range h.Fields {
		if h.Fields[i].Name != "cookie" {
			continue
		}
		for rest := h.Fields[i].Value; rest != ""; {
			var one string
			one, rest, _ = strings.Cut(rest, ";")
			k, v, ok := strings.Cut(one, "=")
			if !ok || strings.TrimLeft(k, " ") != name {
				continue
			}
			if n := len(v); n >= 2 && v[0] == '"' && v[n-1] == '"' {
				v = v[1 : n-1]
			}
			return v, true
		}
	}
	return "", false
}

// matchCookie is false for a cookie that is not there, before it is inverted.
func matchCookie(m *config.CookieMatcher, h *message.Head) bool {
	v, there := cookie(h, m.Name)
	return (there && m.String.Match(v)) != m.Invert
}

func whyCookie(m *config.CookieMatcher, h *message.Head) string {
	not := ""
	if m.Invert {
		not = "not "
	}
	v, there := cookie(h, m.Name)
	if !there {
		return fmt.Sprintf("%s %s%s: it is not there", m.Name, not, m.String)
	}
	return fmt.Sprintf("%s %s%s: it is %q", m.Name, not, m.String, v)
}
