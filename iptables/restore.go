package iptables

import (
	"fmt"
	"net/netip"
	"strings"
)

// ours marks our rules in the chains that are everybody's, so that they can be
// found again.
const ours = "outrider"

// Restore is the plan for one family as the input of iptables-restore
// --noflush (ip6tables-restore), in the form that iptables-save prints. Chains
// that are there already are emptied; rules in PREROUTING and OUTPUT are added.
func (p *Plan) Restore(f Family) string {
	var out strings.Builder
	for _, table := range []Table{Raw, Mangle, NAT} {
		lines := p.lines(table, f)
		if len(lines.chains) == 0 {
			continue
		}
		fmt.Fprintf(&out, "*%s\n", table)
		for _, c := range lines.chains {
			if c != Prerouting && c != Output {
				fmt.Fprintf(&out, ":%s - [0:0]\n", c)
			}
		}
		for _, r := range lines.rules {
			out.WriteString(r + "\n")
		}
		out.WriteString("COMMIT\n")
	}
	return out.String()
}

// tableLines are one table's chains and rules as iptables-save prints them.
type tableLines struct {
	chains []string
	rules  []string
}

func (p *Plan) lines(table Table, f Family) tableLines {
	var out tableLines
	for _, c := range p.Chains {
		if c.Table != table {
			continue
		}
		out.chains = append(out.chains, c.Name)
		for _, r := range c.Rules {
			if r.Family == Any || r.Family == f {
				out.rules = append(out.rules, c.line(r, f))
			}
		}
	}
	return out
}

// line is a rule in iptables-save's form: addresses, interfaces, protocol, then
// the matches by their modules, then the target.
func (c Chain) line(r Rule, f Family) string {
	l := line{"-A", c.Name}
	m := r.Match
	l.prefix("-s", m.Src, false)
	l.prefix("-d", m.Dst, false)
	l.prefix("-d", m.NotDst, true)
	l.add(m.In != "", "-i", m.In)
	l.add(m.Out != "", "-o", m.Out)
	l.add(m.Proto != "", "-p", m.Proto)
	l.add(m.SPort != 0, "-m", m.Proto, "--sport", fmt.Sprint(m.SPort))
	l.add(m.DPort != 0, "-m", m.Proto, "--dport", fmt.Sprint(m.DPort))
	switch len(m.NotDPorts) {
	case 0:
	case 1:
		l.add(true, "-m", m.Proto, "!", "--dport", fmt.Sprint(m.NotDPorts[0]))
	default:
		l.add(true, "-m", "multiport", "!", "--dports", join(m.NotDPorts))
	}
	l.add(m.State != "", "-m", "conntrack", "--ctstate", m.State)
	l.add(m.Mark != 0, "-m", "mark", "--mark", hex(m.Mark))
	l.add(m.NotMark != 0, "-m", "mark", "!", "--mark", hex(m.NotMark))
	l.add(m.ConnMark != 0, "-m", "connmark", "--mark", hex(m.ConnMark))
	l.owner(m)
	l.add(c.Hooked(), "-m", "comment", "--comment", ours)
	return strings.Join(append(l, r.Do.target(f)...), " ")
}

// line is the words of a rule.
type line []string

func (l *line) add(is bool, words ...string) {
	if is {
		*l = append(*l, words...)
	}
}

func (l *line) prefix(flag string, p netip.Prefix, not bool) {
	if !p.IsValid() {
		return
	}
	l.add(not, "!")
	l.add(true, flag, p.String())
}

func (l *line) owner(m Match) {
	if m.UID != nil {
		l.add(true, "-m", "owner", "--uid-owner", fmt.Sprint(*m.UID))
	}
	if m.NotUID != nil {
		l.add(true, "-m", "owner", "!", "--uid-owner", fmt.Sprint(*m.NotUID))
	}
	if m.GID != nil {
		l.add(true, "-m", "owner", "--gid-owner", fmt.Sprint(*m.GID))
	}
	for _, g := range m.NotGIDs {
		l.add(true, "-m", "owner", "!", "--gid-owner", fmt.Sprint(g))
	}
}

// target is an action in iptables-save's form.
func (a Action) target(f Family) []string {
	const all = "0xffffffff"
	switch a.Verb {
	case Accept:
		return []string{"-j", "ACCEPT"}
	case Drop:
		return []string{"-j", "DROP"}
	case Jump:
		return []string{"-j", a.Chain}
	case RedirectTo:
		return []string{"-j", "REDIRECT", "--to-ports", fmt.Sprint(a.Port)}
	case TProxyTo:
		on := "0.0.0.0"
		if f == IPv6 {
			on = "::"
		}
		return []string{"-j", "TPROXY", "--on-port", fmt.Sprint(a.Port), "--on-ip", on, "--tproxy-mark", hex(a.Mark) + "/" + all}
	case SetMark:
		return []string{"-j", "MARK", "--set-xmark", hex(a.Mark) + "/" + all}
	case SaveMark:
		return []string{"-j", "CONNMARK", "--save-mark", "--nfmask", all, "--ctmask", all}
	case RestoreMark:
		return []string{"-j", "CONNMARK", "--restore-mark", "--nfmask", all, "--ctmask", all}
	case SetZone:
		return []string{"-j", "CT", "--zone", fmt.Sprint(a.Zone)}
	default:
		return []string{"-j", "RETURN"}
	}
}

func hex(n uint32) string { return fmt.Sprintf("0x%x", n) }

func join(ports []uint16) string {
	words := make([]string, 0, len(ports))
	for _, p := range ports {
		words = append(words, fmt.Sprint(p))
	}
	return strings.Join(words, ",")
}
