package certs

import (
	"regexp"
	"strings"
)

// StringMatcher is Envoy's StringMatcher, for subject alternative names,
// principals and metadata. Exactly one of the patterns is meant, told by Kind.
type StringMatcher struct {
	Kind       StringMatchKind
	Pattern    string
	IgnoreCase bool
	// Regex is the compiled Pattern for MatchRegex: RE2, and it must match the
	// whole string.
	Regex *regexp.Regexp
}

// StringMatchKind says how StringMatcher.Pattern is read.
type StringMatchKind int

const (
	MatchExact StringMatchKind = iota
	MatchPrefix
	MatchSuffix
	MatchContains
	MatchRegex
)

// Match reports whether s matches. IgnoreCase has no effect on a regular
// expression, as in Envoy.
func (m StringMatcher) Match(s string) bool {
	p := m.Pattern
	if m.Kind == MatchRegex {
		return m.Regex != nil && m.Regex.MatchString(s) // CompileRegex has anchored it
	}
	if m.IgnoreCase {
		p, s = strings.ToLower(p), strings.ToLower(s)
	}
	switch m.Kind {
	case MatchPrefix:
		return strings.HasPrefix(s, p)
	case MatchSuffix:
		return strings.HasSuffix(s, p)
	case MatchContains:
		return strings.Contains(s, p)
	default:
		return s == p
	}
}

// CompileRegex compiles an RE2 expression so that it matches whole strings
// only.
func CompileRegex(expr string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(expr); err != nil {
		return nil, err // the user's own text, not the anchored one
	}
	return regexp.Compile(`\A(?:` + expr + `)\z`)
}

// String is the matcher as a person would say it: `prefix "spiffe://prod/"`.
func (m StringMatcher) String() string {
	kind := [...]string{"exact", "prefix", "suffix", "contains", "regex"}[m.Kind]
	s := kind + " " + `"` + m.Pattern + `"`
	if m.IgnoreCase {
		s += " (ignoring case)"
	}
	return s
}
