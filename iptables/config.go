// Package iptables makes, checks and removes the redirection of a workload's
// traffic to its sidecar, with istio-iptables' flags and meaning.
//
// A Config is turned into one Plan, and a Plan is applied by one of two
// backends: native nftables over netlink, which needs no program, or
// iptables-restore, where hosts need that.
package iptables

import "net/netip"

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
	// none. It is outrider's own, for a proxy that shares its user with the
	// application. To set a mark takes CAP_NET_ADMIN, or CAP_NET_RAW.
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

	// ExcludeInterfaces are left alone; what comes from KubeVirtInterfaces is
	// taken as outbound. A + at a name's end stands for anything.
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
