package iptables

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Check reports every mistake.
func (c *Config) Check() error {
	var m mistakes
	c.checkPorts(&m)
	c.checkMarks(&m)
	c.checkInterfaces(&m)
	c.checkRanges(&m)
	if c.Mode != Redirect && c.Mode != TProxy {
		m.add("interception mode %q: it is REDIRECT or TPROXY", c.Mode)
	}
	if len(c.UIDs) == 0 && len(c.GIDs) == 0 && c.Mark == 0 {
		m.add("there is no uid, gid or mark of the proxy: its own traffic would come back to it")
	}
	if len(c.OwnerGroups) > 0 && len(c.ExcludeOwnerGroups) > 0 {
		m.add("outbound owner groups are included and excluded")
	}
	if len(c.OwnerGroups) > maxOwnerGroups {
		m.add("%d outbound owner groups: iptables takes %d in a rule", len(c.OwnerGroups), maxOwnerGroups)
	}
	if c.AllDNS && !c.DNS {
		m.add("all DNS is to be captured, but no DNS")
	}
	if c.DNS && !c.AllDNS && len(c.DNSServers) == 0 {
		m.add("DNS is to be captured, and there is no server in resolv.conf to capture it to: --capture-all-dns takes all")
	}
	return errors.Join(m...)
}

// maxOwnerGroups is istio-iptables' limit.
const maxOwnerGroups = 64

type mistakes []error

func (m *mistakes) add(format string, args ...any) { *m = append(*m, fmt.Errorf(format, args...)) }

func (c *Config) checkPorts(m *mistakes) {
	captures := []struct {
		name string
		port uint16
	}{{"outbound capture port", c.OutboundPort}, {"inbound capture port", c.InboundPort}, {"DNS port", c.DNSPort}}
	for i, p := range captures {
		if p.port == 0 {
			m.add("%s 0: it is from 1 to 65535", p.name)
			continue
		}
		for _, other := range captures[:i] {
			if p.port == other.port {
				m.add("%s and %s are both %d", other.name, p.name, p.port)
			}
		}
	}
	if c.AllInbound && len(c.InboundPorts) > 0 {
		m.add("inbound ports: all, and a list")
	}
	for _, list := range []struct {
		name         string
		is, excluded []uint16
	}{{"inbound", c.InboundPorts, c.ExcludeInboundPorts}, {"outbound", c.OutboundPorts, c.ExcludeOutboundPorts}} {
		for _, p := range list.excluded {
			if slices.Contains(list.is, p) {
				m.add("%s port %d is included and excluded", list.name, p)
			}
		}
		if slices.Contains(slices.Concat(list.is, list.excluded), 0) {
			m.add("%s port 0: it is from 1 to 65535", list.name)
		}
	}
}

// checkMarks keeps apart what the marks mean.
func (c *Config) checkMarks(m *mistakes) {
	if c.Mode != TProxy {
		return
	}
	if c.TProxyMark == 0 {
		m.add("TPROXY mark 0: every packet has that")
	}
	if c.TProxyMark == outboundMark || c.Mark == outboundMark {
		m.add("mark %d is what the proxy's calls to its own host get", outboundMark)
	}
	if c.Mark != 0 && c.Mark == c.TProxyMark {
		m.add("the proxy's mark and the TPROXY mark are both %d", c.Mark)
	}
	// The kernel's own tables (linux/rtnetlink.h, enum rt_class_t).
	if c.TProxyTable == 0 || c.TProxyTable >= 253 && c.TProxyTable <= 255 {
		m.add("TPROXY route table %d: 0 and 253 to 255 are the kernel's", c.TProxyTable)
	}
}

// maxInterface is the longest name of an interface (IFNAMSIZ without its zero).
const maxInterface = 15

func (c *Config) checkInterfaces(m *mistakes) {
	for _, name := range slices.Concat(c.ExcludeInterfaces, c.KubeVirtInterfaces) {
		odd := func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/:"'\*`, r) }
		beginning := strings.TrimSuffix(name, "+")
		if beginning == "" || len(name) > maxInterface || strings.ContainsFunc(name, odd) || strings.Contains(beginning, "+") {
			m.add("interface %q: it is no name of an interface", name)
		}
	}
	for _, name := range c.ExcludeInterfaces {
		if slices.Contains(c.KubeVirtInterfaces, name) {
			m.add("interface %q is excluded, and one of a virtual machine", name)
		}
	}
}

func (c *Config) checkRanges(m *mistakes) {
	if c.AllOutbound && len(c.OutboundCIDRs) > 0 {
		m.add("outbound ranges: all, and a list")
	}
	for _, p := range slices.Concat(c.OutboundCIDRs, c.ExcludeOutboundCIDRs) {
		if !p.IsValid() || p.Addr().Is4In6() || p != p.Masked() {
			m.add("range %s: it is no range of IPv4 or IPv6 that begins at its first address", p)
		}
	}
	for _, a := range c.DNSServers {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			m.add("DNS server %s: it is no plain address", a)
		}
	}
	if l := c.Loopback4; !l.IsValid() || !l.Addr().Is4() || !l.Addr().IsLoopback() || l.Bits() < 8 {
		m.add("IPv4 loopback range %s: it is no part of 127.0.0.0/8", l)
	}
}

// ParsePorts reads "80,443", or "*" where all is allowed for.
func ParsePorts(text string) (ports []uint16, all bool, err error) {
	if text == "*" {
		return nil, true, nil
	}
	for _, item := range list(text) {
		n, err := strconv.ParseUint(item, 10, 16)
		if err != nil || n == 0 {
			return nil, false, fmt.Errorf("%q is no port", item)
		}
		if !slices.Contains(ports, uint16(n)) {
			ports = append(ports, uint16(n))
		}
	}
	return ports, false, nil
}

// ParseCIDRs reads "10.0.0.0/8,fd00::/8", or "*".
func ParseCIDRs(text string) (out []netip.Prefix, all bool, err error) {
	if text == "*" {
		return nil, true, nil
	}
	for _, item := range list(text) {
		p, err := netip.ParsePrefix(item)
		if err != nil {
			return nil, false, fmt.Errorf("%q is no range of addresses: %w", item, err)
		}
		if p.Addr().Is4In6() {
			return nil, false, fmt.Errorf("%q: write it as a range of IPv4", item)
		}
		if !slices.Contains(out, p.Masked()) {
			out = append(out, p.Masked())
		}
	}
	return out, false, nil
}

// list are the items between commas, spaces around them cut off.
func list(text string) []string {
	var out []string
	for _, item := range strings.Split(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}
