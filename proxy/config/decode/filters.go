package decode

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	originalsrcv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_src/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	directv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/direct_response/v3"
	echov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/echo/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	sniclusterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_cluster/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	istiostats "istio.io/api/envoy/extensions/stats"

	"outrider/proxy/config"
)

// maxClientHello is tls_inspector's max_client_hello_size where it is not set
// (tls_inspector.proto), in bytes.
const maxClientHello = 16384

func (d *decoder) listenerFilter(f *listenerv3.ListenerFilter, place at) *config.ListenerFilter {
	out := &config.ListenerFilter{Name: f.GetName()}
	if f.GetFilterDisabled() != nil {
		out.Disabled = d.predicate(f.GetFilterDisabled(), place.in("filter_disabled"))
	}
	in := place.in("typed_config")
	switch c := d.open(anyOf(f, in), in).(type) {
	case *originaldstv3.OriginalDst:
		out.OriginalDst = &config.OriginalDst{}
	case *originalsrcv3.OriginalSrc:
		out.OriginalSrc = &config.OriginalSrc{BindPort: c.GetBindPort(), Mark: c.GetMark()}
	case *httpinspectorv3.HttpInspector:
		out.HTTPInspector = &config.HTTPInspector{}
	case *tlsinspectorv3.TlsInspector:
		size := u32(c.GetMaxClientHelloSize(), maxClientHello)
		out.TLSInspector = &config.TLSInspector{
			MaxClientHello:    int(min(size, maxClientHello)),
			InitialReadBuffer: int(min(u32(c.GetInitialReadBufferSize(), size), size)),
			CloseOnParseError: c.GetCloseConnectionOnClientHelloParsingErrors(),
		}
	case *proxyprotocolv3.ProxyProtocol:
		out.ProxyProtocol = d.proxyProtocol(c, in)
	default:
		in.bad("extension %q is not supported by outrider as a listener filter", f.GetName())
	}
	return out
}

func (d *decoder) proxyProtocol(c *proxyprotocolv3.ProxyProtocol, place at) *config.ProxyProtocol {
	out := &config.ProxyProtocol{
		AllowWithout: c.GetAllowRequestsWithoutProxyProtocol(), StatPrefix: c.GetStatPrefix(),
		Pass: d.tlvPass(c.GetPassThroughTlvs()),
	}
	for _, v := range c.GetDisallowedVersions() {
		out.DisallowV1 = out.DisallowV1 || v == corev3.ProxyProtocolConfig_V1
		out.DisallowV2 = out.DisallowV2 || v == corev3.ProxyProtocolConfig_V2
	}
	if out.DisallowV1 && out.DisallowV2 {
		place.in("disallowed_versions").bad("leaves no version of the PROXY protocol")
	}
	for i, r := range c.GetRules() {
		in := place.item("rules", i)
		rule := config.TLVRule{Type: byte(r.GetTlvType()), Namespace: r.GetOnTlvPresent().GetMetadataNamespace(), Key: r.GetOnTlvPresent().GetKey()}
		if r.GetOnTlvPresent() == nil {
			in.in("on_tlv_present").bad("must be set")
		}
		if rule.Namespace == "" {
			rule.Namespace = "envoy.filters.listener.proxy_protocol"
		}
		out.TLVs = append(out.TLVs, rule)
	}
	return out
}

