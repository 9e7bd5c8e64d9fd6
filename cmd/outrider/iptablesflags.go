package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"outrider/iptables"
)

// iptablesFlags are istio-iptables', and a few of our own.
type iptablesFlags struct {
	set *pflag.FlagSet

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
	binary, logLevel                         string
	probePort                                uint16
	probeTimeout                             time.Duration
}

func (f *iptablesFlags) register(fs *pflag.FlagSet) {
	f.set = fs
	fs.Uint16VarP(&f.outboundPort, "envoy-port", "p", 15001, "where outbound connections are redirected to")
	fs.Uint16VarP(&f.inboundPort, "inbound-capture-port", "z", 15006, "where inbound connections are redirected to")
	fs.Uint16VarP(&f.tunnelPort, "inbound-tunnel-port", "e", 15008, "an inbound port that is never redirected; 0 is none")
	fs.Uint16Var(&f.dnsPort, "dns-port", 15053, "where DNS is redirected to")
	fs.StringVarP(&f.uids, "proxy-uid", "u", "", "users whose traffic is left alone, numbers or names, with commas between: the proxy's (default $ENVOY_USER's, or 1337)")
	fs.StringVarP(&f.gids, "proxy-gid", "g", "", "groups whose traffic is left alone (default as --proxy-uid)")
	fs.Uint32Var(&f.soMark, "proxy-mark", 0, "a mark (SO_MARK) of connections that are left alone too; 0 is none. With it -u '' -g '' leave no user and group alone")
	fs.StringVarP(&f.mode, "istio-inbound-interception-mode", "m", "REDIRECT", "REDIRECT, or TPROXY, with which the application sees the caller's address")
	fs.StringVarP(&f.inbound, "istio-inbound-ports", "b", "", "inbound ports to redirect, * for all, \"\" for none")
	fs.StringVarP(&f.excludeInbound, "istio-local-exclude-ports", "d", "", "inbound ports to leave alone")
	fs.StringVarP(&f.cidrs, "istio-service-cidr", "i", "", "outbound ranges of addresses to redirect, * for all, \"\" for none")
	fs.StringVarP(&f.excludeCIDRs, "istio-service-exclude-cidr", "x", "", "outbound ranges to leave alone")
	fs.StringVarP(&f.outbound, "istio-outbound-ports", "q", "", "outbound ports to redirect, wherever they are")
	fs.StringVarP(&f.excludeOutbound, "istio-local-outbound-ports-exclude", "o", "", "outbound ports to leave alone")
	fs.StringVarP(&f.excludeInterfaces, "istio-exclude-interfaces", "c", "", "interfaces to leave alone; eth+ is all that begin so")
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
	fs.BoolVar(&f.cleanup, "cleanup-only", false, "remove everything of ours, whatever flags it was made with")
	fs.BoolVar(&f.reconcile, "reconcile", false, "apply if the kernel differs, and print how it did")
	fs.BoolVar(&f.skip, "skip-rule-apply", false, "check the flags, and apply nothing")
	fs.BoolVar(&f.force, "force-apply", false, "replace the rules also if they are right")
	fs.BoolVar(&f.validate, "run-validation", false, "try the redirection with calls, before the sidecar is there")
	fs.Uint16Var(&f.probePort, "iptables-probe-port", 15002, "the port that --run-validation calls")
	fs.DurationVar(&f.probeTimeout, "probe-timeout", 5*time.Second, "how long --run-validation waits for each call")
	fs.BoolVar(&f.native, "native-nftables", false, "as --backend nftables")
	fs.StringVar(&f.binary, "force-iptables-binary", "", "legacy or nft, as --backend iptables-legacy or iptables-nft")
	fs.BoolVar(&f.cni, "cni-mode", false, "refused: give --network-namespace")
	fs.BoolVar(&f.trace, "iptables-trace-logging", false, "refused: the access log has every connection")
}

// ownFlags are not istio-iptables': they have no variable.
func ownFlags() map[string]bool {
	return map[string]bool{"help": true, "log-level": true, "backend": true, "verify": true, "ipv6": true, "resolv-conf": true, "dns-port": true, "proxy-mark": true}
}

// moreVariables are further names that istio-iptables reads.
func moreVariables() map[string]string {
	return map[string]string{"redirect-dns": "ISTIO_META_DNS_CAPTURE", "drop-invalid": "INVALID_DROP", "dual-stack": "ISTIO_DUAL_STACK"}
}

// fromEnvironment fills in what is not given on the command line, as
// istio-iptables does.
func (f *iptablesFlags) fromEnvironment() error {
	own, more := ownFlags(), moreVariables()
	var errs []error
	f.set.VisitAll(func(flag *pflag.Flag) {
		if flag.Changed || own[flag.Name] {
			return
		}
		for _, name := range []string{strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_")), more[flag.Name]} {
			if value := os.Getenv(name); name != "" && value != "" && !flag.Changed {
				if err := f.set.Set(flag.Name, value); err != nil {
					errs = append(errs, fmt.Errorf("$%s: %w", name, err))
				}
			}
		}
	})
	return errors.Join(errs...)
}

