package iptables

import (
	"net/netip"
	"slices"
)

// nat makes the nat table: inbound by REDIRECT, outbound in every mode.
func (b *planner) nat() {
	c := b.c
	ret, outward, inward := Action{Verb: Return}, Action{Verb: Jump, Chain: redirect}, Action{Verb: Jump, Chain: inRedirect}
	b.add(NAT, redirect, Rule{Match: Match{Proto: "tcp"}, Do: Action{Verb: RedirectTo, Port: c.OutboundPort}})
	b.add(NAT, inRedirect, Rule{Match: Match{Proto: "tcp"}, Do: Action{Verb: RedirectTo, Port: c.InboundPort}})
	b.interfaces(ret, outward)
	if c.Mode == Redirect && c.takesInbound() {
		b.inboundPorts(inward)
		b.add(NAT, Prerouting, Rule{Match: Match{Proto: "tcp"}, Do: Action{Verb: Jump, Chain: inbound}})
	}
	b.add(NAT, Output, Rule{Do: Action{Verb: Jump, Chain: output}})
	for _, p := range c.ExcludeOutboundPorts {
		for _, proto := range []string{"tcp", "udp"} {
			b.add(NAT, output, Rule{Match: Match{Proto: proto, DPort: p}, Do: ret})
		}
	}
	b.add(NAT, output, both(Match{Out: "lo"}, ret,
		func(m *Match) { m.Src = source4() }, func(m *Match) { m.Src = source6() })...)
	if b.tproxies() {
		// What the proxy sends to the application as the caller carries the mark.
		b.add(NAT, output, Rule{Match: Match{Out: "lo", Proto: "tcp", Mark: c.TProxyMark}, Do: ret})
	}
	b.owners(ret, inward)
	b.groups(ret)
	if c.DNS {
		b.dnsRedirect()
	}
	b.add(NAT, output, both(Match{}, ret, func(m *Match) { m.Dst = c.Loopback4 }, func(m *Match) { m.Dst = loopback6() })...)
	for _, p := range c.ExcludeOutboundCIDRs {
		b.add(NAT, output, to(p, ret))
	}
	for _, p := range c.OutboundPorts {
		b.add(NAT, output, Rule{Match: Match{Proto: "tcp", DPort: p}, Do: outward})
	}
	for _, p := range c.OutboundCIDRs {
		b.add(NAT, output, to(p, outward))
	}
	if c.AllOutbound {
		b.add(NAT, output, Rule{Do: outward})
	}
}

// interfaces are those that are left alone, and those of virtual machines,
// whose traffic arrives from outside and is outbound all the same.
func (b *planner) interfaces(ret, outward Action) {
	for _, i := range b.c.ExcludeInterfaces {
		b.add(NAT, Prerouting, Rule{Match: Match{In: i}, Do: ret})
		b.add(NAT, Output, Rule{Match: Match{Out: i}, Do: ret})
	}
	for _, i := range b.c.KubeVirtInterfaces {
		b.virtual(i, ret, outward)
	}
}

// virtual takes what comes from one interface as outbound, in the order of the
// output chain.
func (b *planner) virtual(name string, ret, outward Action) {
	c := b.c
	add := func(r Rule) {
		r.Match.In = name
		b.add(NAT, Prerouting, r)
	}
	for _, p := range c.ExcludeOutboundPorts {
		add(Rule{Match: Match{Proto: "tcp", DPort: p}, Do: ret})
	}
	for _, p := range c.ExcludeOutboundCIDRs {
		add(to(p, ret))
	}
	for _, p := range c.OutboundPorts {
		add(Rule{Match: Match{Proto: "tcp", DPort: p}, Do: outward})
	}
	for _, p := range c.OutboundCIDRs {
		add(to(p, outward))
	}
	if c.AllOutbound {
		add(Rule{Do: outward})
	}
	add(Rule{Do: ret})
}

// inboundPorts are those that come in.
func (b *planner) inboundPorts(inward Action) {
	ret := Action{Verb: Return}
	if b.c.TunnelPort != 0 {
		b.add(NAT, inbound, Rule{Match: Match{Proto: "tcp", DPort: b.c.TunnelPort}, Do: ret})
	}
	for _, p := range b.c.ExcludeInboundPorts {
		b.add(NAT, inbound, Rule{Match: Match{Proto: "tcp", DPort: p}, Do: ret})
	}
	if b.c.AllInbound {
		b.add(NAT, inbound, Rule{Match: Match{Proto: "tcp"}, Do: inward})
		return
	}
	for _, p := range b.c.InboundPorts {
		b.add(NAT, inbound, Rule{Match: Match{Proto: "tcp", DPort: p}, Do: inward})
	}
}

// loops reports whether loopback addresses are to be redirected, too.
func (c *Config) loops() bool {
	return slices.ContainsFunc(c.OutboundCIDRs, func(p netip.Prefix) bool { return p.Addr().IsLoopback() })
}

// owners leave the proxy's own traffic alone: what it sends to this host by
// another address than loopback is inbound (the application calls itself), the
// rest goes out as it is.
func (b *planner) owners(ret, inward Action) {
	four, six := notLoopback(b.c)
	for _, owner := range b.proxies() {
		self := owner.own
		self.Out, self.Proto, self.NotDPorts = "lo", "tcp", b.notTunnel()
		b.add(NAT, output, both(self, inward, four, six)...)
		if others := owner.others; others != nil && !b.c.loops() {
			others.Out = "lo"
			if b.c.DNS {
				others.Proto, others.NotDPorts = "tcp", []uint16{53}
			}
			b.add(NAT, output, Rule{Match: *others, Do: ret})
		}
		b.add(NAT, output, Rule{Match: owner.own, Do: ret})
	}
}

// owner is one way to tell the proxy's traffic.
type owner struct {
	own Match
	// others matches what is not the proxy's; nil where further owners decide.
	others *Match
}

// proxies are the ways to tell the proxy's traffic. The mark comes first and
// leaves what has none to the users and groups: a proxy that has a mark may run
// as any user.
func (b *planner) proxies() []owner {
	c := b.c
	var out []owner
	if c.Mark != 0 {
		o := owner{own: Match{Mark: c.Mark}}
		if len(c.UIDs)+len(c.GIDs) == 0 {
			o.others = &Match{NotMark: c.Mark}
		}
		out = append(out, o)
	}
	for _, uid := range c.UIDs {
		out = append(out, owner{Match{UID: &uid}, &Match{NotUID: &uid}})
	}
	for _, gid := range c.GIDs {
		out = append(out, owner{Match{GID: &gid}, &Match{NotGIDs: []uint32{gid}}})
	}
	return out
}

// notTunnel are the ports of the proxy's own calls that are never inbound.
func (b *planner) notTunnel() []uint16 {
	var out []uint16
	if b.c.DNS {
		out = append(out, 53)
	}
	if b.c.TunnelPort != 0 {
		out = append(out, b.c.TunnelPort)
	}
	return out
}

// groups limits what is redirected by the application's groups.
func (b *planner) groups(ret Action) {
	for _, g := range b.c.ExcludeOwnerGroups {
		b.add(NAT, output, Rule{Match: Match{GID: &g}, Do: ret})
	}
	if len(b.c.OwnerGroups) > 0 {
		b.add(NAT, output, Rule{Match: Match{NotGIDs: b.c.OwnerGroups}, Do: ret})
	}
}