func (d *decoder) predicate(p *listenerv3.ListenerFilterChainMatchPredicate, place at) *config.ListenerFilterPredicate {
	out := &config.ListenerFilterPredicate{}
	set := func(s *listenerv3.ListenerFilterChainMatchPredicate_MatchSet, place at) []*config.ListenerFilterPredicate {
		var list []*config.ListenerFilterPredicate
		for i, one := range s.GetRules() {
			list = append(list, d.predicate(one, place.item("rules", i)))
		}
		return list
	}
	switch v := p.GetRule().(type) {
	case *listenerv3.ListenerFilterChainMatchPredicate_AnyMatch:
		out.Any = v.AnyMatch
	case *listenerv3.ListenerFilterChainMatchPredicate_OrMatch:
		out.Or = set(v.OrMatch, place.in("or_match"))
	case *listenerv3.ListenerFilterChainMatchPredicate_AndMatch:
		out.And = set(v.AndMatch, place.in("and_match"))
	case *listenerv3.ListenerFilterChainMatchPredicate_NotMatch:
		out.Not = d.predicate(v.NotMatch, place.in("not_match"))
	case *listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange:
		r := v.DestinationPortRange
		out.IsPortRange = true
		if r.GetStart() < 0 || r.GetEnd() > 65536 || r.GetStart() >= r.GetEnd() {
			place.in("destination_port_range").bad("[%d, %d) is not a range of ports", r.GetStart(), r.GetEnd())
			break
		}
		out.PortFrom, out.To = int(r.GetStart()), int(r.GetEnd())
		if r.GetEnd() == 65536 {
			// To is 16 bits wide and not part of the range: the last port needs
			// a predicate that has no upper end.
			return &config.ListenerFilterPredicate{Not: &config.ListenerFilterPredicate{IsPortRange: true, PortFrom: 0, To: out.PortFrom}}
		}
	default:
		place.bad("has no rule")
	}
	return out
}

func (d *decoder) networkFilter(f *listenerv3.Filter, place at) *config.NetworkFilter {
	in := place.in("typed_config")
	return d.networkFilterOf(f.GetName(), d.open(anyOf(f, in), in), in)
}

func (d *decoder) networkFilterOf(name string, message proto.Message, place at) *config.NetworkFilter {
	out := &config.NetworkFilter{Name: name}
	switch c := message.(type) {
	case *tcpproxyv3.TcpProxy:
		out.TCPProxy = d.tcpProxy(c, place)
	case *rbacfilterv3.RBAC:
		out.RBAC = d.rbac(c, place)
	case *sniclusterv3.SniCluster:
		out.SNICluster = &config.SNICluster{}
	case *limitv3.ConnectionLimit:
		out.ConnectionLimit = &config.ConnectionLimit{
			StatPrefix: c.GetStatPrefix(), MaxConnections: c.GetMaxConnections().GetValue(),
			Delay: duration(c.GetDelay(), 0, place.in("delay")),
		}
	case *directv3.Config:
		out.DirectResponse = &config.DirectResponse{}
		if c.GetResponse() != nil {
			out.DirectResponse.Body, _, _ = d.data(c.GetResponse(), place.in("response"))
		}
	case *echov3.Echo:
		out.Echo = &config.Echo{}
	case *istiostats.PluginConfig:
		out.IstioStats = d.istioStats(c, place)
	case *hcmv3.HttpConnectionManager:
		out.HTTP = d.connectionManager(c, place)
	default:
		if message == nil || message.ProtoReflect().Descriptor().FullName() != metadataExchangeType {
			place.bad("extension %q is not supported by outrider as a network filter", name)
			break
		}
		out.MetadataExchange = metadataExchange(message.ProtoReflect(), place)
	}
	return out
}

func metadataExchange(m protoreflect.Message, place at) *config.MetadataExchange {
	fields := m.Descriptor().Fields()
	out := &config.MetadataExchange{
		Protocol:        m.Get(fields.ByName("protocol")).String(),
		EnableDiscovery: m.Get(fields.ByName("enable_discovery")).Bool(),
	}
	labels := m.Get(fields.ByName("additional_labels")).List()
	for i := range labels.Len() {
		out.AdditionalLabels = append(out.AdditionalLabels, labels.Get(i).String())
	}
	if out.Protocol == "" {
		place.in("protocol").bad("is empty: it is the ALPN token, istio-peer-exchange")
	}
	return out
}

// Defaults of tcp_proxy.proto.
const (
	defaultIdleTimeout = time.Hour
	defaultBackoffBase = 0 // no back-off
)

