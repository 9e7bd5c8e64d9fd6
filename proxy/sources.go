package proxy

import (
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// sources are the sockets by which the connections that a listener has
// intercepted go on. The zero value is ready.
type sources struct {
	mu sync.Mutex
	// dialled are those whose own address nobody has asked for yet, by their
	// destination; known are the others, by that address. Both guarded by mu.
	dialled map[netip.AddrPort]map[*socket]struct{}
	known   map[netip.AddrPort]*socket
}

// socket is one that is connected, or was, or is about to be.
type socket struct {
	raw      syscall.RawConn
	to, from netip.AddrPort // from is guarded by sources.mu; zero until it is known
}

// passage is the sockets of one connection.
type passage struct {
	in      *sources
	sockets []*socket // guarded by in.mu
}

// add is told of a socket before it connects (flow.Info.UpstreamSocket).
func (p *passage) add(to netip.AddrPort, raw syscall.RawConn) {
	s := &socket{raw: raw, to: to}
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	p.sockets = append(p.sockets, s)
	if p.in.dialled == nil {
		p.in.dialled, p.in.known = map[netip.AddrPort]map[*socket]struct{}{}, map[netip.AddrPort]*socket{}
	}
	if p.in.dialled[to] == nil {
		p.in.dialled[to] = map[*socket]struct{}{}
	}
	p.in.dialled[to][s] = struct{}{}
}

// end forgets the connection.
func (p *passage) end() {
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	for _, s := range p.sockets {
		p.in.drop(s)
	}
}

// drop forgets a socket; mu is held.
func (s *sources) drop(one *socket) {
	if s.known[one.from] == one {
		delete(s.known, one.from)
	}
	if same := s.dialled[one.to]; same != nil {
		delete(same, one)
		if len(same) == 0 {
			delete(s.dialled, one.to)
		}
	}
}

// has reports whether a connection from an address to another is by one of these
// sockets. The kernel gives a socket its address before its first packet leaves,
// so that whoever has accepted it finds it here.
func (s *sources) has(from, to netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := range s.dialled[to] {
		own, open := ownAddress(one.raw)
		switch {
		case !open:
			s.drop(one)
		case own.Port() != 0: // else it is not bound yet, so it is not this one
			s.drop(one)
			one.from = own
			s.known[own] = one
		}
	}
	one := s.known[from]
	if one == nil || one.to != to {
		return false
	}
	if _, open := ownAddress(one.raw); !open {
		s.drop(one)
		return false
	}
	return true
}

// ownAddress is the address of a socket, which has port 0 before it is bound;
// false if it is closed, and its address may be another's.
func ownAddress(raw syscall.RawConn) (netip.AddrPort, bool) {
	var own netip.AddrPort
	var inner error
	err := raw.Control(func(fd uintptr) {
		var sa unix.Sockaddr
		if sa, inner = unix.Getsockname(int(fd)); inner != nil {
			return
		}
		switch a := sa.(type) {
		case *unix.SockaddrInet4:
			own = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
		case *unix.SockaddrInet6:
			own = netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
		}
	})
	return own, err == nil && inner == nil
}
