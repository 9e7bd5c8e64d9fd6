package iptables

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// KernelHasIPv6 reports whether the kernel has IPv6 in the network namespace of
// the calling thread: an address, or leave to have one.
func KernelHasIPv6() bool {
	addresses, err := os.ReadFile("/proc/thread-self/net/if_inet6")
	if err != nil {
		return false // ipv6.disable=1, or no IPv6 in the kernel
	}
	off, err := os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
	return len(addresses) > 0 || err == nil && strings.TrimSpace(string(off)) == "0"
}

// Nameservers are the DNS servers of a resolv.conf; zones of link-local
// addresses are left out.
func Nameservers(path string) ([]netip.Addr, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for l := range strings.Lines(string(text)) {
		words := strings.Fields(l)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(words[1])
		if err != nil {
			return nil, fmt.Errorf("%s: nameserver %q: %w", path, words[1], err)
		}
		out = append(out, a.WithZone("").Unmap())
	}
	return out, nil
}

// Commands are what is done beside the rules, as ip's command lines.
func (p *Plan) Commands() []string {
	var out []string
	for _, a := range p.Loopback {
		out = append(out, fmt.Sprintf("ip -6 addr add %s dev lo nodad", a))
	}
	if p.Routes != nil {
		families := []string{"-4"}
		if p.IPv6 {
			families = append(families, "-6")
		}
		for _, f := range families {
			out = append(out,
				fmt.Sprintf("ip %s rule add fwmark %d lookup %d protocol %d", f, p.Routes.Mark, p.Routes.Table, originator),
				fmt.Sprintf("ip %s route add local default dev lo table %d proto %d", f, p.Routes.Table, originator))
		}
	}
	return out
}
