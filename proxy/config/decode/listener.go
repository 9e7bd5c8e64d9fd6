package decode

import (
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/tlsmux"
)

// Defaults of listener.proto.
const (
	defaultFiltersTimeout = 15 * time.Second
	defaultBufferLimit    = 1 << 20 // bytes; of clusters too
)

func (d *decoder) listener(l *listenerv3.Listener, place at) *config.Listener {
	d.direction = config.Direction(l.GetTrafficDirection())
	out := &config.Listener{
		Name:                     l.GetName(),
		NoBind:                   !truth(l.GetBindToPort(), truth(l.GetDeprecatedV1().GetBindToPort(), true)),
		UseOriginalDst:           l.GetUseOriginalDst().GetValue(),
		Transparent:              l.GetTransparent().GetValue(),
		Freebind:                 l.GetFreebind().GetValue(),
		Direction:                d.direction,
		FiltersTimeout:           duration(l.GetListenerFiltersTimeout(), defaultFiltersTimeout, place.in("listener_filters_timeout")),
		ContinueOnTimeout:        l.GetContinueOnListenerFiltersTimeout(),
		PerConnectionBufferLimit: u32(l.GetPerConnectionBufferLimitBytes(), defaultBufferLimit),
		Backlog:                  l.GetTcpBacklogSize().GetValue(),
		ReusePort:                truth(l.GetEnableReusePort(), true),
		Keepalive:                d.keepalive(l.GetTcpKeepalive(), place),
		SocketOptions:            d.socketOptions(l.GetSocketOptions(), place),
		AccessLogs:               d.accessLogs(l.GetAccessLog(), place),
		StatPrefix:               l.GetStatPrefix(),
		IgnoreGlobalConnLimit:    l.GetIgnoreGlobalConnLimit(),
		DrainModifyOnly:          l.GetDrainType() == listenerv3.Listener_MODIFY_ONLY,
		NoServerFirst:            d.noServerFirst(l, place.in("metadata").entry("filter_metadata", ownNamespace)),
		Source:                   l,
	}
	d.listenerAddresses(l, out, place)
	if out.Name == "" {
		out.Name = out.Address.String() // Envoy makes a random one
	}
	for i, f := range l.GetListenerFilters() {
		out.Filters = append(out.Filters, d.listenerFilter(f, place.item("listener_filters", i)))
	}
	for i, c := range l.GetFilterChains() {
		out.Chains = append(out.Chains, d.filterChain(c, place.item("filter_chains", i)))
	}
	if c := l.GetDefaultFilterChain(); c != nil {
		out.DefaultChain = d.filterChain(c, place.in("default_filter_chain"))
	}
	if len(out.Chains) == 0 && out.DefaultChain == nil {
		place.bad("has no filter chain: one of filter_chains, default_filter_chain must be set")
	}
	d.overlaps(out.Chains, place)
	injectFilters(out)
	return out
}

func (d *decoder) listenerAddresses(l *listenerv3.Listener, out *config.Listener, place at) {
	in := place.in("address")
	if l.GetAddress() == nil {
		in.bad("must be set")
		return
	}
	out.Address = d.address(l.GetAddress(), ipOrPipe, in)
	for i, a := range l.GetAdditionalAddresses() {
		in := place.item("additional_addresses", i).in("address")
		if a.GetAddress() == nil {
			in.bad("must be set")
			continue
		}
		out.Additional = append(out.Additional, d.address(a.GetAddress(), ipOrPipe, in))
	}
}

// injectFilters adds what Envoy adds by itself: the TLS inspector where a chain
// needs to know about TLS and none looks, and the original destination where
// the listener hands connections on by it.
func injectFilters(l *config.Listener) {
	inspects := slices.ContainsFunc(l.Filters, func(f *config.ListenerFilter) bool { return f.TLSInspector != nil })
	restores := slices.ContainsFunc(l.Filters, func(f *config.ListenerFilter) bool { return f.OriginalDst != nil })
	needs := slices.ContainsFunc(l.Chains, func(c *config.FilterChain) bool {
		m := c.Match
		return m.TransportProtocol == "tls" || m.TransportProtocol == "" && len(m.ServerNames)+len(m.ApplicationProtocols) > 0
	})
	if needs && !inspects {
		l.Filters = append(l.Filters, &config.ListenerFilter{
			Name:         "envoy.filters.listener.tls_inspector",
			TLSInspector: &config.TLSInspector{InitialReadBuffer: maxClientHello, MaxClientHello: maxClientHello},
		})
	}
	if l.UseOriginalDst && !restores {
		// Before those that wait for the client: they need not have the last word
		// on where it wanted to go.
		first := slices.IndexFunc(l.Filters, func(f *config.ListenerFilter) bool { return f.TLSInspector != nil || f.HTTPInspector != nil })
		if first < 0 {
			first = len(l.Filters)
		}
		l.Filters = slices.Insert(l.Filters, first, &config.ListenerFilter{
			Name:        "envoy.filters.listener.original_dst",
			OriginalDst: &config.OriginalDst{},
		})
	}
}

