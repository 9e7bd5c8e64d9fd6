package decode

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Limits on a text, against nesting and aliases made to exhaust us. Protobuf's
// own parsers stop at a depth of 100 (C++ CodedInputStream's default).
const (
	maxDepth = 100
	maxNodes = 2_000_000
)

type kind int

const (
	isNull kind = iota
	isBool
	isNumber
	isString
	isList
	isObject
)

func (k kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "a list", "an object"}[k]
}

// node is a value of a YAML or JSON text. Numbers keep their text.
type node struct {
	kind  kind
	text  string // of a number or string; "true" or "false"
	items []*node
	keys  []string // of an object, with items in the same order
}

// get is the value of key, nil if there is none.
func (n *node) get(key string) *node {
	for i, k := range n.keys {
		if k == key {
			return n.items[i]
		}
	}
	return nil
}

// treeBuilder reads one text.
type treeBuilder struct {
	place at
	nodes int
}

// errTooMuch is a text beyond maxNodes or maxDepth.
var errTooMuch = fmt.Errorf("too big: more than %d values with aliases expanded, or nested deeper than %d", maxNodes, maxDepth)

// parseTree reads JSON if data is that, else YAML. Mistakes of the syntax,
// duplicate keys among them, go to place; nil then means there is no tree.
func parseTree(data []byte, place at) *node {
	b := &treeBuilder{place: place}
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(data) {
		return b.fromJSON(data)
	}
	return b.fromYAML(data)
}

func (b *treeBuilder) fromYAML(data []byte) *node {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return &node{kind: isNull}
	} else if err != nil {
		b.place.bad("%v", err)
		return nil
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		b.place.bad("there is more than one YAML document in it")
		return nil
	}
	n, err := b.yamlNode(&doc, b.place, 0)
	if err != nil {
		b.place.bad("%v", err)
		return nil
	}
	return n
}

func (b *treeBuilder) count(depth int) error {
	if b.nodes++; b.nodes > maxNodes || depth > maxDepth {
		return errTooMuch
	}
	return nil
}

