package iptables

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace moves the test's thread into a fresh network namespace. Where that
// is not permitted the test fails in CI, and elsewhere says what is missing.
func namespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	ns, err := netns.New()
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("a network namespace is needed: %v", err)
		}
		t.Skipf("a network namespace is needed, which takes CAP_SYS_ADMIN: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func installer(b Backend) *Installer {
	return &Installer{Backend: b, Log: slog.New(slog.DiscardHandler)}
}

// programs fails without iptables in CI.
func programs(t *testing.T, b Backend) {
	t.Helper()
	if b != IPTables {
		return
	}
	if _, err := exec.LookPath("iptables-restore"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("the Debian package iptables is needed: %v", err)
	}
}

// ruleset is everything that the kernel has of rules, for comparison: nftables
// and, through it, iptables.
func ruleset(t *testing.T) string {
	t.Helper()
	var out []string
	for _, b := range everyBackend() {
		if b.available(t.Context()) != nil {
			continue
		}
		if s, ok := b.(saveBackend); ok {
			for _, f := range families() {
				have, err := s.save(t.Context(), f)
				if err != nil {
					t.Fatal(err)
				}
				for table, lines := range have {
					for _, r := range lines.rules {
						out = append(out, s.program(f, "")+string(table)+" "+r)
					}
					for _, c := range lines.chains {
						if strings.HasPrefix(c, "ISTIO") {
							out = append(out, s.program(f, "")+string(table)+" :"+c)
						}
					}
				}
			}
			continue
		}
		drift, present, err := b.drift(t.Context(), &Plan{IPv6: true})
		if err != nil {
			t.Fatal(err)
		}
		if present {
			out = append(out, drift...)
			out = append(out, "table outrider")
		}
	}
	for _, r := range []routing{{families: []int{netlink.FAMILY_V4, netlink.FAMILY_V6}, marks: &MarkRoutes{1337, 133}, loopback: []netip.Prefix{source6()}}} {
		lack, err := r.drift()
		if err != nil {
			t.Fatal(err)
		}
		if len(lack) != 5 {
			out = append(out, "routes: only these are missing: "+strings.Join(lack, "; "))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func TestWhatIsAppliedIsWhatTheKernelReportsTwiceOverAndGoneAfterwards(t *testing.T) {
	for _, b := range []Backend{NFTables, IPTables} {
		for name, c := range configs() {
			t.Run(string(b)+"/"+name, func(t *testing.T) {
				namespace(t)
				programs(t, b)
				i := installer(b)
				if before, err := i.Verify(t.Context(), c); err != nil || len(before) == 0 {
					t.Fatalf("nothing is applied yet, and no difference is seen: %v", err)
				}
				for range 2 {
					if err := i.Apply(t.Context(), c); err != nil {
						t.Fatal(err)
					}
					if drift, err := i.Verify(t.Context(), c); err != nil || len(drift) > 0 {
						t.Fatalf("%v\n%s", err, strings.Join(drift, "\n"))
					}
				}
				if err := i.Cleanup(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				if left := ruleset(t); left != "" {
					t.Errorf("after the cleanup there is still:\n%s", left)
				}
				if err := i.Cleanup(t.Context(), c); err != nil {
					t.Errorf("a cleanup of nothing: %v", err)
				}
			})
		}
	}
}

// spoil changes what is applied, as another program could.
func spoil(t *testing.T, command ...string) {
	t.Helper()
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", command, err, out)
	}
}

func TestADriftIsToldAndMended(t *testing.T) {
	tests := []struct {
		name    string
		backend Backend
		spoil   []string
		want    string
	}{
		{"a rule is gone", IPTables, []string{"iptables", "-t", "nat", "-D", "ISTIO_INBOUND", "1"}, "--dport 15008"},
		{"a rule is added", IPTables, []string{"iptables", "-t", "nat", "-A", "ISTIO_OUTPUT", "-p", "tcp", "-j", "ACCEPT"}, "has too much: -A ISTIO_OUTPUT -p tcp -j ACCEPT"},
		{"the hook is gone", IPTables, []string{"iptables", "-t", "nat", "-F", "OUTPUT"}, "lacks: -A OUTPUT"},
		{"IPv6 is gone", IPTables, []string{"ip6tables", "-t", "nat", "-F", "ISTIO_OUTPUT"}, "ip6tables-save, table nat lacks"},
		{"a chain is emptied", NFTables, []string{"nft", "flush", "chain", "inet", "outrider", "nat_istio_output"}, "chain nat_istio_output lacks rule 1"},
		{"a rule in front", NFTables, []string{"nft", "insert", "rule", "inet", "outrider", "nat_output", "accept"}, "chain nat_output rule 1 is another"},
		{"another port", NFTables, []string{"sh", "-c", "nft flush chain inet outrider mangle_istio_tproxy; nft add rule inet outrider mangle_istio_tproxy meta l4proto tcp tproxy ip to :1 accept"}, "chain mangle_istio_tproxy rule 1 is another"},
		{"the table is gone", NFTables, []string{"nft", "delete", "table", "inet", "outrider"}, "there is no table inet outrider"},
		{"a chain too many", NFTables, []string{"nft", "add", "chain", "inet", "outrider", "more"}, "chain more is not ours"},
		{"the route is gone", NFTables, []string{"ip", "route", "flush", "table", "133"}, "IPv4, table 133"},
		{"the routing rule is there twice", NFTables, []string{"ip", "-6", "rule", "add", "fwmark", "1337", "lookup", "133", "pref", "7"}, "IPv6 has 2 rules fwmark 1337"},
		{"the address is gone", NFTables, []string{"ip", "-6", "addr", "del", "::6/128", "dev", "lo"}, "lo lacks the address ::6/128"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			namespace(t)
			programs(t, IPTables)
			i, c := installer(test.backend), configs()["tproxy"]
			if test.backend == IPTables {
				c = configs()["all"]
			}
			if err := i.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			spoil(t, test.spoil...)
			mended, err := i.Reconcile(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(strings.Join(mended, "\n"), test.want) {
				t.Errorf("told: %q, want %q in it", mended, test.want)
			}
			if drift, err := i.Verify(t.Context(), c); err != nil || len(drift) > 0 {
				t.Errorf("after it was mended: %v, %q", err, drift)
			}
			if again, err := i.Reconcile(t.Context(), c); err != nil || len(again) > 0 {
				t.Errorf("mended again: %v, %q", err, again)
			}
		})
	}
}

func TestAFailureHalfWayLeavesNothingBehind(t *testing.T) {
	for _, b := range []backend{nftBackend{}, saveBackend{}} {
		c := configs()["tproxy"]
		i := installer(Auto)
		for n := range len(i.steps(t.Context(), b, NewPlan(c))) {
			t.Run(b.name()+" step "+string(rune('1'+n)), func(t *testing.T) {
				namespace(t)
				programs(t, IPTables)
				steps := i.steps(t.Context(), b, NewPlan(c))
				do := steps[n].do
				steps[n].do = func() error { return errors.Join(do(), errors.New("broken")) }
				err := i.take(t.Context(), c, steps)
				if err == nil || !strings.Contains(err.Error(), "broken") || !strings.Contains(err.Error(), steps[n].what) {
					t.Errorf("%v", err)
				}
				if left := ruleset(t); left != "" {
					t.Errorf("left behind:\n%s", left)
				}
			})
		}
	}
}

func TestTheOtherBackendsRulesGo(t *testing.T) {
	for first, second := range map[Backend]Backend{IPTables: NFTables, NFTables: IPTables} {
		t.Run(string(first), func(t *testing.T) {
			namespace(t)
			programs(t, IPTables)
			c := configs()["all"]
			for _, b := range []Backend{first, second} {
				if err := installer(b).Apply(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			if drift, err := installer(first).Verify(t.Context(), c); err != nil || len(drift) == 0 {
				t.Errorf("the first backend's rules are still there: %v %q", err, drift)
			}
		})
	}
}

func TestRulesOfIstioAreNotOverwritten(t *testing.T) {
	namespace(t)
	programs(t, IPTables)
	spoil(t, "iptables", "-t", "nat", "-N", "ISTIO_OUTPUT")
	spoil(t, "iptables", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "ISTIO_OUTPUT")
	c := configs()["all"]
	err := installer(IPTables).Apply(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "not outrider's") {
		t.Errorf("%v", err)
	}
	spoil(t, "iptables", "-t", "nat", "-C", "OUTPUT", "-p", "tcp", "-j", "ISTIO_OUTPUT")
	others, err := (nftBackend{}).others(t.Context())
	if err != nil || len(others) == 0 {
		t.Errorf("the NAT rules of others are not seen: %v, %q", err, others)
	}
}

func TestOnlyTheCapabilityNetAdminIsNeeded(t *testing.T) {
	namespace(t)
	// All other capabilities of this thread go, for good.
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{}
	data[0].Effective, data[0].Permitted = 1<<unix.CAP_NET_ADMIN, 1<<unix.CAP_NET_ADMIN
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		t.Fatal(err)
	}
	c := configs()["tproxy"]
	i := installer(NFTables)
	if err := i.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if drift, err := i.Verify(t.Context(), c); err != nil || len(drift) > 0 {
		t.Errorf("%v %q", err, drift)
	}
	if err := i.Cleanup(t.Context(), c); err != nil {
		t.Error(err)
	}
}
