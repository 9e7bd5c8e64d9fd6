package match

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"outrider/proxy/config"
)

// Compile makes the table of a listener's chains; def may be nil. Chains that
// the same connection would meet at the same precedence are refused, each pair
// by name.
func Compile(chains []*config.FilterChain, def *config.FilterChain) (*Table, error) {
	t := &Table{root: &node{}, def: def, chains: chains}
	var errs []error
	for i, c := range chains {
		if err := t.root.insert(byPort, c); err != nil {
			errs = append(errs, fmt.Errorf("filter_chains[%d]: %w", i, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return t, nil
}

// insert adds c below n, on every branch of level l that its match names.
func (n *node) insert(l level, c *config.FilterChain) error {
	if l == levels {
		if n.chain != nil {
			return fmt.Errorf("%s and %s have overlapping matching rules", describe(n.chain), describe(c))
		}
		n.chain = c
		return nil
	}
	for _, b := range branches(l, &c.Match) {
		if err := n.child(l, b).insert(l+1, c); err != nil {
			return err
		}
	}
	return nil
}

func describe(c *config.FilterChain) string {
	if c.Name == "" {
		return "an unnamed filter chain"
	}
	return fmt.Sprintf("filter chain %q", c.Name)
}

// branches are what m says about level l, without repetition; the open branch
// if it says nothing.
func branches(l level, m *config.FilterChainMatch) []branch {
	var out []branch
	add := func(b branch) {
		b.set = true
		if !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	switch l {
	case byPort:
		if m.DestinationPort != 0 {
			add(branch{port: m.DestinationPort})
		}
	case byPrefix:
		addPrefixes(add, m.Prefixes)
	case byServerName:
		for _, name := range m.ServerNames {
			suffix, wild := strings.CutPrefix(name, "*")
			add(branch{text: suffix, wildcard: wild})
		}
	case byTransport:
		if m.TransportProtocol != "" {
			add(branch{text: m.TransportProtocol})
		}
	case byALPN:
		for _, p := range m.ApplicationProtocols {
			add(branch{text: p})
		}
	case byDirectSource:
		addPrefixes(add, m.DirectSourcePrefixes)
	case bySourceType:
		if m.SourceType != config.SourceAny {
			add(branch{source: m.SourceType})
		}
	case bySourcePrefix:
		addPrefixes(add, m.SourcePrefixes)
	case bySourcePort:
		for _, p := range m.SourcePorts {
			add(branch{port: p})
		}
	}
	if len(out) == 0 {
		return []branch{{}}
	}
	return out
}

func addPrefixes(add func(branch), prefixes []netip.Prefix) {
	for _, p := range prefixes {
		add(branch{prefix: p.Masked()})
	}
}

// child is the node of branch b at level l, made if it is not there.
func (n *node) child(l level, b branch) *node {
	if !b.set {
		if n.rest == nil {
			n.rest = &node{}
		}
		return n.rest
	}
	switch l {
	case byPort, bySourcePort:
		return in(&n.ports, b.port)
	case byPrefix, byDirectSource, bySourcePrefix:
		if n.prefixes == nil {
			n.prefixes = &trie{nodes: map[netip.Prefix]*node{}}
		}
		return n.prefixes.at(b.prefix)
	case bySourceType:
		return in(&n.types, b.source)
	case byServerName:
		if b.wildcard {
			return in(&n.suffixes, b.text)
		}
	}
	return in(&n.texts, b.text)
}

func in[K comparable](m *map[K]*node, k K) *node {
	if *m == nil {
		*m = map[K]*node{}
	}
	c := (*m)[k]
	if c == nil {
		c = &node{}
		(*m)[k] = c
	}
	return c
}

// trie finds the longest prefix that holds an address: one map lookup for each
// length in use, so the cost does not grow with the number of prefixes.
type trie struct {
	nodes   map[netip.Prefix]*node
	lengths [2][]int // IPv4, IPv6; longest first
}

func (t *trie) at(p netip.Prefix) *node {
	c := t.nodes[p]
	if c == nil {
		c = &node{}
		t.nodes[p] = c
		family := &t.lengths[family(p.Addr())]
		if i, found := slices.BinarySearchFunc(*family, p.Bits(), func(a, b int) int { return cmp.Compare(b, a) }); !found {
			*family = slices.Insert(*family, i, p.Bits())
		}
	}
	return c
}

func (t *trie) longest(a netip.Addr) (*node, netip.Prefix) {
	for _, bits := range t.lengths[family(a)] {
		p := netip.PrefixFrom(a, bits).Masked()
		if c := t.nodes[p]; c != nil {
			return c, p
		}
	}
	return nil, netip.Prefix{}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}
