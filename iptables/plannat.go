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
	if c.Mode == Redirect && (c.AllInbound || len(c.InboundPorts) > 0) {
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
		for _, p := range b.c.ExcludeOutboundCIDRs {
			r := to(p, ret)
			r.Match.In = i
			b.add(NAT, Prerouting, r)
		}
		if b.c.AllOutbound {
			b.add(NAT, Prerouting, Rule{Match: Match{In: i}, Do: outward})
		}
		for _, p := range b.c.OutboundCIDRs {
			r := to(p, outward)
			r.Match.In = i
			b.add(NAT, Prerouting, r)
		}
		b.add(NAT, Prerouting, Rule{Match: Match{In: i}, Do: ret})
	}
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
		own, others := Match{}, Match{}
		owner(&own, &others)
		self := own
		self.Out, self.Proto, self.NotDPorts = "lo", "tcp", b.notTunnel()
		b.add(NAT, output, both(self, inward, four, six)...)
		if !b.c.loops() {
			others.Out = "lo"
			if b.c.DNS {
				others.Proto, others.NotDPorts = "tcp", []uint16{53}
			}
			b.add(NAT, output, Rule{Match: others, Do: ret})
		}
		b.add(NAT, output, Rule{Match: own, Do: ret})
	}
}

// proxies are the ways to tell the proxy's traffic; each fills in what is the
// proxy's and what is not.
func (b *planner) proxies() []func(own, others *Match) {
	var out []func(own, others *Match)
	for _, uid := range b.c.UIDs {
		out = append(out, func(own, others *Match) { own.UID, others.NotUID = &uid, &uid })
	}
	for _, gid := range b.c.GIDs {
		out = append(out, func(own, others *Match) { own.GID, others.NotGIDs = &gid, []uint32{gid} })
	}
	if b.c.Mark != 0 {
		out = append(out, func(own, others *Match) { own.Mark, others.NotMark = b.c.Mark, b.c.Mark })
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
