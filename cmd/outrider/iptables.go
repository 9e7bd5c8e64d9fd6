package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netns"

	"outrider/iptables"
)

func newIptablesCommand() *cobra.Command {
	var f iptablesFlags
	c := &cobra.Command{
		Use:   "iptables",
		Short: "Install, check or remove the redirection of this machine's or pod's traffic, with istio-iptables' flags",
		Long: "Makes the redirection that `outrider sidecar` works with. Doing it twice changes nothing; a failure leads back to what was there before.\n" +
			"Each of istio-iptables' flags can also be given as an environment variable, in upper case with underscores (ISTIO_INBOUND_PORTS). Needs CAP_NET_ADMIN.",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := errors.Join(f.fromEnvironment(), f.check()); err != nil {
				return &usageError{err}
			}
			return f.run(c.Context(), c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f.register(c.Flags())
	return c
}

// check refuses what has no meaning here, and what does not go together.
func (f *iptablesFlags) check() error {
	var errs []error
	if f.cni {
		errs = append(errs, errors.New("--cni-mode is refused: there is no lock to choose; give --network-namespace"))
	}
	if f.trace {
		errs = append(errs, errors.New("--iptables-trace-logging is refused: the access log has every connection, and nft monitor trace every rule"))
	}
	if f.binary != "" && f.binary != "legacy" && f.binary != "nft" {
		errs = append(errs, fmt.Errorf("--force-iptables-binary %q: it is legacy or nft", f.binary))
	}
	ways := []string{}
	for name, is := range map[string]bool{"native-nftables": f.native, "force-iptables-binary": f.binary != "", "backend": f.backend != "auto"} {
		if is {
			ways = append(ways, name)
		}
	}
	if len(ways) > 1 {
		errs = append(errs, errors.New("--native-nftables, --force-iptables-binary and --backend say the same thing: give one"))
	}
	var does []string
	for _, do := range []struct {
		name string
		is   bool
	}{{"--dry-run", f.dryRun}, {"--verify", f.verify}, {"--cleanup-only", f.cleanup}, {"--skip-rule-apply", f.skip}} {
		if do.is {
			does = append(does, do.name)
		}
	}
	if len(does) > 1 {
		errs = append(errs, fmt.Errorf("%s do not go together", strings.Join(does, ", ")))
	}
	if f.validate && (f.dryRun || f.verify || f.cleanup) {
		errs = append(errs, fmt.Errorf("--run-validation and %s do not go together", does[0]))
	}
	if f.cleanup && (f.reconcile || f.force) {
		errs = append(errs, errors.New("--cleanup-only applies nothing, and does not go with --reconcile and --force-apply"))
	}
	return errors.Join(errs...)
}

func (f *iptablesFlags) run(ctx context.Context, out, stderr io.Writer) error {
	level, err := parseLevel(f.logLevel)
	if err != nil {
		return err
	}
	if f.namespace != "" {
		if err := enter(f.namespace); err != nil {
			return fmt.Errorf("--network-namespace %s: %w", f.namespace, err)
		}
	}
	install := &iptables.Installer{Backend: f.chosen(), Force: f.force, Log: slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))}
	if f.cleanup {
		return install.Cleanup(ctx)
	}
	cfg, err := f.config()
	if err != nil {
		return &usageError{err}
	}
	switch {
	case f.dryRun:
		return dryRun(out, cfg)
	case f.verify:
		return verify(ctx, out, install, cfg)
	case f.reconcile && !f.skip:
		mended, err := install.Reconcile(ctx, cfg)
		for _, d := range mended {
			fmt.Fprintln(out, "mended:", d)
		}
		if err != nil {
			return err
		}
	case !f.skip:
		if err := install.Apply(ctx, cfg); err != nil {
			return err
		}
	}
	if f.validate {
		return install.Probe(ctx, iptables.Probe{Config: cfg, Port: f.probePort, Timeout: f.probeTimeout})
	}
	return nil
}

// enter moves this thread, and what it starts, into a network namespace.
func enter(path string) error {
	runtime.LockOSThread() // for good: the process ends with the command
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return netns.Set(ns)
}

func (f *iptablesFlags) chosen() iptables.Backend {
	switch {
	case f.native:
		return iptables.NFTables
	case f.binary != "":
		return iptables.Backend("iptables-" + f.binary)
	}
	return iptables.Backend(f.backend)
}

func dryRun(out io.Writer, cfg iptables.Config) error {
	p := iptables.NewPlan(cfg)
	fmt.Fprintf(out, "# nftables\n%s\n# iptables-restore --noflush\n%s", p.NFT(), p.Restore(iptables.IPv4))
	if cfg.IPv6 {
		fmt.Fprintf(out, "\n# ip6tables-restore --noflush\n%s", p.Restore(iptables.IPv6))
	}
	if commands := p.Commands(); len(commands) > 0 {
		fmt.Fprintf(out, "\n# addresses, routes\n%s\n", strings.Join(commands, "\n"))
	}
	return nil
}

// verify prints differences; any is a failure. The NAT rules of others are none:
// they may do no harm.
func verify(ctx context.Context, out io.Writer, install *iptables.Installer, cfg iptables.Config) error {
	others, err := install.Conflicts(ctx)
	if err != nil {
		fmt.Fprintln(out, "others: they cannot all be listed:", err)
	}
	for _, o := range others {
		fmt.Fprintln(out, "others:", o)
	}
	drift, err := install.Verify(ctx, cfg)
	if err != nil {
		return err
	}
	for _, d := range drift {
		fmt.Fprintln(out, "differs:", d)
	}
	if len(drift) > 0 {
		return fmt.Errorf("the kernel differs from the flags in %d places", len(drift))
	}
	return nil
}
