package decode

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits of Envoy's URI templates (uri_template_match.proto).
const (
	maxTemplateVariables = 5
	maxTemplateName      = 16
)

// templateVariables are the names of the variables of a path template such as
// /videos/{id}/{rest=**}.mp4: segments are literals, * (one segment), ** (the
// rest) and variables; what follows an operator or a variable without a slash
// is the suffix, and ends the template.
func templateVariables(template string) ([]string, error) {
	rest, ok := strings.CutPrefix(template, "/")
	if !ok {
		return nil, errors.New("a template begins with /")
	}
	var t templateParser
	for rest != "" {
		next, err := t.segment(rest)
		if err != nil {
			return nil, err
		}
		after, slash := strings.CutPrefix(next, "/")
		if next != "" && !slash { // the suffix
			return t.names, literal(next)
		}
		rest = after
	}
	return t.names, nil
}

type templateParser struct {
	names []string
	ended bool // by **, after which only literals may stand
}

// segment takes the first segment of s, and returns what follows it.
func (t *templateParser) segment(s string) (rest string, err error) {
	switch s[0] {
	case '*':
		rest = strings.TrimPrefix(s[1:], "*")
		return rest, t.operator(s[:len(s)-len(rest)])
	case '{':
		inner, rest, closed := strings.Cut(s[1:], "}")
		if !closed {
			return "", fmt.Errorf("%q has no closing brace", s)
		}
		return rest, t.variable(inner)
	}
	text, _, _ := strings.Cut(s, "/")
	return s[len(text):], literal(text)
}

func (t *templateParser) operator(op string) error {
	if t.ended {
		return fmt.Errorf("%s stands after **", op)
	}
	t.ended = op == "**"
	return nil
}

// variable takes what stands between braces: a name, and what it matches.
func (t *templateParser) variable(inner string) error {
	name, pattern, has := strings.Cut(inner, "=")
	switch {
	case !isVariableName(name):
		return fmt.Errorf("%q is not the name of a variable: it begins with a letter and has at most %d letters, digits and underscores", name, maxTemplateName)
	case slices.Contains(t.names, name):
		return fmt.Errorf("variable %q is there twice", name)
	case len(t.names) == maxTemplateVariables:
		return fmt.Errorf("has more than %d variables", maxTemplateVariables)
	}
	t.names = append(t.names, name)
	if !has {
		return t.operator("*")
	}
	for part := range strings.SplitSeq(pattern, "/") {
		err := error(nil)
		if part == "*" || part == "**" {
			err = t.operator(part)
		} else {
			err = literal(part)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func isVariableName(s string) bool {
	if s == "" || len(s) > maxTemplateName || !isLetter(s[0]) {
		return false
	}
	for i := range len(s) {
		if !isLetter(s[i]) && !isDigit(s[i]) && s[i] != '_' {
			return false
		}
	}
	return true
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// literal is RFC 3986's pchar without the operator *.
func literal(s string) error {
	if s == "" {
		return errors.New("a segment is empty")
	}
	for i := range len(s) {
		if c := s[i]; !isLetter(c) && !isDigit(c) && strings.IndexByte("-._~%!$&'()+,;=:@", c) < 0 {
			return fmt.Errorf("%q has %q, which may not stand in a literal", s, c)
		}
	}
	return nil
}

// rewriteVariables are the names of the variables in a rewrite such as
// /v2/{rest}: literals, which may have slashes, and names in braces.
func rewriteVariables(rewrite string) ([]string, error) {
	if !strings.HasPrefix(rewrite, "/") {
		return nil, errors.New("a rewrite begins with /")
	}
	var names []string
	for rest := rewrite; rest != ""; {
		text, after, found := strings.Cut(rest, "{")
		for part := range strings.SplitSeq(text, "/") {
			if part == "" {
				continue
			}
			if err := literal(part); err != nil {
				return nil, err
			}
		}
		if !found {
			return names, nil
		}
		name, tail, closed := strings.Cut(after, "}")
		if !closed || !isVariableName(name) {
			return nil, fmt.Errorf("%q is not the name of a variable in braces", name)
		}
		names, rest = append(names, name), tail
	}
	return names, nil
}
