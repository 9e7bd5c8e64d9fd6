package sidecar

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	fileaccessv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	originalsrcv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_src/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The ALPNs by which a meshed client says that its TLS is the mesh's, and not
// the application's own (Istio: mtlsTCPWithMxcALPNs and mtlsHTTPALPNs).
func meshALPNs() []string {
	return []string{"istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"}
}

func (b *builder) listeners() []*listenerv3.Listener {
	out := []*listenerv3.Listener{b.virtualInbound(), b.virtualOutbound()}
	for _, s := range b.cfg.Services {
		for _, port := range s.Ports {
			for _, at := range s.listeners(port) {
				out = append(out, b.service(at, outboundName(s.Host, port)))
			}
		}
	}
	return out
}

// virtualInbound takes what the rules redirect of the inbound connections.
func (b *builder) virtualInbound() *listenerv3.Listener {
	l := &listenerv3.Listener{
		Name: "virtualInbound", Address: address(b.anyAddress(), InboundPort),
		TrafficDirection:                 corev3.TrafficDirection_INBOUND,
		ContinueOnListenerFiltersTimeout: true,
		ListenerFilters:                  b.inboundFilters(),
		FilterChains: []*listenerv3.FilterChain{{
			Name: "virtualInbound-blackhole", FilterChainMatch: &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(InboundPort)},
			Filters: []*listenerv3.Filter{b.tcpProxy(blackHole, nil)},
		}},
	}
	if b.cfg.Interception == "TPROXY" {
		l.Transparent = wrapperspb.Bool(true)
	}
	if b.cfg.ServerFirst != nil && !*b.cfg.ServerFirst {
		l.Metadata = own("server_first", false)
	}
	for _, p := range b.cfg.Ports {
		l.FilterChains = append(l.FilterChains, b.chains("0.0.0.0_"+strconv.Itoa(int(p.Port)), p.Port, p.MTLS, inboundName(p.Port))...)
	}
	l.FilterChains = append(l.FilterChains, b.chains("virtualInbound", 0, b.cfg.MTLS, inboundPassthrough)...)
	return l
}

func (b *builder) inboundFilters() []*listenerv3.ListenerFilter {
	out := []*listenerv3.ListenerFilter{b.listenerFilter("envoy.filters.listener.original_dst", &originaldstv3.OriginalDst{})}
	if b.cfg.Interception == "TPROXY" {
		out = append(out, b.listenerFilter("envoy.filters.listener.original_src", &originalsrcv3.OriginalSrc{Mark: tproxyMark}))
	}
	return append(out, b.listenerFilter("envoy.filters.listener.tls_inspector", &tlsinspectorv3.TlsInspector{}))
}

// tproxyMark marks the connections from original sources, so that their
// answers come back to the sidecar (istio-iptables: --inbound-tproxy-mark).
const tproxyMark = 1337

func (b *builder) listenerFilter(name string, m proto.Message) *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{Name: name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: b.pack(m)}}
}

// chains are the filter chains for one inbound port, 0 for all that have none
// of their own.
func (b *builder) chains(name string, port uint16, mode Mode, cluster string) []*listenerv3.FilterChain {
	chain := func(transport string, alpns []string, tls bool) *listenerv3.FilterChain {
		match := &listenerv3.FilterChainMatch{TransportProtocol: transport, ApplicationProtocols: alpns}
		if port != 0 {
			match.DestinationPort = wrapperspb.UInt32(uint32(port))
		}
		c := &listenerv3.FilterChain{Name: name, FilterChainMatch: match, Filters: append(b.rbac(port), b.tcpProxy(cluster, nil))}
		if tls {
			c.TransportSocket = b.serverTLS()
		}
		return c
	}
	switch mode {
	case Strict:
		return []*listenerv3.FilterChain{chain("tls", nil, true)}
	case Disable:
		return []*listenerv3.FilterChain{chain("", nil, false)}
	}
	return []*listenerv3.FilterChain{chain("tls", meshALPNs(), true), chain("raw_buffer", nil, false), chain("tls", nil, false)}
}

