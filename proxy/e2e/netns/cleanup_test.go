//go:build netns

package netns

import (
	"slices"
	"strings"
	"testing"
)

func TestAfterTheCleanupEverythingIsAsBefore(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		applications(t, w.server)
		before := w.network(t, w.server)
		server := w.sidecar(w.server, "mtls: STRICT\n")
		with := w.network(t, w.server)
		if !strings.Contains(with, "15006") || !strings.Contains(with, "15001") {
			t.Fatalf("the redirection cannot be seen here:\n%s", with)
		}
		if got := w.rules(w.server, "--verify"); strings.TrimSpace(got) != "" {
			t.Errorf("the kernel differs from the flags:\n%s", got)
		}
		w.rules(w.server)
		if again := w.network(t, w.server); again != with {
			t.Errorf("the second time changes something:\n%s\nwas:\n%s", again, with)
		}
		eachFamily(t, func(t *testing.T, f family) { w.plain.isRefused(t, f.at(w.server, echoPort)) })
		w.rules(w.server, "--cleanup-only")
		if after := w.network(t, w.server); after != before {
			t.Errorf("after the cleanup there is:\n%s\nbefore:\n%s", after, before)
		}
		taken := server.inbound()
		eachFamily(t, func(t *testing.T, f family) {
			if got, err := w.plain.call(f.at(w.server, echoPort), "x"); err != nil || got != f.address(w.plain)+": x" {
				t.Errorf("the application answers %q %v, want it to be called as if there were no sidecar", got, err)
			}
		})
		if n := server.inbound() - taken; n != 0 {
			t.Errorf("%d connections still pass the sidecar", n)
		}
	})
}

// network is all that the redirection may have changed in the host.
func (w *world) network(t *testing.T, h *host) string {
	t.Helper()
	commands := []string{
		"ip -4 rule", "ip -6 rule", "ip -4 route show table all", "ip -6 route show table all", "ip -brief address",
		"grep -r . /proc/sys/net/ipv4/conf",
	}
	var all strings.Builder
	if w.setup.backend == "nftables" {
		commands = append(commands, "nft -s list ruleset")
	} else {
		// The built-in chains stay, and come in any order.
		for _, command := range []string{"iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"} {
			all.WriteString("# " + command + "\n" + rules(h.Run(t, command)))
		}
	}
	for _, command := range commands {
		words := strings.Fields(command)
		all.WriteString("# " + command + "\n" + settled(h.Run(t, words[0], words[1:]...)))
	}
	return all.String()
}

// settled leaves out what the kernel makes by itself, and when it likes: its own
// routes, and link-local addresses.
func settled(text string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, "proto kernel") {
			continue
		}
		words := slices.DeleteFunc(strings.Fields(line), func(w string) bool { return strings.HasPrefix(w, "fe80:") })
		kept.WriteString(strings.Join(words, " ") + "\n")
	}
	return kept.String()
}

// rules are what iptables-save prints, but for what is there without rules: the
// built-in chains, tables and remarks.
func rules(saved string) string {
	var kept []string
	table := ""
	for line := range strings.Lines(saved) {
		switch {
		case strings.HasPrefix(line, "*"):
			table = strings.TrimSpace(line)
		case strings.HasPrefix(line, "#"), line == "COMMIT\n", strings.HasPrefix(line, ":") && !strings.Contains(line, " - "):
		default:
			line, _, _ = strings.Cut(line, " [") // the counters
			kept = append(kept, table+" "+strings.TrimSpace(line)+"\n")
		}
	}
	return strings.Join(kept, "")
}
