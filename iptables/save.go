package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// saveBackend runs iptables-save and iptables-restore, and their IPv6 twins.
type saveBackend struct {
	// variant is "", "legacy" or "nft": which iptables (iptables-legacy-save).
	variant string
}

func (saveBackend) name() string { return "iptables" }

// program is "iptables-restore" of the family and the variant.
func (b saveBackend) program(f Family, what string) string {
	name := "iptables"
	if f == IPv6 {
		name = "ip6tables"
	}
	if b.variant != "" {
		name += "-" + b.variant
	}
	return name + "-" + what
}

// available is nil if the programs are there and the kernel answers them.
func (b saveBackend) available(ctx context.Context) error {
	_, err := b.save(ctx, IPv4)
	return err
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
type saved map[Table]*tableLines

func (b saveBackend) save(ctx context.Context, f Family) (saved, error) {
	text, err := run(ctx, "", b.program(f, "save"))
	if err != nil {
		return nil, err
	}
	out := saved{}
	var now *tableLines
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		switch {
		case strings.HasPrefix(l, "*"):
			now = &tableLines{}
			out[Table(l[1:])] = now
		case strings.HasPrefix(l, ":") && now != nil:
			name, _, _ := strings.Cut(l[1:], " ")
			now.chains = append(now.chains, name)
		case strings.HasPrefix(l, "-A ") && now != nil:
			now.rules = append(now.rules, l)
		}
	}
	return out, nil
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
func tagged(rule string) bool { return strings.Contains(rule, "--comment "+ours+" ") }

// own are the rules and chains of a table that are ours.
func (t *tableLines) own() tableLines {
	var out tableLines
	if t == nil {
		return out
	}
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

// foreign says that somebody else has chains of our names: rules lead to them
// that are not ours (istio-iptables'). "" is nobody.
func (s saved) foreign() string {
	for table, t := range s {
		for _, r := range t.rules {
			if slices.Contains(ownChains(), chainOf(r)) || tagged(r) {
				continue
			}
			for _, c := range ownChains() {
				if strings.HasSuffix(r, " -j "+c) {
					return fmt.Sprintf("table %s has a redirection that is not outrider's: %s", table, r)
				}
			}
		}
	}
	return ""
}

// transaction leads from what is there to the plan's rules; a nil plan is none.
func (s saved) transaction(p *Plan, f Family) string {
	var out strings.Builder
	for _, table := range []Table{Raw, Mangle, NAT} {
		have, want := s[table].own(), tableLines{}
		if p != nil {
			want = p.lines(table, f)
		}
		if len(have.rules)+len(have.chains)+len(want.rules) == 0 {
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

// families are those that a plan is for; a plan of IPv4 alone takes away what
// there was of IPv6.
func families() []Family { return []Family{IPv4, IPv6} }

func (b saveBackend) apply(ctx context.Context, p *Plan) error {
	for _, f := range families() {
		plan := p
		if f == IPv6 && !p.IPv6 {
			plan = nil
		}
		if err := b.change(ctx, plan, f); err != nil {
			return err
		}
	}
	return nil
}

// change leads one family to a plan. Where IPv6 cannot be read there is nothing
// to take away.
func (b saveBackend) change(ctx context.Context, p *Plan, f Family) error {
	have, err := b.save(ctx, f)
	if err != nil {
		if p == nil && f == IPv6 {
			return nil
		}
		return err
	}
	if other := have.foreign(); other != "" {
		if p == nil {
			return nil // it is not ours to take away
		}
		return errors.New(other)
	}
	text := have.transaction(p, f)
	if text == "" {
		return nil
	}
	_, err = run(ctx, text, b.program(f, "restore"), "--noflush", "--wait", "30")
	return err
}

func (b saveBackend) cleanup(ctx context.Context) error {
	var errs []error
	for _, f := range families() {
		errs = append(errs, b.change(ctx, nil, f))
	}
	return errors.Join(errs...)
}

func (b saveBackend) drift(ctx context.Context, p *Plan) (drift []string, present bool, err error) {
	for _, f := range families() {
		have, err := b.save(ctx, f)
		if err != nil {
			if f == IPv6 && !p.IPv6 {
				continue
			}
			return nil, false, err
		}
		for _, table := range []Table{Raw, Mangle, NAT} {
			own, want := have[table].own(), tableLines{}
			if f == IPv4 || p.IPv6 {
				want = p.lines(table, f)
			}
			present = present || len(own.rules) > 0 || len(own.chains) > 0
			drift = append(drift, compareLines(b.program(f, "save"), table, want, own)...)
		}
	}
	return drift, present, nil
}

// compareLines compares chain by chain: their order in the output says nothing.
func compareLines(program string, table Table, want, have tableLines) []string {
	var drift []string
	chains := slices.Concat(want.chains, have.chains)
	slices.Sort(chains)
	for _, c := range slices.Compact(chains) {
		of := func(t tableLines) (out []string) {
			for _, r := range t.rules {
				if chainOf(r) == c {
					out = append(out, r)
				}
			}
			return out
		}
		w, h := of(want), of(have)
		for i := range max(len(w), len(h)) {
			switch {
			case i >= len(h):
				drift = append(drift, fmt.Sprintf("%s, table %s lacks: %s", program, table, w[i]))
			case i >= len(w):
				drift = append(drift, fmt.Sprintf("%s, table %s has too much: %s", program, table, h[i]))
			case w[i] != h[i]:
				drift = append(drift, fmt.Sprintf("%s, table %s has: %s, not: %s", program, table, h[i], w[i]))
			}
		}
		if len(w)+len(h) == 0 && slices.Contains(want.chains, c) != slices.Contains(have.chains, c) {
			drift = append(drift, fmt.Sprintf("%s, table %s, chain %s: it is there or not against the plan", program, table, c))
		}
	}
	return drift
}

// others are the rules of others in the NAT hooks.
func (b saveBackend) others(ctx context.Context) ([]string, error) {
	var out []string
	for _, f := range families() {
		have, err := b.save(ctx, f)
		if err != nil {
			if f == IPv6 {
				continue
			}
			return nil, err
		}
		t := have[NAT]
		if t == nil {
			continue
		}
		for _, r := range t.rules {
			if c := chainOf(r); (c == Prerouting || c == Output) && !tagged(r) {
				out = append(out, fmt.Sprintf("%s: %s", b.program(f, "save"), r))
			}
		}
	}
	return out, nil
}
