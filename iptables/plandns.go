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
		ask, answer := owner.own, owner.own
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
