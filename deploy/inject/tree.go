package inject

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// find is the value at a path of mapping keys, nil if there is none.
func find(n *yaml.Node, path ...string) *yaml.Node {
	for _, key := range path {
		if n = value(n, key); n == nil {
			return nil
		}
	}
	return n
}

func value(n *yaml.Node, key string) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// text is a scalar at a path, "" if there is none.
func text(n *yaml.Node, path ...string) string {
	if v := find(n, path...); v != nil && v.Kind == yaml.ScalarNode && v.Tag != "!!null" {
		return v.Value
	}
	return ""
}

// items are the elements of a sequence at a path.
func items(n *yaml.Node, path ...string) []*yaml.Node {
	if v := find(n, path...); v != nil && v.Kind == yaml.SequenceNode {
		return v.Content
	}
	return nil
}

// ensure is the value at a path, mappings made on the way; kind is what the
// last is made as.
func ensure(n *yaml.Node, kind yaml.Kind, path ...string) *yaml.Node {
	for i, key := range path {
		next := value(n, key)
		if next == nil || next.Tag == "!!null" {
			made := yaml.MappingNode
			if i == len(path)-1 {
				made = kind
			}
			fresh := &yaml.Node{Kind: made}
			if next == nil {
				n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, fresh)
				next = fresh
			} else {
				*next = *fresh
			}
		}
		n = next
	}
	return n
}

// setText puts a string at a path.
func setText(n *yaml.Node, s string, path ...string) {
	*ensure(n, yaml.ScalarNode, path...) = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
}

// node is a Go value as YAML.
func node(v any) (*yaml.Node, error) {
	n := &yaml.Node{}
	if err := n.Encode(v); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return n, nil
}

// prepend and push add a value before or after the elements of a sequence.
func prepend(n *yaml.Node, v any, path ...string) error {
	added, err := node(v)
	if err != nil {
		return err
	}
	seq := ensure(n, yaml.SequenceNode, path...)
	seq.Content = append([]*yaml.Node{added}, seq.Content...)
	return nil
}

func push(n *yaml.Node, v any, path ...string) error {
	added, err := node(v)
	if err != nil {
		return err
	}
	seq := ensure(n, yaml.SequenceNode, path...)
	seq.Content = append(seq.Content, added)
	return nil
}