func (b *treeBuilder) yamlNode(y *yaml.Node, place at, depth int) (*node, error) {
	if err := b.count(depth); err != nil {
		return nil, err
	}
	switch y.Kind {
	case yaml.DocumentNode:
		return b.yamlNode(y.Content[0], place, depth)
	case yaml.AliasNode:
		return b.yamlNode(y.Alias, place, depth+1) // a cycle ends at maxDepth
	case yaml.ScalarNode:
		return yamlScalar(y), nil
	case yaml.SequenceNode:
		n := &node{kind: isList}
		for i, c := range y.Content {
			item, err := b.yamlNode(c, place.item("", i), depth+1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
		return n, nil
	case yaml.MappingNode:
		return b.yamlMapping(y, place, depth)
	}
	return nil, fmt.Errorf("line %d: unknown kind of YAML value", y.Line)
}

func (b *treeBuilder) yamlMapping(y *yaml.Node, place at, depth int) (*node, error) {
	n := &node{kind: isObject}
	seen := map[string]bool{}
	for i := 0; i+1 < len(y.Content); i += 2 {
		key := y.Content[i]
		for hops := 0; key.Kind == yaml.AliasNode && hops < maxDepth; hops++ {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("line %d: a key must be a scalar", key.Line)
		}
		in := place.in(key.Value)
		if seen[key.Value] {
			in.bad("is there twice, again in line %d", key.Line)
			continue
		}
		seen[key.Value] = true
		item, err := b.yamlNode(y.Content[i+1], in, depth+1)
		if err != nil {
			return nil, err
		}
		n.keys, n.items = append(n.keys, key.Value), append(n.items, item)
	}
	return n, nil
}

// yamlScalar types a scalar as Envoy does (yaml-cpp): quoted is a string;
// plain is a null, a YAML 1.1 boolean, an integer, or else a string, decimals
// too.
func yamlScalar(y *yaml.Node) *node {
	if y.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return &node{kind: isString, text: y.Value}
	}
	switch y.Tag {
	case "!!binary", "!":
		return &node{kind: isString, text: y.Value}
	case "!!str":
		if y.Style&yaml.TaggedStyle != 0 {
			return &node{kind: isString, text: y.Value}
		}
	}
	switch y.Value {
	case "", "~", "null", "Null", "NULL":
		return &node{kind: isNull}
	}
	if v, ok := yamlBool(y.Value); ok {
		return &node{kind: isBool, text: strconv.FormatBool(v)}
	}
	if v, ok := yamlInt(y.Value); ok {
		return &node{kind: isNumber, text: strconv.FormatInt(v, 10)}
	}
	return &node{kind: isString, text: y.Value}
}

// yamlBool knows y, yes, on, true and their opposites in lower, Title and
// upper case.
func yamlBool(s string) (value, ok bool) {
	lower := strings.ToLower(s)
	if s != lower && s != strings.ToUpper(s) && s != strings.ToUpper(s[:1])+lower[1:] {
		return false, false
	}
	switch lower {
	case "y", "yes", "on", "true":
		return true, true
	case "n", "no", "off", "false":
		return false, true
	}
	return false, false
}

// yamlInt reads decimal, 0x hexadecimal and 0-led octal.
func yamlInt(s string) (int64, bool) {
	if strings.ContainsAny(s, "_oObB") && !strings.HasPrefix(strings.ToLower(strings.TrimLeft(s, "+-")), "0x") || strings.Contains(s, "_") {
		return 0, false
	}
	v, err := strconv.ParseInt(s, 0, 64)
	return v, err == nil
}

func (b *treeBuilder) fromJSON(data []byte) *node {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	n, err := b.jsonValue(dec, b.place, 0)
	if err != nil {
		b.place.bad("%v", err)
		return nil
	}
	return n
}

func (b *treeBuilder) jsonValue(dec *json.Decoder, place at, depth int) (*node, error) {
	if err := b.count(depth); err != nil {
		return nil, err
	}
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch t := token.(type) {
	case nil:
		return &node{kind: isNull}, nil
	case bool:
		return &node{kind: isBool, text: strconv.FormatBool(t)}, nil
	case json.Number:
		return &node{kind: isNumber, text: t.String()}, nil
	case string:
		return &node{kind: isString, text: t}, nil
	case json.Delim:
		if t == '[' {
			return b.jsonList(dec, place, depth)
		}
		return b.jsonObject(dec, place, depth)
	}
	return nil, fmt.Errorf("unexpected %v", token)
}

func (b *treeBuilder) jsonList(dec *json.Decoder, place at, depth int) (*node, error) {
	n := &node{kind: isList}
	for i := 0; dec.More(); i++ {
		item, err := b.jsonValue(dec, place.item("", i), depth+1)
		if err != nil {
			return nil, err
		}
		n.items = append(n.items, item)
	}
	_, err := dec.Token()
	return n, err
}

func (b *treeBuilder) jsonObject(dec *json.Decoder, place at, depth int) (*node, error) {
	n := &node{kind: isObject}
	seen := map[string]bool{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key, _ := token.(string)
		item, err := b.jsonValue(dec, place.in(key), depth+1)
		if err != nil {
			return nil, err
		}
		if seen[key] {
			place.in(key).bad("is there twice")
			continue
		}
		seen[key] = true
		n.keys, n.items = append(n.keys, key), append(n.items, item)
	}
	_, err := dec.Token()
	return n, err
}

// integer is the value of a number, or of a string that is one; 1e3 and 2.0
// are integers too, as in proto3 JSON.
func (n *node) integer() (int64, uint64, bool) {
	if n.kind != isNumber && n.kind != isString {
		return 0, 0, false
	}
	if v, err := strconv.ParseInt(n.text, 10, 64); err == nil {
		return v, uint64(max(v, 0)), true
	}
	if v, err := strconv.ParseUint(n.text, 10, 64); err == nil {
		return math.MaxInt64, v, true
	}
	f, err := strconv.ParseFloat(n.text, 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) >= 1<<53 {
		return 0, 0, false
	}
	return int64(f), uint64(max(f, 0)), true
}

// show is n as an error text quotes it.
func (n *node) show() string {
	switch n.kind {
	case isString:
		return strconv.Quote(shorten(n.text))
	case isNumber, isBool:
		return shorten(n.text)
	}
	return n.kind.String()
}

// shorten keeps an error text readable, and keys out of it.
func shorten(s string) string {
	if strings.Contains(s, "PRIVATE KEY") {
		return "(a private key)"
	}
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "..."
	}
	return s
}
