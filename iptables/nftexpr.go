package iptables

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// exprs are a rule as the kernel runs it, in a table of family in: each match
// loads something into a register and compares it there.
func (r Rule) exprs(t Table, in nftables.TableFamily) []expr.Any {
	e := &exprs{}
	m := r.Match
	e.name(expr.MetaKeyIIFNAME, m.In)
	e.name(expr.MetaKeyOIFNAME, m.Out)
	// A table of one family knows it: nft is confused to read it there.
	if in == nftables.TableFamilyINet && r.Family != Any {
		family := byte(unix.NFPROTO_IPV4)
		if r.Family == IPv6 {
			family = unix.NFPROTO_IPV6
		}
		e.meta(expr.MetaKeyNFPROTO, false, []byte{family})
	}
	e.address(sourceOffset, m.Src, false)
	e.address(destinationOffset, m.Dst, false)
	e.address(destinationOffset, m.NotDst, true)
	e.ports(m)
	e.state(m.State)
	if m.Mark != 0 {
		e.meta(expr.MetaKeyMARK, false, native(m.Mark))
	}
	if m.NotMark != 0 {
		e.meta(expr.MetaKeyMARK, true, native(m.NotMark))
	}
	if m.ConnMark != 0 {
		e.add(&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: native(m.ConnMark)})
	}
	e.owner(expr.MetaKeySKUID, m.UID, false)
	e.owner(expr.MetaKeySKUID, m.NotUID, true)
	e.owner(expr.MetaKeySKGID, m.GID, false)
	// A long list is within the kernel's limit (NFT_RULE_MAXEXPRS, 128) because
	// the group is loaded once.
	for i, g := range m.NotGIDs {
		if i == 0 {
			e.add(&expr.Meta{Key: expr.MetaKeySKGID, Register: 1})
		}
		e.add(&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: native(g)})
	}
	e.action(r.Do, t, r.Family)
	return e.list
}

type exprs struct{ list []expr.Any }

func (e *exprs) add(x ...expr.Any) { e.list = append(e.list, x...) }

// meta compares one of the packet's facts.
func (e *exprs) meta(key expr.MetaKey, not bool, want []byte) {
	e.add(&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op(not), Register: 1, Data: want})
}

func op(not bool) expr.CmpOp {
	if not {
		return expr.CmpOpNeq
	}
	return expr.CmpOpEq
}

// name compares an interface's name, which the kernel has in 16 bytes with
// zeros at its end; "eth+" compares the beginning alone.
func (e *exprs) name(key expr.MetaKey, name string) {
	switch beginning, any := strings.CutSuffix(name, "+"); {
	case name == "":
	case any:
		e.meta(key, false, []byte(beginning))
	default:
		e.meta(key, false, append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...))
	}
}

func (e *exprs) owner(key expr.MetaKey, id *uint32, not bool) {
	if id != nil {
		e.meta(key, not, native(*id))
	}
}

// native is a number as the kernel has it in memory.
func native(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

// Where the addresses are in the headers: IPv4 (RFC 791, section 3.1), IPv6
// (RFC 8200, section 3).
type offsets struct{ four, six uint32 }

var (
	sourceOffset      = offsets{12, 8}
	destinationOffset = offsets{16, 24}
)

func (e *exprs) address(at offsets, p netip.Prefix, not bool) {
	if !p.IsValid() {
		return
	}
	offset, length := at.four, 4
	if p.Addr().Is6() {
		offset, length = at.six, 16
	}
	bytes := p.Addr().AsSlice()
	if p.Bits()%8 == 0 { // as nft does it: nothing is to be masked
		length = p.Bits() / 8
	}
	e.add(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(length)})
	if p.Bits() < 8*length {
		e.add(&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(length), Mask: maskOf(p.Bits(), length), Xor: make([]byte, length)})
	}
	e.add(&expr.Cmp{Op: op(not), Register: 1, Data: bytes[:length]})
}

func maskOf(bits, length int) []byte {
	out := make([]byte, length)
	for i := range bits {
		out[i/8] |= 0x80 >> (i % 8)
	}
	return out
}

func (e *exprs) ports(m Match) {
	if m.Proto == "" {
		return
	}
	proto := byte(unix.IPPROTO_TCP)
	if m.Proto == "udp" {
		proto = unix.IPPROTO_UDP
	}
	e.meta(expr.MetaKeyL4PROTO, false, []byte{proto})
	port := func(offset uint32, p uint16, not bool) {
		e.add(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
			&expr.Cmp{Op: op(not), Register: 1, Data: binary.BigEndian.AppendUint16(nil, p)})
	}
	if m.SPort != 0 {
		port(0, m.SPort, false)
	}
	if m.DPort != 0 {
		port(2, m.DPort, false)
	}
	for _, p := range m.NotDPorts {
		port(2, p, true)
	}
}

// state compares the connection's state.
func (e *exprs) state(s string) {
	var bits uint32
	switch s {
	case "":
		return
	case "INVALID":
		bits = expr.CtStateBitINVALID
	default:
		bits = expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	}
	e.add(&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
}

func (e *exprs) action(a Action, t Table, f Family) {
	verdict := func(kind expr.VerdictKind, chain string) { e.add(&expr.Verdict{Kind: kind, Chain: chain}) }
	port := &expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, a.Port)}
	mark := []expr.Any{&expr.Immediate{Register: 1, Data: native(a.Mark)}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}}
	switch a.Verb {
	case Accept:
		verdict(expr.VerdictAccept, "")
	case Drop:
		verdict(expr.VerdictDrop, "")
	case Jump:
		verdict(expr.VerdictJump, nftName(t, a.Chain))
	case RedirectTo:
		e.add(port, &expr.Redir{RegisterProtoMin: 1, RegisterProtoMax: 1, Flags: natSpecified})
	case TProxyTo:
		family := byte(unix.NFPROTO_IPV4)
		if f == IPv6 {
			family = unix.NFPROTO_IPV6
		}
		e.add(port, &expr.TProxy{Family: family, TableFamily: byte(nftables.TableFamilyINet), RegPort: 1})
		e.add(mark...)
		verdict(expr.VerdictAccept, "")
	case SetMark:
		e.add(mark...)
	case SaveMark:
		e.add(&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, &expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1})
	case RestoreMark:
		e.add(&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1})
	case SetZone:
		e.add(&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint16(a.Zone)}, &expr.Ct{Key: expr.CtKeyZONE, SourceRegister: true, Register: 1})
	default:
		verdict(expr.VerdictReturn, "")
	}
}

// natSpecified is NF_NAT_RANGE_PROTO_SPECIFIED (linux/netfilter/nf_nat.h).
const natSpecified = 2
