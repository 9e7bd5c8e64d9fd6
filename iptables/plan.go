package iptables

import "net/netip"

// Plan is the redirection as rules: chains in the order in which they are made,
// and what is needed beside them.
type Plan struct {
	Chains []Chain
	// Routes says that packets with Mark are delivered here, by Table: TPROXY.
	Routes *MarkRoutes
	// Loopback are addresses that lo must have.
	Loopback []netip.Prefix
	IPv6     bool
}

// MarkRoutes is a routing rule by mark and a table whose only route is local.
type MarkRoutes struct{ Mark, Table uint32 }

// Table is one of the kernel's tables, in iptables' words.
type Table string

// The tables.
const (
	Raw    Table = "raw"
	Mangle Table = "mangle"
	NAT    Table = "nat"
)

// The chains at which the kernel begins; the others are jumped to.
const (
	Prerouting = "PREROUTING"
	Output     = "OUTPUT"
)

// Chain is a list of rules in one table.
type Chain struct {
	Table Table
	Name  string
	Rules []Rule
}

// Hooked reports whether the kernel begins at the chain.
func (c Chain) Hooked() bool { return c.Name == Prerouting || c.Name == Output }

// Family is an IP version.
type Family int

// The families.
const (
	Any Family = iota
	IPv4
	IPv6
)

// Rule is what is done with the packets that everything in Match fits.
type Rule struct {
	Family Family
	Match  Match
	Do     Action
}

// Match is what a packet must be like. Zero values match everything.
type Match struct {
	In, Out string // interfaces
	Proto   string // tcp or udp
	// Ports of the destination, and of the source. More than one NotDPorts are
	// all excluded.
	DPort, SPort uint16
	NotDPorts    []uint16
	Dst, NotDst  netip.Prefix
	Src          netip.Prefix
	// Owners of the sending socket.
	UID, NotUID, GID *uint32
	NotGIDs          []uint32
	// Marks of the packet and of its connection.
	Mark, NotMark, ConnMark uint32
	// States of the connection: "RELATED,ESTABLISHED" or "INVALID".
	State string
}

// Verb is what an Action does.
type Verb int

// The verbs.
const (
	Return      Verb = iota // go on after the jump
	Accept                  // go on after this hook
	Drop                    //
	Jump                    // to Action.Chain
	RedirectTo              // to Action.Port of this host
	TProxyTo                // to Action.Port, with Action.Mark
	SetMark                 // of the packet, to Action.Mark
	SaveMark                // the packet's to the connection
	RestoreMark             // the connection's to the packet
	SetZone                 // the connection tracking zone, to Action.Zone
)

// Action is the end of a rule.
type Action struct {
	Verb  Verb
	Chain string
	Port  uint16
	Mark  uint32
	Zone  uint16
}

// The chains' names (Istio's).
const (
	inbound     = "ISTIO_INBOUND"
	redirect    = "ISTIO_REDIRECT"
	inRedirect  = "ISTIO_IN_REDIRECT"
	output      = "ISTIO_OUTPUT"
	outputDNS   = "ISTIO_OUTPUT_DNS"
	divert      = "ISTIO_DIVERT"
	tproxyChain = "ISTIO_TPROXY"
	dropChain   = "ISTIO_DROP"
)

// source6 is the address that the sidecar calls the application from in IPv6;
// IPv4's 127.0.0.6 is on lo anyway.
func source6() netip.Prefix { return netip.MustParsePrefix("::6/128") }

func source4() netip.Prefix { return netip.MustParsePrefix("127.0.0.6/32") }

func loopback6() netip.Prefix { return netip.MustParsePrefix("::1/128") }

// NewPlan makes the plan of c, which must have passed Check.
func NewPlan(c Config) *Plan {
	b := &planner{c: c, chains: map[chainKey]*Chain{}}
	b.nat()
	if b.tproxies() {
		b.tproxy()
		b.plan.Routes = &MarkRoutes{Mark: c.TProxyMark, Table: c.TProxyTable}
	}
	if c.DropInvalid {
		b.add(Mangle, dropChain, Rule{Do: Action{Verb: Drop}})
		b.add(Mangle, Prerouting, Rule{Match: Match{State: "INVALID"}, Do: Action{Verb: Jump, Chain: dropChain}})
	}
	if c.DNS {
		b.dnsZones()
	}
	b.plan.IPv6 = c.IPv6
	if c.IPv6 {
		b.plan.Loopback = []netip.Prefix{source6()}
	}
	for _, key := range b.order {
		b.plan.Chains = append(b.plan.Chains, *b.chains[key])
	}
	return &b.plan
}

// takesInbound reports whether anything inbound is taken.
func (c *Config) takesInbound() bool { return c.AllInbound || len(c.InboundPorts) > 0 }

func (b *planner) tproxies() bool { return b.c.Mode == TProxy && b.c.takesInbound() }

type chainKey struct {
	table Table
	name  string
}

// planner gathers rules in their chains.
type planner struct {
	c      Config
	plan   Plan
	chains map[chainKey]*Chain
	order  []chainKey
}

// add appends a rule to a chain, which is made by its first rule. Rules of
// IPv6 are left out where there is none.
func (b *planner) add(table Table, chain string, rules ...Rule) {
	key := chainKey{table, chain}
	if b.chains[key] == nil {
		b.chains[key] = &Chain{Table: table, Name: chain}
		b.order = append(b.order, key)
	}
	for _, r := range rules {
		if r.Family == IPv6 && !b.c.IPv6 {
			continue
		}
		b.chains[key].Rules = append(b.chains[key].Rules, r)
	}
}

// both are two rules that differ by an address of each family.
func both(m Match, do Action, four, six func(*Match)) []Rule {
	m4, m6 := m, m
	four(&m4)
	six(&m6)
	return []Rule{{Family: IPv4, Match: m4, Do: do}, {Family: IPv6, Match: m6, Do: do}}
}

func notLoopback(c Config) (func(*Match), func(*Match)) {
	return func(m *Match) { m.NotDst = c.Loopback4 }, func(m *Match) { m.NotDst = loopback6() }
}

// to is a rule for one range of destinations.
func to(p netip.Prefix, do Action) Rule {
	family := IPv4
	if p.Addr().Is6() {
		family = IPv6
	}
	if p.Bits() == 0 { // all of the family
		p = netip.Prefix{}
	}
	return Rule{Family: family, Match: Match{Dst: p}, Do: do}
}