// virtualOutbound takes what the rules redirect of the outbound connections:
// each is handed to the listener of its service, and the others go on as they
// are, or nowhere.
func (b *builder) virtualOutbound() *listenerv3.Listener {
	rest := passthrough
	if b.cfg.Outbound == RegistryOnly {
		rest = blackHole
	}
	l := &listenerv3.Listener{
		Name: "virtualOutbound", Address: address(b.anyAddress(), OutboundPort),
		UseOriginalDst: wrapperspb.Bool(true), TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		FilterChains: []*listenerv3.FilterChain{
			{
				Name: "virtualOutbound-blackhole", FilterChainMatch: &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(OutboundPort)},
				Filters: []*listenerv3.Filter{b.tcpProxy(blackHole, nil)},
			},
			{Name: "virtualOutbound-catchall-tcp", Filters: []*listenerv3.Filter{b.tcpProxy(rest, nil)}},
		},
	}
	return l
}

// place is where a service's listener would be, did it have a socket.
type place struct {
	name string
	addr netip.Addr
	port uint16
}

// listeners are the places of one port of s, one for each address; without
// addresses, one for all.
func (s *Service) listeners(port uint16) []place {
	if len(s.Addresses) == 0 {
		return []place{{fmt.Sprintf("0.0.0.0_%d", port), netip.IPv4Unspecified(), port}}
	}
	var out []place
	for _, a := range s.Addresses {
		out = append(out, place{fmt.Sprintf("%s_%d", a, port), a, port})
	}
	return out
}

func (b *builder) service(at place, cluster string) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name: at.name, Address: address(at.addr, at.port), BindToPort: wrapperspb.Bool(false),
		TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		FilterChains:     []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{b.tcpProxy(cluster, nil)}}},
	}
}

// tcpProxy passes the bytes to a cluster.
func (b *builder) tcpProxy(cluster string, log []*accesslogv3.AccessLog) *listenerv3.Filter {
	if log == nil {
		log = b.accessLog()
	}
	return b.filter("envoy.filters.network.tcp_proxy", &tcpproxyv3.TcpProxy{
		StatPrefix: cluster, ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: cluster}, AccessLog: log,
	})
}

func (b *builder) filter(name string, m proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: b.pack(m)}}
}

// accessLogFormat is a line a connection: when, where, how, who, what came of it.
const accessLogFormat = "[%START_TIME%] %FILTER_CHAIN_NAME% %DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% " +
	"tls=%DOWNSTREAM_TLS_VERSION% peer=%DOWNSTREAM_PEER_URI_SAN% upstream=%UPSTREAM_HOST% cluster=%UPSTREAM_CLUSTER% upstream_peer=%UPSTREAM_PEER_URI_SAN% " +
	"flags=%RESPONSE_FLAGS% details=%CONNECTION_TERMINATION_DETAILS% upstream_failure=%UPSTREAM_TRANSPORT_FAILURE_REASON% " +
	"rx=%BYTES_RECEIVED% tx=%BYTES_SENT% ms=%DURATION%\n"

func (b *builder) accessLog() []*accesslogv3.AccessLog {
	if b.cfg.AccessLog == "" {
		return nil
	}
	file := &fileaccessv3.FileAccessLog{
		Path: b.cfg.AccessLog,
		AccessLogFormat: &fileaccessv3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
			Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
				Specifier: &corev3.DataSource_InlineString{InlineString: accessLogFormat},
			}},
		}},
	}
	return []*accesslogv3.AccessLog{{Name: "envoy.access_loggers.file", ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.pack(file)}}}
}

// domains are the trust domains whose members are peers.
func (c *Config) domains() []string {
	return slices.Concat([]string{c.TrustDomain}, c.TrustDomainAliases)
}
