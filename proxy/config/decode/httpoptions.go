package decode

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrider/certs"
	"outrider/proxy/config"
)

func commonHTTP(o *corev3.HttpProtocolOptions, place at) config.CommonHTTPOptions {
	return config.CommonHTTPOptions{
		IdleTimeout:   duration(o.GetIdleTimeout(), defaultIdleTimeout, place.in("idle_timeout")),
		MaxDuration:   duration(o.GetMaxConnectionDuration(), 0, place.in("max_connection_duration")),
		MaxHeaders:    u32(o.GetMaxHeadersCount(), defaultMaxHeaderCount),
		MaxHeadersKB:  o.GetMaxResponseHeadersKb().GetValue(),
		MaxStreamTime: duration(o.GetMaxStreamDuration(), 0, place.in("max_stream_duration")),
		Underscores:   config.Underscores(o.GetHeadersWithUnderscoresAction()),
		MaxRequests:   o.GetMaxRequestsPerConnection().GetValue(),
	}
}

func (d *decoder) http1(o *corev3.Http1ProtocolOptions, place at) config.HTTP1Options {
	return config.HTTP1Options{
		AllowAbsoluteURL:   truth(o.GetAllowAbsoluteUrl(), true),
		AcceptHTTP10:       o.GetAcceptHttp_10(),
		DefaultHost:        o.GetDefaultHostForHttp_10(),
		EnableTrailers:     o.GetEnableTrailers(),
		AllowChunkedLength: o.GetAllowChunkedLength(),
		ProperCase:         o.GetHeaderKeyFormat().GetProperCaseWords() != nil,
		StreamErrorsOnly:   o.GetOverrideStreamErrorOnInvalidHttpMessage().GetValue(),
		SendAbsoluteURL:    o.GetSendFullyQualifiedUrl(),
		IgnoreUpgrades:     d.stringMatchers(o.GetIgnoreHttp_11Upgrade(), "ignore_http_11_upgrade", place),
	}
}

// defaultKeepaliveJitter is KeepaliveSettings.interval_jitter where it is not
// set (protocol.proto), in percent.
const defaultKeepaliveJitter = 15

func http2(o *corev3.Http2ProtocolOptions, place at) config.HTTP2Options {
	number := func(v *wrapperspb.UInt32Value) *uint32 {
		if v == nil {
			return nil
		}
		n := v.GetValue()
		return &n
	}
	out := config.HTTP2Options{
		HeaderTableSize:          o.GetHpackTableSize().GetValue(),
		MaxStreams:               o.GetMaxConcurrentStreams().GetValue(),
		StreamWindow:             o.GetInitialStreamWindowSize().GetValue(),
		ConnWindow:               o.GetInitialConnectionWindowSize().GetValue(),
		AllowConnect:             o.GetAllowConnect(),
		MaxOutboundFrames:        o.GetMaxOutboundFrames().GetValue(),
		MaxOutboundControlFrames: o.GetMaxOutboundControlFrames().GetValue(),
		MaxEmptyDataFrames:       number(o.GetMaxConsecutiveInboundFramesWithEmptyPayload()),
		MaxPriority:              number(o.GetMaxInboundPriorityFramesPerStream()),
		MaxWindowUpdates:         number(o.GetMaxInboundWindowUpdateFramesPerDataFrameSent()),
		StreamErrorsOnly:         truth(o.GetOverrideStreamErrorOnInvalidHttpMessage(), o.GetStreamErrorOnInvalidHttpMessaging()),
	}
	if o.GetHpackTableSize() != nil && out.HeaderTableSize == 0 {
		place.in("hpack_table_size").bad("0 is not supported by outrider: leave it out, or set the least that is wanted")
	}
	k, in := o.GetConnectionKeepalive(), place.in("connection_keepalive")
	if k == nil {
		return out
	}
	out.KeepaliveInterval = duration(k.GetInterval(), 0, in.in("interval"))
	out.KeepaliveTimeout = duration(k.GetTimeout(), 0, in.in("timeout"))
	out.KeepaliveIdle = duration(k.GetConnectionIdleInterval(), 0, in.in("connection_idle_interval"))
	out.KeepaliveJitterPercent = defaultKeepaliveJitter
	if k.GetIntervalJitter() != nil {
		out.KeepaliveJitterPercent = k.GetIntervalJitter().GetValue()
	}
	return out
}

// bodyFormat is the format of a body. Its content type is text/plain, or
// application/json, where it says nothing.
func (d *decoder) bodyFormat(f *corev3.SubstitutionFormatString, place at) *config.BodyFormat {
	out := &config.BodyFormat{Log: &config.AccessLog{}, ContentType: f.GetContentType()}
	d.logFormat(f, out.Log, place)
	d.checkFormat(out.Log, place)
	return out
}

// format checks a format that stands at place; "" is none.
func (d *decoder) format(text string, place at) string {
	if text != "" {
		d.checkFormat(&config.AccessLog{Format: text}, place)
	}
	return text
}

func (d *decoder) checkFormat(f *config.AccessLog, place at) {
	if d.opts.CheckFormat == nil || f.Format == "" && f.JSON == nil {
		return
	}
	if err := d.opts.CheckFormat(f); err != nil {
		place.bad("%v", err)
	}
}

// stringMatchers are the matchers of the list field name.
func (d *decoder) stringMatchers(list []*matcherv3.StringMatcher, name string, place at) []certs.StringMatcher {
	var out []certs.StringMatcher
	for i, m := range list {
		out = append(out, *d.stringMatcher(m, place.item(name, i)))
	}
	return out
}
