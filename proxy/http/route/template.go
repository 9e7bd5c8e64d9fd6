package route

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// template is a URI template (envoy.extensions.path.match.uri_template.v3):
// segments of literals, * for one segment, ** for any number, {name} and
// {name=pattern} for variables.
type template struct{ re *regexp.Regexp }

const (
	segment  = `[a-zA-Z0-9\-._~%!$&'()+,;=:@]+`
	segments = `[a-zA-Z0-9\-._~%!$&'()+,;=:@/]*`
)

func compileTemplate(text string) (*template, error) {
	var b strings.Builder
	for rest := text; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "**"):
			b.WriteString(segments)
			rest = rest[2:]
		case rest[0] == '*':
			b.WriteString(segment)
			rest = rest[1:]
		case rest[0] == '{':
			inner, after, closed := strings.Cut(rest[1:], "}")
			if !closed {
				return nil, fmt.Errorf("uri_template %q: a brace is not closed", text)
			}
			name, pattern, has := strings.Cut(inner, "=")
			if !has {
				pattern = "*"
			}
			part, err := compileTemplate(pattern)
			if err != nil || strings.Contains(pattern, "{") {
				return nil, fmt.Errorf("uri_template %q: %q is not a pattern", text, pattern)
			}
			fmt.Fprintf(&b, "(?P<%s>%s)", name, strings.TrimSuffix(strings.TrimPrefix(part.re.String(), "^(?:"), ")$"))
			rest = after
		default:
			b.WriteString(regexp.QuoteMeta(rest[:1]))
			rest = rest[1:]
		}
	}
	re, err := regexp.Compile("^(?:" + b.String() + ")$")
	if err != nil {
		return nil, fmt.Errorf("uri_template %q: %w", text, err)
	}
	return &template{re}, nil
}

// templateRewrite is envoy.extensions.path.rewrite.uri_template.v3: literals,
// and variables of the template that matched.
type templateRewrite struct{ parts []part }

type part struct {
	text     string
	variable bool
}

func compileTemplateRewrite(text string) (*templateRewrite, error) {
	w := &templateRewrite{}
	for rest := text; rest != ""; {
		literal, after, has := strings.Cut(rest, "{")
		if literal != "" {
			w.parts = append(w.parts, part{text: literal})
		}
		if !has {
			break
		}
		name, after, closed := strings.Cut(after, "}")
		if !closed || name == "" {
			return nil, errors.New("path_template_rewrite: a brace is not closed")
		}
		w.parts = append(w.parts, part{name, true})
		rest = after
	}
	return w, nil
}

// apply is the new path; the old one if it does not match the template.
func (w *templateRewrite) apply(t *template, path string) string {
	if t == nil {
		return path
	}
	found := t.re.FindStringSubmatch(path)
	if found == nil {
		return path
	}
	var b strings.Builder
	for _, p := range w.parts {
		if !p.variable {
			b.WriteString(p.text)
			continue
		}
		if i := t.re.SubexpIndex(p.text); i >= 0 {
			b.WriteString(found[i])
		}
	}
	return b.String()
}
