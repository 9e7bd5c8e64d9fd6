package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/vishvananda/netns"

	"outrider/iptables"
)

// iptablesFlags are istio-iptables', and a few of our own.
type iptablesFlags struct {
	outboundPort, inboundPort, tunnelPort, dnsPort uint16
	uids, gids, mode                               string
	inbound, excludeInbound                        string
	cidrs, excludeCIDRs, outbound, excludeOutbound string
	excludeInterfaces, kubeVirt                    string
	tproxyMark, tproxyTable, soMark                uint32
	dns, allDNS, dropInvalid, dualStack            bool
	ipv6, namespace, backend, resolvConf           string

	dryRun, skip, cleanup, reconcile, verify bool
	native, force, cni, trace, validate      bool
	binary                                   string
	probePort                                uint16
	probeTimeout                             string
	logLevel                                 string
}

func newIptablesCommand() *cobra.Command {
	var f iptablesFlags
	c := &cobra.Command{
		Use:   "iptables",
		Short: "Install, check or remove the redirection of this machine's or pod's traffic, with istio-iptables' flags",
		Long: "Makes the redirection that `outrider sidecar` works with. Doing it twice changes nothing; a failure leaves nothing behind.\n" +
			"Each flag can also be given as an environment variable, in upper case with underscores (ISTIO_INBOUND_PORTS). Needs CAP_NET_ADMIN.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := fromEnvironment(c.Flags()); err != nil {
				return err
			}
			return f.run(c.Context(), c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f.register(c.Flags())
	return c
}

func (f *iptablesFlags) register(fs *pflag.FlagSet) {
	fs.Uint16VarP(&f.outboundPort, "envoy-port", "p", 15001, "where outbound connections are redirected to")
	fs.Uint16VarP(&f.inboundPort, "inbound-capture-port", "z", 15006, "where inbound connections are redirected to")
	fs.Uint16VarP(&f.tunnelPort, "inbound-tunnel-port", "e", 15008, "an inbound port that is never redirected")
	fs.Uint16Var(&f.dnsPort, "dns-port", 15053, "where DNS is redirected to")
	fs.StringVarP(&f.uids, "proxy-uid", "u", "1337", "users whose traffic is left alone, numbers or names, with commas between: the proxy's")
	fs.StringVarP(&f.gids, "proxy-gid", "g", "1337", "groups whose traffic is left alone")
	fs.Uint32Var(&f.soMark, "proxy-mark", 0, "a mark (SO_MARK) of connections that are left alone too; 0 is none")
	fs.StringVarP(&f.mode, "istio-inbound-interception-mode", "m", "REDIRECT", "REDIRECT, or TPROXY, with which the application sees the caller's address")
	fs.StringVarP(&f.inbound, "istio-inbound-ports", "b", "", "inbound ports to redirect, * for all, \"\" for none")
	fs.StringVarP(&f.excludeInbound, "istio-local-exclude-ports", "d", "", "inbound ports to leave alone")
	fs.StringVarP(&f.cidrs, "istio-service-cidr", "i", "", "outbound ranges of addresses to redirect, * for all, \"\" for none")
	fs.StringVarP(&f.excludeCIDRs, "istio-service-exclude-cidr", "x", "", "outbound ranges to leave alone")
	fs.StringVarP(&f.outbound, "istio-outbound-ports", "q", "", "outbound ports to redirect, wherever they are")
	fs.StringVarP(&f.excludeOutbound, "istio-local-outbound-ports-exclude", "o", "", "outbound ports to leave alone")
	fs.StringVarP(&f.excludeInterfaces, "istio-exclude-interfaces", "c", "", "interfaces to leave alone")
	fs.StringVarP(&f.kubeVirt, "kube-virt-interfaces", "k", "", "interfaces of virtual machines, whose traffic is outbound")
	fs.Uint32VarP(&f.tproxyMark, "istio-inbound-tproxy-mark", "t", 1337, "the mark of redirected packets, with TPROXY")
	fs.Uint32VarP(&f.tproxyTable, "istio-inbound-tproxy-route-table", "r", 133, "the route table for them")
	fs.BoolVar(&f.dns, "redirect-dns", false, "redirect DNS to the servers of resolv.conf")
	fs.BoolVar(&f.allDNS, "capture-all-dns", false, "with --redirect-dns: to any server")
	fs.StringVar(&f.resolvConf, "resolv-conf", "/etc/resolv.conf", "the file with the DNS servers")
	fs.BoolVar(&f.dropInvalid, "drop-invalid", false, "drop inbound packets that belong to no connection")
	fs.StringVar(&f.ipv6, "ipv6", "auto", "rules for IPv6: true, false, or auto: if the kernel has it")
	fs.BoolVar(&f.dualStack, "dual-stack", false, "as --ipv6=true")
	fs.StringVar(&f.namespace, "network-namespace", "", "the network namespace to work in, by its path")
	fs.StringVar(&f.backend, "backend", "auto", "auto, nftables, iptables, iptables-legacy, iptables-nft")
	fs.StringVarP(&f.logLevel, "log-level", "l", "info", "trace, debug, info, warning, error, critical or off")

	fs.BoolVarP(&f.dryRun, "dry-run", "n", false, "print the rules in both languages, and do nothing")
	fs.BoolVar(&f.verify, "verify", false, "compare the kernel with the flags, and tell every difference: exit code 1 if there is one")
	fs.BoolVar(&f.cleanup, "cleanup-only", false, "remove everything of ours")
	fs.BoolVar(&f.reconcile, "reconcile", false, "apply only if the kernel differs, and say how it did")
	fs.BoolVar(&f.skip, "skip-rule-apply", false, "check the flags, and do nothing")
	fs.BoolVar(&f.force, "force-apply", false, "accepted: rules are replaced as a whole each time")
	fs.BoolVar(&f.native, "native-nftables", false, "as --backend nftables")
	fs.StringVar(&f.binary, "force-iptables-binary", "", "legacy or nft, as --backend iptables-legacy or iptables-nft")
	fs.BoolVar(&f.cni, "cni-mode", false, "not supported: give --network-namespace")
	fs.BoolVar(&f.trace, "iptables-trace-logging", false, "not supported: the access log has every connection")
	fs.BoolVar(&f.validate, "run-validation", false, "not supported: --verify compares the rules, and connects to nothing")
	fs.Uint16Var(&f.probePort, "iptables-probe-port", 15002, "of --run-validation")
	fs.StringVar(&f.probeTimeout, "probe-timeout", "5s", "of --run-validation")
}

// fromEnvironment fills in what is not given on the command line, as
// istio-iptables does.
func fromEnvironment(fs *pflag.FlagSet) error {
	var errs []error
	fs.VisitAll(func(flag *pflag.Flag) {
		name := strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
		if value, ok := os.LookupEnv(name); ok && !flag.Changed && !slices.Contains([]string{"help", "log-level", "backend", "verify", "ipv6"}, flag.Name) {
			if err := fs.Set(flag.Name, value); err != nil {
				errs = append(errs, &usageError{fmt.Errorf("$%s: %w", name, err)})
			}
		}
	})
	return errors.Join(errs...)
}

// config is what the flags say; every mistake is reported.
func (f *iptablesFlags) config() (iptables.Config, error) {
	c := iptables.Default()
	var errs []error
	keep := func(flag string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	ports := func(flag, text string, star bool) ([]uint16, bool) {
		list, all, err := iptables.ParsePorts(text)
		if all && !star {
			err = errors.New("* is not possible here")
		}
		keep(flag, err)
		return list, all
	}
	cidrs := func(flag, text string, star bool) ([]netip.Prefix, bool) {
		list, all, err := iptables.ParseCIDRs(text)
		if all && !star {
			err = errors.New("* is not possible here")
		}
		keep(flag, err)
		return list, all
	}
	c.OutboundPort, c.InboundPort, c.TunnelPort, c.DNSPort = f.outboundPort, f.inboundPort, f.tunnelPort, f.dnsPort
	c.Mode, c.Mark = iptables.Mode(f.mode), f.soMark
	c.TProxyMark, c.TProxyTable = f.tproxyMark, f.tproxyTable
	c.InboundPorts, c.AllInbound = ports("istio-inbound-ports", f.inbound, true)
	c.ExcludeInboundPorts, _ = ports("istio-local-exclude-ports", f.excludeInbound, false)
	c.OutboundCIDRs, c.AllOutbound = cidrs("istio-service-cidr", f.cidrs, true)
	c.ExcludeOutboundCIDRs, _ = cidrs("istio-service-exclude-cidr", f.excludeCIDRs, false)
	c.OutboundPorts, _ = ports("istio-outbound-ports", f.outbound, false)
	c.ExcludeOutboundPorts, _ = ports("istio-local-outbound-ports-exclude", f.excludeOutbound, false)
	c.ExcludeInterfaces, c.KubeVirtInterfaces = items(f.excludeInterfaces), items(f.kubeVirt)
	var err error
	c.UIDs, err = ids(f.uids, userID)
	keep("proxy-uid", err)
	c.GIDs, err = ids(f.gids, groupID)
	keep("proxy-gid", err)
	c.OwnerGroups, err = ids(strings.TrimSuffix(os.Getenv("ISTIO_OUTBOUND_OWNER_GROUPS"), "*"), groupID)
	keep("$ISTIO_OUTBOUND_OWNER_GROUPS", err)
	c.ExcludeOwnerGroups, err = ids(os.Getenv("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"), groupID)
	keep("$ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", err)
	if text := os.Getenv("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"); text != "" {
		c.Loopback4, err = netip.ParsePrefix(text)
		keep("$ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", err)
	}
	c.DNS, c.AllDNS, c.DropInvalid = f.dns, f.allDNS, f.dropInvalid
	if f.dns && !f.allDNS {
		c.DNSServers, err = iptables.Nameservers(f.resolvConf)
		keep("resolv-conf", err)
	}
	c.IPv6, err = f.wantsIPv6()
	keep("ipv6", err)
	errs = append(errs, f.unsupported()...)
	if err := errors.Join(errs...); err != nil {
		return c, err
	}
	return c, c.Check()
}

// unsupported refuses what has no meaning here.
func (f *iptablesFlags) unsupported() []error {
	var errs []error
	for flag, why := range map[string]string{
		"cni-mode": "give --network-namespace", "iptables-trace-logging": "the access log has every connection",
		"run-validation": "--verify compares the rules, and connects to nothing",
	} {
		if map[string]bool{"cni-mode": f.cni, "iptables-trace-logging": f.trace, "run-validation": f.validate}[flag] {
			errs = append(errs, fmt.Errorf("--%s is not supported: %s", flag, why))
		}
	}
	if f.binary != "" && f.binary != "legacy" && f.binary != "nft" {
		errs = append(errs, fmt.Errorf("--force-iptables-binary %q: it is legacy or nft", f.binary))
	}
	return errs
}

func (f *iptablesFlags) wantsIPv6() (bool, error) {
	if f.dualStack {
		return true, nil
	}
	if f.ipv6 == "auto" {
		return iptables.KernelHasIPv6(), nil
	}
	return strconv.ParseBool(f.ipv6)
}

// items are the words between commas.
func items(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}

// ids are numbers or names.
func ids(text string, byName func(string) (string, error)) ([]uint32, error) {
	var out []uint32
	for _, item := range items(text) {
		number := item
		if _, err := strconv.ParseUint(item, 10, 32); err != nil {
			if number, err = byName(item); err != nil {
				return nil, err
			}
		}
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return nil, err
		}
		out = append(out, uint32(n))
	}
	return out, nil
}

func userID(name string) (string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return "", err
	}
	return u.Uid, nil
}

func groupID(name string) (string, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return "", err
	}
	return g.Gid, nil
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
	cfg, err := f.config()
	if err != nil {
		return &usageError{err}
	}
	install := &iptables.Installer{Backend: f.chosen(), Log: slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))}
	switch {
	case f.dryRun:
		return dryRun(out, cfg)
	case f.skip:
		return nil
	case f.cleanup:
		return install.Cleanup(ctx, cfg)
	case f.verify:
		drift, err := install.Verify(ctx, cfg)
		if err != nil {
			return err
		}
		return tell(out, drift)
	case f.reconcile:
		mended, err := install.Reconcile(ctx, cfg)
		for _, d := range mended {
			install.Log.Info("difference", "what", d)
		}
		return err
	}
	return install.Apply(ctx, cfg)
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
	for _, line := range p.Commands() {
		fmt.Fprintln(out, line)
	}
	return nil
}

// tell prints differences; any is a failure.
func tell(out io.Writer, drift []string) error {
	for _, d := range drift {
		fmt.Fprintln(out, d)
	}
	if len(drift) > 0 {
		return fmt.Errorf("the kernel differs from the flags in %d places", len(drift))
	}
	return nil
}
