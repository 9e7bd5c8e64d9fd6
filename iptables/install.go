package iptables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
)

// Backend is how rules get into the kernel.
type Backend string

// The backends.
const (
	Auto      Backend = "auto"            // what has rules of ours already; else nftables, if the kernel takes the plan; else iptables
	NFTables  Backend = "nftables"        // over netlink
	IPTables  Backend = "iptables"        // iptables-restore, whichever of the two that is
	IPTLegacy Backend = "iptables-legacy" // the one of ip_tables
	IPTNFT    Backend = "iptables-nft"    // the one of nf_tables
)

// backend is one way to apply a plan. All of it works in the network namespace
// of the calling thread.
type backend interface {
	name() Backend
	// owned reports whether there is anything of ours.
	owned(ctx context.Context) (bool, error)
	// replace leads from whatever there is of ours to p; nil is nothing. With an
	// error nothing is changed. undo leads back.
	replace(ctx context.Context, p *Plan) (undo, error)
	// drift is how the kernel differs from p.
	drift(ctx context.Context, p *Plan) ([]string, error)
}

// Installer applies, checks and removes the redirection, in the network
// namespace of the calling thread: a caller that entered one must have locked
// its goroutine to the thread.
type Installer struct {
	Backend Backend
	// Force replaces the rules also where they are right.
	Force bool
	Log   *slog.Logger
}

// choose finds the backend for a plan among those that work here, and those
// that do not get it.
func (i *Installer) choose(ctx context.Context, p *Plan) (chosen backend, others []backend, err error) {
	all, why := backends(ctx)
	switch i.Backend {
	case Auto, "":
		chosen, err = i.auto(ctx, all, p)
	case NFTables, IPTLegacy, IPTNFT:
		chosen = named(all, i.Backend)
	case IPTables:
		chosen, err = oneOf(ctx, slices.DeleteFunc(slices.Clone(all), func(b backend) bool { return b.name() == NFTables }))
	default:
		return nil, nil, fmt.Errorf("backend %q: it is auto, nftables, iptables, iptables-legacy or iptables-nft", i.Backend)
	}
	if err != nil {
		return nil, nil, err
	}
	if chosen == nil {
		return nil, nil, fmt.Errorf("backend %s does not work here: %w", i.Backend, why.of(i.Backend))
	}
	return chosen, slices.DeleteFunc(all, func(b backend) bool { return b.name() == chosen.name() }), nil
}

func (i *Installer) auto(ctx context.Context, all []backend, p *Plan) (backend, error) {
	for _, b := range all {
		is, err := b.owned(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", b.name(), err)
		}
		if is {
			return b, nil
		}
	}
	nft := named(all, NFTables)
	if nft == nil {
		return oneOf(ctx, all)
	}
	err := nftBackend{}.probe(p)
	if err == nil {
		return nft, nil
	}
	if rest := slices.DeleteFunc(slices.Clone(all), func(b backend) bool { return b == nft }); len(rest) > 0 {
		i.Log.Info("the kernel does not take the rules by nftables, iptables-restore is used", "reason", err)
		return rest[0], nil
	}
	return nil, fmt.Errorf("the kernel does not take the rules by nftables, and there is no iptables-restore: %w", err)
}

// oneOf is the first that has rules of ours, or else the first; nil is none.
func oneOf(ctx context.Context, of []backend) (backend, error) {
	for _, b := range of {
		if is, err := b.owned(ctx); err != nil || is {
			return b, err
		}
	}
	if len(of) == 0 {
		return nil, nil
	}
	return of[0], nil
}

func named(all []backend, name Backend) backend {
	for _, b := range all {
		if b.name() == name {
			return b
		}
	}
	return nil
}

// backends are those that work here, nftables first, and why others do not.
func backends(ctx context.Context) ([]backend, reasons) {
	var out []backend
	why := reasons{}
	if err := (nftBackend{}).available(); err != nil {
		why[NFTables] = err
	} else {
		out = append(out, nftBackend{})
	}
	programs, err := findPrograms(ctx)
	if len(programs) == 0 {
		why[IPTables] = err
	}
	for _, b := range programs {
		out = append(out, b)
	}
	return out, why
}

