package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

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
		{"a rule is gone", IPTNFT, []string{"iptables-nft", "-t", "nat", "-D", "ISTIO_OUTPUT", "1"}, "iptables"},
		{"a rule is added", IPTNFT, []string{"iptables-nft", "-t", "nat", "-A", "ISTIO_OUTPUT", "-p", "tcp", "-j", "ACCEPT"}, "has too much: -A ISTIO_OUTPUT -p tcp -j ACCEPT"},
		{"the hook is gone", IPTNFT, []string{"iptables-nft", "-t", "nat", "-F", "OUTPUT"}, "lacks: -A OUTPUT"},
		{"a rule in front of the hook's is not ours to judge", IPTNFT, []string{"iptables-nft", "-t", "nat", "-I", "OUTPUT", "-p", "tcp", "-j", "ACCEPT"}, ""},
		{"IPv6 is gone", IPTNFT, []string{"ip6tables-nft", "-t", "nat", "-F", "ISTIO_OUTPUT"}, "lacks: -A ISTIO_OUTPUT -s ::6/128"},
		{"a legacy rule is gone", IPTLegacy, []string{"iptables-legacy", "-t", "mangle", "-D", "ISTIO_DIVERT", "1"}, "table mangle has: -A ISTIO_DIVERT -j ACCEPT, not: -A ISTIO_DIVERT -j MARK"},
		{"a chain is emptied", NFTables, []string{"nft", "flush", "chain", "inet", "outrider", "nat_istio_output"}, "chain nat_istio_output lacks rule 1"},
		{"a rule in front", NFTables, []string{"nft", "insert", "rule", "inet", "outrider", "nat_output", "accept"}, "chain nat_output rule 1 is another"},
		{"another port", NFTables, []string{"sh", "-c", "nft flush chain inet outrider mangle_istio_tproxy; nft add rule inet outrider mangle_istio_tproxy meta l4proto tcp tproxy ip to :1 accept"}, "chain mangle_istio_tproxy rule 1 is another"},
		{"another port of a redirect", NFTables, []string{"sh", "-c", "nft flush chain inet outrider nat_istio_redirect; nft add rule inet outrider nat_istio_redirect meta l4proto tcp redirect to :15002"}, "chain nat_istio_redirect rule 1 is another"},
		{"more at a rule's end", NFTables, []string{"sh", "-c", "nft flush chain inet outrider mangle_istio_divert; nft add rule inet outrider mangle_istio_divert meta mark set 0x539 drop; nft add rule inet outrider mangle_istio_divert accept"}, "chain mangle_istio_divert rule 1 is another"},
		{"the table is gone", NFTables, []string{"nft", "delete", "table", "inet", "outrider"}, "there is no table inet outrider"},
		{"the table sleeps", NFTables, []string{"nft", "add table inet outrider { flags dormant; }"}, "table inet outrider is dormant"},
		{"a chain too many", NFTables, []string{"nft", "add", "chain", "inet", "outrider", "more"}, "chain more is too much"},
		{"a hook's policy", NFTables, []string{"nft", "add chain inet outrider nat_output { policy drop; }"}, "chain nat_output drops what no rule fits"},
		{"the route is gone", NFTables, []string{"ip", "route", "flush", "table", "133"}, "IPv4 route local default dev lo table 133 is missing"},
		{"the routing rule is gone", NFTables, []string{"ip", "-6", "rule", "del", "fwmark", "1337"}, "IPv6 rule fwmark 1337 lookup 133 is missing"},
		{"the routing rule is there twice", NFTables, []string{"ip", "-6", "rule", "add", "fwmark", "1337", "lookup", "133", "protocol", "133", "pref", "7"}, "IPv6 rule fwmark 1337 lookup 133 is too much"},
		{"the routing rule of another mark", NFTables, []string{"ip", "rule", "add", "fwmark", "5", "lookup", "133", "protocol", "133"}, "IPv4 rule fwmark 5 lookup 133 is too much"},
		{"the address is gone", NFTables, []string{"ip", "-6", "addr", "del", "::6/128", "dev", "lo"}, "address ::6/128 on lo is missing"},
		{"the other backend's rules are there, too", NFTables, []string{"sh", "-c", "iptables-nft -t nat -N ISTIO_OUTPUT; iptables-nft -t nat -A OUTPUT -m comment --comment outrider -j ISTIO_OUTPUT"}, "there are rules of ours by iptables-nft, beside those by nftables"},
	}
	everyBackend(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			namespace(t)
			i, c := installer(test.backend), configs()["tproxy"]
			if err := i.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			right := kernelState(t)
			spoil(t, test.spoil...)
			drift, err := i.Verify(t.Context(), c)
			if err != nil || (test.want == "") != (len(drift) == 0) || !strings.Contains(strings.Join(drift, "\n"), test.want) {
				t.Errorf("told: %q, %v, want %q in it", drift, err, test.want)
			}
			if test.want == "" {
				return
			}
			mended, err := i.Reconcile(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(mended, drift) {
				t.Errorf("mended %q, told %q", mended, drift)
			}
			agrees(t, i, c)
			same(t, "after it was mended", right, kernelState(t))
			if again, err := i.Reconcile(t.Context(), c); err != nil || len(again) > 0 {
				t.Errorf("mended again: %v, %q", err, again)
			}
		})
	}
}

