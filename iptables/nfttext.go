package iptables

import (
	"fmt"
	"net/netip"
	"strings"
)

// tableName is the name of our nftables table.
const tableName = "outrider"

// hook is how a base chain hangs in the kernel, as nft says it. The priorities
// are those of iptables' tables.
type hook struct {
	kind, hook string
	priority   int32
}

func (c Chain) hook() hook {
	kind, priority := "filter", int32(-300)
	switch c.Table {
	case NAT:
		kind, priority = "nat", -100
	case Mangle:
		priority = -150
		if c.Name == Output {
			kind = "route" // a mark decides about the route
		}
	}
	return hook{kind, strings.ToLower(c.Name), priority}
}

// nftName is a chain's name in the one table.
func nftName(t Table, name string) string { return string(t) + "_" + strings.ToLower(name) }

// family is the family of our table: both, or IPv4 where there is no IPv6.
func (p *Plan) family() string {
	if p.IPv6 {
		return "inet"
	}
	return "ip"
}

// NFT is the plan in nft's language, for people, and for nft -f: the table is
// replaced as a whole.
func (p *Plan) NFT() string {
	var out strings.Builder
	table := p.family() + " " + tableName
	fmt.Fprintf(&out, "table %s\ndelete table %s\ntable %s {\n", table, table, table)
	for _, c := range p.Chains {
		fmt.Fprintf(&out, "\tchain %s {\n", nftName(c.Table, c.Name))
		if c.Hooked() {
			h := c.hook()
			fmt.Fprintf(&out, "\t\ttype %s hook %s priority %d; policy accept;\n", h.kind, h.hook, h.priority)
		}
		for _, r := range c.Rules {
			fmt.Fprintf(&out, "\t\t%s\n", r.nft(c.Table, p.IPv6))
		}
		out.WriteString("\t}\n\n")
	}
	return strings.TrimSuffix(out.String(), "\n") + "}\n"
}

// nft is a rule in nft's language, in a table of both families or of IPv4.
func (r Rule) nft(t Table, inet bool) string {
	m := r.Match
	var l line
	l.add(m.In != "", "iifname", quoted(m.In))
	l.add(m.Out != "", "oifname", quoted(m.Out))
	l.nftAddress(r, inet)
	l.nftPorts(m)
	switch m.State {
	case "":
	case "INVALID":
		l.add(true, "ct state invalid")
	default:
		l.add(true, "ct state", strings.ToLower(m.State))
	}
	l.add(m.Mark != 0, "meta mark", nftHex(m.Mark))
	l.add(m.NotMark != 0, "meta mark !=", nftHex(m.NotMark))
	l.add(m.ConnMark != 0, "ct mark", nftHex(m.ConnMark))
	if m.UID != nil {
		l.add(true, "meta skuid", fmt.Sprint(*m.UID))
	}
	if m.NotUID != nil {
		l.add(true, "meta skuid !=", fmt.Sprint(*m.NotUID))
	}
	if m.GID != nil {
		l.add(true, "meta skgid", fmt.Sprint(*m.GID))
	}
	for _, g := range m.NotGIDs {
		l.add(true, "meta skgid !=", fmt.Sprint(g))
	}
	return strings.Join(append(l, r.Do.nft(t, r.Family)), " ")
}

// quoted is an interface's name; nft's sign for any end is *, not +.
func quoted(s string) string {
	if beginning, any := strings.CutSuffix(s, "+"); any {
		s = beginning + "*"
	}
	return `"` + s + `"`
}

func nftHex(n uint32) string { return fmt.Sprintf("0x%08x", n) }

func (l *line) nftAddress(r Rule, inet bool) {
	word := map[Family]string{IPv4: "ip", IPv6: "ip6"}[r.Family]
	address := func(field string, p netip.Prefix, not bool) {
		if !p.IsValid() {
			return
		}
		text := p.String()
		if p.IsSingleIP() {
			text = p.Addr().String()
		}
		l.add(true, word, field)
		l.add(not, "!=")
		l.add(true, text)
	}
	address("saddr", r.Match.Src, false)
	address("daddr", r.Match.Dst, false)
	address("daddr", r.Match.NotDst, true)
	l.add(inet && r.Family == IPv4 && !r.addressed(), "meta nfproto ipv4")
	l.add(inet && r.Family == IPv6 && !r.addressed(), "meta nfproto ipv6")
}

// addressed reports whether an address tells the family already.
func (r Rule) addressed() bool {
	return r.Match.Src.IsValid() || r.Match.Dst.IsValid() || r.Match.NotDst.IsValid()
}

func (l *line) nftPorts(m Match) {
	l.add(m.Proto != "" && m.SPort == 0 && m.DPort == 0 && len(m.NotDPorts) == 0, "meta l4proto", m.Proto)
	l.add(m.SPort != 0, m.Proto, "sport", fmt.Sprint(m.SPort))
	l.add(m.DPort != 0, m.Proto, "dport", fmt.Sprint(m.DPort))
	for _, p := range m.NotDPorts {
		l.add(true, m.Proto, "dport !=", fmt.Sprint(p))
	}
}

// nft is an action in nft's language.
func (a Action) nft(t Table, f Family) string {
	switch a.Verb {
	case Accept:
		return "accept"
	case Drop:
		return "drop"
	case Jump:
		return "jump " + nftName(t, a.Chain)
	case RedirectTo:
		return fmt.Sprintf("redirect to :%d", a.Port)
	case TProxyTo:
		word := map[Family]string{IPv4: "ip ", IPv6: "ip6 "}[f]
		return fmt.Sprintf("tproxy %sto :%d meta mark set %s accept", word, a.Port, nftHex(a.Mark))
	case SetMark:
		return "meta mark set " + nftHex(a.Mark)
	case SaveMark:
		return "ct mark set meta mark"
	case RestoreMark:
		return "meta mark set ct mark"
	case SetZone:
		return fmt.Sprintf("ct zone set %d", a.Zone)
	default:
		return "return"
	}
}
