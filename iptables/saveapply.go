package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// families are those that a plan is for; a plan of IPv4 alone takes away what
// there was of IPv6.
func families() []Family { return []Family{IPv4, IPv6} }

// tablesOf are the tables that ip_tables has (the legacy variant) in this
// network namespace, whether or not its programs are here. Only root may read
// them.
func tablesOf(f Family) ([]string, error) {
	name := "ip_tables_names"
	if f == IPv6 {
		name = "ip6_tables_names"
	}
	text, err := os.ReadFile("/proc/thread-self/net/" + name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return strings.Fields(string(text)), err
}

// idle reports that there cannot be any rule of the family: to ask the program
// would be for nothing.
func (b saveBackend) idle(f Family) bool {
	if b.kind != "legacy" {
		return false
	}
	names, err := tablesOf(f)
	return err == nil && len(names) == 0
}

func (b saveBackend) owned(ctx context.Context) (bool, error) {
	for _, f := range families() {
		have, err := b.present(ctx, f)
		if err != nil || len(have.own()) > 0 {
			return err == nil, err
		}
	}
	return false, nil
}

// present is what is there. Where IPv6 cannot be read there is nothing of it.
func (b saveBackend) present(ctx context.Context, f Family) (saved, error) {
	if b.idle(f) {
		return saved{}, nil
	}
	have, err := b.save(ctx, f)
	if err != nil && f == IPv6 && !KernelHasIPv6() {
		return saved{}, nil
	}
	return have, err
}

// foreign reports whether the chains are istio-iptables'.
func (b saveBackend) foreign(ctx context.Context) (bool, error) {
	for _, f := range families() {
		have, err := b.present(ctx, f)
		if err != nil || have.foreign() != "" {
			return err == nil, err
		}
	}
	return false, nil
}

// replace leads both families to the plan; each is one transaction a table. If
// the second fails, the first goes back.
func (b saveBackend) replace(ctx context.Context, p *Plan) (undo, error) {
	var changes []change
	var done []undo
	for _, f := range families() {
		changes = append(changes, change{b.program(f, "restore"), func(ctx context.Context) (undo, error) {
			undo, err := b.change(ctx, p, f)
			if err == nil {
				done = append(done, undo)
			}
			return undo, err
		}})
	}
	if err := take(ctx, changes); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return rollback(ctx, done) }, nil
}

// change leads one family to a plan.
func (b saveBackend) change(ctx context.Context, p *Plan, f Family) (undo, error) {
	have, err := b.present(ctx, f)
	if err != nil {
		return nil, err
	}
	before, want := have.own(), p.saved(f)
	if other := have.foreign(); other != "" && len(want) > 0 {
		return nil, fmt.Errorf("there is a redirection that is not outrider's: %s", other)
	}
	back := func(ctx context.Context) error {
		now, err := b.present(ctx, f)
		if err != nil {
			return err
		}
		return b.restore(ctx, f, now.own().transaction(before))
	}
	if err := b.restore(ctx, f, before.transaction(want)); err != nil {
		// Tables are committed one by one: those before the failure are changed.
		return nil, errors.Join(err, back(context.WithoutCancel(ctx)))
	}
	return back, nil
}

func (b saveBackend) restore(ctx context.Context, f Family, text string) error {
	if text == "" {
		return nil
	}
	args := []string{"--noflush"}
	if b.kind == "legacy" { // there is a lock for it, which others may hold
		args = append(args, "--wait", "30")
	}
	_, err := run(ctx, text, b.program(f, "restore"), args...)
	return err
}

func (b saveBackend) drift(ctx context.Context, p *Plan) ([]string, error) {
	var drift []string
	for _, f := range families() {
		have, err := b.present(ctx, f)
		if err != nil {
			return nil, err
		}
		if other := have.foreign(); other != "" {
			drift = append(drift, fmt.Sprintf("%s: there is a redirection that is not outrider's: %s", b.program(f, "save"), other))
		}
		own, want := have.own(), p.saved(f)
		for _, table := range tables() {
			drift = append(drift, compareLines(b.program(f, "save"), table, want[table], own[table])...)
		}
	}
	return drift, nil
}

// compareLines compares chain by chain: their order in the output says nothing.
func compareLines(program string, table Table, want, have tableLines) []string {
	var drift []string
	chains := slices.Concat(want.chains, have.chains)
	slices.Sort(chains)
	for _, c := range slices.Compact(chains) {
		w, h := want.of(c), have.of(c)
		for i := range max(len(w), len(h)) {
			switch {
			case i >= len(h):
				drift = append(drift, fmt.Sprintf("%s, table %s lacks: %s", program, table, w[i]))
			case i >= len(w):
				drift = append(drift, fmt.Sprintf("%s, table %s has too much: %s", program, table, h[i]))
			case canonical(w[i]) != canonical(h[i]):
				drift = append(drift, fmt.Sprintf("%s, table %s has: %s, not: %s", program, table, h[i], w[i]))
			}
		}
		if len(w)+len(h) == 0 && slices.Contains(want.chains, c) != slices.Contains(have.chains, c) {
			drift = append(drift, fmt.Sprintf("%s, table %s, chain %s: it is there or not against the plan", program, table, c))
		}
	}
	return drift
}

// of are the rules of a chain.
func (t tableLines) of(chain string) []string {
	var out []string
	for _, r := range t.rules {
		if chainOf(r) == chain {
			out = append(out, r)
		}
	}
	return out
}
