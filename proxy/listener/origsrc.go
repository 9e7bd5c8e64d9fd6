package listener

import (
	"net/netip"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// originalSrc has the upstream connection made from the client's address, as it
// is known by now (Envoy: original_src). A client over a unix socket has none.
func originalSrc(cfg config.OriginalSrc) func(*inspection) error {
	return func(i *inspection) error {
		if !i.info.Remote.IsIP() {
			return nil
		}
		from := i.info.Remote.AddrPort
		if !cfg.BindPort {
			from = netip.AddrPortFrom(from.Addr(), 0)
		}
		i.info.UpstreamSource = &flow.Source{Addr: from, Mark: cfg.Mark}
		return nil
	}
}
