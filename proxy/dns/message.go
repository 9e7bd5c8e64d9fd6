package dns

import (
	wire "github.com/miekg/dns"
)

// ednsSize is what we can take over UDP, as we tell who asks us and whom we
// ask: what no path fragments (the DNS flag day of 2020).
const ednsSize = 1232

// question is a query that can be answered.
type question struct {
	msg  *wire.Msg
	opt  *wire.OPT // nil without EDNS
	ask  wire.Question
	name string // lower case, with a dot at the end
}

// read parses a packet. If it is no question, refusal is the answer, or nil if
// there is none to give.
func read(packet []byte) (q *question, refusal *wire.Msg) {
	m := &wire.Msg{}
	err := m.Unpack(packet)
	switch {
	case len(packet) < 12, m.Response: // no header, or an answer: who answers it goes round in circles
		return nil, nil
	case m.Opcode != wire.OpcodeQuery:
		return nil, refuse(m, wire.RcodeNotImplemented)
	case err != nil, len(m.Question) != 1:
		return nil, refuse(m, wire.RcodeFormatError)
	}
	q = &question{msg: m, ask: m.Question[0], name: fqdn(m.Question[0].Name)}
	for _, rr := range m.Extra {
		opt, ok := rr.(*wire.OPT)
		switch {
		case !ok:
		case q.opt != nil || opt.Hdr.Name != ".": // RFC 6891, section 6.1.1
			return nil, refuse(m, wire.RcodeFormatError)
		default:
			q.opt = opt
		}
	}
	return q, nil
}

// refuse answers m with a code and, if it was understood, its question.
func refuse(m *wire.Msg, code int) *wire.Msg {
	r := &wire.Msg{}
	r.Id, r.Opcode, r.Response, r.RecursionDesired, r.Rcode = m.Id, m.Opcode, true, m.RecursionDesired, code
	if len(m.Question) == 1 {
		r.Question = m.Question
	}
	return r
}

// reply is an empty answer to q.
func (q *question) reply(code int) *wire.Msg {
	r := refuse(q.msg, code)
	r.RecursionAvailable, r.CheckingDisabled = true, q.msg.CheckingDisabled
	return r
}

// improper is the answer to what is asked in a way that is not supported, nil
// if it is.
func (q *question) improper() *wire.Msg {
	switch {
	case q.opt != nil && q.opt.Version() != 0:
		return q.reply(wire.RcodeBadVers)
	case q.ask.Qtype == wire.TypeAXFR, q.ask.Qtype == wire.TypeIXFR: // many messages, and never a workload's
		return q.reply(wire.RcodeRefused)
	}
	return nil
}

// size is how large an answer may be.
func (q *question) size(tcp bool) int {
	switch {
	case tcp:
		return wire.MaxMsgSize
	case q.opt == nil:
		return wire.MinMsgSize
	}
	return max(int(q.opt.UDPSize()), wire.MinMsgSize)
}

// pack makes r the answer to q: of its ID and question, with EDNS only if it
// had that, and not too large. r is the caller's own.
func (q *question) pack(r *wire.Msg, tcp bool) ([]byte, error) {
	r.Id, r.Response, r.Question = q.msg.Id, true, []wire.Question{q.ask}
	r.Extra = q.extra(r.Extra)
	if q.opt == nil && r.Rcode > 0xF { // RFC 6891, section 6.1.3: there is no room for it
		r.Rcode = wire.RcodeServerFailure
	}
	r.Truncate(q.size(tcp))
	r.Compress = true
	b, err := r.Pack()
	if err == nil {
		return b, nil
	}
	// A server sent what can be read and not be written.
	failed := q.reply(wire.RcodeServerFailure)
	failed.Extra = q.extra(nil)
	return failed.Pack()
}

// extra are the additional records of an answer, with an OPT of our own: EDNS
// is between neighbours. Of the server's only its reasons go on (RFC 8914).
func (q *question) extra(records []wire.RR) []wire.RR {
	out := make([]wire.RR, 0, len(records)+1)
	var reasons []wire.EDNS0
	for _, rr := range records {
		opt, ok := rr.(*wire.OPT)
		if !ok {
			out = append(out, rr)
			continue
		}
		for _, o := range opt.Option {
			if _, ok := o.(*wire.EDNS0_EDE); ok {
				reasons = append(reasons, o)
			}
		}
	}
	if q.opt == nil {
		return out
	}
	return append(out, newOPT(q.opt.Do(), reasons))
}

func newOPT(dnssec bool, options []wire.EDNS0) *wire.OPT {
	o := &wire.OPT{Hdr: wire.RR_Header{Name: ".", Rrtype: wire.TypeOPT}, Option: options}
	o.SetUDPSize(ednsSize)
	if dnssec {
		o.SetDo()
	}
	return o
}

// upstream is q as it is sent to a server: made anew, with an ID of our own.
func (q *question) upstream() *wire.Msg {
	m := &wire.Msg{Question: []wire.Question{q.ask}}
	m.Id = wire.Id()
	m.RecursionDesired, m.CheckingDisabled, m.AuthenticatedData = q.msg.RecursionDesired, q.msg.CheckingDisabled, q.msg.AuthenticatedData
	if q.opt != nil {
		m.Extra = append(m.Extra, newOPT(q.opt.Do(), nil))
	}
	return m
}

// answered reports whether r is an answer to the question m that was sent.
func answered(m, r *wire.Msg) bool {
	if !r.Response || r.Id != m.Id || r.Opcode != m.Opcode {
		return false
	}
	if len(r.Question) == 0 { // a server that did not even read it may say only that
		return r.Rcode == wire.RcodeFormatError || r.Rcode == wire.RcodeNotImplemented
	}
	sent, got := m.Question[0], r.Question[0]
	return len(r.Question) == 1 && got.Qtype == sent.Qtype && got.Qclass == sent.Qclass && fqdn(got.Name) == fqdn(sent.Name)
}
