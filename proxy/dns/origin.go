package dns

import (
	"net/netip"

	"outrider/proxy/listener"
)

// originFinder tells where a question was sent to before it was redirected; ok
// is false if that is not known, or it was not redirected.
type originFinder interface {
	find(who client) (to netip.AddrPort, ok bool)
}

// systemOrigin asks the kernel, which tells it of TCP connections only: of a
// UDP packet that REDIRECT took, the socket sees the changed destination
// (SO_ORIGINAL_DST is for TCP and SCTP; IP_RECVORIGDSTADDR reads the packet).
type systemOrigin struct{}

func (systemOrigin) find(who client) (netip.AddrPort, bool) {
	if who.tcp == nil {
		return netip.AddrPort{}, false
	}
	to, ok, err := listener.OriginalDst(who.tcp)
	return to, err == nil && ok && to != who.local
}
