package listener

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"outrider/proxy/flow"
)

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST: Linux's
// netfilter_ipv4.h and netfilter_ipv6/ip6_tables.h.
const soOriginalDst = 80

// originalDst restores the destination that a connection had before it was
// redirected (Envoy: original_dst). A connection that was not redirected keeps
// its own; one that TPROXY brought has it already.
//
// Connection tracking knows the destination of every connection, so one that
// came to the listener itself gets its own address back: that is not restored,
// or an ORIGINAL_DST cluster would connect to ourselves.
func (i *inspection) originalDst() error {
	if !i.info.Local.IsIP() {
		return nil
	}
	dst, ok, err := i.restore(i.conn, i.info.Local.AddrPort)
	if err != nil {
		return fmt.Errorf("SO_ORIGINAL_DST: %w", err)
	}
	switch {
	case ok && dst != i.info.Local.AddrPort:
		i.info.Local, i.info.LocalRestored = flow.Addr{AddrPort: dst}, true
	case i.transparent && !i.isBound(i.info.Local.AddrPort):
		i.info.LocalRestored = true
	}
	return nil
}

// isBound reports whether a is the listener's own address.
func (f *Filters) isBound(a netip.AddrPort) bool {
	return a.Port() == f.bound.Port() && (f.bound.Addr().IsUnspecified() || a.Addr() == f.bound.Addr().Unmap())
}

// systemOriginalDst asks the kernel's connection tracking; ok is false if that
// knows nothing of c.
func systemOriginalDst(c net.Conn, local netip.AddrPort) (dst netip.AddrPort, ok bool, err error) {
	sc, isSocket := c.(syscall.Conn)
	if !isSocket {
		return netip.AddrPort{}, false, nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, false, err
	}
	var found error
	err = raw.Control(func(fd uintptr) { dst, found = lookUp(int(fd), local, kernel{}) })
	if err == nil {
		err = found
	}
	switch {
	case err == nil:
		return dst, true, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOPROTOOPT), errors.Is(err, unix.EOPNOTSUPP):
		return netip.AddrPort{}, false, nil // not redirected, or no connection tracking
	}
	return netip.AddrPort{}, false, err
}

// destinations asks a socket for its original destination, as a sockaddr_in
// or a sockaddr_in6.
type destinations interface {
	ipv4(fd int) ([]byte, error)
	ipv6(fd int) ([]byte, error)
}

// lookUp asks for the family that the connection is of: one over IPv4 to an
// IPv6 socket is tracked as IPv4.
func lookUp(fd int, local netip.AddrPort, k destinations) (netip.AddrPort, error) {
	ask := k.ipv6
	if local.Addr().Unmap().Is4() {
		ask = k.ipv4
	}
	b, err := ask(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return sockaddr(b)
}

// sockaddr reads a sockaddr_in or a sockaddr_in6: the family in the machine's
// order, the port in the network's.
func sockaddr(b []byte) (netip.AddrPort, error) {
	if len(b) < 4 {
		return netip.AddrPort{}, fmt.Errorf("a socket address of %d bytes", len(b))
	}
	port := binary.BigEndian.Uint16(b[2:])
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET && len(b) >= unix.SizeofSockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port), nil
	case family == unix.AF_INET6 && len(b) >= unix.SizeofSockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), port), nil
	default:
		return netip.AddrPort{}, fmt.Errorf("a socket address of family %d in %d bytes", family, len(b))
	}
}

// kernel asks by getsockopt. The package unix has no plain getsockopt, but two
// for structures that are as large as what is wanted.
type kernel struct{}

func (kernel) ipv4(fd int) ([]byte, error) {
	m, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, soOriginalDst) // 20 bytes, sockaddr_in is 16
	if err != nil {
		return nil, err
	}
	return m.Multiaddr[:], nil
}

func (kernel) ipv6(fd int) ([]byte, error) {
	m, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, soOriginalDst) // 32 bytes that begin with a sockaddr_in6
	if err != nil {
		return nil, err
	}
	b := binary.NativeEndian.AppendUint16(nil, m.Addr.Family)
	b = binary.NativeEndian.AppendUint16(b, m.Addr.Port) // as it is: in network order
	b = binary.NativeEndian.AppendUint32(b, m.Addr.Flowinfo)
	b = append(b, m.Addr.Addr[:]...)
	return binary.NativeEndian.AppendUint32(b, m.Addr.Scope_id), nil
}

// unmap makes an IPv4-mapped address IPv4.
func unmap(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
