package hcm

import (
	"net/netip"
	"slices"
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/http/pathnorm"
	"outrider/proxy/http/route"
)

// prepare makes of the head that came the one that filters see: what only this
// hop may say is taken away, who the client is is added. It reports false if
// the request was answered instead.
func (s *stream) prepare(h *message.Head) bool {
	if r := s.checkHead(h); r != nil {
		s.reply(*r)
		return false
	}
	s.upgrade = s.m.upgradeOf(h)
	s.m.stripHost(h, s.info)
	if !s.normalize(h) {
		return false
	}
	s.http.OriginalPath = h.Path
	s.sanitize(h)
	return true
}

// checkHead is why a request is refused that no filter sees.
func (s *stream) checkHead(h *message.Head) *filter.Reply {
	switch {
	case h.Authority == "":
		s.closing = true
		return &filter.Reply{Status: 400, Details: "missing_host_header"}
	case h.Method == "CONNECT":
		return nil
	case h.Path == "":
		return &filter.Reply{Status: 404, Details: "missing_path_rejected"}
	case h.Path[0] != '/':
		s.m.stats.nonRelative.Inc()
		return &filter.Reply{Status: 404, Details: "absolute_path_rejected"}
	case s.m.cfg.Common.Underscores != config.UnderscoresAllow:
		return s.underscores(h)
	}
	return nil
}

// underscores refuses or removes header names with an underscore.
func (s *stream) underscores(h *message.Head) *filter.Reply {
	has := func(f message.Field) bool { return strings.Contains(f.Name, "_") }
	if !slices.ContainsFunc(h.Fields, has) {
		return nil
	}
	if s.m.cfg.Common.Underscores == config.UnderscoresReject {
		s.m.stats.underscoreRejected.Inc()
		s.closing = true
		h.Method, h.Path, h.Authority = "", "", "" // nobody is to trust any of it
		return &filter.Reply{Status: 400, Body: "Bad Request", Details: s.wire() + ".unexpected_underscore", Flags: flow.DownstreamProtocolError}
	}
	s.m.stats.underscoreDropped.Inc()
	h.Fields = slices.DeleteFunc(h.Fields, has)
	return nil
}

// wire is how response code details call the protocol.
func (s *stream) wire() string {
	if s.conn.http2 {
		return "http2"
	}
	return "http1"
}

// upgradeOf is the type of the upgrade that a request asks for, "" if none.
func (m *Manager) upgradeOf(h *message.Head) string {
	if h.Method == "CONNECT" {
		return "connect"
	}
	up, ok := h.Fields.Get("upgrade")
	if !ok || !hasToken(h.Fields.Value("connection"), "upgrade") {
		return ""
	}
	for _, ignored := range m.cfg.HTTP1.IgnoreUpgrades {
		if ignored.Match(up) {
			return ""
		}
	}
	return strings.ToLower(up)
}

// hasToken reports whether a list of tokens has one, in any case.
func hasToken(list, token string) bool {
	for part := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.TrimSpace(part), token) {
			return true
		}
	}
	return false
}

func (m *Manager) stripHost(h *message.Head, info *flow.Info) {
	cfg := m.cfg
	if cfg.StripAnyPort || cfg.StripMatchingPort {
		port := uint16(0)
		if cfg.StripMatchingPort && !cfg.StripAnyPort {
			port = info.Local.Port()
		}
		var stripped string
		h.Authority, stripped = pathnorm.StripPort(h.Authority, port)
		if h.Method == "CONNECT" && stripped != "" {
			info.SetState(route.ConnectPort, stripped)
		}
	}
	if cfg.StripTrailingHostDot {
		h.Authority = pathnorm.StripTrailingDot(h.Authority)
	}
}

// normalize makes the path what it stands for.
func (s *stream) normalize(h *message.Head) bool {
	if h.Method == "CONNECT" {
		return true
	}
	res := s.m.normalPath(h.Path)
	switch {
	case res.Refused:
		s.closing = true
		h.Path = pathnorm.Path(h.Path, pathnorm.Options{EscapedSlashes: config.SlashesUnescapeForward}).Path // as Envoy logs it
		s.reply(filter.Reply{Status: 400, Details: "path_normalization_failed"})
		return false
	case res.Redirect:
		h.Path = res.Path
		s.reply(filter.Reply{Status: 307, Details: "path_normalization_failed", Fields: message.Fields{{Name: "location", Value: res.Path}}})
		return false
	}
	h.Path = res.Path
	return true
}

