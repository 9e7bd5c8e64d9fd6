package iptables

import (
	"fmt"
	"log/slog"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	netlinkm "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"outrider/iptables/netnstest"
)

// namespace moves the test's thread into a fresh network namespace. Where that
// is not permitted the test fails in CI, and elsewhere says what is missing.
func namespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	ns, err := netns.New()
	if err != nil {
		netnstest.Missing(t, fmt.Sprintf("a network namespace (root, with CAP_SYS_ADMIN and CAP_NET_ADMIN): %v", err))
	}
	t.Cleanup(func() { ns.Close() })
	if err := netlink.LinkSetUp(loopback(t)); err != nil {
		t.Fatal(err)
	}
}

func loopback(t *testing.T) netlink.Link {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	return lo
}

func installer(b Backend) *Installer {
	return &Installer{Backend: b, Log: slog.New(slog.DiscardHandler)}
}

// everyBackend are all, if their programs are here.
func everyBackend(t *testing.T) []Backend {
	t.Helper()
	for _, program := range []string{"nft", "iptables-nft-restore", "iptables-legacy-restore", "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			netnstest.Missing(t, fmt.Sprintf("the Debian packages iptables, nftables and iproute2: %v", err))
		}
	}
	return []Backend{NFTables, IPTNFT, IPTLegacy}
}

