package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
)

// nftBackend speaks to the kernel's nf_tables over netlink, in the network
// namespace of the calling thread.
type nftBackend struct{}

func (nftBackend) name() Backend { return NFTables }

// batchBytes is room for a transaction and its acknowledgements, one a rule:
// the kernel's usual 208 KiB hold some 250.
const batchBytes = 8 << 20

// nftConn is a connection whose transactions may be long.
func nftConn() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(batchBytes), c.SetWriteBuffer(batchBytes))
	}))
}

// available is nil if the kernel has nf_tables and lets us ask.
func (nftBackend) available() error {
	conn, err := nftConn()
	if err != nil {
		return explain(err)
	}
	_, err = conn.ListTables()
	return explain(err)
}

func (p *Plan) nftTable() *nftables.Table {
	family := nftables.TableFamilyIPv4
	if p.IPv6 {
		family = nftables.TableFamilyINet
	}
	return &nftables.Table{Name: tableName, Family: family}
}

// probe has the kernel take the plan and throw it away, in one transaction, in
// which no packet sees it: an error tells that the kernel lacks something that
// the plan needs.
func (nftBackend) probe(p *Plan) error {
	conn, err := nftConn()
	if err != nil {
		return explain(err)
	}
	table := p.nftTable()
	table.Name += "-probe"
	p.ruleset(table).addTo(conn)
	conn.DelTable(table)
	return explain(conn.Flush())
}

// ruleset is a table with all that is in it.
type ruleset struct {
	table  *nftables.Table
	chains []*nftables.Chain
	rules  []*nftables.Rule
}

// ruleset is the plan in a table.
func (p *Plan) ruleset(table *nftables.Table) ruleset {
	out := ruleset{table: table}
	for _, c := range p.Chains {
		chain := c.nftChain(table)
		out.chains = append(out.chains, chain)
		for _, r := range c.Rules {
			out.rules = append(out.rules, &nftables.Rule{
				Table: table, Chain: chain, Exprs: r.exprs(c.Table, table.Family),
				UserData: userdata.AppendString(nil, userdata.TypeComment, comment(r.nft(c.Table, p.IPv6))),
			})
		}
	}
	return out
}

// addTo puts the table into a transaction: first all chains, since rules jump.
func (s ruleset) addTo(conn *nftables.Conn) {
	conn.AddTable(s.table)
	for _, c := range s.chains {
		conn.AddChain(c)
	}
	for _, r := range s.rules {
		conn.AddRule(r)
	}
}

// ownTables are the tables with our name: a plan has one of them.
func ownTables(conn *nftables.Conn) ([]*nftables.Table, error) {
	tables, err := conn.ListTables()
	if err != nil {
		return nil, explain(err)
	}
	return slices.DeleteFunc(tables, func(t *nftables.Table) bool {
		return t.Name != tableName || t.Family != nftables.TableFamilyINet && t.Family != nftables.TableFamilyIPv4
	}), nil
}

func (nftBackend) owned(context.Context) (bool, error) {
	conn, err := nftConn()
	if err != nil {
		return false, err
	}
	tables, err := ownTables(conn)
	return len(tables) > 0, err
}

// replace replaces the table in one transaction.
func (nftBackend) replace(_ context.Context, p *Plan) (undo, error) {
	conn, err := nftConn()
	if err != nil {
		return nil, explain(err)
	}
	tables, err := ownTables(conn)
	if err != nil || p == nil && len(tables) == 0 {
		return nil, err
	}
	var before []snapshot
	for _, t := range tables {
		s, err := read(t)
		if err != nil {
			return nil, fmt.Errorf("table %s as it is: %w", tableName, err)
		}
		before = append(before, s)
		conn.DelTable(t)
	}
	if p != nil {
		p.ruleset(p.nftTable()).addTo(conn)
	}
	back := func(context.Context) error {
		now, err := ownTables(conn)
		if err != nil {
			return err
		}
		return restore(now, before)
	}
	return back, explain(conn.Flush())
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