func (d *decoder) tcpProxy(c *tcpproxyv3.TcpProxy, place at) *config.TCPProxy {
	out := &config.TCPProxy{
		StatPrefix:            c.GetStatPrefix(),
		Cluster:               c.GetCluster(),
		IdleTimeout:           duration(c.GetIdleTimeout(), defaultIdleTimeout, place.in("idle_timeout")),
		MaxConnectAttempts:    u32(c.GetMaxConnectAttempts(), 1),
		MaxDownstreamDuration: duration(c.GetMaxDownstreamConnectionDuration(), 0, place.in("max_downstream_connection_duration")),
		DurationJitterPercent: c.GetMaxDownstreamConnectionDurationJitterPercentage().GetValue(),
		AccessLogs:            d.accessLogs(c.GetAccessLog(), place),
	}
	d.refer(toCluster, out.Cluster, place.in("cluster"))
	if _, ok := c.GetClusterSpecifier().(*tcpproxyv3.TcpProxy_Cluster); ok && out.Cluster == "" {
		place.in("cluster").bad("is empty")
	}
	var sum uint64
	for i, w := range c.GetWeightedClusters().GetClusters() {
		in := place.in("weighted_clusters").item("clusters", i)
		out.Weighted = append(out.Weighted, config.WeightedCluster{Name: w.GetName(), Weight: w.GetWeight()})
		d.refer(toCluster, w.GetName(), in.in("name"))
		sum += uint64(w.GetWeight())
	}
	if sum > 1<<32-1 {
		place.in("weighted_clusters").bad("weights sum to %d, which is more than 4294967295", sum)
	}
	out.TLVs = d.tlvs(c.GetProxyProtocolTlvs(), "proxy_protocol_tlvs", place)
	out.TLVMerge = config.TLVMerge(c.GetProxyProtocolTlvMergePolicy())
	if m := c.GetUpstreamConnectMode(); m == tcpproxyv3.UpstreamConnectMode_ON_DOWNSTREAM_DATA {
		place.in("upstream_connect_mode").bad("%s is not supported by outrider", m)
	}
	d.hashPolicy(c.GetHashPolicy(), out, place)
	d.logOptions(c, out, place)
	if b := c.GetBackoffOptions(); b != nil {
		in := place.in("backoff_options")
		out.BackoffBase = duration(b.GetBaseInterval(), defaultBackoffBase, in.in("base_interval"))
		out.BackoffMax = duration(b.GetMaxInterval(), 10*out.BackoffBase, in.in("max_interval"))
		if out.BackoffMax < out.BackoffBase {
			in.in("max_interval").bad("%s is below base_interval, %s", out.BackoffMax, out.BackoffBase)
		}
	}
	return out
}

func (d *decoder) hashPolicy(list []*typev3.HashPolicy, out *config.TCPProxy, place at) {
	for i, p := range list {
		switch v := p.GetPolicySpecifier().(type) {
		case *typev3.HashPolicy_SourceIp_:
			out.HashSourceIP = true
		case *typev3.HashPolicy_FilterState_:
			out.HashFilterState = v.FilterState.GetKey()
		default:
			place.item("hash_policy", i).bad("one of source_ip, filter_state must be set")
		}
	}
}

func (d *decoder) logOptions(c *tcpproxyv3.TcpProxy, out *config.TCPProxy, place at) {
	o := c.GetAccessLogOptions()
	old := c.GetAccessLogFlushInterval() != nil || c.GetFlushAccessLogOnConnected()
	if o != nil && old {
		place.in("access_log_options").bad("cannot be set together with access_log_flush_interval or flush_access_log_on_connected")
	}
	out.FlushInterval = duration(c.GetAccessLogFlushInterval(), 0, place.in("access_log_flush_interval"))
	out.FlushOnConnected = c.GetFlushAccessLogOnConnected()
	if o != nil {
		out.FlushInterval = duration(o.GetAccessLogFlushInterval(), 0, place.in("access_log_options").in("access_log_flush_interval"))
		out.FlushOnConnected = o.GetFlushAccessLogOnConnected()
	}
}