// ownNamespace is of the metadata that means something to outrider and nothing
// to Envoy.
const ownNamespace = "outrider"

// noServerFirst is the listener's choice to wait for its clients alone.
func (d *decoder) noServerFirst(l *listenerv3.Listener, place at) bool {
	own := l.GetMetadata().GetFilterMetadata()[ownNamespace].GetFields()
	for _, key := range sortedKeys(own) {
		in := place.in(key)
		if key != "server_first" {
			in.bad("is not known: there is server_first")
			continue
		}
		if _, ok := own[key].GetKind().(*structpb.Value_BoolValue); !ok {
			in.bad("%s is not a boolean", shorten(own[key].String()))
			continue
		}
		return !own[key].GetBoolValue()
	}
	return false
}

func (d *decoder) filterChain(c *listenerv3.FilterChain, place at) *config.FilterChain {
	out := &config.FilterChain{
		Name:           c.GetName(),
		Match:          d.chainMatch(c.GetFilterChainMatch(), place.in("filter_chain_match")),
		ConnectTimeout: duration(c.GetTransportSocketConnectTimeout(), 0, place.in("transport_socket_connect_timeout")),
		Digest:         digest(c),
		Source:         c,
	}
	if s := c.GetTransportSocket(); s != nil {
		out.TLS = d.serverSocket(s, place.in("transport_socket"))
	}
	if len(c.GetFilters()) == 0 {
		place.in("filters").bad("has no filter: connections would be closed at once")
	}
	for i, f := range c.GetFilters() {
		in := place.item("filters", i)
		one := d.networkFilter(f, in)
		out.Filters = append(out.Filters, one)
		last := i == len(c.GetFilters())-1
		switch {
		case one.Terminal() && !last:
			in.bad("%s ends the chain: it must be the last filter", f.GetName())
		case last && !one.Terminal():
			in.bad("%s does not end the chain: the last filter must be a terminal one", f.GetName())
		}
	}
	return out
}

// serverSocket is the transport socket of a filter chain; nil is plaintext.
func (d *decoder) serverSocket(s *corev3.TransportSocket, place at) *tlsmux.ServerConfig {
	in := place.in("typed_config")
	switch c := d.open(anyOf(s, in), in).(type) {
	case *tlsv3.DownstreamTlsContext:
		return d.serverTLS(c, in)
	case *rawv3.RawBuffer:
	default:
		in.bad("extension %q is not supported by outrider as a transport socket of a listener", s.GetName())
	}
	return nil
}

func (d *decoder) chainMatch(m *listenerv3.FilterChainMatch, place at) config.FilterChainMatch {
	out := config.FilterChainMatch{
		DestinationPort:      port(m.GetDestinationPort().GetValue(), place.in("destination_port")),
		Prefixes:             d.cidrs(m.GetPrefixRanges(), "prefix_ranges", place),
		ServerNames:          lower(m.GetServerNames()),
		TransportProtocol:    m.GetTransportProtocol(),
		ApplicationProtocols: m.GetApplicationProtocols(),
		DirectSourcePrefixes: d.cidrs(m.GetDirectSourcePrefixRanges(), "direct_source_prefix_ranges", place),
		SourceType:           config.SourceType(m.GetSourceType()),
		SourcePrefixes:       d.cidrs(m.GetSourcePrefixRanges(), "source_prefix_ranges", place),
	}
	for i, p := range m.GetSourcePorts() {
		out.SourcePorts = append(out.SourcePorts, port(p, place.item("source_ports", i)))
	}
	for i, name := range out.ServerNames {
		rest := strings.TrimPrefix(name, "*.")
		if strings.Contains(rest, "*") || rest == "" {
			place.item("server_names", i).bad("%q is a partial wildcard: a wildcard is \"*.\" and a name", name)
		}
	}
	return out
}
