package match

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"outrider/proxy/config"
)

func chain(name string, m config.FilterChainMatch) *config.FilterChain {
	return &config.FilterChain{Name: name, Match: m}
}

func key(dst, src, transport, sni string, alpns ...string) Key {
	k := Key{Transport: transport, ServerName: sni, ALPNs: alpns}
	if dst != "" {
		k.Destination = netip.MustParseAddrPort(dst)
	}
	if src != "" {
		k.Source = netip.MustParseAddrPort(src)
		k.DirectSource = k.Source
	}
	return k
}

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestFindFollowsEnvoysOrderWithoutBacktracking(t *testing.T) {
	istio := []string{"istio", "istio-peer-exchange", "istio-h2"}
	permissive := []*config.FilterChain{
		chain("mtls", config.FilterChainMatch{DestinationPort: 50051, TransportProtocol: "tls", ApplicationProtocols: istio}),
		chain("plain", config.FilterChainMatch{DestinationPort: 50051, TransportProtocol: "raw_buffer"}),
		chain("any-tls", config.FilterChainMatch{TransportProtocol: "tls"}),
		chain("blackhole", config.FilterChainMatch{DestinationPort: 15006}),
	}
	names := []*config.FilterChain{
		chain("exact", config.FilterChainMatch{ServerNames: []string{"a.b.com"}, TransportProtocol: "tls"}),
		chain("near", config.FilterChainMatch{ServerNames: []string{"*.b.com"}}),
		chain("far", config.FilterChainMatch{ServerNames: []string{"*.com"}}),
		chain("rest", config.FilterChainMatch{}),
	}
	nets := []*config.FilterChain{
		chain("24", config.FilterChainMatch{Prefixes: prefixes("10.0.0.0/24"), TransportProtocol: "tls"}),
		chain("8", config.FilterChainMatch{Prefixes: prefixes("10.0.0.0/8")}),
		chain("v6", config.FilterChainMatch{Prefixes: prefixes("fd00::/8")}),
	}
	all := []*config.FilterChain{
		chain("v4", config.FilterChainMatch{Prefixes: prefixes("0.0.0.0/0")}),
		chain("v6", config.FilterChainMatch{Prefixes: prefixes("::/0")}),
	}
	alpn := []*config.FilterChain{
		chain("h2", config.FilterChainMatch{ApplicationProtocols: []string{"h2"}}),
		chain("istio", config.FilterChainMatch{ApplicationProtocols: []string{"istio"}}),
		chain("no-alpn", config.FilterChainMatch{}),
	}
	sources := []*config.FilterChain{
		chain("local", config.FilterChainMatch{SourceType: config.SourceSameIPOrLoopback}),
		chain("external-port", config.FilterChainMatch{SourceType: config.SourceExternal, SourcePorts: []uint16{7}}),
		chain("any", config.FilterChainMatch{}),
	}
	direct := []*config.FilterChain{
		chain("lb", config.FilterChainMatch{DirectSourcePrefixes: prefixes("10.9.0.0/16")}),
		chain("client", config.FilterChainMatch{SourcePrefixes: prefixes("10.9.0.0/16")}),
	}
	viaLB := key("10.0.0.1:80", "192.0.2.1:9", "tls", "")
	viaLB.DirectSource = netip.MustParseAddrPort("10.9.1.1:5")
	for _, c := range []struct {
		name   string
		chains []*config.FilterChain
		key    Key
		want   string
	}{
		{"istio token", permissive, key("10.0.0.1:50051", "10.0.0.2:1", "tls", "", "istio-peer-exchange", "istio"), "mtls"},
		{"plaintext", permissive, key("10.0.0.1:50051", "10.0.0.2:1", "raw_buffer", ""), "plain"},
		{"other TLS on the port does not fall back to any-tls", permissive, key("10.0.0.1:50051", "10.0.0.2:1", "tls", "", "h2"), ""},
		{"another port", permissive, key("10.0.0.1:1", "10.0.0.2:1", "tls", ""), "any-tls"},
		{"another port, plaintext", permissive, key("10.0.0.1:1", "10.0.0.2:1", "raw_buffer", ""), ""},
		{"exact name", names, key("1.1.1.1:1", "2.2.2.2:2", "tls", "a.b.com"), "exact"},
		{"exact name that fails later does not fall to the wildcard", names, key("1.1.1.1:1", "2.2.2.2:2", "raw_buffer", "a.b.com"), ""},
		{"longest wildcard", names, key("1.1.1.1:1", "2.2.2.2:2", "tls", "x.y.b.com"), "near"},
		{"shorter wildcard", names, key("1.1.1.1:1", "2.2.2.2:2", "tls", "b.com"), "far"},
		{"no name", names, key("1.1.1.1:1", "2.2.2.2:2", "tls", ""), "rest"},
		{"unknown name", names, key("1.1.1.1:1", "2.2.2.2:2", "tls", "b.org"), "rest"},
		{"longest prefix", nets, key("10.0.0.9:1", "2.2.2.2:2", "tls", ""), "24"},
		{"longest prefix that fails later", nets, key("10.0.0.9:1", "2.2.2.2:2", "raw_buffer", ""), ""},
		{"shorter prefix", nets, key("10.1.0.9:1", "2.2.2.2:2", "raw_buffer", ""), "8"},
		{"mapped address", nets, key("[::ffff:10.1.0.9]:1", "2.2.2.2:2", "raw_buffer", ""), "8"},
		{"IPv6", nets, key("[fd00::1]:1", "[fd00::2]:2", "raw_buffer", ""), "v6"},
		{"unix socket has no address", nets, key("", "", "raw_buffer", ""), ""},
		{"unix socket is in the widest prefix", all, key("", "", "raw_buffer", ""), "v4"},
		{"IPv6 is not in the widest IPv4 prefix", all, key("[::1]:1", "[::1]:1", "raw_buffer", ""), "v6"},
		{"trailing dot", names, key("1.1.1.1:1", "2.2.2.2:2", "tls", "a.b.com."), "rest"},
		{"a dot at the end begins no suffix", append(names[:3:3], chain("dot", config.FilterChainMatch{ServerNames: []string{"*."}})), key("1.1.1.1:1", "2.2.2.2:2", "tls", "a."), ""},
		{"only a dot", names, key("1.1.1.1:1", "2.2.2.2:2", "tls", "."), "rest"},
		{"wildcard does not match its own domain", names[:2], key("1.1.1.1:1", "2.2.2.2:2", "tls", "b.com"), ""},
		{"another loopback address is external", sources, key("10.0.0.1:1", "127.0.0.6:7", "raw_buffer", ""), "external-port"},
		{"IPv6 loopback", sources, key("[fd00::1]:1", "[::1]:2", "raw_buffer", ""), "local"},
		{"mapped loopback", sources, key("10.0.0.1:1", "[::ffff:127.0.0.1]:2", "raw_buffer", ""), "local"},
		{"unix socket is local", sources, key("", "", "raw_buffer", ""), "local"},
		{"first protocol of the client that a chain has", alpn, key("1.1.1.1:1", "2.2.2.2:2", "tls", "", "x", "istio", "h2"), "istio"},
		{"the client's order, not the chains'", alpn, key("1.1.1.1:1", "2.2.2.2:2", "tls", "", "h2", "istio"), "h2"},
		{"no common protocol", alpn, key("1.1.1.1:1", "2.2.2.2:2", "tls", "", "x"), "no-alpn"},
		{"loopback", sources, key("10.0.0.1:1", "127.0.0.1:2", "raw_buffer", ""), "local"},
		{"same address", sources, key("10.0.0.1:1", "10.0.0.1:2", "raw_buffer", ""), "local"},
		{"external with port", sources, key("10.0.0.1:1", "10.0.0.2:7", "raw_buffer", ""), "external-port"},
		{"external with another port does not fall to any", sources, key("10.0.0.1:1", "10.0.0.2:8", "raw_buffer", ""), ""},
		{"direct source goes before source", direct, viaLB, "lb"},
		{"source", direct, key("10.0.0.1:80", "10.9.1.1:9", "tls", ""), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "source" {
				c.key.DirectSource = netip.MustParseAddrPort("192.0.2.9:1")
				c.want = "client"
			}
			table, err := Compile(c.chains, nil)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if f := table.Find(c.key); f != nil {
				got = f.Name
			}
			if got != c.want {
				t.Errorf("Find = %q, want %q\n%+v", got, c.want, table.Explain(c.key))
			}
			if x := table.Explain(c.key); x.Chain != c.want || len(x.Losers) < len(c.chains)-1 {
				t.Errorf("Explain says %q with %d losers, want %q with the other chains", x.Chain, len(x.Losers), c.want)
			}
		})
	}
}

