package decode

import (
	"strings"
	"time"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	uuidv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"outrider/proxy/config"
)

// Defaults of http_connection_manager.proto.
const (
	defaultServerName     = "envoy"
	defaultHeadersKB      = 60
	defaultStreamIdle     = 5 * time.Minute
	defaultDrainTimeout   = 5 * time.Second
	defaultDelayedClose   = time.Second
	defaultMaxHeaderCount = 100
)

func (d *decoder) connectionManager(c *hcmv3.HttpConnectionManager, place at) *config.HTTPConnectionManager {
	out := &config.HTTPConnectionManager{
		StatPrefix:   c.GetStatPrefix(),
		Codec:        codec(c.GetCodecType(), place.in("codec_type")),
		Filters:      d.httpFilters(c.GetHttpFilters(), "http_filters", place),
		AccessLogs:   d.accessLogs(c.GetAccessLog(), place),
		ServerHeader: config.ServerHeaderMode(c.GetServerHeaderTransformation()),
		ServerName:   defaultServerName,

		MaxRequestHeadersKB:   u32(c.GetMaxRequestHeadersKb(), defaultHeadersKB),
		StreamIdleTimeout:     duration(c.GetStreamIdleTimeout(), defaultStreamIdle, place.in("stream_idle_timeout")),
		RequestTimeout:        duration(c.GetRequestTimeout(), 0, place.in("request_timeout")),
		RequestHeadersTimeout: duration(c.GetRequestHeadersTimeout(), 0, place.in("request_headers_timeout")),
		DrainTimeout:          duration(c.GetDrainTimeout(), defaultDrainTimeout, place.in("drain_timeout")),
		DelayedCloseTimeout:   duration(c.GetDelayedCloseTimeout(), defaultDelayedClose, place.in("delayed_close_timeout")),

		UseRemoteAddress:       c.GetUseRemoteAddress().GetValue(),
		XFFTrustedHops:         c.GetXffNumTrustedHops(),
		SkipXFFAppend:          c.GetSkipXffAppend(),
		Via:                    c.GetVia(),
		GenerateRequestID:      truth(c.GetGenerateRequestId(), true),
		PreserveRequestID:      c.GetPreserveExternalRequestId(),
		AlwaysSetRequestID:     c.GetAlwaysSetRequestIdInResponse(),
		RepresentIPv4AsMapped:  c.GetRepresentIpv4RemoteAddressAsIpv4MappedIpv6(),
		ForwardClientCert:      config.ForwardClientCert(c.GetForwardClientCertDetails()),
		NormalizePath:          c.GetNormalizePath().GetValue(),
		MergeSlashes:           c.GetMergeSlashes(),
		StripMatchingPort:      c.GetStripMatchingHostPort(),
		StripAnyPort:           c.GetStripAnyHostPort(),
		StripTrailingHostDot:   c.GetStripTrailingHostDot(),
		AppendXForwardedPort:   c.GetAppendXForwardedPort(),
		Proxy100Continue:       c.GetProxy_100Continue(),
		StreamErrorOnInvalid:   c.GetStreamErrorOnInvalidHttpMessage().GetValue(),
		AppendLocalOverload:    c.GetAppendLocalOverload(),
		AddProxyProtocolHeader: truth(c.GetAddProxyProtocolConnectionState(), true),
	}
	if c.GetServerName() != "" {
		out.ServerName = c.GetServerName()
	}
	if c.GetStripMatchingHostPort() && c.GetStripAnyHostPort() {
		place.in("strip_matching_host_port").bad("cannot be set together with strip_any_host_port")
	}
	if v := c.GetAddProxyProtocolConnectionState(); v != nil && !v.GetValue() {
		place.in("add_proxy_protocol_connection_state").bad("false is not supported by outrider")
	}
	d.routes(c, out, place)
	d.hcmProtocols(c, out, place)
	d.hcmAddresses(c, out, place)
	d.hcmLogOptions(c, out, place)
	d.requestID(c.GetRequestIdExtension(), place.in("request_id_extension"))
	tracing(c.GetTracing(), place.in("tracing"))
	out.Upgrades = d.upgrades(c.GetUpgradeConfigs(), place)
	if l := c.GetLocalReplyConfig(); l != nil {
		out.LocalReply = d.localReply(l, place.in("local_reply_config"))
	}
	return out
}