// reasons are why backends do not work.
type reasons map[Backend]error

func (r reasons) of(b Backend) error {
	if err := r[b]; err != nil {
		return err
	}
	switch {
	case b == Auto || b == "":
		return errors.Join(r[NFTables], r[IPTables])
	case r[IPTables] != nil:
		return r[IPTables]
	}
	return fmt.Errorf("no program %s-restore is in PATH", b)
}

// Apply makes the rules of c. Where they are right already nothing is touched,
// unless Force is set. What there was of ours, by whichever backend, is
// replaced. If anything fails, what was there before is there again: nothing,
// after the first run.
func (i *Installer) Apply(ctx context.Context, c Config) error {
	_, err := i.apply(ctx, c)
	return err
}

// Reconcile is Apply, and returns the differences that it mended.
func (i *Installer) Reconcile(ctx context.Context, c Config) ([]string, error) {
	return i.apply(ctx, c)
}

func (i *Installer) apply(ctx context.Context, c Config) (drift []string, err error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	p := NewPlan(c)
	b, others, err := i.choose(ctx, p)
	if err != nil {
		return nil, err
	}
	i.warn(ctx)
	if drift, err = compare(ctx, p, b, others); err != nil {
		return nil, err
	}
	if len(drift) == 0 && !i.Force {
		i.Log.Info("redirection is in place already", "backend", b.name())
		return nil, nil
	}
	changes, err := toPlan(p, b, others)
	if err != nil {
		return nil, err
	}
	if err := take(ctx, changes); err != nil {
		return nil, err
	}
	i.Log.Info("redirection is in place", "backend", b.name(), "mode", c.Mode, "ipv6", c.IPv6)
	return drift, nil
}

// toPlan are the changes that lead to p. Routes come first, for rules without
// them would lose packets; what is in the way goes when the new rules are there.
func toPlan(p *Plan, b backend, others []backend) ([]change, error) {
	lacks, tooMuch, err := p.routing().diff()
	if err != nil {
		return nil, err
	}
	out := append(adding(lacks), change{"rules by " + string(b.name()), func(ctx context.Context) (undo, error) { return b.replace(ctx, p) }})
	for _, o := range others {
		out = append(out, change{"removal of rules by " + string(o.name()), func(ctx context.Context) (undo, error) { return o.replace(ctx, nil) }})
	}
	return append(out, removing(tooMuch)...), nil
}

// Verify compares the kernel with c: every difference is told, none means that
// they agree.
func (i *Installer) Verify(ctx context.Context, c Config) ([]string, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	p := NewPlan(c)
	b, others, err := i.choose(ctx, p)
	if err != nil {
		return nil, err
	}
	return compare(ctx, p, b, others)
}

func compare(ctx context.Context, p *Plan, b backend, others []backend) ([]string, error) {
	drift, err := b.drift(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.name(), err)
	}
	for _, o := range others {
		is, err := o.owned(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.name(), err)
		}
		if is {
			drift = append(drift, fmt.Sprintf("there are rules of ours by %s, beside those by %s", o.name(), b.name()))
		}
	}
	more, err := p.routing().drift()
	return append(drift, more...), err
}

// Cleanup takes away everything of ours: by every backend that works here, with
// routes and addresses, whatever the flags were that made them. What is not
// there is no error. ::6 stays where istio-iptables' rules are: they need it.
func (i *Installer) Cleanup(ctx context.Context) error {
	all, why := backends(ctx)
	if len(all) == 0 {
		return fmt.Errorf("no backend works here: %w", why.of(Auto))
	}
	var errs []error
	shared := false
	for _, b := range all {
		if _, err := b.replace(ctx, nil); err != nil {
			errs = append(errs, fmt.Errorf("rules by %s: %w", b.name(), err))
		}
		if s, ok := b.(saveBackend); ok {
			is, err := s.foreign(ctx)
			shared = shared || is
			errs = append(errs, err)
		}
	}
	_, items, err := routing{}.diff()
	errs = append(errs, err)
	for _, item := range items {
		if shared && item.address.IsValid() {
			continue
		}
		if err := item.remove(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", item.what, explain(err)))
		}
	}
	return errors.Join(errs...)
}
