// Package iptables makes, checks and removes the redirection of a workload's
// traffic to its sidecar, with istio-iptables' flags and meaning.
//
// A Config is turned into one Plan, and a Plan is applied by one of two
// backends: native nftables over netlink, which needs no program, or
// iptables-restore, where hosts need that.
package iptables

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Mode is how inbound connections are taken.
type Mode string

// The modes.
const (
	Redirect Mode = "REDIRECT" // by NAT: the application sees 127.0.0.6
	TProxy   Mode = "TPROXY"   // as they are: it can see the caller
)

// Config is what istio-iptables' flags say.
type Config struct {
	OutboundPort uint16 // --envoy-port
	InboundPort  uint16 // --inbound-capture-port
	TunnelPort   uint16 // --inbound-tunnel-port: never redirected

	// UIDs and GIDs are whose traffic is left alone: the proxy's.
	UIDs, GIDs []uint32
	// Mark is a mark (SO_MARK) of connections that are left alone too; 0 is
	// none. It is outrider's own, for a proxy that shares its user.
	Mark uint32

	Mode Mode // --istio-inbound-interception-mode
	// AllInbound is "*" of --istio-inbound-ports; InboundPorts is a list. With
	// neither nothing inbound is redirected.
	AllInbound   bool
	InboundPorts []uint16
	// ExcludeInboundPorts are not redirected (--istio-local-exclude-ports).
	ExcludeInboundPorts []uint16

	// AllOutbound is "*" of --istio-service-cidr; OutboundCIDRs is a list.
	AllOutbound   bool
	OutboundCIDRs []netip.Prefix
	// ExcludeOutboundCIDRs are not redirected (--istio-service-exclude-cidr).
	ExcludeOutboundCIDRs []netip.Prefix
	// OutboundPorts are redirected wherever they are (--istio-outbound-ports);
	// ExcludeOutboundPorts are not (--istio-local-outbound-ports-exclude).
	OutboundPorts, ExcludeOutboundPorts []uint16

	// ExcludeInterfaces are left alone; the traffic of KubeVirtInterfaces is
	// taken as outbound.
	ExcludeInterfaces, KubeVirtInterfaces []string

	// OwnerGroups are the groups whose outbound traffic is redirected, nil for
	// all; ExcludeOwnerGroups those whose is not (ISTIO_OUTBOUND_OWNER_GROUPS,
	// ..._EXCLUDE).
	OwnerGroups, ExcludeOwnerGroups []uint32

	// TProxyMark and TProxyTable are the mark and the route table of TPROXY
	// (--istio-inbound-tproxy-mark, --istio-inbound-tproxy-route-table).
	TProxyMark, TProxyTable uint32

	// DNS takes DNS to DNSServers (--redirect-dns), or to any server with
	// AllDNS (--capture-all-dns), to DNSPort.
	DNS, AllDNS bool
	DNSServers  []netip.Addr
	DNSPort     uint16

	// DropInvalid drops inbound packets that belong to no connection
	// (--drop-invalid).
	DropInvalid bool
	// IPv6 makes the rules for IPv6 too.
	IPv6 bool
	// Loopback4 is what counts as loopback (ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR).
	Loopback4 netip.Prefix
}

// Default is a Config in which nothing is redirected yet, with istio-iptables'
// numbers.
func Default() Config {
	return Config{
		OutboundPort: 15001, InboundPort: 15006, TunnelPort: 15008, DNSPort: 15053,
		UIDs: []uint32{1337}, GIDs: []uint32{1337}, Mode: Redirect,
		TProxyMark: 1337, TProxyTable: 133, IPv6: true, Loopback4: netip.MustParsePrefix("127.0.0.1/32"),
	}
}

// Check reports every mistake.
func (c *Config) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Mode != Redirect && c.Mode != TProxy {
		bad("interception mode %q: it is REDIRECT or TPROXY", c.Mode)
	}
	for name, port := range map[string]uint16{"outbound capture port": c.OutboundPort, "inbound capture port": c.InboundPort, "DNS port": c.DNSPort} {
		if port == 0 {
			bad("%s 0: it is from 1 to 65535", name)
		}
	}
	if c.InboundPort == c.OutboundPort {
		bad("inbound and outbound are both captured to port %d", c.InboundPort)
	}
	if len(c.UIDs) == 0 && len(c.GIDs) == 0 && c.Mark == 0 {
		bad("there is no uid, gid or mark of the proxy: its own traffic would come back to it")
	}
	if c.Mode == TProxy && (c.TProxyMark == 0 || c.TProxyTable == 0 || c.TProxyTable > 252) {
		bad("TPROXY mark %d, route table %d: the mark is not 0, the table from 1 to 252", c.TProxyMark, c.TProxyTable)
	}
	if c.AllInbound && len(c.InboundPorts) > 0 {
		bad("inbound ports: all, and a list")
	}
	if !c.AllInbound && len(c.ExcludeInboundPorts) > 0 && len(c.InboundPorts) > 0 {
		for _, p := range c.ExcludeInboundPorts {
			if slices.Contains(c.InboundPorts, p) {
				bad("inbound port %d is included and excluded", p)
			}
		}
	}
	for _, name := range slices.Concat(c.ExcludeInterfaces, c.KubeVirtInterfaces) {
		if name == "" || len(name) > 15 || strings.ContainsAny(name, " /\"'") {
			bad("interface %q: it is no name of an interface", name)
		}
	}
	if len(c.OwnerGroups) > 0 && len(c.ExcludeOwnerGroups) > 0 {
		bad("outbound owner groups are included and excluded")
	}
	if c.AllDNS && !c.DNS {
		bad("all DNS is to be captured, but no DNS")
	}
	if c.DNS && !c.AllDNS && len(c.DNSServers) == 0 {
		bad("DNS is to be captured, and there is no server in resolv.conf to capture it to: --capture-all-dns takes all")
	}
	return errors.Join(errs...)
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