func TestDefaultChainTakesWhatNoneMatches(t *testing.T) {
	def := chain("default", config.FilterChainMatch{})
	table, err := Compile([]*config.FilterChain{chain("p", config.FilterChainMatch{DestinationPort: 1})}, def)
	if err != nil {
		t.Fatal(err)
	}
	if got := table.Find(key("1.1.1.1:2", "2.2.2.2:2", "tls", "")); got != def {
		t.Errorf("Find = %v, want the default chain", got)
	}
	if x := table.Explain(key("1.1.1.1:2", "2.2.2.2:2", "tls", "")); x.Index != DefaultChain {
		t.Errorf("Explain index %d, want %d", x.Index, DefaultChain)
	}
}

func TestCompileRefusesOverlappingChains(t *testing.T) {
	a := chain("a", config.FilterChainMatch{ServerNames: []string{"x", "y"}, DestinationPort: 1})
	b := chain("b", config.FilterChainMatch{ServerNames: []string{"y", "z"}, DestinationPort: 1})
	_, err := Compile([]*config.FilterChain{a, b}, nil)
	if err == nil || !strings.Contains(err.Error(), `filter_chains[0] "a" and filter_chains[1] "b": multiple filter chains with overlapping matching rules are defined`) {
		t.Errorf("Compile = %v, want both names", err)
	}
	if _, err := Compile([]*config.FilterChain{a, a}, nil); err == nil {
		t.Error("the same match twice is accepted")
	}
	masked := []*config.FilterChain{
		chain("a", config.FilterChainMatch{Prefixes: prefixes("10.0.0.1/8")}),
		chain("b", config.FilterChainMatch{Prefixes: prefixes("10.2.0.0/8")}),
	}
	if _, err := Compile(masked, nil); err == nil {
		t.Error("prefixes that differ in host bits only are accepted")
	}
}

