package dns

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	wire "github.com/miekg/dns"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

var equalAddrs = cmpopts.EquateComparable(netip.Addr{})

func TestTheTableOfARealIstiodIsRead(t *testing.T) {
	b, err := os.ReadFile("testdata/nds.pb")
	if err != nil {
		t.Fatal(err)
	}
	var answer discoveryv3.DiscoveryResponse
	if err := proto.Unmarshal(b, &answer); err != nil {
		t.Fatal(err)
	}
	table, err := ParseTable(answer.GetResources()[0])
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{
		external("legacy.dev.svc.cluster.local", "10.96.0.12"),
		external("uc.dev.svc.cluster.local", "10.96.0.10"),
		external("user-web.dev.svc.cluster.local", "10.96.0.11"),
	}
	if diff := cmp.Diff(want, table.Entries(), equalAddrs); diff != "" || len(table.Ignored()) > 0 {
		t.Errorf("ignored %q, -want +got:\n%s", table.Ignored(), diff)
	}
}

func TestATableIsReadWholeOrRefused(t *testing.T) {
	good := Entry{Host: "a.shop", Addresses: addrs("10.0.0.1", "fd00::1"), Registry: "Kubernetes", Shortname: "a", Namespace: "shop", AltHosts: []string{"b", "c"}}
	table := tableOf(t, good)
	if diff := cmp.Diff([]Entry{good}, table.Entries(), equalAddrs); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	whole := encode(good)
	for n := 1; n < len(whole); n++ {
		if _, err := ParseTable(&anypb.Any{TypeUrl: TypeURL, Value: whole[:n]}); err == nil {
			t.Errorf("cut off after %d bytes, it is taken", n)
		}
	}
	if _, err := ParseTable(&anypb.Any{TypeUrl: "x/y", Value: whole}); err == nil || !strings.Contains(err.Error(), `"x/y"`) {
		t.Errorf("another type: %v", err)
	}
	if _, err := ParseTable(&anypb.Any{TypeUrl: TypeURL, Value: encode(external("\xff", "10.0.0.1"))}); err == nil {
		t.Error("a host that is not UTF-8 is taken")
	}
}

func TestWhatCannotBeAnsweredIsLeftOutAndSaid(t *testing.T) {
	bad := append(encode(external("no.address"), external(strings.Repeat("x", 64)+".long", "10.0.0.1"), external("", "10.0.0.1"), external("ok", "10.0.0.1")),
		encode(Entry{Host: "zone", Addresses: addrs("fe80::1%eth0", "10.0.0.2")})...)
	table, err := ParseTable(&anypb.Any{TypeUrl: TypeURL, Value: bad})
	if err != nil {
		t.Fatal(err)
	}
	var hosts []string
	for _, e := range table.Entries() {
		hosts = append(hosts, e.Host)
	}
	if want := []string{"ok", "zone"}; !slices.Equal(hosts, want) || len(table.Ignored()) != 4 {
		t.Errorf("hosts %q, want %q; ignored %q, want 4", hosts, want, table.Ignored())
	}
}

