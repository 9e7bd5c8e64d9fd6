package cel

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
)

// parser reads an expression by recursive descent, as CEL's grammar has it.
type parser struct {
	text    string
	unknown []string // attributes that are refused
	at      int      // where the next token begins
	depth   int
	token
}

// maxDepth bounds how deep an expression may nest.
const maxDepth = 64

func (p *parser) whole() (node, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	n, err := p.choice()
	if err != nil {
		return nil, err
	}
	if p.kind != end {
		return nil, p.wrong("%q is one too many", p.value)
	}
	return n, p.values(n)
}

// values refuses what has attributes in the place of a value.
func (p *parser) values(nodes ...node) error {
	for _, n := range nodes {
		if r, ok := n.(root); ok {
			return p.wrong("%q is no value, an attribute of it is", r.name)
		}
	}
	return nil
}

// is reports whether the token is that operator.
func (p *parser) is(op string) bool { return p.kind == operator && p.value == op }

// expect goes past an operator.
func (p *parser) expect(op string) error {
	if !p.is(op) {
		return p.wrong("%q is missing", op)
	}
	return p.next()
}

// choice is a ? b : c.
func (p *parser) choice() (node, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.wrong("it nests too deep")
	}
	defer func() { p.depth-- }()
	condition, err := p.binary(0)
	if err != nil || !p.is("?") {
		return condition, err
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	then, err := p.binary(0)
	if err != nil {
		return nil, err
	}
	if err := p.expect(":"); err != nil {
		return nil, err
	}
	otherwise, err := p.choice()
	if err != nil {
		return nil, err
	}
	return conditional{condition, then, otherwise}, p.values(condition, then, otherwise)
}

// precedence has the operators of two sides, those that bind least first.
var precedence = [][]string{ //nolint:gochecknoglobals // a table
	{"||"}, {"&&"}, {"==", "!=", "<", "<=", ">", ">=", "in"}, {"+", "-"}, {"*", "/", "%"},
}

// binary are operators of two sides of a level.
func (p *parser) binary(level int) (node, error) {
	if level == len(precedence) {
		return p.unary()
	}
	left, err := p.binary(level + 1)
	for err == nil {
		in := p.kind == identifier && p.value == "in"
		if !in && p.kind != operator || !slices.Contains(precedence[level], p.value) {
			return left, nil
		}
		op := p.value
		if err := p.next(); err != nil {
			return nil, err
		}
		right, err := p.binary(level + 1)
		if err != nil {
			return nil, err
		}
		if err := p.values(left, right); err != nil {
			return nil, err
		}
		left = combine(op, left, right)
	}
	return nil, err
}

func combine(op string, left, right node) node {
	switch op {
	case "||", "&&":
		return logical{left, right, op == "||"}
	default:
		return binary{op, left, right}
	}
}

func (p *parser) unary() (node, error) {
	for _, op := range []string{"!", "-"} {
		if !p.is(op) {
			continue
		}
		if p.depth++; p.depth > maxDepth {
			return nil, p.wrong("it nests too deep")
		}
		defer func() { p.depth-- }()
		if err := p.next(); err != nil {
			return nil, err
		}
		if op == "-" && (p.kind == integer || p.kind == float) {
			p.value = "-" + p.value
			return p.member()
		}
		of, err := p.unary()
		if err != nil {
			return nil, err
		}
		return unary{op, of}, p.values(of)
	}
	return p.member()
}

// member is a value with what is chosen of it.
func (p *parser) member() (node, error) {
	n, err := p.primary()
	for err == nil {
		switch {
		case p.is("."):
			n, err = p.selection(n)
		case p.is("["):
			n, err = p.index(n)
		default:
			return n, nil
		}
	}
	return nil, err
}

// selection is n.name or n.name(arguments).
func (p *parser) selection(n node) (node, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	if p.kind != identifier {
		return nil, p.wrong("a name is missing after the dot")
	}
	name := p.value
	if err := p.next(); err != nil {
		return nil, err
	}
	if p.is("(") {
		return p.call(name, n)
	}
	return p.of(n, name)
}