// kernelState is every rule, chain, routing rule, route and address that the
// kernel has, whoever made it. Empty tables and hooks, which iptables leaves,
// are nothing.
func kernelState(t *testing.T) string {
	t.Helper()
	out := nftState(t)
	for _, f := range families() {
		b := saveBackend{kind: "legacy"}
		if b.idle(f) {
			continue
		}
		have, err := b.save(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		for table, lines := range have {
			for _, c := range lines.chains {
				if c == strings.ToUpper(c) && !strings.HasPrefix(c, "ISTIO") {
					continue // the kernel's
				}
				out = append(out, fmt.Sprintf("legacy %d %s chain %s", f, table, c))
			}
			for _, r := range lines.rules {
				out = append(out, fmt.Sprintf("legacy %d %s %s", f, table, r))
			}
		}
	}
	for _, args := range []string{"-4 rule", "-6 rule", "-4 route show table all", "-6 route show table all", "-o addr show dev lo"} {
		text, err := exec.Command("ip", strings.Fields(args)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(text)) {
			// The kernel makes its own routes when it likes; those of ::6 are
			// there with the address, which is looked at.
			if !strings.Contains(l, "fe80:") && !strings.Contains(l, "proto kernel") {
				words := strings.Fields(l)
				if strings.HasSuffix(args, "rule") {
					words = words[1:] // but for the priority, which the kernel gives
				}
				out = append(out, args+": "+strings.Join(words, " "))
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func nftState(t *testing.T) []string {
	t.Helper()
	conn, err := nftConn()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	tables, err := conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if strings.HasPrefix(table.Name, tableName) {
			out = append(out, "nft table "+table.Name)
		}
		have, err := read(table)
		if err != nil {
			t.Fatal(err)
		}
		where := fmt.Sprintf("nft %d %s ", table.Family, table.Name)
		for _, c := range have.chains {
			a, err := parse(c.Data)
			if err != nil {
				t.Fatal(err)
			}
			if name := a.text(unix.NFTA_CHAIN_NAME); table.Name == tableName || strings.HasPrefix(name, "ISTIO") {
				out = append(out, fmt.Sprintf("%s %s: %x", where, name, c.Data))
			}
		}
		for n, r := range have.rules {
			out = append(out, fmt.Sprintf("%s %s: %s %x", where, r.chain, inWords(r.userData), r.exprs))
			if table.Name == tableName { // the order counts
				out[len(out)-1] = fmt.Sprintf("%s %d", out[len(out)-1], n)
			}
		}
	}
	return out
}

// agrees fails if the kernel is not as the configuration says.
func agrees(t *testing.T, i *Installer, c Config) {
	t.Helper()
	if drift, err := i.Verify(t.Context(), c); err != nil || len(drift) > 0 {
		t.Fatalf("%v\n%s", err, strings.Join(drift, "\n"))
	}
}

func same(t *testing.T, what, want, got string) {
	t.Helper()
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestWhatIsAppliedIsWhatTheKernelReportsAndGoneAfterwards(t *testing.T) {
	for _, b := range everyBackend(t) {
		for name, c := range configs() {
			t.Run(string(b)+"/"+name, func(t *testing.T) {
				namespace(t)
				before := kernelState(t)
				i := installer(b)
				if drift, err := i.Verify(t.Context(), c); err != nil || len(drift) == 0 {
					t.Fatalf("nothing is applied yet, and no difference is seen: %v", err)
				}
				if err := i.Apply(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				agrees(t, i, c)
				if err := i.Cleanup(t.Context()); err != nil {
					t.Fatal(err)
				}
				same(t, "after the cleanup", before, kernelState(t))
				if err := i.Cleanup(t.Context()); err != nil {
					t.Errorf("a cleanup of nothing: %v", err)
				}
			})
		}
	}
}

func TestApplyingAgainTouchesNothing(t *testing.T) {
	for _, b := range everyBackend(t) {
		t.Run(string(b), func(t *testing.T) {
			namespace(t)
			i, c := installer(b), configs()["tproxy"]
			if err := i.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			before, numbers := kernelState(t), generation(t)
			if err := i.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			same(t, "applied again", before, kernelState(t))
			if got := generation(t); got != numbers {
				t.Errorf("the rules were made anew: %s, were %s", got, numbers)
			}
			i.Force = true
			if err := i.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			same(t, "forced", before, kernelState(t))
			if got := generation(t); b != IPTLegacy && got == numbers {
				t.Errorf("the rules were not made anew, though that was forced: %s", got)
			}
		})
	}
}

// generation is the number of nf_tables' state: each transaction makes another.
func generation(t *testing.T) string {
	t.Helper()
	conn, err := netlinkm.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer, err := conn.Execute(netlinkm.Message{Header: netlinkm.Header{Type: nftType(unix.NFT_MSG_GETGEN), Flags: netlinkm.Request}, Data: nfgenmsg(0, 0)})
	if err != nil || len(answer) != 1 {
		t.Fatalf("%v, %d answers", err, len(answer))
	}
	a, err := parse(answer[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", a.data(unix.NFTA_GEN_ID))
}

func TestAnotherConfigTakesThePlaceOfTheFirst(t *testing.T) {
	for _, b := range everyBackend(t) {
		t.Run(string(b), func(t *testing.T) {
			namespace(t)
			before := kernelState(t)
			first := configs()["tproxy"]
			first.TProxyMark, first.TProxyTable = 99, 1000
			for _, c := range []Config{first, configs()["tproxy"], configs()["all-ipv4"], configs()["dns"], configs()["all"]} {
				if err := installer(b).Apply(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				agrees(t, installer(b), c)
			}
			if err := installer(Auto).Cleanup(t.Context()); err != nil {
				t.Fatal(err)
			}
			same(t, "after the cleanup", before, kernelState(t))
		})
	}
}

// The plan is rendered twice for nftables: as what goes over netlink and as text
// for people. nft reads the kernel's rules, and the text, and both must be the
// same.
func TestNftReadsInTheKernelWhatThePlanSaysInItsLanguage(t *testing.T) {
	everyBackend(t)
	list := func(c Config) string {
		out, err := exec.Command("nft", "list", "table", NewPlan(c).family(), tableName).CombinedOutput()
		if err != nil {
			t.Fatalf("nft cannot read the rules: %v\n%s", err, out)
		}
		var lines []string
		for l := range strings.Lines(string(out)) {
			l, _, _ = strings.Cut(l, " comment \"") // netlink's rules have them
			lines = append(lines, strings.TrimSpace(l))
		}
		return strings.Join(lines, "\n")
	}
	for name, c := range configs() {
		for _, six := range []bool{true, false} {
			c.IPv6 = six
			t.Run(fmt.Sprintf("%s, IPv6 %v", name, six), func(t *testing.T) {
				namespace(t)
				if err := installer(NFTables).Apply(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				kernel := list(c)
				load := exec.Command("nft", "-f", "-")
				load.Stdin = strings.NewReader(NewPlan(c).NFT())
				if out, err := load.CombinedOutput(); err != nil {
					t.Fatalf("nft does not take the text: %v\n%s", err, out)
				}
				same(t, "the text", kernel, list(c))
				if len(c.OwnerGroups) > 1 {
					return // nft loads the group for each, and we once
				}
				// And what was loaded from the text is no drift.
				agrees(t, installer(NFTables), c)
			})
		}
	}
}

func TestTheCommandsOfADryRunDoWhatIsDone(t *testing.T) {
	everyBackend(t)
	namespace(t)
	c := configs()["tproxy"]
	p := NewPlan(c)
	commands := p.Commands()
	if len(commands) != 5 {
		t.Fatalf("commands: %q", commands)
	}
	for _, l := range commands {
		spoil(t, strings.Fields(l)...)
	}
	if drift, err := p.routing().drift(); err != nil || len(drift) > 0 {
		t.Errorf("%v, %q", err, drift)
	}
}
