package iptables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// Backend is how rules get into the kernel.
type Backend string

// The backends.
const (
	Auto      Backend = "auto"     // nftables, if the kernel has it, else iptables
	NFTables  Backend = "nftables" // over netlink
	IPTables  Backend = "iptables" // iptables-restore
	IPTLegacy Backend = "iptables-legacy"
	IPTNFT    Backend = "iptables-nft"
)

// backend is one way to apply a plan. All of it works in the network namespace
// of the calling thread.
type backend interface {
	name() string
	available(ctx context.Context) error
	// apply leads from whatever there is of ours to p.
	apply(ctx context.Context, p *Plan) error
	// cleanup takes away what is ours.
	cleanup(ctx context.Context) error
	// drift is how the kernel differs from p; present says that there is
	// anything of ours.
	drift(ctx context.Context, p *Plan) (drift []string, present bool, err error)
	// others are NAT rules of others.
	others(ctx context.Context) ([]string, error)
}

// Installer applies, checks and removes the redirection.
type Installer struct {
	Backend Backend
	Log     *slog.Logger
}

// choose finds the backend. For Auto that is what has rules of ours already,
// then nftables, then iptables.
func (i *Installer) choose(ctx context.Context) (backend, error) {
	switch i.Backend {
	case NFTables:
		return nftBackend{}, unavailable(NFTables, nftBackend{}.available(ctx))
	case IPTables, IPTLegacy, IPTNFT:
		b := saveBackend{variant: strings.TrimPrefix(strings.TrimPrefix(string(i.Backend), "iptables"), "-")}
		return b, unavailable(i.Backend, b.available(ctx))
	case Auto, "":
	default:
		return nil, fmt.Errorf("backend %q: it is auto, nftables, iptables, iptables-legacy or iptables-nft", i.Backend)
	}
	nftErr := nftBackend{}.available(ctx)
	if nftErr == nil {
		return nftBackend{}, nil
	}
	b := saveBackend{}
	if err := b.available(ctx); err != nil {
		return nil, fmt.Errorf("no backend works: nftables: %w; iptables: %w", nftErr, err)
	}
	i.Log.Info("the kernel takes no nftables, iptables-restore is used", "reason", nftErr)
	return b, nil
}

func unavailable(b Backend, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("backend %s does not work here: %w", b, err)
}

// Apply makes the rules of c. What there was of ours is replaced, by either
// backend, so that doing it twice changes nothing. If anything fails, what was
// done is taken away again.
func (i *Installer) Apply(ctx context.Context, c Config) error {
	if err := c.Check(); err != nil {
		return err
	}
	b, err := i.choose(ctx)
	if err != nil {
		return err
	}
	i.sayOthers(ctx, b)
	if err := i.take(ctx, c, i.steps(ctx, b, NewPlan(c))); err != nil {
		return err
	}
	i.Log.Info("redirection is in place", "backend", b.name(), "mode", c.Mode, "ipv6", c.IPv6)
	return nil
}

// take does steps; if one fails, everything is taken away again.
func (i *Installer) take(ctx context.Context, c Config, steps []step) error {
	for _, s := range steps {
		if err := s.do(); err != nil {
			err = fmt.Errorf("%s: %w", s.what, err)
			if undo := i.Cleanup(ctx, c); undo != nil {
				err = fmt.Errorf("%w; and it could not all be taken away again: %w", err, undo)
			}
			return err
		}
	}
	return nil
}

// step is one part of applying a plan.
type step struct {
	what string
	do   func() error
}

// steps: routes come first, for rules without them would lose packets; another
// backend's rules go last, when the new ones are there.
func (i *Installer) steps(ctx context.Context, b backend, p *Plan) []step {
	return []step{
		{"routes and addresses", p.routing().apply},
		{"rules by " + b.name(), func() error { return b.apply(ctx, p) }},
		{"rules of the other backend", func() error { return cleanupOther(ctx, b) }},
	}
}

// cleanupOther takes away what backends of another name have of ours, if they
// work here.
func cleanupOther(ctx context.Context, b backend) error {
	var errs []error
	for _, other := range everyBackend() {
		if other.name() != b.name() && other.available(ctx) == nil {
			errs = append(errs, other.cleanup(ctx))
		}
	}
	return errors.Join(errs...)
}

// everyBackend are all ways by which rules of ours may have come to be.
func everyBackend() []backend {
	return []backend{nftBackend{}, saveBackend{}, saveBackend{variant: "legacy"}, saveBackend{variant: "nft"}}
}

func (i *Installer) sayOthers(ctx context.Context, b backend) {
	others, err := b.others(ctx)
	if err != nil {
		i.Log.Warn("other NAT rules cannot be listed", "reason", err)
		return
	}
	for _, o := range others {
		i.Log.Warn("there are NAT rules of others, which may take connections before ours", "where", o)
	}
}

// Verify compares the kernel with c: every difference is told, none means that
// they agree.
func (i *Installer) Verify(ctx context.Context, c Config) ([]string, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	b, err := i.choose(ctx)
	if err != nil {
		return nil, err
	}
	p := NewPlan(c)
	drift, _, err := b.drift(ctx, p)
	if err != nil {
		return nil, err
	}
	more, err := p.routing().drift()
	return append(drift, more...), err
}

// Reconcile applies c if the kernel differs from it. It returns the differences
// that it mended.
func (i *Installer) Reconcile(ctx context.Context, c Config) ([]string, error) {
	drift, err := i.Verify(ctx, c)
	if err != nil || len(drift) == 0 {
		return nil, err
	}
	return drift, i.Apply(ctx, c)
}

// Cleanup takes away everything of ours: by either backend, with routes and
// addresses. What is not there is no error.
func (i *Installer) Cleanup(ctx context.Context, c Config) error {
	var errs []error
	for _, b := range everyBackend() {
		if b.available(ctx) == nil {
			errs = append(errs, b.cleanup(ctx))
		}
	}
	all := Plan{Routes: &MarkRoutes{Mark: c.TProxyMark, Table: c.TProxyTable}, Loopback: NewPlan(withIPv6(c)).Loopback, IPv6: true}
	return errors.Join(append(errs, all.routing().remove())...)
}

func withIPv6(c Config) Config {
	c.IPv6 = true
	return c
}
