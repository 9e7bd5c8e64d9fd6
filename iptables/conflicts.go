package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
)

// Conflicts names what others have in the NAT hooks that ours are in: whoever
// translates a connection first decides where it goes. By netlink that is every
// nftables table and the rules of iptables-nft; the rules of iptables-legacy
// need its program to be named.
func (i *Installer) Conflicts(ctx context.Context) ([]string, error) {
	out, err := nftConflicts()
	for _, f := range families() {
		names, namesErr := tablesOf(f)
		err = errors.Join(err, namesErr)
		if !slices.Contains(names, string(NAT)) {
			continue
		}
		more, listErr := legacyConflicts(ctx, f)
		if listErr != nil {
			more = []string{fmt.Sprintf("%s: there is a table nat, whose rules cannot be listed: %v", saveBackend{kind: "legacy"}.program(f, "save"), listErr)}
		}
		out = append(out, more...)
	}
	return out, err
}

func legacyConflicts(ctx context.Context, f Family) ([]string, error) {
	b := saveBackend{kind: "legacy"}
	programs, err := findPrograms(ctx)
	if err != nil && len(programs) == 0 {
		return nil, err
	}
	for _, p := range programs {
		if p.kind == b.kind {
			b = p
		}
	}
	have, err := b.save(ctx, f)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, r := range have[NAT].rules {
		if c := chainOf(r); (c == Prerouting || c == Output) && !tagged(r) {
			out = append(out, fmt.Sprintf("%s, table nat: %s", b.program(f, "save"), r))
		}
	}
	return out, nil
}

func nftConflicts() ([]string, error) {
	if (nftBackend{}).available() != nil {
		return nil, nil // a kernel without nf_tables has no such rules
	}
	conn, err := nftConn()
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, c := range chains {
		if !natHook(c) || c.Table.Name == tableName {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return nil, fmt.Errorf("rules of table %s, chain %s: %w", c.Table.Name, c.Name, err)
		}
		count := 0
		for _, r := range rules {
			if !ourComment(r) {
				count++
			}
		}
		if count > 0 {
			out = append(out, fmt.Sprintf("nftables, table %s %s, chain %s, priority %d: %d rules", familyOf(c.Table), c.Table.Name, c.Name, *c.Priority, count))
		}
	}
	return out, nil
}

// natHook reports whether a chain translates what goes out or comes in.
func natHook(c *nftables.Chain) bool {
	if c.Type != nftables.ChainTypeNAT || c.Hooknum == nil || c.Priority == nil {
		return false
	}
	return *c.Hooknum == *nftables.ChainHookPrerouting || *c.Hooknum == *nftables.ChainHookOutput
}

func familyOf(t *nftables.Table) string {
	switch t.Family {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	}
	return fmt.Sprintf("of family %d", t.Family)
}

// warn says in the log what may take connections before ours.
func (i *Installer) warn(ctx context.Context) {
	others, err := i.Conflicts(ctx)
	if err != nil {
		i.Log.Warn("NAT rules of others cannot be listed", "reason", err)
	}
	for _, o := range others {
		i.Log.Warn("there are NAT rules of others, which may take connections before ours", "where", o)
	}
}
