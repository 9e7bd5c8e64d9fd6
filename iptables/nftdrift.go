package iptables

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
)

// drift compares the kernel's table with the plan.
func (nftBackend) drift(_ context.Context, p *Plan) ([]string, error) {
	conn, err := nftConn()
	if err != nil {
		return nil, explain(err)
	}
	tables, err := ownTables(conn)
	if err != nil {
		return nil, err
	}
	want := p.nftTable()
	var drift []string
	found := false
	for _, t := range tables {
		if t.Family != want.Family {
			drift = append(drift, fmt.Sprintf("there is a table %s of another family than %s", tableName, p.family()))
			continue
		}
		found = true
		if t.Flags != 0 { // the library has them in the wrong byte order
			drift = append(drift, fmt.Sprintf("table %s %s is dormant, or another program's", p.family(), tableName))
		}
		chains, err := conn.ListChainsOfTableFamily(t.Family)
		if err != nil {
			return nil, err
		}
		have, err := read(t)
		if err != nil {
			return nil, err
		}
		more, err := compareTables(p.ruleset(want), chains, have.rules)
		if err != nil {
			return nil, err
		}
		drift = append(drift, more...)
	}
	if !found {
		drift = append(drift, fmt.Sprintf("there is no table %s %s", p.family(), tableName))
	}
	return drift, nil
}

func compareTables(want ruleset, chains []*nftables.Chain, rules []rawRule) ([]string, error) {
	have := map[string]*nftables.Chain{}
	for _, c := range chains {
		if c.Table.Name == tableName {
			have[c.Name] = c
		}
	}
	var drift []string
	for _, c := range want.chains {
		kernel := have[c.Name]
		delete(have, c.Name)
		if kernel == nil {
			drift = append(drift, fmt.Sprintf("chain %s is missing", c.Name))
			continue
		}
		if d := compareHook(c, kernel); d != "" {
			drift = append(drift, fmt.Sprintf("chain %s %s", c.Name, d))
		}
		more, err := compareRules(c.Name, want, rules)
		if err != nil {
			return nil, err
		}
		drift = append(drift, more...)
	}
	for _, c := range chains {
		if have[c.Name] == c {
			drift = append(drift, fmt.Sprintf("chain %s is too much", c.Name))
		}
	}
	return drift, nil
}

func compareHook(want, have *nftables.Chain) string {
	switch {
	case (want.Hooknum == nil) != (have.Hooknum == nil):
		return "hangs elsewhere"
	case want.Hooknum == nil:
		return ""
	case *want.Hooknum != *have.Hooknum || want.Type != have.Type || have.Priority == nil || *want.Priority != *have.Priority:
		return "hangs elsewhere"
	case have.Policy != nil && *have.Policy != nftables.ChainPolicyAccept:
		return "drops what no rule fits"
	}
	return ""
}

// compareRules compares one chain's rules.
func compareRules(chain string, plan ruleset, kernel []rawRule) ([]string, error) {
	var want []*nftables.Rule
	for _, r := range plan.rules {
		if r.Chain.Name == chain {
			want = append(want, r)
		}
	}
	var have []rawRule
	for _, r := range kernel {
		if r.chain == chain {
			have = append(have, r)
		}
	}
	var drift []string
	for i := range max(len(want), len(have)) {
		switch {
		case i >= len(have):
			drift = append(drift, fmt.Sprintf("chain %s lacks rule %d: %s", chain, i+1, inWords(want[i].UserData)))
			continue
		case i >= len(want):
			drift = append(drift, fmt.Sprintf("chain %s has one rule too many: %s", chain, inWords(have[i].userData)))
			continue
		}
		exprs, err := marshal(plan.table.Family, want[i].Exprs)
		if err != nil {
			return nil, err
		}
		if !agree(exprs, have[i].exprs) {
			drift = append(drift, fmt.Sprintf("chain %s rule %d is another: %s, not %s", chain, i+1, inWords(have[i].userData), inWords(want[i].UserData)))
		}
	}
	return drift, nil
}

// inWords is a rule for people: its comment, where there is one, which says what
// was meant when it was made.
func inWords(userData []byte) string {
	if text, ok := userdata.GetString(userData, userdata.TypeComment); ok {
		return fmt.Sprintf("%q", strings.TrimRight(text, "\x00"))
	}
	return "one without a comment"
}

// ourComment reports whether a rule that iptables-nft made has our comment.
func ourComment(r *nftables.Rule) bool {
	if bytes.Contains(r.UserData, []byte(ours)) {
		return true
	}
	for _, e := range r.Exprs {
		if m, ok := e.(*expr.Match); ok && m.Name == "comment" {
			switch info := m.Info.(type) {
			case *xt.Comment:
				return strings.TrimRight(string(*info), "\x00") == ours
			case *xt.Unknown:
				return bytes.HasPrefix(*info, []byte(ours+"\x00"))
			}
		}
	}
	return false
}
