// Package headers matches the heads of messages by their fields
// (envoy.config.route.v3.HeaderMatcher).
package headers

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/http/message"
)

// Matchers match if all of them do; without any, always.
type Matchers []Matcher

// Compile compiles a list; errors begin with the index.
func Compile(list []config.HeaderMatcher) (Matchers, error) {
	var out Matchers
	var errs []error
	for i, c := range list {
		m, err := CompileOne(c)
		if err != nil {
			errs = append(errs, fmt.Errorf("[%d]: %w", i, err))
		}
		out = append(out, m)
	}
	return out, errors.Join(errs...)
}

// Match reports whether all match.
func (l Matchers) Match(h *message.Head) bool {
	for i := range l {
		if !l[i].Match(h) {
			return false
		}
	}
	return true
}

// Matcher matches one field, or pseudo-header.
type Matcher struct{ c config.HeaderMatcher }

// CompileOne compiles one matcher.
func CompileOne(c config.HeaderMatcher) (Matcher, error) {
	c.Name = strings.ToLower(c.Name)
	set := 0
	for _, is := range []bool{c.String != nil, c.Range != nil, c.Present != nil} {
		if is {
			set++
		}
	}
	switch {
	case c.Name == "":
		return Matcher{}, errors.New("the header has no name")
	case set > 1:
		return Matcher{}, fmt.Errorf("header %q has more than one criterion", c.Name)
	}
	return Matcher{c}, nil
}

// Match reports whether the field matches. Several fields of one name are one
// value, joined by commas. What is compared with a value that is not there
// does not match, inverted or not, unless a missing one counts as empty.
func (m Matcher) Match(h *message.Head) bool {
	value, there := h.Get(m.c.Name)
	there = there || m.c.MissingAsEmpty
	switch {
	case m.c.Present != nil:
		return there == *m.c.Present != m.c.Invert
	case m.c.String == nil && m.c.Range == nil:
		return there != m.c.Invert
	case !there:
		return false
	case m.c.String != nil:
		return m.c.String.Match(value) != m.c.Invert
	default:
		n, err := strconv.ParseInt(value, 10, 64)
		in := err == nil && m.c.Range.Start <= n && n < m.c.Range.End
		return in != m.c.Invert
	}
}

// String is the matcher as a person would say it.
func (m Matcher) String() string {
	s := "header " + m.c.Name
	if m.c.Invert {
		s = "not " + s
	}
	switch {
	case m.c.String != nil:
		return s + " " + m.c.String.String()
	case m.c.Range != nil:
		return fmt.Sprintf("%s [%d, %d)", s, m.c.Range.Start, m.c.Range.End)
	case m.c.Present != nil && !*m.c.Present:
		return s + " absent"
	}
	return s + " present"
}

// Name is the name of the field.
func (m Matcher) Name() string { return m.c.Name }
