package dns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// listen opens the sockets.
func (s *Server) listen() error {
	all := s.opts.Listen
	if len(all) == 0 {
		all = []string{DefaultListen}
	}
	for _, text := range all {
		addrs, err := listenAddresses(text)
		if err != nil {
			return err
		}
		for i, a := range addrs {
			err := s.bind(a)
			if i > 0 && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)) {
				s.log.Debug("DNS has no IPv6 to listen on", "address", a)
				continue
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// listenAddresses are those of one text. An unspecified address is refused: it
// would answer everybody who reaches the host.
func listenAddresses(text string) ([]netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return nil, fmt.Errorf("address %q: it is host:port: %w", text, err)
	}
	if host == "localhost" {
		var out []netip.AddrPort
		for _, loopback := range []string{"127.0.0.1", "::1"} {
			a, err := netip.ParseAddrPort(net.JoinHostPort(loopback, port))
			if err != nil {
				return nil, fmt.Errorf("address %q: %w", text, err)
			}
			out = append(out, a)
		}
		return out, nil
	}
	a, err := netip.ParseAddrPort(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("address %q: %w", text, err)
	case a.Addr().IsUnspecified():
		return nil, fmt.Errorf("address %q: it would answer everybody: name one of this host's addresses", text)
	}
	return []netip.AddrPort{unmap(a)}, nil
}

// bind opens a for both protocols. Port 0 is any port that both have free.
func (s *Server) bind(a netip.AddrPort) error {
	for tries := 20; ; tries-- {
		t, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a)) // first: fewer ports are free
		if err != nil {
			return err
		}
		bound := localOf(t.Addr())
		u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(bound))
		if err == nil {
			s.tcp, s.udp = append(s.tcp, t), append(s.udp, u)
			s.own[bound] = true
			return nil
		}
		t.Close()
		if a.Port() != 0 || tries == 0 {
			return err
		}
	}
}
