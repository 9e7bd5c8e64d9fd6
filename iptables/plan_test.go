package iptables

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// configs are those whose plans are kept in testdata.
func configs() map[string]Config {
	with := func(change func(*Config)) Config {
		c := Default()
		change(&c)
		return c
	}
	prefix := netip.MustParsePrefix
	return map[string]Config{
		"nothing": Default(),
		"all":     with(func(c *Config) { c.AllInbound, c.AllOutbound = true, true }),
		"all-ipv4": with(func(c *Config) {
			c.AllInbound, c.AllOutbound, c.IPv6 = true, true, false
		}),
		"excluded": with(func(c *Config) {
			c.AllInbound, c.AllOutbound = true, true
			c.ExcludeInboundPorts, c.ExcludeOutboundPorts = []uint16{22, 15090, 15021, 15020}, []uint16{5432}
			c.ExcludeOutboundCIDRs = []netip.Prefix{prefix("10.96.0.0/16"), prefix("fd00::/64")}
			c.ExcludeInterfaces = []string{"eth1"}
		}),
		"lists": with(func(c *Config) {
			c.InboundPorts, c.OutboundPorts = []uint16{80, 443}, []uint16{9000}
			c.OutboundCIDRs = []netip.Prefix{prefix("10.0.0.0/8"), prefix("fd00::/8")}
			c.UIDs, c.GIDs = []uint32{1337, 0}, nil
			c.ExcludeOwnerGroups = []uint32{7, 8}
		}),
		"groups-and-mark": with(func(c *Config) {
			c.AllOutbound, c.OwnerGroups, c.Mark, c.UIDs = true, []uint32{100, 101}, 0x539a, nil
		}),
		"ranges": with(func(c *Config) {
			c.OutboundCIDRs = []netip.Prefix{prefix("0.0.0.0/0"), prefix("::/0")}
			c.ExcludeOutboundCIDRs = []netip.Prefix{prefix("10.1.2.0/23"), prefix("10.1.0.0/16"), prefix("fc00::/7"), prefix("fd01:2::/32"), prefix("fd03::3/128")}
		}),
		"loopback": with(func(c *Config) { c.OutboundCIDRs = []netip.Prefix{prefix("127.1.2.3/32")} }),
		"kube-virt": with(func(c *Config) {
			c.AllOutbound, c.KubeVirtInterfaces = true, []string{"k6t-net0"}
			c.ExcludeOutboundCIDRs = []netip.Prefix{prefix("10.96.0.0/16")}
		}),
		"kube-virt-tproxy": with(func(c *Config) {
			c.Mode, c.AllInbound, c.KubeVirtInterfaces = TProxy, true, []string{"k6t-net0", "tap+"}
			c.OutboundCIDRs = []netip.Prefix{prefix("10.0.0.0/8"), prefix("fd00::/8")}
			c.OutboundPorts, c.ExcludeOutboundPorts = []uint16{9000}, []uint16{5432}
		}),
		"mark-alone": with(func(c *Config) {
			c.AllInbound, c.AllOutbound, c.Mark, c.UIDs, c.GIDs = true, true, 0x539a, nil, nil
		}),
		"dns": with(func(c *Config) {
			c.AllOutbound, c.DNS = true, true
			c.DNSServers = []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00::a")}
		}),
		"dns-all": with(func(c *Config) { c.AllInbound, c.AllOutbound, c.DNS, c.AllDNS = true, true, true, true }),
		"tproxy": with(func(c *Config) {
			c.Mode, c.AllInbound, c.AllOutbound, c.DropInvalid = TProxy, true, true, true
			c.ExcludeInboundPorts, c.ExcludeInterfaces = []uint16{22}, []string{"eth1"}
		}),
		"tproxy-ports": with(func(c *Config) { c.Mode, c.InboundPorts, c.AllOutbound = TProxy, []uint16{80}, true }),
	}
}

func TestPlansAreTheGoldenOnesInBothLanguages(t *testing.T) {
	for name, c := range configs() {
		t.Run(name, func(t *testing.T) {
			if err := c.Check(); err != nil {
				t.Fatal(err)
			}
			p := NewPlan(c)
			golden(t, name+".nft", p.NFT())
			golden(t, name+".v4", p.Restore(IPv4))
			if c.IPv6 {
				golden(t, name+".v6", p.Restore(IPv6))
			}
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-golden +got):\n%s", name, diff)
	}
}
