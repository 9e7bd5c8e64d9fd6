package match

import (
	"fmt"
	"net/netip"
	"strings"

	"outrider/proxy/config"
)

// Explanation says which chain a connection meets and why not the others.
type Explanation struct {
	// Chain is the winner's name and Index its place in filter_chains: -1 for
	// the default chain, -2 for none.
	Chain string `json:"chain"`
	Index int    `json:"index"`
	// Path is each criterion with the branch that was followed.
	Path   []Step  `json:"path"`
	Losers []Loser `json:"losers,omitempty"`
}

// The Index of what is not in filter_chains.
const (
	DefaultChain = -1
	NoChain      = -2
)

// Step is one criterion on the way.
type Step struct {
	Criterion string `json:"criterion"`
	Took      string `json:"took"` // "any" for the branch that leaves it open
}

// Loser is a chain that did not win, with the first criterion that it failed.
type Loser struct {
	Chain     string `json:"chain"`
	Index     int    `json:"index"`
	Criterion string `json:"criterion"`
	Reason    string `json:"reason"`
}

// trail is what find took on its way.
type trail struct {
	branches []branch
	dead     bool // the last branch led nowhere
}

func (t *trail) took(_ level, b branch, dead bool) {
	t.branches = append(t.branches, b)
	t.dead = dead
}

// Explain is Find with its reasons: it walks the same tree.
func (t *Table) Explain(k Key) Explanation {
	var way trail
	winner := t.find(&k, &way)
	e := Explanation{Index: NoChain}
	for l, b := range way.branches {
		took := b.String()
		if way.dead && l == len(way.branches)-1 {
			took = "nothing"
		}
		e.Path = append(e.Path, Step{levelNames[l], took})
	}
	for i, c := range t.chains {
		if c == winner {
			e.Chain, e.Index = c.Name, i
			continue
		}
		e.Losers = append(e.Losers, way.loser(i, c, &k))
	}
	if winner == nil && t.def != nil {
		e.Chain, e.Index = t.def.Name, DefaultChain
	}
	return e
}

// loser finds where c left the way that was taken.
func (t *trail) loser(i int, c *config.FilterChain, k *Key) Loser {
	out := Loser{Chain: c.Name, Index: i}
	for l, took := range t.branches {
		wants := branches(level(l), &c.Match)
		if contains(wants, took) && !(t.dead && l == len(t.branches)-1) {
			continue
		}
		out.Criterion = levelNames[l]
		if fits(level(l), wants, k) {
			out.Reason = fmt.Sprintf("wants %s, but a chain with the more specific %s won here", text(wants), took)
		} else {
			out.Reason = fmt.Sprintf("wants %s, the connection has %s", text(wants), k.has(level(l)))
		}
		return out
	}
	out.Reason = "matches alike"
	return out
}

func contains(wants []branch, b branch) bool {
	for _, w := range wants {
		if w == b {
			return true
		}
	}
	return false
}

// fits reports whether a chain with nothing but wants at level l would be
// reached: it asks a tree of that one level.
func fits(l level, wants []branch, k *Key) bool {
	var n node
	for _, b := range wants {
		n.child(l, b)
	}
	next, _ := n.step(l, k)
	return next != nil
}

func text(wants []branch) string {
	var out []string
	for _, b := range wants {
		out = append(out, b.String())
	}
	return strings.Join(out, " or ")
}

func (b branch) String() string {
	switch {
	case !b.set:
		return "any"
	case b.wildcard:
		return "*" + b.text
	case b.text != "":
		return b.text
	case b.source != config.SourceAny:
		return [...]string{"ANY", "SAME_IP_OR_LOOPBACK", "EXTERNAL"}[b.source]
	case b.prefix.IsValid():
		return b.prefix.String()
	default:
		return fmt.Sprint(b.port)
	}
}

// has is what the connection has for level l.
func (k *Key) has(l level) string {
	switch l {
	case byPort:
		return port(k.Destination)
	case bySourcePort:
		return port(k.Source)
	case byPrefix:
		return addr(k.Destination)
	case byDirectSource:
		return addr(k.DirectSource)
	case bySourcePrefix:
		return addr(k.Source)
	case byServerName:
		if k.ServerName == "" {
			return "no server name"
		}
		return k.ServerName
	case byTransport:
		return k.Transport
	case byALPN:
		if len(k.ALPNs) == 0 {
			return "no protocols"
		}
		return strings.Join(k.ALPNs, ", ")
	default:
		if isLocal(k) {
			return "SAME_IP_OR_LOOPBACK"
		}
		return "EXTERNAL"
	}
}

func port(a netip.AddrPort) string {
	if !a.IsValid() {
		return "no port"
	}
	return fmt.Sprint(a.Port())
}

func addr(a netip.AddrPort) string {
	if !a.IsValid() {
		return "no IP address"
	}
	return a.Addr().Unmap().String()
}
