package iptables

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestABackendTakesThePlaceOfTheOther(t *testing.T) {
	all := everyBackend(t)
	for _, first := range all {
		for _, second := range all {
			t.Run(string(first)+" then "+string(second), func(t *testing.T) {
				namespace(t)
				c := configs()["all"]
				for _, b := range []Backend{first, second} {
					if err := installer(b).Apply(t.Context(), c); err != nil {
						t.Fatal(err)
					}
					agrees(t, installer(b), c)
				}
				if drift, err := installer(first).Verify(t.Context(), c); err != nil || first != second && len(drift) == 0 {
					t.Errorf("the first backend's rules are still there: %v %q", err, drift)
				}
				// Left to choose, it stays with what is there.
				before := kernelState(t)
				if err := installer(Auto).Apply(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				same(t, "left to choose", before, kernelState(t))
			})
		}
	}
}

func TestRulesOfIstioAreNeitherOverwrittenNorRemoved(t *testing.T) {
	everyBackend(t)
	for _, program := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(program, func(t *testing.T) {
			namespace(t)
			spoil(t, program, "-t", "nat", "-N", "ISTIO_OUTPUT")
			spoil(t, program, "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "ISTIO_OUTPUT")
			spoil(t, "ip", "addr", "add", "::6/128", "dev", "lo", "nodad")
			spoil(t, "ip", "rule", "add", "fwmark", "1337", "lookup", "133")
			before := kernelState(t)
			c := configs()["all"]
			err := installer(Backend(program)).Apply(t.Context(), c)
			if err == nil || !strings.Contains(err.Error(), "not outrider's") {
				t.Errorf("%v", err)
			}
			if err := installer(Auto).Cleanup(t.Context()); err != nil {
				t.Error(err)
			}
			same(t, "Istio's", before, kernelState(t))
			others, err := installer(Auto).Conflicts(t.Context())
			if err != nil || len(others) != 1 || !strings.Contains(others[0], "table") {
				t.Errorf("the NAT rules of others: %v, %q", err, others)
			}
		})
	}
}

func TestConflictsNamesTheOthersAndNotOurs(t *testing.T) {
	for _, b := range everyBackend(t) {
		t.Run(string(b), func(t *testing.T) {
			namespace(t)
			i := installer(b)
			if err := i.Apply(t.Context(), configs()["all"]); err != nil {
				t.Fatal(err)
			}
			if others, err := i.Conflicts(t.Context()); err != nil || len(others) > 0 {
				t.Errorf("ours alone: %q, %v", others, err)
			}
			spoil(t, "nft", "add table ip docker; add chain ip docker out { type nat hook output priority -105; }; add rule ip docker out tcp dport 53 redirect to :5353")
			spoil(t, "nft", "add table ip masq; add chain ip masq post { type nat hook postrouting priority 100; }; add rule ip masq post masquerade")
			want := []string{"nftables, table ip docker, chain out, priority -105: 1 rules"}
			if others, err := i.Conflicts(t.Context()); err != nil || !slices.Equal(others, want) {
				t.Errorf("got %q, %v, want %q", others, err, want)
			}
		})
	}
}

// A transaction's acknowledgements are one a rule: they must fit.
func TestThousandsOfRulesFit(t *testing.T) {
	namespace(t)
	c := configs()["all"]
	for p := range uint16(3000) {
		c.ExcludeInboundPorts = append(c.ExcludeInboundPorts, 20000+p)
	}
	for g := range uint32(maxOwnerGroups) {
		c.OwnerGroups = append(c.OwnerGroups, 100+g)
	}
	i := installer(NFTables)
	if err := i.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	agrees(t, i, c)
}

func TestWhatTheKernelLacksIsFoundBeforeItIsNeeded(t *testing.T) {
	everyBackend(t)
	namespace(t)
	before := kernelState(t)
	for name, c := range configs() {
		if err := (nftBackend{}).probe(NewPlan(c)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := NewPlan(configs()["all"])
	// A chain that is not there is refused as a word that the kernel does not know.
	p.Chains = append(p.Chains, Chain{NAT, "LAST", []Rule{{Do: Action{Verb: Jump, Chain: "MISSING"}}}})
	if err := (nftBackend{}).probe(p); err == nil {
		t.Error("a plan that the kernel cannot take is not refused")
	}
	same(t, "after the probes", before, kernelState(t))
	b, _, err := installer(Auto).choose(t.Context(), p)
	if err != nil || b.name() != IPTNFT {
		t.Errorf("nftables does not take it, and %v is chosen, want %s; %v", b, IPTNFT, err)
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
	if err := i.Cleanup(t.Context()); err != nil {
		t.Error(err)
	}
}
