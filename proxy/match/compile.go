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

// maxCombinations bounds the leaves of a table: a chain has one for each
// combination of its criteria's values. A listener of a large mesh has some
// ten thousand.
const maxCombinations = 1 << 20

// Compile makes the table of a listener's chains; def may be nil. Two chains
// that the same connection would meet at the same precedence are refused, as
// by Envoy; every such chain is reported, by index and name, with the first
// that it overlaps. So is a chain that overlaps itself.
func Compile(chains []*config.FilterChain, def *config.FilterChain) (*Table, error) {
	t := &Table{root: &node{}, def: def, chains: chains}
	var errs []error
	leaves := 0
	for i, c := range chains {
		if leaves += combinations(&c.Match, maxCombinations); leaves > maxCombinations {
			errs = append(errs, fmt.Errorf("%s: with it the filter chains have more than %d combinations of criteria", t.describe(i), maxCombinations))
			break
		}
		if repeated := repeated(&c.Match); repeated != "" {
			errs = append(errs, fmt.Errorf("%s: multiple filter chains with overlapping matching rules are defined: it names %s twice",
				t.describe(i), repeated))
			continue
		}
		if other := t.root.insert(byPort, c); other != nil {
			first := slices.Index(chains, other)
			errs = append(errs, fmt.Errorf("%s and %s: multiple filter chains with overlapping matching rules are defined",
				t.describe(first), t.describe(i)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return t, nil
}

// combinations is how many leaves m needs, or limit+1 if those are more.
func combinations(m *config.FilterChainMatch, limit int) int {
	n := 1
	for l := byPort; l < levels; l++ {
		if n *= len(branches(l, m)); n > limit {
			return limit + 1
		}
	}
	return n
}

// repeated is the criterion and value that m names twice, "" if there is none.
// Prefixes that differ in host bits are the same.
func repeated(m *config.FilterChainMatch) string {
	for l := byPort; l < levels; l++ {
		all := branches(l, m)
		seen := make(map[branch]bool, len(all))
		for _, b := range all {
			if seen[b] {
				return levelNames[l] + " " + b.String()
			}
			seen[b] = true
		}
	}
	return ""
}

// insert adds c below n, on every branch of level l that its match names. It
// returns the chain that has one of the places already, or nil.
func (n *node) insert(l level, c *config.FilterChain) *config.FilterChain {
	if l == levels {
		if n.chain == nil {
			n.chain = c
			return nil
		}
		return n.chain
	}
	for _, b := range branches(l, &c.Match) {
		if other := n.child(l, b).insert(l+1, c); other != nil {
			return other
		}
	}
	return nil
}

func (t *Table) describe(i int) string {
	if name := t.chains[i].Name; name != "" {
		return fmt.Sprintf("filter_chains[%d] %q", i, name)
	}
	return fmt.Sprintf("filter_chains[%d]", i)
}

// branches are what m says about level l; the open branch if it says nothing.
func branches(l level, m *config.FilterChainMatch) []branch {
	var out []branch
	add := func(b branch) {
		b.set = true
		out = append(out, b)
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