// TestNamesAreFoundAsInIstio compares with what pkg/dns/client makes of the
// same table, for a proxy of namespace shop.
func TestNamesAreFoundAsInIstio(t *testing.T) {
	other := Entry{Host: "pay.bank.svc.cluster.local", Addresses: addrs("10.0.1.1"), Registry: kubernetes, Shortname: "pay", Namespace: "bank", AltHosts: []string{"money"}}
	far := Entry{Host: "pay.bank.svc.far.cluster", Addresses: addrs("10.0.9.1"), Registry: kubernetes, Shortname: "far", Namespace: "bank"}
	pod := Entry{Host: "db-0.db.shop.svc.cluster.local", Addresses: addrs("10.0.3.1"), Registry: kubernetes, Shortname: "db-0.db", Namespace: "shop"}
	table := tableOf(t,
		service("cart", "10.0.0.1", "fd00::1"), service("db", "10.0.3.1", "10.0.3.2"), pod, other, far, service("six", "fd00::6"),
		external("www.example.com", "10.1.0.1"), external("*.wild.com", "10.1.0.2"), external("*.deep.wild.com", "10.1.0.3"),
		external("a.wild.com", "10.1.0.4"), external("UPPER.com", "10.1.0.5"), external("dot.example.com.", "10.1.0.6"), external("cart.shop", "10.1.0.7"), external("mapped.com", "::ffff:10.1.0.8"))
	n := newNames(table, newPlace("shop", "shop.svc.cluster.local"), []string{"shop.svc.cluster.local", "svc.cluster.local"})
	for name, tc := range map[string]struct {
		qtype uint16
		want  []string // nil: not in the table
	}{
		"cart.shop.svc.cluster.local.":   {wire.TypeA, []string{"A 10.0.0.1"}},
		"cart.shop.svc.cluster.local. 6": {wire.TypeAAAA, []string{"AAAA fd00::1"}},
		"cart.":                          {wire.TypeA, []string{"A 10.0.0.1"}},
		"cart.shop.":                     {wire.TypeA, []string{"A 10.1.0.7"}}, // a host's own name wins
		"cart.shop.svc.":                 {wire.TypeA, []string{"A 10.0.0.1"}},
		"cart.shop.svc.cluster.":         {wire.TypeA, nil},
		"CART.Shop.svc.":                 {wire.TypeA, []string{"A 10.0.0.1"}},
		"db.":                            {wire.TypeA, []string{"A 10.0.3.1", "A 10.0.3.2"}}, // headless
		"db-0.db.":                       {wire.TypeA, []string{"A 10.0.3.1"}},
		"six.":                           {wire.TypeA, []string{}},
		"pay.":                           {wire.TypeA, nil}, // of another namespace
		"pay.bank.":                      {wire.TypeA, []string{"A 10.0.1.1"}},
		"pay.bank.svc.":                  {wire.TypeA, []string{"A 10.0.1.1"}},
		"money.":                         {wire.TypeA, []string{"A 10.0.1.1"}},
		"far.bank.":                      {wire.TypeA, nil}, // of another cluster
		"pay.bank.svc.far.cluster.":      {wire.TypeA, []string{"A 10.0.9.1"}},
		"www.example.com.":               {wire.TypeA, []string{"A 10.1.0.1"}},
		"www.example.com. 6":             {wire.TypeAAAA, []string{}},
		"mapped.com.":                    {wire.TypeA, []string{"A 10.1.0.8"}},
		"upper.com.":                     {wire.TypeA, []string{"A 10.1.0.5"}},
		"dot.example.com.":               {wire.TypeA, []string{"A 10.1.0.6"}},
		"x.www.example.com.":             {wire.TypeA, nil},
		"wild.com.":                      {wire.TypeA, nil},
		"x.wild.com.":                    {wire.TypeA, []string{"A 10.1.0.2"}},
		"y.x.wild.com.":                  {wire.TypeA, []string{"A 10.1.0.2"}},
		"x.deep.wild.com.":               {wire.TypeA, []string{"A 10.1.0.3"}},
		"a.wild.com.":                    {wire.TypeA, []string{"A 10.1.0.4"}},
		"www.example.com.shop.svc.cluster.local.":             {wire.TypeA, []string{"CNAME www.example.com.", "A 10.1.0.1"}},
		"www.example.com.shop.svc.cluster.local. 6":           {wire.TypeAAAA, []string{}},
		"www.example.com.svc.cluster.local.":                  {wire.TypeA, nil}, // only the first search domain
		"pay.bank.shop.svc.cluster.local.":                    {wire.TypeA, []string{"CNAME pay.bank.", "A 10.0.1.1"}},
		"x.wild.com.shop.svc.cluster.local.":                  {wire.TypeA, []string{"CNAME x.wild.com.", "A 10.1.0.2"}},
		"cart.shop.svc.cluster.local.shop.svc.cluster.local.": {wire.TypeA, nil},
		"shop.svc.cluster.local.":                             {wire.TypeA, nil},
		".":                                                   {wire.TypeA, nil},
	} {
		t.Run(name, func(t *testing.T) {
			asked := strings.Fields(name)[0]
			f, ok := n.find(strings.ToLower(asked))
			if !ok {
				if tc.want != nil {
					t.Fatal("it is not found")
				}
				return
			}
			got := []string{}
			owner := asked
			for _, rr := range texts(f.answers(wire.Question{Name: asked, Qtype: tc.qtype, Qclass: wire.ClassINET})) {
				rest, ok := strings.CutPrefix(rr, owner+" ")
				if !ok {
					t.Errorf("record %q is not of %q", rr, owner)
				}
				if target, isAlias := strings.CutPrefix(rest, "CNAME "); isAlias {
					owner = target
				}
				got = append(got, rest)
			}
			if owner == asked {
				slices.Sort(got)
			}
			if tc.want == nil || !slices.Equal(got, tc.want) {
				t.Errorf("answer %q, want %q", got, tc.want)
			}
		})
	}
}

func TestAddressesComeInEveryOrder(t *testing.T) {
	n := newNames(tableOf(t, external("a", "10.0.0.1", "10.0.0.2", "10.0.0.3")), place{}, nil)
	f, _ := n.find("a.")
	first := map[string]bool{}
	for range 200 {
		first[texts(f.answers(wire.Question{Name: "a.", Qtype: wire.TypeA}))[0]] = true
	}
	if len(first) != 3 {
		t.Errorf("the first of 200 answers is one of %v, want all three", first)
	}
}
