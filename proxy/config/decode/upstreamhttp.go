package decode

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	"outrider/proxy/config"
)

const httpProtocolOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// protocolOptions is how requests are sent to the cluster: by the extension, or
// by the fields that were there before it.
func (d *decoder) protocolOptions(c *clusterv3.Cluster, out *config.Cluster, place at) {
	d.oldProtocolOptions(c, out, place)
	for _, name := range sortedKeys(c.GetTypedExtensionProtocolOptions()) {
		in := place.entry("typed_extension_protocol_options", name)
		o, ok := d.open(c.GetTypedExtensionProtocolOptions()[name], in).(*httpv3.HttpProtocolOptions)
		if !ok || name != httpProtocolOptions {
			in.bad("extension protocol options %q are not supported by outrider", shorten(name))
			continue
		}
		if old := oldOptions(c); old != "" {
			place.in(old).bad("cannot be set together with %s", httpProtocolOptions)
		}
		out.HTTP = config.UpstreamHTTP{}
		d.upstreamHTTP(o, &out.HTTP, in)
	}
	if c.GetMaxRequestsPerConnection() != nil {
		in := place.in("max_requests_per_connection")
		if out.HTTP.Common.MaxRequests != 0 {
			in.bad("cannot be set together with common_http_protocol_options.max_requests_per_connection")
		}
		out.HTTP.Common.MaxRequests = c.GetMaxRequestsPerConnection().GetValue()
	}
	out.HTTP2 = out.HTTP.TakesHTTP2
	if p := c.GetPreconnectPolicy(); p != nil {
		out.HTTP.Preconnect = p.GetPerUpstreamPreconnectRatio().GetValue()
	}
	if out.HTTP.Mode == config.UpstreamAuto {
		needsALPN(out, place)
	}
}

// oldOptions is the first field that is set of those which the extension
// replaces, "" for none.
func oldOptions(c *clusterv3.Cluster) string {
	switch {
	case c.GetHttpProtocolOptions() != nil:
		return "http_protocol_options"
	case c.GetHttp2ProtocolOptions() != nil:
		return "http2_protocol_options"
	case c.GetCommonHttpProtocolOptions() != nil:
		return "common_http_protocol_options"
	case c.GetUpstreamHttpProtocolOptions() != nil:
		return "upstream_http_protocol_options"
	case c.GetProtocolSelection() != clusterv3.Cluster_USE_CONFIGURED_PROTOCOL:
		return "protocol_selection"
	}
	return ""
}

func (d *decoder) oldProtocolOptions(c *clusterv3.Cluster, out *config.Cluster, place at) {
	h := &out.HTTP
	h.Common = commonHTTP(c.GetCommonHttpProtocolOptions(), place.in("common_http_protocol_options"))
	h.HTTP1 = d.http1(c.GetHttpProtocolOptions(), place.in("http_protocol_options"))
	h.HTTP2 = http2(c.GetHttp2ProtocolOptions(), place.in("http2_protocol_options"))
	h.TakesHTTP2 = c.GetHttp2ProtocolOptions() != nil
	upstreamNames(c.GetUpstreamHttpProtocolOptions(), h)
	switch {
	case c.GetProtocolSelection() == clusterv3.Cluster_USE_DOWNSTREAM_PROTOCOL:
		h.Mode = config.UpstreamFollow
	case h.TakesHTTP2:
		h.Mode = config.UpstreamHTTP2
	}
}

func upstreamNames(o *corev3.UpstreamHttpProtocolOptions, out *config.UpstreamHTTP) {
	out.AutoSNI = o.GetAutoSni()
	out.AutoSANValidation = o.GetAutoSanValidation()
	out.AutoSNIHeader = o.GetOverrideAutoSniHeader()
}

func (d *decoder) upstreamHTTP(o *httpv3.HttpProtocolOptions, out *config.UpstreamHTTP, place at) {
	out.Common = commonHTTP(o.GetCommonHttpProtocolOptions(), place.in("common_http_protocol_options"))
	upstreamNames(o.GetUpstreamHttpProtocolOptions(), out)
	var (
		h1 *corev3.Http1ProtocolOptions
		h2 *corev3.Http2ProtocolOptions
		in at
	)
	switch v := o.GetUpstreamProtocolOptions().(type) {
	case *httpv3.HttpProtocolOptions_ExplicitHttpConfig_:
		in = place.in("explicit_http_config")
		h1, h2 = v.ExplicitHttpConfig.GetHttpProtocolOptions(), v.ExplicitHttpConfig.GetHttp2ProtocolOptions()
		if h2 != nil {
			out.Mode = config.UpstreamHTTP2
		}
		out.TakesHTTP2 = h2 != nil
	case *httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig:
		in = place.in("use_downstream_protocol_config")
		h1, h2 = v.UseDownstreamProtocolConfig.GetHttpProtocolOptions(), v.UseDownstreamProtocolConfig.GetHttp2ProtocolOptions()
		out.Mode, out.TakesHTTP2 = config.UpstreamFollow, h2 != nil
	case *httpv3.HttpProtocolOptions_AutoConfig:
		in = place.in("auto_config")
		h1, h2 = v.AutoConfig.GetHttpProtocolOptions(), v.AutoConfig.GetHttp2ProtocolOptions()
		out.Mode, out.TakesHTTP2 = config.UpstreamAuto, true
	default:
		place.bad("one of explicit_http_config, use_downstream_protocol_config, auto_config must be set")
	}
	out.HTTP1 = d.http1(h1, in.in("http_protocol_options"))
	out.HTTP2 = http2(h2, in.in("http2_protocol_options"))
	d.upstreamFilters(o.GetHttpFilters(), place)
}

// upstreamFilters may hold the codec alone, which is there without being named.
func (d *decoder) upstreamFilters(list []*hcmv3.HttpFilter, place at) {
	for i, f := range list {
		in := place.item("http_filters", i)
		if _, ok := d.open(anyOf(f, in.in("typed_config")), in.in("typed_config")).(*codecv3.UpstreamCodec); !ok || i < len(list)-1 {
			in.bad("extension %q is not supported by outrider as an upstream HTTP filter: only the codec is, as the last one", shorten(f.GetName()))
		}
	}
}

// needsALPN refuses auto_config where no handshake can choose the protocol.
func needsALPN(out *config.Cluster, place at) {
	if out.TransportSocket.TLS == nil {
		place.in("transport_socket").bad("must be TLS: the cluster has auto_config, and ALPN decides")
	}
	for i, m := range out.SocketMatches {
		if m.Socket.TLS == nil {
			place.item("transport_socket_matches", i).in("transport_socket").bad("must be TLS: the cluster has auto_config, and ALPN decides")
		}
	}
}
