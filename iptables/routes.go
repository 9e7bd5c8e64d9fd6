package iptables

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routing is what is needed beside the rules: for TPROXY, packets with the mark
// are delivered to this host; the address ::6 for the sidecar's own calls.
type routing struct {
	families []int
	marks    *MarkRoutes
	loopback []netip.Prefix
}

func (p *Plan) routing() routing {
	r := routing{families: []int{netlink.FAMILY_V4}, marks: p.Routes, loopback: p.Loopback}
	if p.IPv6 {
		r.families = append(r.families, netlink.FAMILY_V6)
	}
	return r
}

// apply adds what is missing.
func (r routing) apply() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("interface lo: %w", err)
	}
	for _, p := range r.loopback {
		if err := netlink.AddrReplace(lo, addr(p)); err != nil {
			return fmt.Errorf("address %s on lo: %w", p, err)
		}
	}
	if r.marks == nil {
		return nil
	}
	for _, family := range r.families {
		if err := netlink.RouteReplace(localRoute(family, r.marks.Table, lo)); err != nil {
			return fmt.Errorf("route local default, table %d: %w", r.marks.Table, err)
		}
		if err := r.marks.addRule(family); err != nil {
			return fmt.Errorf("rule fwmark %d, table %d: %w", r.marks.Mark, r.marks.Table, err)
		}
	}
	return nil
}

// addRule makes the rule be there once: the kernel would take it twice.
func (m MarkRoutes) addRule(family int) error {
	have, err := m.rules(family)
	if err != nil {
		return err
	}
	for _, extra := range have[min(1, len(have)):] {
		if err := netlink.RuleDel(&extra); err != nil {
			return err
		}
	}
	if len(have) > 0 {
		return nil
	}
	return netlink.RuleAdd(markRule(family, m))
}

// rules are those that are there already.
func (m MarkRoutes) rules(family int) ([]netlink.Rule, error) {
	return netlink.RuleListFiltered(family, markRule(family, m), netlink.RT_FILTER_MARK|netlink.RT_FILTER_TABLE)
}

// remove takes away what apply added; what is not there is no error.
func (r routing) remove() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("interface lo: %w", err)
	}
	var errs []error
	gone := func(err error) {
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.EAFNOSUPPORT) {
			errs = append(errs, err)
		}
	}
	for _, p := range r.loopback {
		gone(netlink.AddrDel(lo, addr(p)))
	}
	if r.marks != nil {
		for _, family := range r.families {
			for range maxRules { // one may be there more than once
				if err := netlink.RuleDel(markRule(family, *r.marks)); err != nil {
					gone(err)
					break
				}
			}
			gone(netlink.RouteDel(localRoute(family, r.marks.Table, lo)))
		}
	}
	return errors.Join(errs...)
}

// maxRules bounds how often the same rule is taken away.
const maxRules = 16

// drift is what is missing, or there more than once.
func (r routing) drift() ([]string, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("interface lo: %w", err)
	}
	var out []string
	have, err := netlink.AddrList(lo, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	for _, p := range r.loopback {
		found := false
		for _, a := range have {
			found = found || a.IPNet.String() == p.String()
		}
		if !found {
			out = append(out, fmt.Sprintf("lo lacks the address %s", p))
		}
	}
	if r.marks == nil {
		return out, nil
	}
	for _, family := range r.families {
		more, err := r.marks.drift(family, lo)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

func (m MarkRoutes) drift(family int, lo netlink.Link) ([]string, error) {
	var out []string
	rules, err := m.rules(family)
	if err != nil {
		return nil, err
	}
	if len(rules) != 1 {
		out = append(out, fmt.Sprintf("%s has %d rules fwmark %d, table %d, not one", familyName(family), len(rules), m.Mark, m.Table))
	}
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: int(m.Table)}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, err
	}
	if len(routes) != 1 || routes[0].Type != unix.RTN_LOCAL || routes[0].LinkIndex != lo.Attrs().Index {
		out = append(out, fmt.Sprintf("%s, table %d is not one route: local default dev lo", familyName(family), m.Table))
	}
	return out, nil
}

func familyName(family int) string {
	if family == netlink.FAMILY_V6 {
		return "IPv6"
	}
	return "IPv4"
}

func addr(p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}, Flags: unix.IFA_F_NODAD}
}

func localRoute(family int, table uint32, lo netlink.Link) *netlink.Route {
	any := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	if family == netlink.FAMILY_V6 {
		any = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &netlink.Route{Family: family, Dst: any, LinkIndex: lo.Attrs().Index, Table: int(table), Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}
}

func markRule(family int, m MarkRoutes) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Mark, r.Table = family, m.Mark, int(m.Table)
	return r
}
