package iptables

import "slices"

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
	// Without a socket on the port nftables goes on to the next rule: what nobody
	// takes must not reach the application by itself. iptables drops it anyway.
	b.add(Mangle, tproxyChain, both(Match{Proto: "tcp"}, Action{Verb: Drop}, four, six)...)
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
	for _, i := range slices.Concat(b.c.ExcludeInterfaces, b.c.KubeVirtInterfaces) {
		b.add(Mangle, Prerouting, Rule{Match: Match{In: i}, Do: ret})
	}
	b.add(Mangle, Prerouting,
		Rule{Match: Match{Proto: "tcp"}, Do: Action{Verb: Jump, Chain: inbound}},
		Rule{Match: Match{Proto: "tcp", Mark: mark}, Do: Action{Verb: SaveMark}})
	b.add(Mangle, Output, Rule{Match: Match{Proto: "tcp", Out: "lo", Mark: mark}, Do: ret})
	for _, owner := range b.proxies() {
		own := owner.own
		own.Proto, own.Out = "tcp", "lo"
		b.add(Mangle, Output, both(own, Action{Verb: SetMark, Mark: outboundMark}, four, six)...)
	}
	b.add(Mangle, Output, Rule{Match: Match{Proto: "tcp", ConnMark: mark}, Do: Action{Verb: RestoreMark}})
}
