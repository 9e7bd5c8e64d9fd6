package sidecar

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrider/certs/identity"
)

func (b *builder) transport(name string, m proto.Message) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: name, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: b.pack(m)}}
}

const tlsName = "envoy.transport_sockets.tls"

// serverTLS demands a certificate of a member of our trust domains.
func (b *builder) serverTLS() *corev3.TransportSocket {
	return b.transport(tlsName, &tlsv3.DownstreamTlsContext{
		RequireClientCertificate: wrapperspb.Bool(true),
		CommonTlsContext:         b.common([]string{"istio-peer-exchange", "h2", "http/1.1"}, b.members()),
	})
}

// clientTLS is mTLS to a port of s. The name that it asks for is Istio's.
func (b *builder) clientTLS(s Service, port uint16) *corev3.TransportSocket {
	sans := b.members()
	if len(s.Identities) > 0 {
		sans = nil
		for _, id := range s.Identities {
			sans = append(sans, uri(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: id}}))
		}
	}
	return b.transport(tlsName, &tlsv3.UpstreamTlsContext{
		Sni:              fmt.Sprintf("outbound_.%d_._.%s", port, s.Host),
		CommonTlsContext: b.common([]string{"istio-peer-exchange", "istio"}, sans),
	})
}

// members matches the identities of our trust domains.
func (b *builder) members() []*tlsv3.SubjectAltNameMatcher {
	var out []*tlsv3.SubjectAltNameMatcher
	for _, td := range b.cfg.domains() {
		out = append(out, uri(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "spiffe://" + td + "/"}}))
	}
	return out
}

func uri(m *matcherv3.StringMatcher) *tlsv3.SubjectAltNameMatcher {
	return &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: m}
}

// common has the secrets from the agent.
func (b *builder) common(alpns []string, sans []*tlsv3.SubjectAltNameMatcher) *tlsv3.CommonTlsContext {
	return &tlsv3.CommonTlsContext{
		AlpnProtocols: alpns,
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		},
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{sds(identity.DefaultName)},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: sans},
			ValidationContextSdsSecretConfig: sds(identity.RootsName),
		}},
	}
}

func sds(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
		ResourceApiVersion: corev3.ApiVersion_V3, InitialFetchTimeout: &durationpb.Duration{},
		ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
			ApiType: corev3.ApiConfigSource_GRPC, TransportApiVersion: corev3.ApiVersion_V3, SetNodeOnFirstMessageOnly: true,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: sdsCluster},
			}}},
		}},
	}}
}

// proxyProtocol puts a PROXY header of that version before the bytes; "" does
// not.
func (b *builder) proxyProtocol(version string) *corev3.TransportSocket {
	if version == "" {
		return nil
	}
	cfg := &corev3.ProxyProtocolConfig{}
	if version == "v2" {
		cfg.Version = corev3.ProxyProtocolConfig_V2
	}
	return b.transport("envoy.transport_sockets.upstream_proxy_protocol", &proxyprotocolv3.ProxyProtocolUpstreamTransport{
		Config: cfg, TransportSocket: b.rawBuffer(),
	})
}
