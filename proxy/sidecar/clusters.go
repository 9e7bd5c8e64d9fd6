package sidecar

import (
	"fmt"
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// The clusters that are no service's (Istio's names).
const (
	passthrough        = "PassthroughCluster"
	inboundPassthrough = "InboundPassthroughCluster"
	blackHole          = "BlackHoleCluster"
)

// localTimeout is how long a connection to something on this host may take.
const localTimeout = time.Second

// inboundSource is the address that the application is called from, so that
// the rules leave these connections alone (Istio: InboundPassthroughBindIpv4).
const inboundSource, inboundSource6 = "127.0.0.6", "::6"

func (b *builder) clusters() []*clusterv3.Cluster {
	out := []*clusterv3.Cluster{
		{Name: blackHole, ConnectTimeout: seconds(localTimeout), ClusterDiscoveryType: static()},
		originalDst(passthrough, 10*time.Second),
		b.inboundBound(originalDst(inboundPassthrough, 10*time.Second)),
	}
	for _, p := range b.cfg.Ports {
		out = append(out, b.inbound(p))
	}
	for _, s := range b.cfg.Services {
		for _, port := range s.Ports {
			out = append(out, b.outbound(s, port))
		}
	}
	return out
}

func static() *clusterv3.Cluster_Type { return &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC} }

func originalDst(name string, timeout time.Duration) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name: name, ConnectTimeout: seconds(timeout), LbPolicy: clusterv3.Cluster_CLUSTER_PROVIDED,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST},
	}
}

// inboundBound has c call from the inbound source, unless the original source
// is kept.
func (b *builder) inboundBound(c *clusterv3.Cluster) *clusterv3.Cluster {
	if b.cfg.Interception == "TPROXY" {
		return c
	}
	c.UpstreamBindConfig = &corev3.BindConfig{SourceAddress: socket(inboundSource, 0)}
	if b.cfg.ipv6() {
		c.UpstreamBindConfig.ExtraSourceAddresses = []*corev3.ExtraSourceAddress{{Address: socket(inboundSource6, 0)}}
	}
	return c
}

func inboundName(port uint16) string { return fmt.Sprintf("inbound|%d||", port) }

func outboundName(host string, port uint16) string { return fmt.Sprintf("outbound|%d||%s", port, host) }

// inbound is the application behind one port.
func (b *builder) inbound(p Port) *clusterv3.Cluster {
	c := b.inboundBound(originalDst(inboundName(p.Port), 10*time.Second))
	if p.App != "" {
		app := netip.MustParseAddrPort(p.App) // checked
		c = b.single(inboundName(p.Port), socketAddress(app.Addr().String(), app.Port()))
	}
	c.TransportSocket = b.proxyProtocol(p.ProxyProtocol)
	if p.ProxyProtocol == "v2" {
		c.Metadata = own("proxy_protocol_peer", true)
	}
	return c
}

// own is metadata for outrider, which Envoy takes and does nothing with.
func own(key string, value bool) *corev3.Metadata {
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
		"outrider": {Fields: map[string]*structpb.Value{key: structpb.NewBoolValue(value)}},
	}}
}

// single is a cluster with one endpoint.
func (b *builder) single(name string, at *corev3.Address) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name: name, ConnectTimeout: seconds(localTimeout), ClusterDiscoveryType: static(),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{lbEndpoint(at)},
		}}},
	}
}

// secrets is the cluster of the agent's socket.
func (b *builder) secrets() *clusterv3.Cluster { return b.overSocket(sdsCluster, SecretSocket) }

// overSocket is a cluster for gRPC over a unix socket.
func (b *builder) overSocket(name, path string) *clusterv3.Cluster {
	c := b.single(name, &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}})
	http2 := &httpv3.HttpProtocolOptions{UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
		ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}},
		},
	}}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": b.pack(http2)}
	return c
}

// outbound is one port of a service.
func (b *builder) outbound(s Service, port uint16) *clusterv3.Cluster {
	name := outboundName(s.Host, port)
	c := &clusterv3.Cluster{
		Name: name, ConnectTimeout: seconds(s.ConnectTimeout), ClusterDiscoveryType: static(),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name},
		TransportSocketMatches: []*clusterv3.Cluster_TransportSocketMatch{
			{Name: "tlsMode-istio", Match: tlsMode("istio"), TransportSocket: b.clientTLS(s, port)},
			{Name: "tlsMode-disabled", Match: &structpb.Struct{}, TransportSocket: b.rawBuffer()},
		},
	}
	locality := &endpointv3.LocalityLbEndpoints{}
	for _, e := range s.endpoints(port) {
		lb := lbEndpoint(socketAddress(e.Address, e.Port))
		if _, err := netip.ParseAddr(e.Address); err != nil {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
		}
		if *e.MTLS {
			lb.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.transport_socket_match": tlsMode("istio")}}
		}
		locality.LbEndpoints = append(locality.LbEndpoints, lb)
	}
	c.LoadAssignment.Endpoints = []*endpointv3.LocalityLbEndpoints{locality}
	return c
}

// endpoints are those of one port, every field filled in.
func (s *Service) endpoints(port uint16) []Endpoint {
	meshed := s.MTLS == nil || *s.MTLS
	out := append([]Endpoint(nil), s.Endpoints...)
	if len(out) == 0 {
		for _, a := range s.Addresses {
			out = append(out, Endpoint{Address: a.String()})
		}
	}
	for i := range out {
		if out[i].Port == 0 {
			out[i].Port = port
		}
		if out[i].MTLS == nil {
			out[i].MTLS = &meshed
		}
	}
	return out
}

func tlsMode(mode string) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{"tlsMode": structpb.NewStringValue(mode)}}
}

func lbEndpoint(at *corev3.Address) *endpointv3.LbEndpoint {
	return &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: at}}}
}

func socket(ip string, port uint16) *corev3.SocketAddress {
	return &corev3.SocketAddress{Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)}}
}

func socketAddress(host string, port uint16) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: socket(host, port)}}
}

func (b *builder) rawBuffer() *corev3.TransportSocket {
	return b.transport("envoy.transport_sockets.raw_buffer", &rawv3.RawBuffer{})
}
