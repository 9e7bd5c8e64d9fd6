package iptables

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// saveBackend runs iptables-save and iptables-restore, and their IPv6 twins.
type saveBackend struct {
	kind string // legacy or nft: whose rules they are
	// plain programs have no kind in their names (iptables-save).
	plain bool
}

func (b saveBackend) name() Backend { return Backend("iptables-" + b.kind) }

// program is "iptables-nft-restore" of the family.
func (b saveBackend) program(f Family, what string) string {
	name := "iptables"
	if f == IPv6 {
		name = "ip6tables"
	}
	if !b.plain {
		name += "-" + b.kind
	}
	return name + "-" + what
}

// findPrograms are the backends whose programs are here, that of the plain name
// first. The error says why there is none.
func findPrograms(ctx context.Context) ([]saveBackend, error) {
	var out []saveBackend
	_, why := exec.LookPath("iptables-restore")
	if why == nil {
		var version string
		if version, why = run(ctx, "", "iptables-restore", "--version"); why == nil {
			// Before 1.8 there was legacy alone, and no word of it.
			kind := "legacy"
			if strings.Contains(version, "nf_tables") {
				kind = "nft"
			}
			out = append(out, saveBackend{kind: kind, plain: true})
		}
	}
	for _, b := range []saveBackend{{kind: "nft"}, {kind: "legacy"}} {
		_, err := exec.LookPath(b.program(IPv4, "restore"))
		if err == nil && !slices.ContainsFunc(out, func(o saveBackend) bool { return o.kind == b.kind }) {
			out = append(out, b)
		}
	}
	// A program may be there, and the kernel not answer it.
	return slices.DeleteFunc(out, func(b saveBackend) bool {
		_, err := b.save(ctx, IPv4)
		if err != nil {
			why = err
		}
		return err != nil
	}), why
}

func run(ctx context.Context, input, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(input)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}

// saved is what iptables-save prints: tables, their chains, their rules.
type saved map[Table]tableLines

func (b saveBackend) save(ctx context.Context, f Family) (saved, error) {
	text, err := run(ctx, "", b.program(f, "save"))
	if err != nil {
		return nil, err
	}
	return parseSaved(text), nil
}

func parseSaved(text string) saved {
	out := saved{}
	var table Table
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		now := out[table]
		switch {
		case strings.HasPrefix(l, "*"):
			table = Table(l[1:])
			continue
		case strings.HasPrefix(l, ":"):
			name, _, _ := strings.Cut(l[1:], " ")
			now.chains = append(now.chains, name)
		case strings.HasPrefix(l, "-A "):
			now.rules = append(now.rules, l)
		}
		out[table] = now
	}
	return out
}

// ownChains are all chains that a plan may have.
func ownChains() []string {
	return []string{inbound, redirect, inRedirect, output, outputDNS, divert, tproxyChain, dropChain}
}

// chainOf is the chain of a rule's line.
func chainOf(rule string) string {
	words := strings.SplitN(rule, " ", 3)
	if len(words) < 3 {
		return ""
	}
	return words[1]
}

// tagged reports whether a rule in everybody's chains is ours.
func tagged(rule string) bool {
	return strings.Contains(rule, "--comment "+ours+" ") || strings.Contains(rule, `--comment "`+ours+`" `)
}

// own are the rules and chains of a table that are ours.
func (t tableLines) own() tableLines {
	var out tableLines
	for _, c := range t.chains {
		if slices.Contains(ownChains(), c) {
			out.chains = append(out.chains, c)
		}
	}
	for _, r := range t.rules {
		if slices.Contains(ownChains(), chainOf(r)) || tagged(r) {
			out.rules = append(out.rules, r)
		}
	}
	return out
}

// foreign is a rule of somebody else that leads to a chain with one of our
// names: istio-iptables'. "" is none.
func (s saved) foreign() string {
	for table, t := range s {
		for _, r := range t.rules {
			if slices.Contains(ownChains(), chainOf(r)) || tagged(r) {
				continue
			}
			for _, c := range ownChains() {
				if strings.HasSuffix(r, " -j "+c) {
					return fmt.Sprintf("table %s: %s", table, r)
				}
			}
		}
	}
	return ""
}

// own is all of ours; without any where the chains are somebody else's.
func (s saved) own() saved {
	out := saved{}
	if s.foreign() != "" {
		return out
	}
	for table, t := range s {
		if own := t.own(); len(own.chains)+len(own.rules) > 0 {
			out[table] = own
		}
	}
	return out
}

// saved is the plan for a family as if it had been saved. A nil plan is empty,
// and so is one without the family.
func (p *Plan) saved(f Family) saved {
	out := saved{}
	if p == nil || f == IPv6 && !p.IPv6 {
		return out
	}
	for _, table := range tables() {
		if l := p.lines(table, f); len(l.chains) > 0 {
			out[table] = l
		}
	}
	return out
}

func tables() []Table { return []Table{Raw, Mangle, NAT} }

// transaction leads from what is there of ours to what is wanted; "" is
// nothing to do.
func (s saved) transaction(want saved) string {
	var out strings.Builder
	for _, table := range tables() {
		have, want := s[table], want[table]
		if len(have.rules)+len(have.chains)+len(want.rules)+len(want.chains) == 0 {
			continue
		}
		fmt.Fprintf(&out, "*%s\n", table)
		for _, r := range have.rules {
			if tagged(r) {
				out.WriteString("-D" + strings.TrimPrefix(r, "-A") + "\n")
			}
		}
		for _, c := range have.chains {
			fmt.Fprintf(&out, "-F %s\n", c)
		}
		for _, c := range have.chains {
			fmt.Fprintf(&out, "-X %s\n", c)
		}
		for _, c := range want.chains {
			if c != Prerouting && c != Output {
				fmt.Fprintf(&out, "-N %s\n", c)
			}
		}
		for _, r := range want.rules {
			out.WriteString(r + "\n")
		}
		out.WriteString("COMMIT\n")
	}
	return out.String()
}
