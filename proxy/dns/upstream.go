package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	wire "github.com/miekg/dns"
)

// key is what makes two questions one: their answers are the same.
type key struct {
	name           string
	qtype, class   uint16
	to             netip.AddrPort // the client's own resolver; zero: those of resolv.conf
	tcp, edns      bool
	desired, check bool // RD, CD
	ad, do         bool
}

// errNoServer is that there is nobody to ask.
var errNoServer = errors.New("resolv.conf names no server that can be asked")

// forward asks the servers. It fails with SERVFAIL.
func (s *Server) forward(ctx context.Context, q *question, who client) *wire.Msg {
	if s.outgoing.has(outgoingKey{who.from, who.tcp != nil}) {
		s.stats.loops.Inc()
		s.stats.failures.Inc()
		s.outgoing.told.Do(func() {
			s.log.Error("our own DNS question came back to us: the redirection takes the proxy's DNS, too; does it run as the user that the rules leave alone?", "name", q.name)
		})
		return q.reply(wire.RcodeServerFailure)
	}
	servers, original := s.serversFor(who)
	k := q.key(original, who.tcp != nil)
	if r := s.negatives.get(k); r != nil {
		s.stats.cached.Inc()
		return r
	}
	r, shared, err := s.flights.do(ctx, k, func(ctx context.Context) (*wire.Msg, error) {
		r, err := s.ask(ctx, q, servers, k.tcp)
		if err == nil {
			s.negatives.put(k, r)
		}
		return r, err
	})
	if shared {
		s.stats.shared.Inc()
	}
	if err != nil {
		s.stats.failures.Inc()
		s.log.Debug("DNS question not answered", "name", q.name, "type", wire.Type(q.ask.Qtype).String(), "reason", err)
		return q.reply(wire.RcodeServerFailure)
	}
	return r.Copy()
}

func (q *question) key(to netip.AddrPort, tcp bool) key {
	return key{
		name: q.name, qtype: q.ask.Qtype, class: q.ask.Qclass, to: to, tcp: tcp, edns: q.opt != nil,
		desired: q.msg.RecursionDesired, check: q.msg.CheckingDisabled, ad: q.msg.AuthenticatedData, do: q.opt != nil && q.opt.Do(),
	}
}

// serversFor are whom a client's question goes to: the resolver that it was
// sent to before it was redirected (original), if that is known and is none of
// resolv.conf; otherwise all of resolv.conf.
func (s *Server) serversFor(who client) (servers []netip.AddrPort, original netip.AddrPort) {
	c := s.conf.now()
	to, ok := s.origin.find(who)
	if !ok || s.own[to] {
		return c.servers, netip.AddrPort{}
	}
	for _, server := range c.servers {
		if server.Addr().WithZone("") == to.Addr() && server.Port() == to.Port() {
			return c.servers, netip.AddrPort{}
		}
	}
	return []netip.AddrPort{to}, to
}

// rounds is how often the servers are gone through, as the C library does.
const rounds = 2

// ask asks one server after the other, those that failed of late last. The
// answer of one that cannot answer (SERVFAIL, REFUSED, NOTIMP) is taken only if
// no other has one.
func (s *Server) ask(ctx context.Context, q *question, servers []netip.AddrPort, tcp bool) (*wire.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	s.stats.upstream.Inc()
	s.stats.active.Inc()
	defer s.stats.active.Dec()
	start := time.Now()
	defer func() { s.stats.upstreamTime.Record(uint64(time.Since(start) / time.Millisecond)) }()
	var last *wire.Msg
	var errs []error
	for round := range rounds {
		for _, server := range s.servers.order(servers) {
			if ctx.Err() != nil {
				break
			}
			r, err := s.askOne(ctx, q, server, tcp)
			if err == nil && !unable(r.Rcode) {
				s.servers.good(server)
				return r, nil
			}
			s.stats.upstreamFailures.Inc()
			if err != nil {
				s.servers.bad(server)
				err = fmt.Errorf("%s: %w", server, err)
				errs = append(errs, err)
			} else {
				last = r
				err = fmt.Errorf("%s says %s", server, wire.RcodeToString[r.Rcode])
			}
			s.log.Debug("DNS server gave no answer", "name", q.name, "server", server, "round", round+1, "reason", err)
		}
		if last != nil {
			return last, nil
		}
	}
	if len(errs) == 0 {
		return nil, errNoServer
	}
	return nil, errors.Join(errs...)
}

func unable(code int) bool {
	return code == wire.RcodeServerFailure || code == wire.RcodeRefused || code == wire.RcodeNotImplemented
}

// askOne asks one server: over UDP, and over TCP if the answer did not fit or
// the client itself came so.
func (s *Server) askOne(ctx context.Context, q *question, server netip.AddrPort, tcp bool) (*wire.Msg, error) {
	if s.own[server] {
		return nil, errors.New("that is ourselves")
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout*2/5)
	defer cancel()
	if tcp {
		return s.exchange(ctx, "tcp", q.upstream(), server)
	}
	r, err := s.exchange(ctx, "udp", q.upstream(), server)
	if err != nil || !r.Truncated {
		return r, err
	}
	s.stats.upstreamTCP.Inc()
	whole, err := s.exchange(ctx, "tcp", q.upstream(), server)
	if err != nil {
		s.log.Debug("DNS answer cut off, and not to be had over TCP", "name", q.name, "server", server, "reason", err)
		return r, nil // the client is told that it is cut off
	}
	return whole, nil
}

// exchange sends m from a port of its own, and waits for the answer to it: what
// does not fit the question is not the server's.
func (s *Server) exchange(ctx context.Context, network string, m *wire.Msg, server netip.AddrPort) (*wire.Msg, error) {
	packet, err := m.Pack()
	if err != nil {
		return nil, err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	own := outgoingKey{localOf(c.LocalAddr()), network == "tcp"}
	s.outgoing.add(own)
	defer s.outgoing.remove(own)
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // it is closed then
	defer stop()
	if network == "tcp" {
		if err := writeFrame(c, packet); err != nil {
			return nil, err
		}
		b, err := readFrame(c)
		if err != nil {
			return nil, err
		}
		r := &wire.Msg{}
		if err := r.Unpack(b); err != nil {
			return nil, err
		}
		if !answered(m, r) {
			s.stats.mismatched.Inc()
			return nil, errors.New("its answer is to another question")
		}
		return r, nil
	}
	if _, err := c.Write(packet); err != nil {
		return nil, err
	}
	return s.receive(c, m)
}

// receive waits for the answer to m over UDP. The socket is connected, so that
// the kernel lets nobody but the server answer.
func (s *Server) receive(c net.Conn, m *wire.Msg) (*wire.Msg, error) {
	buf := make([]byte, 4096) // far more than we say that we take
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		r := &wire.Msg{}
		err = r.Unpack(buf[:n])
		if (err == nil || r.Truncated) && answered(m, r) { // what is cut off may end within a record
			return r, nil
		}
		s.stats.mismatched.Inc()
	}
}
