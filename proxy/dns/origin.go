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

// systemOrigin asks the kernel. A socket knows that of a TCP connection. Of a
// UDP packet that REDIRECT took it sees the changed destination only
// (SO_ORIGINAL_DST is for TCP and SCTP; IP_RECVORIGDSTADDR reads the packet as
// it is), so connection tracking is asked.
type systemOrigin struct{ tracking *tracking }

func (o systemOrigin) find(who client) (to netip.AddrPort, ok bool) {
	if who.tcp == nil {
		to, ok = o.tracking.original(who.from, who.local)
	} else {
		var err error
		to, ok, err = listener.OriginalDst(who.tcp)
		ok = ok && err == nil
	}
	return to, ok && to != who.local
}