func codec(t hcmv3.HttpConnectionManager_CodecType, place at) config.CodecType {
	switch t {
	case hcmv3.HttpConnectionManager_HTTP1:
		return config.CodecHTTP1
	case hcmv3.HttpConnectionManager_HTTP2:
		return config.CodecHTTP2
	case hcmv3.HttpConnectionManager_HTTP3:
		place.bad("HTTP3 is not supported by outrider")
	}
	return config.CodecAuto
}

// routes are inline or by RDS. Clusters that inline routes name are demanded
// unless they say otherwise.
func (d *decoder) routes(c *hcmv3.HttpConnectionManager, out *config.HTTPConnectionManager, place at) {
	switch v := c.GetRouteSpecifier().(type) {
	case *hcmv3.HttpConnectionManager_RouteConfig:
		out.Routes = d.routeConfig(v.RouteConfig, true, place.in("route_config"))
	case *hcmv3.HttpConnectionManager_Rds:
		in := place.in("rds")
		out.RDS = &config.RDS{Name: v.Rds.GetRouteConfigName()}
		if out.RDS.Name == "" {
			in.in("route_config_name").bad("must be set")
		}
		if v.Rds.GetConfigSource() != nil {
			out.RDS.Source = d.source(v.Rds.GetConfigSource(), in.in("config_source"))
		}
	default:
		place.bad("one of rds, route_config must be set")
	}
}

// hcmProtocols are the options of the codecs. What the connection manager says
// of broken messages holds for a codec that says nothing.
func (d *decoder) hcmProtocols(c *hcmv3.HttpConnectionManager, out *config.HTTPConnectionManager, place at) {
	out.Common = commonHTTP(c.GetCommonHttpProtocolOptions(), place.in("common_http_protocol_options"))
	out.HTTP1 = d.http1(c.GetHttpProtocolOptions(), place.in("http_protocol_options"))
	out.HTTP2 = http2(c.GetHttp2ProtocolOptions(), place.in("http2_protocol_options"))
	if c.GetHttpProtocolOptions().GetOverrideStreamErrorOnInvalidHttpMessage() == nil {
		out.HTTP1.StreamErrorsOnly = out.StreamErrorOnInvalid
	}
	if c.GetHttp2ProtocolOptions().GetOverrideStreamErrorOnInvalidHttpMessage() == nil && c.GetStreamErrorOnInvalidHttpMessage() != nil {
		out.HTTP2.StreamErrorsOnly = out.StreamErrorOnInvalid
	}
	switch v := c.GetSchemeHeaderTransformation(); {
	case v.GetSchemeToOverwrite() != "":
		out.SchemeToSet = v.GetSchemeToOverwrite()
	case v != nil:
		out.SchemeMatchUp = v.GetMatchUpstream()
	}
	switch c.GetPathWithEscapedSlashesAction() {
	case hcmv3.HttpConnectionManager_REJECT_REQUEST:
		out.EscapedSlashes = config.SlashesReject
	case hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT:
		out.EscapedSlashes = config.SlashesUnescapeRedirect
	case hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD:
		out.EscapedSlashes = config.SlashesUnescapeForward
	}
}

// hcmAddresses is whom requests come from, and what is told of them.
func (d *decoder) hcmAddresses(c *hcmv3.HttpConnectionManager, out *config.HTTPConnectionManager, place at) {
	if i := c.GetInternalAddressConfig(); i != nil {
		out.InternalPrefixesSet = true
		out.InternalUnixSockets = i.GetUnixSockets()
		out.InternalPrefixes = d.cidrs(i.GetCidrRanges(), "cidr_ranges", place.in("internal_address_config"))
	}
	s := c.GetSetCurrentClientCertDetails()
	out.SetClientCert = config.ClientCertDetails{
		Subject: s.GetSubject().GetValue(), Cert: s.GetCert(), Chain: s.GetChain(), DNS: s.GetDns(), URI: s.GetUri(),
	}
}

