package iptables

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// nftBackend speaks to the kernel's nf_tables over netlink, in the network
// namespace of the calling thread.
type nftBackend struct{}

func (nftBackend) name() string { return "nftables" }

// available is nil if the kernel takes our commands.
func (nftBackend) available(context.Context) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	_, err = conn.ListTables()
	return err
}

func (p *Plan) nftTable() *nftables.Table {
	family := nftables.TableFamilyIPv4
	if p.IPv6 {
		family = nftables.TableFamilyINet
	}
	return &nftables.Table{Name: tableName, Family: family}
}

// apply replaces the table in one transaction.
func (b nftBackend) apply(_ context.Context, p *Plan) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	if err := b.remove(conn); err != nil {
		return err
	}
	table := conn.AddTable(p.nftTable())
	chains := map[chainKey]*nftables.Chain{}
	for _, c := range p.Chains {
		chains[chainKey{c.Table, c.Name}] = conn.AddChain(c.nftChain(table))
	}
	for _, c := range p.Chains {
		for _, r := range c.Rules {
			conn.AddRule(&nftables.Rule{
				Table: table, Chain: chains[chainKey{c.Table, c.Name}], Exprs: r.exprs(c.Table),
				UserData: userdata.AppendString(nil, userdata.TypeComment, comment(r.nft(c.Table))),
			})
		}
	}
	return conn.Flush()
}

// maxComment is what the kernel takes of a rule's comment
// (NFTNL_UDATA_COMMENT_MAXLEN), with its final zero.
const maxComment = 127

// comment is what people read beside the rule, who have no tool that reads it
// from the kernel's form.
func comment(text string) string {
	if len(text) > maxComment {
		return text[:maxComment]
	}
	return text
}

func (c Chain) nftChain(t *nftables.Table) *nftables.Chain {
	out := &nftables.Chain{Name: nftName(c.Table, c.Name), Table: t}
	if !c.Hooked() {
		return out
	}
	h := c.hook()
	accept := nftables.ChainPolicyAccept
	out.Type, out.Priority, out.Policy = nftables.ChainType(h.kind), nftables.ChainPriorityRef(nftables.ChainPriority(h.priority)), &accept
	out.Hooknum = nftables.ChainHookPrerouting
	if c.Name == Output {
		out.Hooknum = nftables.ChainHookOutput
	}
	return out
}

// remove puts the deletion of our tables into a transaction.
func (nftBackend) remove(conn *nftables.Conn) error {
	tables, err := conn.ListTables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		if t.Name == tableName && (t.Family == nftables.TableFamilyINet || t.Family == nftables.TableFamilyIPv4) {
			conn.DelTable(t)
		}
	}
	return nil
}

func (b nftBackend) cleanup(context.Context) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	if err := b.remove(conn); err != nil {
		return err
	}
	return conn.Flush()
}

// drift compares the kernel's table with the plan. It is empty if they agree;
// present says that there is a table of ours at all.
func (nftBackend) drift(_ context.Context, p *Plan) (drift []string, present bool, err error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, false, err
	}
	tables, err := conn.ListTables()
	if err != nil {
		return nil, false, err
	}
	want := p.nftTable()
	for _, t := range tables {
		if t.Name != tableName {
			continue
		}
		if t.Family == want.Family {
			present = true
		} else if t.Family == nftables.TableFamilyINet || t.Family == nftables.TableFamilyIPv4 {
			drift = append(drift, "there is a table of ours of another family")
		}
	}
	if !present {
		return append(drift, fmt.Sprintf("there is no table %s %s", p.family(), tableName)), len(drift) > 0, nil
	}
	more, err := compareChains(conn, p, want)
	return append(drift, more...), true, err
}

