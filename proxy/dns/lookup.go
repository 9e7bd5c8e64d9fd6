package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	wire "github.com/miekg/dns"
)

// Answer is where the answer to a question for addresses comes from.
type Answer struct {
	Name string `json:"name"` // as it was looked up: with a dot at the end
	// From is "table", "negative cache", "servers", or "nowhere", when there is
	// no table yet.
	From string `json:"from"`
	// Entry is what the table has, Matched the form of its name that was found,
	// and Target the name without the search domain, if that was taken off.
	Entry     *Entry       `json:"entry,omitempty"`
	Matched   string       `json:"matched,omitempty"`
	Target    string       `json:"target,omitempty"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Servers are those that are asked, in this order, unless a client that is
	// redirected had meant another one.
	Servers []netip.AddrPort `json:"servers,omitempty"`
	// Absent are the types whose absence is remembered ("A NXDOMAIN").
	Absent []string `json:"absent,omitempty"`
}

// Lookup says where an answer for name would come from. It asks no server.
func (s *Server) Lookup(name string) Answer {
	a := Answer{Name: fqdn(name), From: "servers"}
	servers := s.servers.order(s.conf.now().servers)
	n := s.names.Load()
	if n == nil {
		if !s.opts.ForwardBeforeTable {
			a.From = "nowhere"
			return a
		}
		a.Servers = servers
		return a
	}
	if f, ok := n.find(a.Name); ok {
		a.From, a.Entry, a.Matched, a.Target, a.Addresses = "table", f.entry, f.name, f.target, f.entry.Addresses
		return a
	}
	a.Servers = servers
	if a.Absent = s.negatives.of(a.Name); len(a.Absent) > 0 {
		a.From = "negative cache"
	}
	return a
}

// String is a in a sentence or two.
func (a Answer) String() string {
	b := &strings.Builder{}
	switch a.From {
	case "table":
		fmt.Fprintf(b, "%s is answered from the table: %s (registry %q) has %v", a.Name, a.Entry.Host, a.Entry.Registry, a.Addresses)
		if a.Target != "" {
			fmt.Fprintf(b, "; without the search domain it is %s", a.Target)
		}
		if a.Matched != a.Entry.Host+"." {
			fmt.Fprintf(b, "; found as %s", a.Matched)
		}
		b.WriteString("; other types than A and AAAA are asked of the servers")
	case "nowhere":
		fmt.Fprintf(b, "%s is answered with SERVFAIL: no table of names has come yet", a.Name)
	default:
		fmt.Fprintf(b, "%s is not in the table: the servers are asked, %v", a.Name, a.Servers)
		if len(a.Absent) > 0 {
			fmt.Fprintf(b, "; remembered as absent: %s", strings.Join(a.Absent, ", "))
		}
	}
	return b.String()
}

// of are the types of name whose absence is known, for clients without a
// resolver of their own.
func (n *negatives) of(name string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for k, e := range n.all {
		if k.name == name && !k.to.IsValid() && time.Now().Before(e.until) {
			out = append(out, wire.Type(k.qtype).String()+" "+wire.RcodeToString[e.reply.Rcode])
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
