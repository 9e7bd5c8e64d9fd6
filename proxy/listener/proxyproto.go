package listener

import (
	"bytes"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
)

// proxyProtocol reads a PROXY header and consumes it, and nothing more (Envoy:
// proxy_protocol).
type proxyProtocol struct {
	cfg   *config.ProxyProtocol
	stats *proxyStats
}

func newProxyProtocol(cfg *config.ProxyProtocol, r *stats.Registry) *proxyProtocol {
	return &proxyProtocol{cfg: cfg, stats: newProxyStats(r, cfg.StatPrefix)}
}

func (p *proxyProtocol) read(i *inspection) error {
	version, err := p.find(i)
	if version == 0 || err != nil {
		return err
	}
	size, err := p.size(i, version)
	if err != nil {
		return err
	}
	h, err := parseProxyHeader(version, i.peek.bytes()[:size])
	if err != nil {
		return p.bad(i, version, err)
	}
	p.stats.versions[version].found.Inc()
	p.apply(i.info, h)
	return i.consumed(size)
}

// find waits until it is known which version the header has; 0 is none, where
// that is allowed. A version that is disallowed is none then.
func (p *proxyProtocol) find(i *inspection) (version int, err error) {
	for want := 1; ; want = i.peek.n + 1 {
		if err := i.more(want); err != nil {
			return 0, err
		}
		version, decided := proxyVersion(i.peek.bytes())
		if !decided {
			continue
		}
		disallowed := version == 1 && p.cfg.DisallowV1 || version == 2 && p.cfg.DisallowV2
		switch {
		case version != 0 && !disallowed:
			return version, nil
		case p.cfg.AllowWithout:
			p.stats.notFoundAllowed.Inc()
			return 0, nil
		case disallowed:
			p.stats.versions[version].found.Inc()
			p.stats.versions[version].disallowed.Inc()
			return 0, refuse(ProxyHeader, "PROXY header of version %d, which is disallowed", version)
		}
		p.stats.notFoundDisallowed.Inc()
		i.stats.proxyError.Inc()
		return 0, refuse(ProxyHeader, "no PROXY header")
	}
}

// size waits for the whole header.
func (p *proxyProtocol) size(i *inspection, version int) (int, error) {
	for {
		size, want, err := proxySize(version, i.peek.bytes())
		if err != nil {
			return 0, p.bad(i, version, err)
		}
		if err := i.more(want); err != nil {
			return 0, err
		}
		if size > 0 {
			return size, nil
		}
	}
}

func (p *proxyProtocol) bad(i *inspection, version int, err error) error {
	p.stats.versions[version].failed.Inc()
	i.stats.proxyError.Inc()
	return refuse(ProxyHeader, "bad PROXY header of version %d: %w", version, err)
}

// apply takes the addresses and the TLVs over. LOCAL and UNKNOWN keep the
// socket's own. IPv4-mapped addresses become IPv4, so that rules for IPv4 hold
// for them (Envoy keeps them as they are).
func (p *proxyProtocol) apply(info *flow.Info, h proxyHeader) {
	if h.local {
		return
	}
	info.ProxyHeader = true
	info.Remote = flow.Addr{AddrPort: unmap(h.source)}
	if local := unmap(h.destination); local != info.Local.AddrPort {
		info.Local, info.LocalRestored = flow.Addr{AddrPort: local}, true
	}
	for rest := h.tlvs; len(rest) > 0; {
		var kind byte
		var value []byte
		kind, value, rest, _ = nextTLV(rest) // they were checked
		if p.cfg.Pass.Has(kind) {
			info.TLVs = append(info.TLVs, flow.TLV{Type: kind, Value: bytes.Clone(value)})
		}
		for _, rule := range p.cfg.TLVs {
			if kind == rule.Type && !hasMetadata(info, rule) {
				info.SetMetadata(rule.Namespace, rule.Key, structpb.NewStringValue(sanitized(value)))
			}
		}
	}
}

// hasMetadata reports whether an earlier TLV has set it: the first one counts.
func hasMetadata(info *flow.Info, rule config.TLVRule) bool {
	_, there := info.DynamicMetadata[rule.Namespace].GetFields()[rule.Key]
	return there
}

// sanitized is b with ! for each byte that is not of UTF-8, as in Envoy.
func sanitized(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	out := make([]byte, 0, len(b))
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			out = append(out, '!')
		} else {
			out = append(out, b[:n]...)
		}
		b = b[n:]
	}
	return string(out)
}