// config is what the flags say; every mistake is reported.
func (f *iptablesFlags) config() (iptables.Config, error) {
	c := iptables.Default()
	var errs []error
	keep := func(where string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", where, err))
		}
	}
	c.OutboundPort, c.InboundPort, c.TunnelPort, c.DNSPort = f.outboundPort, f.inboundPort, f.tunnelPort, f.dnsPort
	c.Mode, c.Mark = iptables.Mode(f.mode), f.soMark
	c.TProxyMark, c.TProxyTable = f.tproxyMark, f.tproxyTable
	c.DNS, c.AllDNS, c.DropInvalid = f.dns, f.allDNS, f.dropInvalid
	c.ExcludeInterfaces, c.KubeVirtInterfaces = items(f.excludeInterfaces), items(f.kubeVirt)
	f.lists(&c, keep)
	f.owners(&c, keep)
	var err error
	if text := os.Getenv("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"); text != "" {
		c.Loopback4, err = netip.ParsePrefix(text)
		c.Loopback4 = c.Loopback4.Masked()
		keep("$ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", err)
	}
	if f.dns && !f.allDNS {
		c.DNSServers, err = iptables.Nameservers(f.resolvConf)
		keep("--resolv-conf", err)
	}
	c.IPv6, err = f.wantsIPv6()
	keep("--ipv6", err)
	if len(errs) > 0 {
		return c, errors.Join(errs...)
	}
	return c, c.Check()
}

// lists reads the ports and ranges; a star is all of them, where that is
// possible.
func (f *iptablesFlags) lists(c *iptables.Config, keep func(string, error)) {
	ports := func(flag, text string, to *[]uint16, all *bool) {
		list, star, err := iptables.ParsePorts(text)
		if star && all == nil {
			err = errors.New("* is not possible here")
		}
		keep("--"+flag, err)
		if *to = list; all != nil {
			*all = star
		}
	}
	ranges := func(flag, text string, to *[]netip.Prefix, all *bool) {
		list, star, err := iptables.ParseCIDRs(text)
		if star && all == nil {
			err = errors.New("* is not possible here")
		}
		keep("--"+flag, err)
		if *to = list; all != nil {
			*all = star
		}
	}
	ports("istio-inbound-ports", f.inbound, &c.InboundPorts, &c.AllInbound)
	ports("istio-local-exclude-ports", f.excludeInbound, &c.ExcludeInboundPorts, nil)
	ports("istio-outbound-ports", f.outbound, &c.OutboundPorts, nil)
	ports("istio-local-outbound-ports-exclude", f.excludeOutbound, &c.ExcludeOutboundPorts, nil)
	ranges("istio-service-cidr", f.cidrs, &c.OutboundCIDRs, &c.AllOutbound)
	ranges("istio-service-exclude-cidr", f.excludeCIDRs, &c.ExcludeOutboundCIDRs, nil)
}

// owners reads whose traffic is left alone, and whose is taken.
func (f *iptablesFlags) owners(c *iptables.Config, keep func(string, error)) {
	none := func(flag string) bool { return f.soMark != 0 && f.set.Changed(flag) } // and "" says so
	uids := f.uids
	if uids == "" && !none("proxy-uid") {
		uids = defaultUser()
	}
	gids := f.gids
	if gids == "" && !none("proxy-gid") {
		gids = uids
		if _, err := ids(gids, groupID); err != nil { // a user's name is no group's
			gids = ""
			users, err := ids(uids, userID)
			keep("--proxy-gid", err)
			for _, u := range users {
				gids += fmt.Sprintf("%d,", u)
			}
		}
	}
	var err error
	c.UIDs, err = ids(uids, userID)
	keep("--proxy-uid", err)
	c.GIDs, err = ids(gids, groupID)
	keep("--proxy-gid", err)
	if groups := os.Getenv("ISTIO_OUTBOUND_OWNER_GROUPS"); groups != "*" {
		c.OwnerGroups, err = ids(groups, groupID)
		keep("$ISTIO_OUTBOUND_OWNER_GROUPS", err)
	}
	c.ExcludeOwnerGroups, err = ids(os.Getenv("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"), groupID)
	keep("$ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", err)
}

// defaultUser is the user of $ENVOY_USER, istio-proxy if that is not set, or
// 1337 where there is no such user.
func defaultUser() string {
	uid, err := userID(cmp.Or(os.Getenv("ENVOY_USER"), "istio-proxy"))
	if err != nil {
		return "1337"
	}
	return uid
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
