package iptables

import "net/netip"

// host is the range of one address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// servers calls do for each server whose DNS is taken; with the zero Prefix for
// all.
func (b *planner) servers(do func(f Family, server netip.Prefix)) {
	if b.c.AllDNS {
		do(Any, netip.Prefix{})
		return
	}
	for _, s := range b.c.DNSServers {
		family := IPv4
		if s.Is6() {
			family = IPv6
		}
		do(family, host(s))
	}
}

// dnsRedirect takes DNS to the sidecar's resolver.
func (b *planner) dnsRedirect() {
	b.add(NAT, output, Rule{Do: Action{Verb: Jump, Chain: outputDNS}})
	for _, proto := range []string{"tcp", "udp"} {
		b.servers(func(f Family, server netip.Prefix) {
			b.add(NAT, outputDNS, Rule{Family: f, Match: Match{Proto: proto, DPort: 53, Dst: server}, Do: Action{Verb: RedirectTo, Port: b.c.DNSPort}})
		})
	}
}

// The connection tracking zones that keep the two halves of a DNS question
// apart: the application's to the sidecar, and the sidecar's to the server.
const zoneProxy, zoneApp = 1, 2

// dnsZones keeps apart what has the same addresses and ports.
func (b *planner) dnsZones() {
	for _, owner := range b.proxies() {
		own := Match{}
		owner(&own, &Match{})
		ask, answer := own, own
		ask.Proto, ask.DPort = "udp", 53
		answer.Proto, answer.SPort = "udp", b.c.DNSPort
		b.add(Raw, Output,
			Rule{Match: ask, Do: Action{Verb: SetZone, Zone: zoneProxy}},
			Rule{Match: answer, Do: Action{Verb: SetZone, Zone: zoneApp}})
	}
	b.add(Raw, Output, Rule{Do: Action{Verb: Jump, Chain: outputDNS}})
	b.add(Raw, Prerouting, Rule{Do: Action{Verb: Jump, Chain: inbound}})
	b.servers(func(f Family, server netip.Prefix) {
		b.add(Raw, outputDNS, Rule{Family: f, Match: Match{Proto: "udp", DPort: 53, Dst: server}, Do: Action{Verb: SetZone, Zone: zoneApp}})
		b.add(Raw, inbound, Rule{Family: f, Match: Match{Proto: "udp", SPort: 53, Src: server}, Do: Action{Verb: SetZone, Zone: zoneProxy}})
	})
}

// outboundMark is the mark of the proxy's calls to this host: TPROXY leaves
// alone what comes over lo without it.
const outboundMark = 1338

// tproxy makes the mangle table: inbound connections reach the sidecar as they
// are, and what it sends from the callers' addresses comes back to it.
func (b *planner) tproxy() {
	mark := b.c.TProxyMark
	ret := Action{Verb: Return}
	b.add(Mangle, divert, Rule{Do: Action{Verb: SetMark, Mark: mark}}, Rule{Do: Action{Verb: Accept}})
	four, six := notLoopback(b.c)
	b.add(Mangle, tproxyChain, both(Match{Proto: "tcp"}, Action{Verb: TProxyTo, Port: b.c.InboundPort, Mark: mark}, four, six)...)
	b.add(Mangle, inbound, Rule{Match: Match{Proto: "tcp", Mark: mark}, Do: ret})
	b.add(Mangle, inbound, both(Match{Proto: "tcp", In: "lo"}, ret, func(m *Match) { m.Src = source4() }, func(m *Match) { m.Src = source6() })...)
	b.add(Mangle, inbound, Rule{Match: Match{Proto: "tcp", In: "lo", NotMark: outboundMark}, Do: ret})
	if b.c.TunnelPort != 0 {
		b.add(Mangle, inbound, Rule{Match: Match{Proto: "tcp", DPort: b.c.TunnelPort}, Do: ret})
	}
	for _, p := range b.c.ExcludeInboundPorts {
		b.add(Mangle, inbound, Rule{Match: Match{Proto: "tcp", DPort: p}, Do: ret})
	}
	ports := b.c.InboundPorts
	if b.c.AllInbound {
		ports = []uint16{0} // any
	}
	for _, p := range ports {
		b.add(Mangle, inbound,
			Rule{Match: Match{Proto: "tcp", DPort: p, State: "RELATED,ESTABLISHED"}, Do: Action{Verb: Jump, Chain: divert}},
			Rule{Match: Match{Proto: "tcp", DPort: p}, Do: Action{Verb: Jump, Chain: tproxyChain}})
	}
	for _, i := range b.c.ExcludeInterfaces {
		b.add(Mangle, Prerouting, Rule{Match: Match{In: i}, Do: ret})
	}
	b.add(Mangle, Prerouting,
		Rule{Match: Match{Proto: "tcp"}, Do: Action{Verb: Jump, Chain: inbound}},
		Rule{Match: Match{Proto: "tcp", Mark: mark}, Do: Action{Verb: SaveMark}})
	b.add(Mangle, Output, Rule{Match: Match{Proto: "tcp", Out: "lo", Mark: mark}, Do: ret})
	for _, owner := range b.proxies() {
		own := Match{Proto: "tcp", Out: "lo"}
		owner(&own, &Match{})
		b.add(Mangle, Output, both(own, Action{Verb: SetMark, Mark: outboundMark}, four, six)...)
	}
	b.add(Mangle, Output, Rule{Match: Match{Proto: "tcp", ConnMark: mark}, Do: Action{Verb: RestoreMark}})
}