// normalPath is a path in the form that routes and filters see.
func (m *Manager) normalPath(path string) pathnorm.Result {
	return pathnorm.Path(path, pathnorm.Options{
		Normalize: m.cfg.NormalizePath, MergeSlashes: m.cfg.MergeSlashes, EscapedSlashes: m.cfg.EscapedSlashes,
	})
}

// internalOnly are the fields that only an internal client may set (Envoy:
// cleanInternalHeaders).
var internalOnly = []string{
	"x-envoy-retriable-status-codes", "x-envoy-retriable-header-names", "x-envoy-retry-on",
	"x-envoy-retry-grpc-on", "x-envoy-max-retries", "x-envoy-upstream-alt-stat-name",
	"x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms",
	"x-envoy-upstream-rq-timeout-alt-response", "x-envoy-expected-rq-timeout-ms",
	"x-envoy-force-trace", "x-envoy-ip-tags", "x-envoy-original-url",
	"x-envoy-hedge-on-per-try-timeout",
}

// edgeOnly are those that no client of an edge proxy may set.
var edgeOnly = []string{
	"x-envoy-decorator-operation", "x-envoy-downstream-service-cluster", "x-envoy-downstream-service-node",
}

// sanitize is Envoy's treatment of the fields that concern this hop.
func (s *stream) sanitize(h *message.Head) {
	if s.upgrade == "" || s.upgrade == "connect" {
		dropConnection(h)
	}
	dropHop(&h.Fields)
	internal, edge := s.trust(h)
	s.markInternal(h, internal, edge)
	if h.Scheme = s.scheme(h); s.m.cfg.SchemeToSet != "" {
		h.Scheme = s.m.cfg.SchemeToSet
	}
	if s.m.cfg.Via != "" {
		appendTo(&h.Fields, "via", ", ", s.m.cfg.Via)
	}
	if edge && s.info.Remote.IsIP() {
		h.Fields.Set("x-envoy-external-address", s.info.Remote.Addr().String())
	}
	s.requestID(h, edge)
	s.conn.xfcc.apply(s.m.cfg, s.info.Downstream, h)
}

// dropConnection takes away Connection, and those fields that it names which
// are not more than this hop's.
func dropConnection(h *message.Head) {
	h.Fields.Del("connection")
	h.Fields.Del("upgrade")
}

// dropHop takes away what is of the connection and not of the message.
func dropHop(f *message.Fields) {
	*f = slices.DeleteFunc(*f, func(x message.Field) bool {
		switch x.Name {
		case "keep-alive", "proxy-connection", "transfer-encoding", "x-envoy-internal", "http2-settings":
			return true
		case "te":
			return !strings.EqualFold(x.Value, "trailers")
		}
		return false
	})
}

// trust finds out who the client is, and whether it is internal, and whether
// this is the edge.
func (s *stream) trust(h *message.Head) (internal, edge bool) {
	cfg := s.m.cfg
	remote := s.info.DirectRemote
	if s.info.Remote.IsIP() || s.info.Remote.Path != "" {
		remote = s.info.Remote
	}
	single := false
	var client netip.Addr
	if cfg.UseRemoteAddress {
		single = !h.Fields.Has("x-forwarded-for")
		client = s.trustRemote(h, remote)
	} else {
		client, single = lastForwarded(h, int(cfg.XFFTrustedHops))
	}
	if !h.Fields.Has("x-forwarded-proto") {
		h.Fields.Set("x-forwarded-proto", s.transportScheme())
	}
	internal = single && s.m.internal(client)
	if !client.IsValid() && !remote.IsIP() {
		internal = internal || single && cfg.InternalUnixSockets
	}
	if client.IsValid() && (!remote.IsIP() || client != remote.Addr()) {
		s.info.Remote = flow.Addr{AddrPort: netip.AddrPortFrom(client, 0)}
	}
	return internal, !internal && cfg.UseRemoteAddress
}

