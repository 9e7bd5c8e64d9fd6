package route

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"outrider/certs"
)

// template is a URI template (envoy.extensions.path.match.uri_template.v3):
// segments of literals, * for one segment, ** for any number, {name} and
// {name=pattern} for variables; what follows without a slash is a suffix.
type template struct {
	re    *regexp.Regexp
	names []string // of the variables
	ended bool     // by **, after which only literals may stand
}

// Limits of Envoy (uri_template_match.proto).
const (
	maxVariables    = 5
	maxVariableName = 16
)

// The operators. The characters are those of RFC 3986's pchar; Envoy 1.40
// takes the same.
const (
	oneSegment   = `[a-zA-Z0-9\-._~%!$&'()*+,;=:@]+`
	manySegments = `[a-zA-Z0-9\-._~%!$&'()*+,;=:@/]*`
)

func compileTemplate(text string) (*template, error) {
	t := &template{}
	expr, err := t.parse(text)
	if err == nil {
		t.re, err = certs.CompileRegex(expr)
	}
	if err != nil {
		return nil, fmt.Errorf("match: uri_template %q: %w", text, err)
	}
	return t, nil
}

// match is about a path without its query.
func (t *template) match(path string) bool { return t.re.MatchString(path) }

func (t *template) parse(text string) (expr string, err error) {
	rest, ok := strings.CutPrefix(text, "/")
	if !ok {
		return "", errors.New("it does not begin with /")
	}
	var b strings.Builder
	b.WriteByte('/')
	for rest != "" {
		if rest, err = t.segment(&b, rest); err != nil {
			return "", err
		}
		after, slash := strings.CutPrefix(rest, "/")
		if rest == "" || slash {
			b.WriteString(rest[:len(rest)-len(after)])
			rest = after
			continue
		}
		return b.String() + regexp.QuoteMeta(rest), literal(rest)
	}
	return b.String(), nil
}

// segment writes the first segment of text, and returns what follows.
func (t *template) segment(b *strings.Builder, text string) (rest string, err error) {
	if text[0] != '{' {
		return t.part(b, text)
	}
	inner, rest, closed := strings.Cut(text[1:], "}")
	name, pattern, has := strings.Cut(inner, "=")
	switch {
	case !closed:
		return "", fmt.Errorf("%q has no closing brace", text)
	case !isName(name):
		return "", fmt.Errorf("%q is not the name of a variable: a letter, and at most %d letters, digits and underscores", name, maxVariableName)
	case len(t.names) == maxVariables:
		return "", fmt.Errorf("it has more than %d variables", maxVariables)
	case slices.Contains(t.names, name):
		return "", fmt.Errorf("variable %q is there twice", name)
	case !has:
		pattern = "*"
	case pattern == "":
		return "", fmt.Errorf("variable %q has an empty pattern", name)
	}
	t.names = append(t.names, name)
	b.WriteString("(?P<" + name + ">")
	for i, one := range strings.Split(pattern, "/") {
		if i > 0 {
			b.WriteByte('/')
		}
		if after, err := t.part(b, one); err != nil || after != "" {
			return "", errors.Join(fmt.Errorf("variable %q has %q in its pattern", name, one), err)
		}
	}
	b.WriteByte(')')
	return rest, nil
}

// part writes an operator or a literal.
func (t *template) part(b *strings.Builder, text string) (rest string, err error) {
	rest, many := strings.CutPrefix(text, "**")
	rest, one := strings.CutPrefix(rest, "*")
	switch {
	case (many || one) && t.ended:
		return "", errors.New("an operator stands after **")
	case many && one:
		return "", fmt.Errorf("%q begins with no operator", text)
	case many:
		t.ended = true
		b.WriteString(manySegments)
		return rest, nil
	case one:
		b.WriteString(oneSegment)
		return rest, nil
	}
	plain, _, _ := strings.Cut(text, "/")
	b.WriteString(regexp.QuoteMeta(plain))
	return text[len(plain):], literal(plain)
}

func isName(s string) bool {
	for i := range len(s) {
		letter, digit := 'a' <= s[i]|0x20 && s[i]|0x20 <= 'z', '0' <= s[i] && s[i] <= '9'
		if !letter && (i == 0 || !digit && s[i] != '_') {
			return false
		}
	}
	return s != "" && len(s) <= maxVariableName
}

func literal(s string) error {
	if s == "" || strings.ContainsAny(s, "{}*/?# ") {
		return fmt.Errorf("%q is not a literal", s)
	}
	return nil
}

// templateRewrite is envoy.extensions.path.rewrite.uri_template.v3: literals,
// and variables of the template that matched.
type templateRewrite struct {
	template *template
	parts    []rewritePart
}

// rewritePart is a literal, or the group of a variable.
type rewritePart struct {
	literal string
	group   int // 0: literal
}

func compileTemplateRewrite(text string, t *template) (*templateRewrite, error) {
	if t == nil {
		return nil, fmt.Errorf("path_template_rewrite %q: the route has no uri_template", text)
	}
	w := &templateRewrite{template: t}
	for rest := text; rest != ""; {
		plain, after, found := strings.Cut(rest, "{")
		if plain != "" {
			w.parts = append(w.parts, rewritePart{literal: plain})
		}
		if !found {
			break
		}
		name, tail, closed := strings.Cut(after, "}")
		group := t.re.SubexpIndex(name)
		if !closed || group < 0 {
			return nil, fmt.Errorf("path_template_rewrite %q: %q is no variable of the uri_template", text, name)
		}
		w.parts = append(w.parts, rewritePart{group: group})
		rest = tail
	}
	return w, nil
}

// apply is the new path; the old one if it does not match the template any
// more.
func (w *templateRewrite) apply(path string) string {
	groups := w.template.re.FindStringSubmatch(path)
	if groups == nil {
		return path
	}
	var b strings.Builder
	for _, p := range w.parts {
		if p.group == 0 {
			b.WriteString(p.literal)
		} else {
			b.WriteString(groups[p.group])
		}
	}
	return b.String()
}
