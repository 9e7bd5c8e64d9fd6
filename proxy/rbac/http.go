package rbac

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/headers"
	"outrider/proxy/http/message"
)

// head is the request's; nil for a connection.
func (f *facts) head() *message.Head {
	if f.HTTP == nil {
		return nil
	}
	return f.HTTP.Request
}

// connection is the source of the connection: a request's own may be what
// x-forwarded-for says.
func (f *facts) connection() flow.Addr {
	if f.HTTP != nil && f.HTTP.Connection != nil {
		return f.HTTP.Connection.Remote
	}
	return f.Remote
}

// path is the request's, without query and fragment; false for a connection.
func (f *facts) path() (string, bool) {
	h := f.head()
	if h == nil {
		return "", false
	}
	if i := strings.IndexAny(h.Path, "?#"); i >= 0 {
		return h.Path[:i], true
	}
	return h.Path, true
}

// ofHTTP compiles what only requests have: one of the criteria is set, or none
// and ok is false.
func ofHTTP(h *config.HeaderMatcher, path *certs.StringMatcher, template string) (r rule, ok bool, err error) {
	switch {
	case h != nil:
		m, err := headers.CompileOne(*h)
		return header{m}, true, err
	case path != nil:
		return urlPath{*path}, true, nil
	case template != "":
		r, err := compileTemplate(template)
		return r, true, err
	}
	return nil, false, nil
}

// header is a rule on a field of the request.
type header struct{ headers.Matcher }

func (r header) match(f *facts) bool {
	h := f.head()
	return h != nil && r.Match(h)
}

func (r header) why(f *facts) string {
	h := f.head()
	if h == nil {
		return r.String() + ": a connection has none"
	}
	v, ok := h.Get(r.Name())
	if !ok {
		return r.String() + ": it is not there"
	}
	return fmt.Sprintf("%s: it is %q", r, v)
}

// urlPath is a rule on the path without its query.
type urlPath struct{ m certs.StringMatcher }

func (r urlPath) match(f *facts) bool {
	p, ok := f.path()
	return ok && r.m.Match(p)
}

func (r urlPath) why(f *facts) string { return whyPath(r.String(), f) }
func (r urlPath) String() string      { return "url_path " + r.m.String() }

func whyPath(rule string, f *facts) string {
	p, ok := f.path()
	if !ok {
		return rule + ": a connection has none"
	}
	return fmt.Sprintf("%s: it is %q", rule, p)
}

// template is a rule on the path by a URI template.
type template struct {
	text string
	re   *regexp.Regexp
}

func (r template) match(f *facts) bool {
	p, ok := f.path()
	return ok && r.re.MatchString(p)
}

func (r template) why(f *facts) string { return whyPath(r.String(), f) }
func (r template) String() string      { return "uri_template " + r.text }

// What the operators of a template stand for: the characters of a segment
// (RFC 3986, pchar), and any number of segments.
const (
	oneSegment = `[a-zA-Z0-9\-._~%!$&'()*+,;=:@]+`
	segments   = `[a-zA-Z0-9\-._~%!$&'()*+,;=:@/]*`
)

// compileTemplate makes an expression of a template: *, **, {name} and
// {name=pattern}. The decoder has checked its form.
func compileTemplate(text string) (rule, error) {
	var b strings.Builder
	for rest := text; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "**"):
			b.WriteString(segments)
			rest = rest[2:]
		case rest[0] == '*':
			b.WriteString(oneSegment)
			rest = rest[1:]
		case rest[0] == '{':
			inner, after, closed := strings.Cut(rest[1:], "}")
			if !closed {
				return nil, fmt.Errorf("uri_template %q has no closing brace", text)
			}
			_, pattern, has := strings.Cut(inner, "=")
			if !has {
				pattern = "*"
			}
			if strings.Contains(pattern, "{") {
				return nil, fmt.Errorf("uri_template %q has a variable in a variable", text)
			}
			rest = pattern + after
		default:
			b.WriteString(regexp.QuoteMeta(rest[:1]))
			rest = rest[1:]
		}
	}
	re, err := certs.CompileRegex(b.String())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("uri_template %q", text), err)
	}
	return template{text, re}, nil
}
