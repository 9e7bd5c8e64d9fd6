package iptables

import (
	"net/netip"
	"strings"
	"testing"
)

func TestEveryMistakeIsToldAtOnce(t *testing.T) {
	c := Default()
	c.Mode, c.UIDs, c.GIDs = "NAT", nil, nil
	c.DNSPort, c.InboundPort = 15001, 0
	c.InboundPorts, c.ExcludeInboundPorts = []uint16{80}, []uint16{80}
	c.OwnerGroups, c.ExcludeOwnerGroups = []uint32{1}, []uint32{2}
	c.ExcludeInterfaces = []string{"eth0\n*nat"}
	c.AllDNS = true
	err := c.Check()
	if err == nil {
		t.Fatal("all is right")
	}
	want := []string{
		"inbound capture port 0: it is from 1 to 65535",
		"outbound capture port and DNS port are both 15001",
		"inbound port 80 is included and excluded",
		`interface "eth0\n*nat": it is no name of an interface`,
		`interception mode "NAT": it is REDIRECT or TPROXY`,
		"there is no uid, gid or mark of the proxy: its own traffic would come back to it",
		"outbound owner groups are included and excluded",
		"all DNS is to be captured, but no DNS",
	}
	if got := strings.Split(err.Error(), "\n"); strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got:\n%s\nwant:\n%s", err, strings.Join(want, "\n"))
	}
}

func TestWhatCannotWorkIsRefused(t *testing.T) {
	prefix := netip.MustParsePrefix
	for want, change := range map[string]func(*Config){
		"TPROXY mark 0":                    func(c *Config) { c.Mode, c.TProxyMark = TProxy, 0 },
		"TPROXY route table 254":           func(c *Config) { c.Mode, c.TProxyTable = TProxy, 254 },
		"mark 1338 is what":                func(c *Config) { c.Mode, c.TProxyMark = TProxy, 1338 },
		"are both 1337":                    func(c *Config) { c.Mode, c.Mark = TProxy, 1337 },
		"inbound ports: all, and a list":   func(c *Config) { c.AllInbound, c.InboundPorts = true, []uint16{80} },
		"outbound ranges: all, and a list": func(c *Config) { c.AllOutbound, c.OutboundCIDRs = true, []netip.Prefix{prefix("10.0.0.0/8")} },
		"range 10.0.0.1/8":                 func(c *Config) { c.OutboundCIDRs = []netip.Prefix{prefix("10.0.0.1/8")} },
		"range ::ffff:10.0.0.0/104":        func(c *Config) { c.ExcludeOutboundCIDRs = []netip.Prefix{prefix("::ffff:10.0.0.0/104")} },
		"outbound port 0":                  func(c *Config) { c.OutboundPorts = []uint16{0} },
		"outbound port 5 is included":      func(c *Config) { c.OutboundPorts, c.ExcludeOutboundPorts = []uint16{5}, []uint16{5} },
		`"eth0" is excluded, and one of`:   func(c *Config) { c.ExcludeInterfaces, c.KubeVirtInterfaces = []string{"eth0"}, []string{"eth0"} },
		`interface "+"`:                    func(c *Config) { c.ExcludeInterfaces = []string{"+"} },
		`interface "e+h0"`:                 func(c *Config) { c.ExcludeInterfaces = []string{"e+h0"} },
		`interface "0123456789abcdef"`:     func(c *Config) { c.KubeVirtInterfaces = []string{"0123456789abcdef"} },
		"DNS is to be captured, and":       func(c *Config) { c.DNS = true },
		"DNS server fe80::1%eth0":          func(c *Config) { c.DNS, c.DNSServers = true, []netip.Addr{netip.MustParseAddr("fe80::1%eth0")} },
		"IPv4 loopback range 10.0.0.0/8":   func(c *Config) { c.Loopback4 = prefix("10.0.0.0/8") },
		"65 outbound owner groups":         func(c *Config) { c.OwnerGroups = make([]uint32, 65) },
	} {
		c := Default()
		change(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}

func TestListsAreReadAsIstioWritesThem(t *testing.T) {
	ports, all, err := ParsePorts(" 80,,443 ,80")
	if err != nil || all || len(ports) != 2 || ports[0] != 80 || ports[1] != 443 {
		t.Errorf("got %v, %v, %v", ports, all, err)
	}
	if _, all, err := ParsePorts("*"); err != nil || !all {
		t.Errorf("*: %v, %v", all, err)
	}
	for _, text := range []string{"0", "65536", "http", "-1", "80-90", "*,80"} {
		if _, _, err := ParsePorts(text); err == nil {
			t.Errorf("ports %q are taken", text)
		}
	}
	cidrs, _, err := ParseCIDRs("10.1.2.3/8, fd00::/8")
	if err != nil || len(cidrs) != 2 || cidrs[0].String() != "10.0.0.0/8" {
		t.Errorf("got %v, %v", cidrs, err)
	}
	for _, text := range []string{"10.0.0.1", "10.0.0.300/24", "::ffff:10.0.0.0/104", "10.0.0.0/8,*"} {
		if _, _, err := ParseCIDRs(text); err == nil {
			t.Errorf("ranges %q are taken", text)
		}
	}
}
