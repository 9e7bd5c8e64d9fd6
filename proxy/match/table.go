// Package match chooses the filter chain of a connection, in Envoy's order and
// without backtracking, and says why.
//
// The table is a tree with one level for each criterion. At each level the
// connection follows the most specific branch that fits, and never comes back:
// a chain that wins at the destination port and fails at the application
// protocol does not let a chain with a less specific port win. Source: Envoy,
// FilterChainMatch and filter_chain_manager_impl.cc.
package match

import (
	"net/netip"

	"outrider/proxy/config"
)

// Key is what is known of a connection when its chain is chosen. A zero
// address is a unix socket's.
type Key struct {
	// Destination is as restored by original_dst or proxy_protocol; Source
	// likewise; DirectSource is the socket's peer.
	Destination, Source, DirectSource netip.AddrPort
	ServerName                        string // lower case
	Transport                         string // "tls", "raw_buffer"
	ALPNs                             []string
}

// Table is the compiled matching of one listener. It is immutable.
type Table struct {
	root   *node
	def    *config.FilterChain
	chains []*config.FilterChain
}

// level is one criterion, in the order of their precedence.
type level int

const (
	byPort level = iota
	byPrefix
	byServerName
	byTransport
	byALPN
	byDirectSource
	bySourceType
	bySourcePrefix
	bySourcePort
	levels
)

var levelNames = [levels]string{
	"destination_port", "prefix_ranges", "server_names", "transport_protocol", "application_protocols",
	"direct_source_prefix_ranges", "source_type", "source_prefix_ranges", "source_ports",
}

// node is one level's branches, or a leaf. Of the maps only the level's own is
// set; rest is the branch of the chains that leave the criterion open.
type node struct {
	chain    *config.FilterChain // at the leaves
	ports    map[uint16]*node
	texts    map[string]*node // server names, transports, protocols
	suffixes map[string]*node // ".example.com" of "*.example.com"
	types    map[config.SourceType]*node
	prefixes *trie
	rest     *node
}

// Find is the chain for k: the one that matches, else the default chain, else
// nil. It does not allocate.
func (t *Table) Find(k Key) *config.FilterChain {
	if c := t.find(&k, nil); c != nil {
		return c
	}
	return t.def
}

// find walks the tree; trail, if not nil, is told each branch taken.
func (t *Table) find(k *Key, trail *trail) *config.FilterChain {
	n := t.root
	for l := byPort; l < levels && n != nil; l++ {
		next, branch := n.step(l, k)
		if trail != nil {
			trail.took(l, branch, next == nil)
		}
		n = next
	}
	if n == nil {
		return nil
	}
	return n.chain
}

// step is the branch that k takes at level l, and its value as text; nil if
// none fits. The text is made only of what is at hand, so it costs nothing.
func (n *node) step(l level, k *Key) (*node, branch) {
	switch l {
	case byPort:
		if c := n.ports[k.Destination.Port()]; c != nil && k.Destination.IsValid() {
			return c, branch{port: k.Destination.Port(), set: true}
		}
	case bySourcePort:
		if c := n.ports[k.Source.Port()]; c != nil && k.Source.IsValid() {
			return c, branch{port: k.Source.Port(), set: true}
		}
	case byPrefix:
		return n.prefix(k.Destination.Addr())
	case byDirectSource:
		return n.prefix(k.DirectSource.Addr())
	case bySourcePrefix:
		return n.prefix(k.Source.Addr())
	case byServerName:
		return n.serverName(k.ServerName)
	case byTransport:
		if c := n.texts[k.Transport]; c != nil {
			return c, branch{text: k.Transport, set: true}
		}
	case byALPN:
		for _, p := range k.ALPNs {
			if c := n.texts[p]; c != nil {
				return c, branch{text: p, set: true}
			}
		}
	case bySourceType:
		return n.sourceType(k)
	}
	return n.rest, branch{}
}

// noAddress stands for a unix socket where addresses are matched: Envoy looks
// 255.255.255.255 up, which 0.0.0.0/0 holds (fakeAddress).
var noAddress = netip.AddrFrom4([4]byte{255, 255, 255, 255}) //nolint:gochecknoglobals // never changed

func (n *node) prefix(a netip.Addr) (*node, branch) {
	if n.prefixes != nil {
		if !a.IsValid() {
			a = noAddress
		}
		if c, p := n.prefixes.longest(a.Unmap()); c != nil {
			return c, branch{prefix: p, set: true}
		}
	}
	return n.rest, branch{}
}

// serverName tries the name itself, then each wildcard above it, longest
// first.
func (n *node) serverName(name string) (*node, branch) {
	if name != "" {
		if c := n.texts[name]; c != nil {
			return c, branch{text: name, set: true}
		}
		if len(n.suffixes) > 0 {
			for i := range len(name) - 1 { // a dot at the end begins no suffix
				if name[i] != '.' {
					continue
				}
				if c := n.suffixes[name[i:]]; c != nil {
					return c, branch{text: name[i:], wildcard: true, set: true}
				}
			}
		}
	}
	return n.rest, branch{}
}

func (n *node) sourceType(k *Key) (*node, branch) {
	if len(n.types) > 0 {
		kind := config.SourceExternal
		if isLocal(k) {
			kind = config.SourceSameIPOrLoopback
		}
		if c := n.types[kind]; c != nil {
			return c, branch{source: kind, set: true}
		}
	}
	return n.rest, branch{}
}

// isLocal is Envoy's isSameIpOrLoopback: a unix socket, a client with the
// address of the destination, or one of the two canonical loopback addresses:
// 127.0.0.6, from which Istio passes connections on, is none.
func isLocal(k *Key) bool {
	src := k.Source.Addr().Unmap()
	return !src.IsValid() || src == loopback4 || src == netip.IPv6Loopback() || src == k.Destination.Addr().Unmap()
}

var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1}) //nolint:gochecknoglobals // never changed

// branch is the value of the branch taken; not set is the open one.
type branch struct {
	set      bool
	wildcard bool
	port     uint16
	text     string
	source   config.SourceType
	prefix   netip.Prefix
}