func compareChains(conn *nftables.Conn, p *Plan, table *nftables.Table) ([]string, error) {
	have, err := conn.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return nil, err
	}
	present := map[string]*nftables.Chain{}
	for _, c := range have {
		if c.Table.Name == tableName {
			present[c.Name] = c
		}
	}
	var drift []string
	for _, c := range p.Chains {
		name := nftName(c.Table, c.Name)
		kernel := present[name]
		delete(present, name)
		if kernel == nil {
			drift = append(drift, fmt.Sprintf("chain %s is missing", name))
			continue
		}
		if d := compareHook(c.nftChain(table), kernel); d != "" {
			drift = append(drift, fmt.Sprintf("chain %s %s", name, d))
		}
		rules, err := conn.GetRules(table, kernel)
		if err != nil {
			return nil, err
		}
		drift = append(drift, compareRules(name, c, rules)...)
	}
	for name := range present {
		drift = append(drift, fmt.Sprintf("chain %s is not ours", name))
	}
	return drift, nil
}

func compareHook(want, have *nftables.Chain) string {
	if (want.Hooknum == nil) != (have.Hooknum == nil) {
		return "hangs elsewhere"
	}
	if want.Hooknum == nil {
		return ""
	}
	if *want.Hooknum != *have.Hooknum || want.Type != have.Type || have.Priority == nil || *want.Priority != *have.Priority {
		return "hangs elsewhere"
	}
	if have.Policy != nil && *have.Policy != nftables.ChainPolicyAccept {
		return "drops what no rule fits"
	}
	return ""
}

func compareRules(name string, c Chain, have []*nftables.Rule) []string {
	var drift []string
	for i := range max(len(c.Rules), len(have)) {
		switch {
		case i >= len(have):
			drift = append(drift, fmt.Sprintf("chain %s lacks rule %d: %s", name, i+1, c.Rules[i].nft(c.Table)))
		case i >= len(c.Rules):
			drift = append(drift, fmt.Sprintf("chain %s has one rule too many: %s", name, kernelRule(have[i])))
		case !same(c.Rules[i], c.Table, have[i]):
			drift = append(drift, fmt.Sprintf("chain %s rule %d is another than %q: its comment says %s", name, i+1, c.Rules[i].nft(c.Table), kernelRule(have[i])))
		}
	}
	return drift
}

// kernelRule is a rule of the kernel's for people: its comment, where there is
// one, which says what was meant.
func kernelRule(r *nftables.Rule) string {
	if text, ok := userdata.GetString(r.UserData, userdata.TypeComment); ok {
		return fmt.Sprintf("%q", strings.TrimRight(text, "\x00"))
	}
	return fmt.Sprintf("one of %d expressions without a comment", len(r.Exprs))
}

// same reports whether a rule of the kernel's is the plan's. The library reads
// neither what a tproxy statement does nor what is written into a connection;
// for those the comment has to stand, which no other rule has.
func same(want Rule, t Table, have *nftables.Rule) bool {
	text, _ := userdata.GetString(have.UserData, userdata.TypeComment)
	return strings.TrimRight(text, "\x00") == comment(want.nft(t)) && reflect.DeepEqual(asRead(want.exprs(t)), have.Exprs)
}

// asRead is what the library makes of our expressions when it reads them back.
func asRead(in []expr.Any) []expr.Any {
	out := make([]expr.Any, 0, len(in))
	for _, e := range in {
		switch e := e.(type) {
		case *expr.TProxy:
		case *expr.Ct:
			if e.SourceRegister {
				out = append(out, &expr.Ct{Key: e.Key})
				continue
			}
			out = append(out, e)
		default:
			out = append(out, e)
		}
	}
	return out
}

// others are the NAT hooks of other tables: they may see packets before ours.
func (nftBackend) others(context.Context) ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, c := range chains {
		nat := c.Type == nftables.ChainTypeNAT && c.Hooknum != nil && (*c.Hooknum == *nftables.ChainHookPrerouting || *c.Hooknum == *nftables.ChainHookOutput)
		if !nat || c.Table.Name == tableName {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, err
		}
		if len(rules) > 0 {
			out = append(out, fmt.Sprintf("table %s, chain %s: %d rules", c.Table.Name, c.Name, len(rules)))
		}
	}
	return out, nil
}
