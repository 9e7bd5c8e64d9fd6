package iptables

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// originator marks our routes and routing rules, so that they are told from
// those of others (rtm_protocol; rtnetlink(7)). Numbers from 4 on mean nothing
// to the kernel, and this one is nobody's in iproute2's rt_protos.
const originator = 133

// routing is what is needed beside the rules: for TPROXY, packets with the mark
// are delivered to this host; the address ::6 for the sidecar's own calls.
type routing struct {
	families []int
	marks    *MarkRoutes
	loopback []netip.Prefix
}

// routing of a nil plan is none.
func (p *Plan) routing() routing {
	r := routing{}
	if p == nil {
		return r
	}
	if r.marks, r.loopback = p.Routes, p.Loopback; r.marks != nil {
		r.families = append(r.families, netlink.FAMILY_V4)
		if p.IPv6 {
			r.families = append(r.families, netlink.FAMILY_V6)
		}
	}
	return r
}

// item is an address, a route or a routing rule.
type item struct {
	what        string
	add, remove func() error
	// same reports whether an item that the kernel has is this one.
	same func(item) bool
	// the one that it is
	address netip.Prefix
	family  int
	rule    *netlink.Rule
	route   *netlink.Route
}

// items are what the plan wants, the routes before the rules that lead to them.
func (r routing) items(lo netlink.Link) []item {
	var out []item
	for _, p := range r.loopback {
		out = append(out, addressItem(lo, p))
	}
	for _, family := range r.families {
		out = append(out, routeItem(family, localRoute(family, r.marks.Table, lo)), ruleItem(family, markRule(family, *r.marks)))
	}
	return out
}

func addressItem(lo netlink.Link, p netip.Prefix) item {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}, Flags: unix.IFA_F_NODAD}
	return item{
		what: fmt.Sprintf("address %s on lo", p), address: p,
		add:    func() error { return netlink.AddrReplace(lo, a) },
		remove: func() error { return gone(netlink.AddrDel(lo, a)) },
		same:   func(other item) bool { return other.address == p },
	}
}

func routeItem(family int, r *netlink.Route) item {
	return item{
		what: fmt.Sprintf("%s route local default dev lo table %d", familyName(family), r.Table), family: family, route: r,
		add:    func() error { return netlink.RouteReplace(r) },
		remove: func() error { return gone(netlink.RouteDel(r)) },
		same: func(o item) bool {
			return o.route != nil && o.family == family && o.route.Table == r.Table && o.route.Type == r.Type && o.route.LinkIndex == r.LinkIndex
		},
	}
}

func ruleItem(family int, r *netlink.Rule) item {
	return item{
		what: fmt.Sprintf("%s rule fwmark %d lookup %d", familyName(family), r.Mark, r.Table), family: family, rule: r,
		add:    func() error { return netlink.RuleAdd(r) },
		remove: func() error { return gone(netlink.RuleDel(r)) },
		same: func(o item) bool {
			return o.rule != nil && o.family == family && o.rule.Mark == r.Mark && o.rule.Table == r.Table && !o.rule.Invert && o.rule.IifName == "" && o.rule.Src == nil
		},
	}
}

// gone drops the error that something is not there.
func gone(err error) error {
	for _, is := range []error{unix.ESRCH, unix.ENOENT, unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT} {
		if errors.Is(err, is) {
			return nil
		}
	}
	return err
}

// present are the routes and rules in the kernel that are ours, and ::6.
func present(lo netlink.Link) ([]item, error) {
	var out []item
	have, err := netlink.AddrList(lo, netlink.FAMILY_V6)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, fmt.Errorf("addresses of lo: %w", err)
	}
	for _, a := range have {
		if a.IPNet.String() == source6().String() {
			out = append(out, addressItem(lo, source6()))
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		more, err := presentOf(family)
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("%s routes and rules: %w", familyName(family), err)
		}
		out = append(out, more...)
	}
	return out, nil
}

func presentOf(family int) ([]item, error) {
	var out []item
	// An interrupted dump may lack something: it is taken again, once.
	rules, err := netlink.RuleList(family)
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		rules, err = netlink.RuleList(family)
	}
	if err != nil {
		return nil, err
	}
	for _, r := range rules {
		if r.Protocol == originator {
			r.Family = family
			out = append(out, ruleItem(family, &r))
		}
	}
	filter := &netlink.Route{Table: unix.RT_TABLE_UNSPEC, Protocol: originator}
	routes, err := netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		routes, err = netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	}
	for _, r := range routes {
		r.Family = family
		out = append(out, routeItem(family, &r))
	}
	return out, err
}

// diff is what the kernel lacks, and what it has that is ours and too much: a
// second rule of the same kind is that, too.
func (r routing) diff() (lacks, tooMuch []item, err error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, nil, fmt.Errorf("interface lo: %w", err)
	}
	have, err := present(lo)
	if err != nil {
		return nil, nil, err
	}
	want := r.items(lo)
	used := make([]bool, len(have))
wanted:
	for _, w := range want {
		for i, h := range have {
			if !used[i] && w.same(h) {
				used[i] = true
				continue wanted
			}
		}
		lacks = append(lacks, w)
	}
	for i, h := range have {
		if !used[i] {
			tooMuch = append(tooMuch, h)
		}
	}
	return lacks, tooMuch, nil
}

// drift is diff for people.
func (r routing) drift() ([]string, error) {
	lacks, tooMuch, err := r.diff()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, i := range lacks {
		out = append(out, i.what+" is missing")
	}
	for _, i := range tooMuch {
		out = append(out, i.what+" is too much")
	}
	return out, nil
}

func adding(items []item) []change {
	var out []change
	for _, i := range items {
		out = append(out, change{i.what, func(context.Context) (undo, error) {
			return func(context.Context) error { return i.remove() }, explain(i.add())
		}})
	}
	return out
}

func removing(items []item) []change {
	var out []change
	for _, i := range items {
		out = append(out, change{"removal of " + i.what, func(context.Context) (undo, error) {
			return func(context.Context) error { return i.add() }, explain(i.remove())
		}})
	}
	return out
}

// explain says what is behind the kernel's refusals that do not tell.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: CAP_NET_ADMIN is needed", err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: is net.ipv6.conf.lo.disable_ipv6 set? --ipv6=false leaves IPv6 alone", err)
	}
	return err
}

func familyName(family int) string {
	if family == netlink.FAMILY_V6 {
		return "IPv6"
	}
	return "IPv4"
}

func localRoute(family int, table uint32, lo netlink.Link) *netlink.Route {
	any := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	if family == netlink.FAMILY_V6 {
		any = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &netlink.Route{Family: family, Dst: any, LinkIndex: lo.Attrs().Index, Table: int(table), Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Protocol: originator}
}

func markRule(family int, m MarkRoutes) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Mark, r.Table, r.Protocol = family, m.Mark, int(m.Table), originator
	return r
}