// of is n.name, where what has attributes has one of that name.
func (p *parser) of(n node, name string) (node, error) {
	r, ok := n.(root)
	if !ok {
		return field{n, literal{name}, true}, nil
	}
	if slices.Contains(p.unknown, r.name+"."+name) {
		return nil, p.wrong("%s.%s is not known in this place", r.name, name)
	}
	if get, known := r.attributes[name]; known {
		return attribute{r.name + "." + name, get}, nil
	}
	if r.any == nil {
		return nil, p.wrong("there is no attribute %s.%s", r.name, name)
	}
	return attribute{r.name + "." + name, r.any(name)}, nil
}

// index is n[key].
func (p *parser) index(n node) (node, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	key, err := p.choice()
	if err == nil {
		err = p.values(key)
	}
	if err != nil {
		return nil, err
	}
	if err := p.expect("]"); err != nil {
		return nil, err
	}
	if r, ok := n.(root); ok {
		name, constant := key.(literal)
		text, isText := name.value.(string)
		if !constant || !isText {
			return nil, p.wrong("an attribute of %s is chosen by what is no text", r.name)
		}
		return p.of(n, text)
	}
	return field{of: n, key: key}, nil
}

var errRange = errors.New("the number is too large")

func (p *parser) primary() (node, error) {
	now := p.token
	if now.kind == operator && (now.value == "(" || now.value == "[") {
		return p.bracketed(now.value)
	}
	if now.kind == identifier {
		return p.named()
	}
	var n literal
	var err error
	switch now.kind {
	case text_:
		n.value = now.value
	case integer:
		n.value, err = strconv.ParseInt(now.value, 0, 64)
	case unsigned:
		n.value, err = strconv.ParseUint(now.value, 0, 64)
	case float:
		n.value, err = strconv.ParseFloat(now.value, 64)
	default:
		return nil, p.wrong("a value is missing")
	}
	if err != nil {
		return nil, p.wrong("%q: %w", now.value, errRange)
	}
	return n, p.next()
}

// bracketed is (a) or [a, b].
func (p *parser) bracketed(open string) (node, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	if open == "(" {
		n, err := p.choice()
		if err != nil {
			return nil, err
		}
		return n, p.expect(")")
	}
	items, err := p.items("]")
	return list{items}, err
}

// items are values with commas between, up to an operator.
func (p *parser) items(last string) ([]node, error) {
	var out []node
	for !p.is(last) {
		n, err := p.choice()
		if err != nil {
			return nil, err
		}
		if err := p.values(n); err != nil {
			return nil, err
		}
		if out = append(out, n); !p.is(",") {
			break
		}
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	return out, p.expect(last)
}

// named is a constant, a function, or what has attributes.
func (p *parser) named() (node, error) {
	name := p.value
	if err := p.next(); err != nil {
		return nil, err
	}
	if p.is("(") {
		return p.call(name, nil)
	}
	switch name {
	case "true", "false":
		return literal{name == "true"}, nil
	case "null":
		return literal{nil}, nil
	}
	if r, ok := rootOf(name); ok {
		return r, nil
	}
	if peer, ok := peerOf(name); ok {
		return peer, nil
	}
	return nil, p.wrong("%q is not known", name)
}

// call is name(arguments) or on.name(arguments).
func (p *parser) call(name string, on node) (node, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	arguments, err := p.items(")")
	if err != nil {
		return nil, err
	}
	if on != nil {
		if err := p.values(on); err != nil {
			return nil, err
		}
		arguments = append([]node{on}, arguments...)
	}
	if name == "has" && on == nil {
		if len(arguments) == 1 {
			_, known := arguments[0].(attribute)
			chosen, _ := arguments[0].(field)
			if known || chosen.dotted {
				return has{arguments[0]}, nil
			}
		}
		return nil, p.wrong("has() wants what is chosen by a dot, a.b")
	}
	f, ok := functions[name]
	switch {
	case !ok || on != nil && f.global || on == nil && f.method && !f.global && name != "size" && name != "matches":
		return nil, p.wrong("there is no function %q here", name)
	case len(arguments) != f.arguments:
		return nil, p.wrong("%s() with %d arguments, it takes %d", name, len(arguments), f.arguments)
	}
	if name == "matches" {
		return p.matches(arguments)
	}
	return function{f.run, arguments}, nil
}

// matches compiles a pattern that is a text.
func (p *parser) matches(arguments []node) (node, error) {
	pattern, ok := arguments[1].(literal)
	text, isText := pattern.value.(string)
	if !ok || !isText {
		return nil, p.wrong("matches() wants its pattern as a text")
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, p.wrong("matches(): %w", err)
	}
	return match{arguments[0], re}, nil
}