// trustRemote is the client where the connection's address counts.
func (s *stream) trustRemote(h *message.Head, remote flow.Addr) netip.Addr {
	cfg := s.m.cfg
	var client netip.Addr
	if cfg.XFFTrustedHops > 0 {
		client, _ = lastForwarded(h, int(cfg.XFFTrustedHops)-1)
	}
	if !client.IsValid() && remote.IsIP() {
		client = remote.Addr().Unmap()
	}
	if !cfg.SkipXFFAppend && remote.IsIP() {
		own := remote.Addr().Unmap()
		if own.IsLoopback() && s.m.deps.LocalAddress.IsValid() {
			own = s.m.deps.LocalAddress
		}
		text := own.String()
		if cfg.RepresentIPv4AsMapped && own.Is4() {
			text = netip.AddrFrom16(own.As16()).String()
		}
		appendTo(&h.Fields, "x-forwarded-for", ",", text)
	}
	if cfg.XFFTrustedHops == 0 || !h.Fields.Has("x-forwarded-proto") {
		h.Fields.Set("x-forwarded-proto", s.transportScheme())
	}
	if cfg.AppendXForwardedPort && (cfg.XFFTrustedHops == 0 || !h.Fields.Has("x-forwarded-port")) && s.info.Local.IsIP() {
		h.Fields.Set("x-forwarded-port", portText(s.info.Local.Port()))
	}
	return client
}

// lastForwarded is the address that stands skip places before the last in
// X-Forwarded-For; single says that it is the only one. An address that is
// none, or has white space or a port, does not count.
func lastForwarded(h *message.Head, skip int) (addr netip.Addr, single bool) {
	all, ok := h.Fields.Joined("x-forwarded-for")
	if !ok {
		return netip.Addr{}, false
	}
	single = !strings.Contains(all, ",")
	for ; skip > 0; skip-- {
		i := strings.LastIndexByte(all, ',')
		if i < 0 {
			return netip.Addr{}, false
		}
		all = all[:i]
	}
	last := strings.TrimSpace(all[strings.LastIndexByte(all, ',')+1:])
	addr, err := netip.ParseAddr(last)
	if err != nil {
		return netip.Addr{}, false
	}
	return addr, single
}

// internal reports whether an address is of internal_address_config. Without
// one nothing is internal, as in Envoy since 1.33.
func (m *Manager) internal(a netip.Addr) bool {
	return a.IsValid() && slices.ContainsFunc(m.cfg.InternalPrefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (s *stream) markInternal(h *message.Head, internal, edge bool) {
	if internal {
		h.Fields.Set("x-envoy-internal", "true")
		return
	}
	var own []string
	if t := s.m.routes.Load(); t != nil {
		own = t.InternalOnly()
	}
	h.Fields = slices.DeleteFunc(h.Fields, func(f message.Field) bool {
		if !strings.HasPrefix(f.Name, "x-envoy-") {
			return slices.Contains(own, f.Name)
		}
		return slices.Contains(internalOnly, f.Name) || slices.Contains(own, f.Name) ||
			edge && slices.Contains(edgeOnly, f.Name)
	})
}

// transportScheme is the scheme that the connection speaks for.
func (s *stream) transportScheme() string {
	if s.info.Downstream != nil {
		return "https"
	}
	return "http"
}

// scheme is the request's: what it says itself, or x-forwarded-proto, or the
// connection's.
func (s *stream) scheme(h *message.Head) string {
	for _, v := range []string{h.Scheme, h.Fields.Value("x-forwarded-proto")} {
		if strings.EqualFold(v, "http") || strings.EqualFold(v, "https") {
			return strings.ToLower(v)
		}
	}
	return s.transportScheme()
}

// requestID gives the request an ID where it has none, or where none of the
// client's is believed.
func (s *stream) requestID(h *message.Head, edge bool) {
	cfg := s.m.cfg
	id, has := h.Fields.Get("x-request-id")
	if cfg.GenerateRequestID && (!has || edge && !cfg.PreserveRequestID) {
		id = newUUID(s.m.deps.Rand)
		h.Fields.Set("x-request-id", id)
	}
	s.http.RequestID = id
}

// appendTo appends to a comma-separated field.
func appendTo(f *message.Fields, name, separator, value string) {
	if old, ok := f.Joined(name); ok && old != "" {
		value = old + separator + value
	}
	f.Set(name, value)
}
