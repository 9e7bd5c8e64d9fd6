package iptables

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// snapshot is a table as the kernel told it: messages that make it anew. The
// library's own types lose parts of a rule (what ct sets, tproxy's family), and
// what is to be restored or compared must be whole.
type snapshot struct {
	table  netlink.Message
	chains []netlink.Message
	rules  []rawRule
}

// rawRule is a rule, and what is in it.
type rawRule struct {
	message  netlink.Message
	chain    string
	exprs    []byte // a list of NFTA_LIST_ELEM
	userData []byte
}

// dump asks for everything of a kind in the family of a table.
func dump(conn *netlink.Conn, t *nftables.Table, kind int) ([]netlink.Message, error) {
	return conn.Execute(netlink.Message{
		Header: netlink.Header{Type: nftType(kind), Flags: netlink.Request | netlink.Dump},
		Data:   nfgenmsg(byte(t.Family), 0),
	})
}

func nftType(kind int) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind)
}

// nfgenmsg is struct nfgenmsg (linux/netfilter/nfnetlink.h).
func nfgenmsg(family byte, resource uint16) []byte {
	return []byte{family, unix.NFNETLINK_V0, byte(resource >> 8), byte(resource)}
}

// read is a table as the kernel has it.
func read(t *nftables.Table) (snapshot, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return snapshot{}, explain(err)
	}
	defer conn.Close()
	var out snapshot
	// What a message may bring again; the rest is numbers that the kernel gives.
	for _, part := range []struct {
		ask, anew int
		name      uint16 // the attribute with the table's name
		keep      []uint16
		take      func(netlink.Message, attributes)
	}{
		{unix.NFT_MSG_GETTABLE, unix.NFT_MSG_NEWTABLE, unix.NFTA_TABLE_NAME, []uint16{unix.NFTA_TABLE_NAME, unix.NFTA_TABLE_FLAGS},
			func(m netlink.Message, _ attributes) { out.table = m }},
		{unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_NEWCHAIN, unix.NFTA_CHAIN_TABLE, []uint16{unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME, unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_TYPE},
			func(m netlink.Message, _ attributes) { out.chains = append(out.chains, m) }},
		{unix.NFT_MSG_GETRULE, unix.NFT_MSG_NEWRULE, unix.NFTA_RULE_TABLE, []uint16{unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN, unix.NFTA_RULE_EXPRESSIONS, unix.NFTA_RULE_COMPAT, unix.NFTA_RULE_USERDATA},
			func(m netlink.Message, a attributes) {
				out.rules = append(out.rules, rawRule{m, a.text(unix.NFTA_RULE_CHAIN), a.data(unix.NFTA_RULE_EXPRESSIONS), a.data(unix.NFTA_RULE_USERDATA)})
			}},
	} {
		messages, err := dump(conn, t, part.ask)
		if err != nil {
			return out, explain(err)
		}
		for _, m := range messages {
			have, err := parse(m.Data)
			if err != nil {
				return out, err
			}
			if have.text(part.name) != t.Name || m.Data[0] != byte(t.Family) {
				continue
			}
			again, err := have.message(part.anew, t, part.keep)
			if err != nil {
				return out, err
			}
			part.take(again, have)
		}
	}
	return out, nil
}

// attributes of a message.
type attributes []netlink.Attribute

// parse reads a message's attributes, behind its nfgenmsg.
func parse(message []byte) (attributes, error) {
	if len(message) < 4 {
		return nil, fmt.Errorf("message of %d bytes from nf_tables", len(message))
	}
	return netlink.UnmarshalAttributes(message[4:])
}

// kind is an attribute's type without its flags.
func kind(a netlink.Attribute) uint16 { return a.Type &^ (netlink.Nested | netlink.NetByteOrder) }

func (a attributes) data(of uint16) []byte {
	for _, one := range a {
		if kind(one) == of {
			return one.Data
		}
	}
	return nil
}

func (a attributes) text(of uint16) string { return string(bytes.TrimRight(a.data(of), "\x00")) }

