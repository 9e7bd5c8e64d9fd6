package cel

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// node is a part of an expression. Its value is nil, bool, int64, uint64,
// float64, string, []any, object, time.Time or time.Duration.
type node interface {
	eval(s *Subject) (any, error)
}

// object is what has values by name; nil if there is none, and null a value of
// its own.
type object interface {
	get(name string) (any, bool)
}

var (
	errMissing = errors.New("it is not there")
	errType    = errors.New("the types do not fit")
)

type literal struct{ value any }

func (l literal) eval(*Subject) (any, error) { return l.value, nil }

type list struct{ items []node }

func (l list) eval(s *Subject) (any, error) {
	out := make([]any, 0, len(l.items))
	for _, n := range l.items {
		v, err := n.eval(s)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// getter is the value of an attribute; false if it has none.
type getter func(s *Subject) (any, bool)

// attribute is one of a request or a connection.
type attribute struct {
	name string
	get  getter
}

func (a attribute) eval(s *Subject) (any, error) {
	v, ok := a.get(s)
	if !ok {
		return nil, fmt.Errorf("%s: %w", a.name, errMissing)
	}
	return v, nil
}

// field is of[key], or of.key.
type field struct {
	of, key node
	dotted  bool
}

func (f field) eval(s *Subject) (any, error) {
	of, err := f.of.eval(s)
	if err != nil {
		return nil, err
	}
	key, err := f.key.eval(s)
	if err != nil {
		return nil, err
	}
	switch of := of.(type) {
	case object:
		if name, ok := key.(string); ok {
			if v, there := of.get(name); there {
				return v, nil
			}
			return nil, errMissing
		}
	case []any:
		if i, ok := key.(int64); ok {
			if i < 0 || i >= int64(len(of)) {
				return nil, errMissing
			}
			return of[i], nil
		}
	}
	return nil, errType
}

// has is has(of).
type has struct{ of node }

func (h has) eval(s *Subject) (any, error) {
	_, err := h.of.eval(s)
	if err != nil && !errors.Is(err, errMissing) {
		return nil, err
	}
	// What is chosen of something that is not there is an error of its own.
	if f, ok := h.of.(field); ok && err != nil {
		if _, err := f.of.eval(s); err != nil {
			return nil, err
		}
	}
	return err == nil, nil
}

type conditional struct{ condition, then, otherwise node }

func (c conditional) eval(s *Subject) (any, error) {
	v, err := c.condition.eval(s)
	if err != nil {
		return nil, err
	}
	switch v {
	case true:
		return c.then.eval(s)
	case false:
		return c.otherwise.eval(s)
	}
	return nil, errType
}

// logical is || or &&. One side decides even if the other has no value.
type logical struct {
	left, right node
	or          bool
}

func (l logical) eval(s *Subject) (any, error) {
	left, err := l.left.eval(s)
	if err == nil && left == l.or {
		return l.or, nil
	}
	right, wrong := l.right.eval(s)
	switch {
	case wrong == nil && right == l.or:
		return l.or, nil
	case err != nil:
		return nil, err
	case wrong != nil:
		return nil, wrong
	case left != !l.or || right != !l.or: // what is no bool
		return nil, errType
	}
	return !l.or, nil
}

type unary struct {
	op string
	of node
}

func (u unary) eval(s *Subject) (any, error) {
	v, err := u.of.eval(s)
	if err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case bool:
		if u.op == "!" {
			return !v, nil
		}
	case int64:
		if u.op == "-" && v != -v { // the least of all has no opposite
			return -v, nil
		} else if u.op == "-" && v == 0 {
			return v, nil
		}
	case float64:
		if u.op == "-" {
			return -v, nil
		}
	}
	return nil, errType
}

type binary struct {
	op          string
	left, right node
}

func (b binary) eval(s *Subject) (any, error) {
	left, err := b.left.eval(s)
	if err != nil {
		return nil, err
	}
	right, err := b.right.eval(s)
	if err != nil {
		return nil, err
	}
	switch b.op {
	case "==":
		return equal(left, right), nil
	case "!=":
		return !equal(left, right), nil
	case "<", "<=", ">", ">=":
		return ordered(b.op, left, right)
	case "in":
		return contained(left, right)
	}
	return arithmetic(b.op, left, right)
}

// contained is left in right.
func contained(left, right any) (any, error) {
	switch right := right.(type) {
	case []any:
		for _, v := range right {
			if equal(left, v) {
				return true, nil
			}
		}
		return false, nil
	case object:
		if name, ok := left.(string); ok {
			_, there := right.get(name)
			return there, nil
		}
	}
	return nil, errType
}

// match is of.matches(pattern), anywhere in the text.
type match struct {
	of      node
	pattern *regexp.Regexp
}

func (m match) eval(s *Subject) (any, error) {
	v, err := m.of.eval(s)
	if err != nil {
		return nil, err
	}
	text, ok := v.(string)
	if !ok {
		return nil, errType
	}
	return m.pattern.MatchString(text), nil
}

type function struct {
	run       func([]any) (any, error)
	arguments []node
}

func (f function) eval(s *Subject) (any, error) {
	values := make([]any, 0, len(f.arguments))
	for _, n := range f.arguments {
		v, err := n.eval(s)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return f.run(values)
}

// described is a function: how many arguments it has with what it is called on.
type described struct {
	arguments int
	method    bool // it may be called on a value
	global    bool // it is called without one
	run       func([]any) (any, error)
}

// functions are those that there are.
var functions = map[string]described{ //nolint:gochecknoglobals // a table
	"size":       {arguments: 1, method: true, run: size},
	"contains":   {arguments: 2, method: true, run: onTexts(strings.Contains)},
	"startsWith": {arguments: 2, method: true, run: onTexts(strings.HasPrefix)},
	"endsWith":   {arguments: 2, method: true, run: onTexts(strings.HasSuffix)},
	"matches":    {arguments: 2, method: true},
	"string":     {arguments: 1, global: true, run: func(v []any) (any, error) { return toText(v[0]) }},
	"int":        {arguments: 1, global: true, run: func(v []any) (any, error) { return toInt(v[0]) }},
	"uint":       {arguments: 1, global: true, run: func(v []any) (any, error) { return toUint(v[0]) }},
	"double":     {arguments: 1, global: true, run: func(v []any) (any, error) { return toFloat(v[0]) }},
}

func onTexts(f func(s, of string) bool) func([]any) (any, error) {
	return func(v []any) (any, error) {
		s, ok1 := v[0].(string)
		of, ok2 := v[1].(string)
		if !ok1 || !ok2 {
			return nil, errType
		}
		return f(s, of), nil
	}
}

func size(v []any) (any, error) {
	switch v := v[0].(type) {
	case string:
		return int64(utf8.RuneCountInString(v)), nil
	case []any:
		return int64(len(v)), nil
	case interface{ size() int }:
		return int64(v.size()), nil
	}
	return nil, errType
}