// A failure after, or in, each step leads back to what there was: nothing, or
// another redirection by whichever backend.
func TestAFailureAtAnyStepLeadsBackToWhatThereWas(t *testing.T) {
	c, old := configs()["tproxy"], configs()["dns-all"]
	old.Mode, old.TProxyMark = TProxy, 77
	for _, name := range everyBackend(t) {
		for _, first := range []Backend{"", NFTables, IPTNFT, IPTLegacy} {
			for n, last := 0, false; !last; n++ {
				t.Run(fmt.Sprintf("%s after %q, step %d", name, first, n+1), func(t *testing.T) {
					last = true // unless it is found that there are more
					namespace(t)
					if first != "" {
						if err := installer(first).Apply(t.Context(), old); err != nil {
							t.Fatal(err)
						}
					}
					before := kernelState(t)
					p := NewPlan(c)
					b, others, err := installer(name).choose(t.Context(), p)
					if err != nil {
						t.Fatal(err)
					}
					steps, err := toPlan(p, b, others)
					if err != nil {
						t.Fatal(err)
					}
					last = n == len(steps)-1
					broken := change{"the broken one", func(context.Context) (undo, error) { return nil, errors.New("no luck") }}
					err = take(t.Context(), slices.Insert(steps, n+1, broken))
					if err == nil || err.Error() != "the broken one: no luck" {
						t.Errorf("%v", err)
					}
					same(t, "after the failure", before, kernelState(t))
				})
			}
		}
	}
}

// fail puts a program in front of PATH that fails, or does so after it did what
// it is for.
func fail(t *testing.T, program, after string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/"+program, []byte("#!/bin/sh\n"+after+"\necho no luck >&2; exit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestAProgramThatFailsHalfWayLeavesNothingBehind(t *testing.T) {
	everyBackend(t)
	for name, test := range map[string]struct{ program, after string }{
		"for IPv4":                     {"iptables-legacy-restore", ""},
		"for IPv6":                     {"ip6tables-legacy-restore", ""},
		"between two of IPv4's tables": {"iptables-legacy-restore", "[ -e $0.once ] && exec /usr/sbin/iptables-legacy-restore \"$@\"; touch $0.once; awk '{print} /COMMIT/ {exit}' | /usr/sbin/iptables-legacy-restore \"$@\""},
	} {
		t.Run(name, func(t *testing.T) {
			namespace(t)
			before := kernelState(t)
			fail(t, test.program, test.after)
			err := installer(IPTLegacy).Apply(t.Context(), configs()["tproxy"])
			if err == nil || !strings.Contains(err.Error(), "no luck") || strings.Contains(err.Error(), "undone") {
				t.Errorf("%v", err)
			}
			same(t, "after the failure", before, kernelState(t))
		})
	}
}