func TestCompileRefusesAChainThatOverlapsItself(t *testing.T) {
	for want, m := range map[string]config.FilterChainMatch{
		"prefix_ranges 10.0.0.0/8":               {Prefixes: prefixes("10.0.0.0/8", "10.9.0.0/8")},
		"server_names *.a":                       {ServerNames: []string{"*.a", "b", "*.a"}},
		"application_protocols h2":               {ApplicationProtocols: []string{"h2", "h2"}},
		"direct_source_prefix_ranges 10.0.0.0/8": {DirectSourcePrefixes: prefixes("10.0.0.0/8", "10.9.0.0/8")},
		"source_prefix_ranges 10.0.0.0/8":        {SourcePrefixes: prefixes("10.0.0.0/8", "10.9.0.0/8")},
		"source_ports 7":                         {SourcePorts: []uint16{7, 8, 7}},
	} {
		if _, err := Compile([]*config.FilterChain{chain("a", m)}, nil); err == nil || !strings.Contains(err.Error(), `filter_chains[0] "a"`) || !strings.Contains(err.Error(), want+" twice") {
			t.Errorf("Compile = %v, want a refusal of %s", err, want)
		}
	}
}

func TestCompileRefusesMoreCombinationsThanMemoryHolds(t *testing.T) {
	var m config.FilterChainMatch
	for i := range 200 {
		m.ServerNames = append(m.ServerNames, fmt.Sprint("n", i))
		m.ApplicationProtocols = append(m.ApplicationProtocols, fmt.Sprint("p", i))
		m.SourcePorts = append(m.SourcePorts, uint16(i+1))
	}
	if _, err := Compile([]*config.FilterChain{chain("wide", m)}, nil); err == nil || !strings.Contains(err.Error(), `filter_chains[0] "wide"`) {
		t.Errorf("Compile = %v, want a refusal of 8,000,000 combinations", err)
	}
}