// message makes again what the attributes tell.
func (a attributes) message(anew int, t *nftables.Table, keep []uint16) (netlink.Message, error) {
	kept := slices.DeleteFunc(slices.Clone(a), func(one netlink.Attribute) bool { return !slices.Contains(keep, kind(one)) })
	data, err := netlink.MarshalAttributes(kept)
	flags := netlink.Request | netlink.Create
	if anew == unix.NFT_MSG_NEWRULE {
		flags |= netlink.Append
	}
	return netlink.Message{Header: netlink.Header{Type: nftType(anew), Flags: flags}, Data: append(nfgenmsg(byte(t.Family), 0), data...)}, err
}

// messages make the table anew: all chains before the rules, which jump.
func (s snapshot) messages() []netlink.Message {
	out := append([]netlink.Message{s.table}, s.chains...)
	for _, r := range s.rules {
		out = append(out, r.message)
	}
	return out
}

// restore deletes tables and makes those of the snapshots, in one transaction.
func restore(gone []*nftables.Table, with []snapshot) error {
	var messages []netlink.Message
	for _, t := range gone {
		name := attributes{{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(t.Name), 0)}}
		m, err := name.message(unix.NFT_MSG_DELTABLE, t, []uint16{unix.NFTA_TABLE_NAME})
		if err != nil {
			return err
		}
		m.Header.Flags = netlink.Request
		messages = append(messages, m)
	}
	for _, s := range with {
		messages = append(messages, s.messages()...)
	}
	if len(messages) == 0 {
		return nil
	}
	return explain(transact(messages))
}

// transact sends messages as one transaction. Only the last is acknowledged: the
// kernel tells errors of the others anyway, and before.
func transact(messages []netlink.Message) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteBuffer(batchBytes); err != nil {
		return err
	}
	frame := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request}, Data: nfgenmsg(0, unix.NFNL_SUBSYS_NFTABLES)}
	}
	messages[len(messages)-1].Header.Flags |= netlink.Acknowledge
	all := append([]netlink.Message{frame(unix.NFNL_MSG_BATCH_BEGIN)}, messages...)
	if _, err := conn.SendMessages(append(all, frame(unix.NFNL_MSG_BATCH_END))); err != nil {
		return err
	}
	_, err = conn.Receive()
	return err
}

// marshal is a rule's expressions in the kernel's form.
func marshal(family nftables.TableFamily, exprs []expr.Any) ([]byte, error) {
	var list attributes
	for _, e := range exprs {
		data, err := expr.Marshal(byte(family), e)
		if err != nil {
			return nil, err
		}
		list = append(list, netlink.Attribute{Type: netlink.Nested | unix.NFTA_LIST_ELEM, Data: data})
	}
	return netlink.MarshalAttributes(list)
}

// agree reports whether the kernel's attributes say what ours do. The kernel
// adds some that say nothing: they are zero. Ours are in its order.
func agree(ours, kernels []byte) bool {
	want, err1 := netlink.UnmarshalAttributes(ours)
	have, err2 := netlink.UnmarshalAttributes(kernels)
	if err1 != nil || err2 != nil {
		return false
	}
	used := make([]bool, len(have))
	for _, w := range want {
		i := slices.IndexFunc(have, func(h netlink.Attribute) bool { return kind(h) == kind(w) })
		for i >= 0 && used[i] { // a list: the next of the same kind
			next := slices.IndexFunc(have[i+1:], func(h netlink.Attribute) bool { return kind(h) == kind(w) })
			if next < 0 {
				return false
			}
			i += 1 + next
		}
		if i < 0 {
			return false
		}
		used[i] = true
		if w.Type&netlink.Nested != 0 && !agree(w.Data, have[i].Data) || w.Type&netlink.Nested == 0 && !bytes.Equal(w.Data, have[i].Data) {
			return false
		}
	}
	for i, h := range have {
		if !used[i] && len(bytes.Trim(h.Data, "\x00")) > 0 {
			return false
		}
	}
	return true
}