func (d *decoder) hcmLogOptions(c *hcmv3.HttpConnectionManager, out *config.HTTPConnectionManager, place at) {
	o := c.GetAccessLogOptions()
	if o != nil && (c.GetAccessLogFlushInterval() != nil || c.GetFlushAccessLogOnNewRequest()) {
		place.in("access_log_options").bad("cannot be set together with access_log_flush_interval or flush_access_log_on_new_request")
	}
	out.LogInterval = duration(c.GetAccessLogFlushInterval(), 0, place.in("access_log_flush_interval"))
	out.LogOnRequest = c.GetFlushAccessLogOnNewRequest()
	if o != nil {
		out.LogInterval = duration(o.GetAccessLogFlushInterval(), 0, place.in("access_log_options").in("access_log_flush_interval"))
		out.LogOnRequest = o.GetFlushAccessLogOnNewRequest()
		out.LogOnTunnel = o.GetFlushLogOnTunnelSuccessfullyEstablished()
	}
}

// requestID takes Envoy's own extension, which is the default too.
func (d *decoder) requestID(e *hcmv3.RequestIDExtension, place at) {
	if e.GetTypedConfig() == nil {
		return
	}
	in := place.in("typed_config")
	a := anyOf(e, in)
	if _, ok := d.open(a, in).(*uuidv3.UuidRequestIdConfig); !ok {
		in.bad("%q is not supported by outrider as a request ID", shorten(a.GetTypeUrl()))
	}
}

// tracing is accepted where no span would be made: there is no provider, or
// nothing is sampled.
func tracing(t *hcmv3.HttpConnectionManager_Tracing, place at) {
	percent := func(v *typev3.Percent) float64 {
		if v == nil {
			return 100 // of all three (http_connection_manager.proto)
		}
		return v.GetValue()
	}
	client := percent(t.GetClientSampling())
	random := percent(t.GetRandomSampling())
	overall := percent(t.GetOverallSampling())
	if t.GetProvider() != nil && overall != 0 && client+random != 0 {
		place.in("provider").bad("is not supported by outrider: it makes no spans; leave the provider out, or set overall_sampling to 0")
	}
}

func (d *decoder) upgrades(list []*hcmv3.HttpConnectionManager_UpgradeConfig, place at) []config.UpgradeConfig {
	var out []config.UpgradeConfig
	seen := map[string]bool{}
	for i, u := range list {
		in := place.item("upgrade_configs", i)
		one := config.UpgradeConfig{Type: strings.ToLower(u.GetUpgradeType()), Enabled: truth(u.GetEnabled(), true)}
		if seen[one.Type] {
			in.in("upgrade_type").bad("%q is the type of another upgrade", shorten(u.GetUpgradeType()))
		}
		seen[one.Type] = true
		if len(u.GetFilters()) > 0 {
			one.Filters = d.httpFilters(u.GetFilters(), "filters", in)
		}
		out = append(out, one)
	}
	return out
}

func (d *decoder) localReply(l *hcmv3.LocalReplyConfig, place at) *config.LocalReplyConfig {
	out := &config.LocalReplyConfig{}
	if l.GetBodyFormat() != nil {
		out.Body = d.bodyFormat(l.GetBodyFormat(), place.in("body_format"))
	}
	for i, m := range l.GetMappers() {
		in := place.item("mappers", i)
		one := config.LocalReplyMapper{
			Filter:  d.logFilter(m.GetFilter(), in.in("filter")),
			Status:  m.GetStatusCode().GetValue(),
			Headers: d.headersToAdd(m.GetHeadersToAdd(), "headers_to_add", in),
		}
		if m.GetBody() != nil {
			if content, _, ok := d.data(m.GetBody(), in.in("body")); ok {
				text := string(content)
				one.Body = &text
			}
		}
		if m.GetBodyFormatOverride() != nil {
			one.Format = d.bodyFormat(m.GetBodyFormatOverride(), in.in("body_format_override"))
		}
		out.Mappers = append(out.Mappers, one)
	}
	return out
}