func TestExplainNamesTheFirstCriterionThatEachLoserFailed(t *testing.T) {
	chains := []*config.FilterChain{
		chain("other-port", config.FilterChainMatch{DestinationPort: 1}),
		chain("any-port", config.FilterChainMatch{TransportProtocol: "tls"}),
		chain("plain", config.FilterChainMatch{DestinationPort: 2, TransportProtocol: "raw_buffer"}),
		chain("win", config.FilterChainMatch{DestinationPort: 2, TransportProtocol: "tls"}),
	}
	table, err := Compile(chains, nil)
	if err != nil {
		t.Fatal(err)
	}
	x := table.Explain(key("1.1.1.1:2", "2.2.2.2:2", "tls", ""))
	want := []Loser{
		{"other-port", 0, "destination_port", "wants 1, the connection has 2"},
		{"any-port", 1, "destination_port", "wants any, but a chain with the more specific 2 won here"},
		{"plain", 2, "transport_protocol", "wants raw_buffer, the connection has tls"},
	}
	if x.Chain != "win" || !slices.Equal(x.Losers, want) {
		t.Errorf("Explain = %+v, want winner win and losers %+v", x, want)
	}
}

// prune is the rule as Envoy's documentation states it, with no tree: at each
// criterion only the chains with the most specific match go on.
func prune(chains []*config.FilterChain, k Key) *config.FilterChain {
	alive := slices.Clone(chains)
	for l := byPort; l < levels; l++ {
		best, next := -1, []*config.FilterChain(nil)
		for _, c := range alive {
			score := specificity(l, branches(l, &c.Match), k)
			if score < 0 || score < best {
				continue
			}
			if score > best {
				best, next = score, nil
			}
			next = append(next, c)
		}
		alive = next
	}
	if len(alive) == 0 {
		return nil
	}
	return alive[0]
}

// specificity of the best of wants for k: -1 fits not, 0 is open.
func specificity(l level, wants []branch, k Key) int {
	best := -1
	for _, b := range wants {
		score := -1
		switch {
		case !b.set:
			score = 0
		case l == byPort && b.port == k.Destination.Port(), l == bySourcePort && b.port == k.Source.Port():
			score = 1
		case l == byPrefix && b.prefix.Contains(k.Destination.Addr()), l == bySourcePrefix && b.prefix.Contains(k.Source.Addr()),
			l == byDirectSource && b.prefix.Contains(k.DirectSource.Addr()):
			score = 1 + b.prefix.Bits()
		case l == byServerName && !b.wildcard && b.text == k.ServerName:
			score = 1000
		case l == byServerName && b.wildcard && strings.HasSuffix(k.ServerName, b.text):
			score = len(b.text)
		case l == byTransport && b.text == k.Transport:
			score = 1
		case l == byALPN && slices.Contains(k.ALPNs, b.text):
			score = 100 - slices.Index(k.ALPNs, b.text)
		case l == bySourceType && (b.source == config.SourceSameIPOrLoopback) == isLocal(&k):
			score = 1
		}
		best = max(best, score)
	}
	return best
}

