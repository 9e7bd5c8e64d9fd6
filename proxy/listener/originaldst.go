package listener

import (
	"net"
	"net/netip"
)

// OriginalDst is the destination that a TCP connection had before it was
// redirected, as the kernel's connection tracking knows it: its own local
// address if it was not. ok is false if nothing is known.
func OriginalDst(c net.Conn) (dst netip.AddrPort, ok bool, err error) {
	local, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return netip.AddrPort{}, false, err
	}
	return systemOriginalDst(c, unmap(local))
}