func TestFindAgreesWithPruningOnRandomTables(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(all ...string) []string {
		var out []string
		for _, s := range all {
			if r.IntN(3) == 0 {
				out = append(out, s)
			}
		}
		return out
	}
	ports := func() (out []uint16) {
		for p := uint16(1); p < 3; p++ {
			if r.IntN(4) == 0 {
				out = append(out, p)
			}
		}
		return out
	}
	found := 0
	for round := range 3000 {
		var chains []*config.FilterChain
		for i := range 1 + r.IntN(8) {
			m := config.FilterChainMatch{
				DestinationPort: uint16(r.IntN(3)), Prefixes: prefixes(pick("10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0")...),
				ServerNames: pick("a.b.c", "*.b.c", "*.c"), ApplicationProtocols: pick("h2", "istio"),
				SourceType: config.SourceType(r.IntN(3)), SourcePrefixes: prefixes(pick("10.0.0.0/8", "127.0.0.0/8")...),
				DirectSourcePrefixes: prefixes(pick("10.0.0.0/8")...), SourcePorts: ports(),
			}
			if s := pick("tls"); len(s) > 0 {
				m.TransportProtocol = s[0]
			}
			c := chain(fmt.Sprint(i), m)
			if _, err := Compile(append(slices.Clone(chains), c), nil); err == nil {
				chains = append(chains, c)
			}
		}
		table, err := Compile(chains, nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			addrs := []string{"10.0.0.1", "10.1.0.1", "127.0.0.1", "127.0.0.6"}
			dst := fmt.Sprintf("%s:%d", addrs[r.IntN(4)], 1+r.IntN(3))
			src := fmt.Sprintf("%s:%d", addrs[r.IntN(4)], 1+r.IntN(3))
			k := key(dst, src, []string{"tls", "raw_buffer"}[r.IntN(2)], []string{"", "a.b.c", "x.b.c", "x.c", "d"}[r.IntN(5)], pick("istio", "h2", "http/1.1")...)
			want, got := prune(chains, k), table.Find(k)
			if got != want {
				t.Fatalf("round %d: Find(%+v) = %+v, want %+v", round, k, got, want)
			}
			if got != nil {
				found++
			}
		}
	}
	if found < 1000 {
		t.Errorf("only %d of the random connections matched: the test says little", found)
	}
}

func BenchmarkFind(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10000} {
		b.Run(fmt.Sprintf("chains=%d", n), func(b *testing.B) {
			table, k := bigTable(b, n)
			b.ReportAllocs()
			for b.Loop() {
				if table.Find(k) == nil {
					b.Fatal("no chain")
				}
			}
		})
	}
}

// bigTable is a mesh listener: two chains for each port and address.
func bigTable(tb testing.TB, n int) (*Table, Key) {
	tb.Helper()
	var chains []*config.FilterChain
	for i := range n / 2 {
		m := config.FilterChainMatch{
			DestinationPort: uint16(1 + i%5000), Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)},
			TransportProtocol: "tls", ApplicationProtocols: []string{"istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"},
		}
		plain := m
		plain.TransportProtocol, plain.ApplicationProtocols = "raw_buffer", nil
		chains = append(chains, chain("mtls", m), chain("plain", plain))
	}
	table, err := Compile(chains, nil)
	if err != nil {
		tb.Fatal(err)
	}
	last := chains[len(chains)-2].Match
	return table, Key{
		Destination: netip.AddrPortFrom(last.Prefixes[0].Addr(), last.DestinationPort),
		Source:      netip.MustParseAddrPort("192.0.2.1:1"), DirectSource: netip.MustParseAddrPort("192.0.2.1:1"),
		Transport: "tls", ServerName: "outbound_.80_._.x", ALPNs: []string{"istio-peer-exchange", "istio"},
	}
}

func TestFindDoesNotAllocate(t *testing.T) {
	table, k := bigTable(t, 100)
	if n := testing.AllocsPerRun(100, func() { table.Find(k) }); n != 0 {
		t.Errorf("Find allocates %v times", n)
	}
}
