package decode

import (
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	localratev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"outrider/proxy/config"
)

const (
	tooManyRequests = 429 // HTTP status where local_ratelimit names none
	// minFillInterval is the shortest interval of a token bucket that Envoy
	// takes.
	minFillInterval = 50 * time.Millisecond
	// defaultMaxDynamic is max_dynamic_descriptors (local_rate_limit.proto).
	defaultMaxDynamic = 20
)

func (d *decoder) localRate(c *localratev3.LocalRateLimit, place at) *config.LocalRateLimit {
	out := &config.LocalRateLimit{
		StatPrefix:            c.GetStatPrefix(),
		Status:                tooManyRequests,
		EnabledPPM:            d.maybeFraction(c.GetFilterEnabled()),
		EnforcedPPM:           d.maybeFraction(c.GetFilterEnforced()),
		RequestAdd:            d.headersToAdd(c.GetRequestHeadersToAddWhenNotEnforced(), "request_headers_to_add_when_not_enforced", place),
		ResponseAdd:           d.headersToAdd(c.GetResponseHeadersToAdd(), "response_headers_to_add", place),
		PerConnection:         c.GetLocalRateLimitPerDownstreamConnection(),
		XRateLimitHeaders:     c.GetEnableXRatelimitHeaders() != 0,
		GRPCResourceExhausted: c.GetRateLimitedAsResourceExhausted(),
		RetryAfter:            c.GetEnableRetryAfterHeader(),
		MaxDynamic:            u32(c.GetMaxDynamicDescriptors(), defaultMaxDynamic),
		SkipDefault:           !truth(c.GetAlwaysConsumeDefaultTokenBucket(), true),
		RateLimits:            d.rateLimits(c.GetRateLimits(), place),
		Stage:                 c.GetStage(),
		VirtualHosts:          config.VirtualHostRates(c.GetVhRateLimits()),
	}
	if code := int(c.GetStatus().GetCode()); code >= 400 {
		out.Status = code
	}
	if b := c.GetTokenBucket(); b != nil {
		out.Bucket = tokenBucket(b, place.in("token_bucket"))
	}
	for i, r := range c.GetRateLimits() {
		if r.GetStage() != nil || r.GetDisableKey() != "" {
			place.item("rate_limits", i).bad("may have no stage and no disable_key: they are for those of routes")
		}
	}
	seen := map[string]bool{}
	for i, one := range c.GetDescriptors() {
		in := place.item("descriptors", i)
		descriptor := config.RateDescriptor{Shadow: one.GetShadowMode()}
		var name []string
		for _, e := range one.GetEntries() {
			descriptor.Entries = append(descriptor.Entries, [2]string{e.GetKey(), e.GetValue()})
			name = append(name, e.GetKey()+"="+e.GetValue())
		}
		if one.GetTokenBucket() != nil {
			descriptor.Bucket = *tokenBucket(one.GetTokenBucket(), in.in("token_bucket"))
		}
		key := strings.Join(name, ", ")
		if seen[key] {
			in.bad("%q is another descriptor too", shorten(key))
		}
		seen[key] = true
		out.Descriptors = append(out.Descriptors, descriptor)
	}
	return out
}

func tokenBucket(b *typev3.TokenBucket, place at) *config.TokenBucket {
	out := &config.TokenBucket{
		Max: b.GetMaxTokens(), PerFill: u32(b.GetTokensPerFill(), 1),
		Interval: duration(b.GetFillInterval(), 0, place.in("fill_interval")),
	}
	if out.Interval < minFillInterval {
		place.in("fill_interval").bad("%s is less than %s", out.Interval, minFillInterval)
	}
	return out
}

// rateLimits say what descriptor a request has.
func (d *decoder) rateLimits(list []*routev3.RateLimit, place at) []config.RateLimit {
	var out []config.RateLimit
	for i, r := range list {
		in := place.item("rate_limits", i)
		one := config.RateLimit{Stage: r.GetStage().GetValue(), Disabled: r.GetDisableKey() != ""}
		if n := r.GetHitsAddend().GetNumber(); n != nil {
			hits := n.GetValue()
			one.Hits = &hits
		}
		for j, a := range r.GetActions() {
			one.Actions = append(one.Actions, d.rateAction(a, in.item("actions", j)))
		}
		out = append(out, one)
	}
	return out
}

func (d *decoder) rateAction(a *routev3.RateLimit_Action, place at) config.RateAction {
	switch v := a.GetActionSpecifier().(type) {
	case *routev3.RateLimit_Action_SourceCluster_:
		return config.RateAction{Key: "source_cluster", SourceCluster: true}
	case *routev3.RateLimit_Action_DestinationCluster_:
		return config.RateAction{Key: "destination_cluster", DestinationCluster: true}
	case *routev3.RateLimit_Action_RemoteAddress_:
		return config.RateAction{Key: "remote_address", RemoteAddress: true}
	case *routev3.RateLimit_Action_MaskedRemoteAddress_:
		return config.RateAction{Key: "masked_remote_address", Masked: &config.RateMask{
			V4: int(u32(v.MaskedRemoteAddress.GetV4PrefixMaskLen(), 32)), V6: int(u32(v.MaskedRemoteAddress.GetV6PrefixMaskLen(), 128)),
		}}
	case *routev3.RateLimit_Action_RequestHeaders_:
		h := v.RequestHeaders
		return config.RateAction{Key: h.GetDescriptorKey(), Header: strings.ToLower(h.GetHeaderName()), SkipIfAbsent: h.GetSkipIfAbsent()}
	case *routev3.RateLimit_Action_QueryParameters_:
		q := v.QueryParameters
		return config.RateAction{Key: q.GetDescriptorKey(), Query: q.GetQueryParameterName(), SkipIfAbsent: q.GetSkipIfAbsent()}
	case *routev3.RateLimit_Action_GenericKey_:
		g := v.GenericKey
		return config.RateAction{Key: orKey(g.GetDescriptorKey(), "generic_key"), Value: g.GetDescriptorValue(), Default: g.GetDefaultValue(), Generic: true}
	case *routev3.RateLimit_Action_HeaderValueMatch_:
		h := v.HeaderValueMatch
		return config.RateAction{
			Key: orKey(h.GetDescriptorKey(), "header_match"), Value: h.GetDescriptorValue(), Default: h.GetDefaultValue(),
			HeaderMatch: d.headerMatchers(h.GetHeaders(), "headers", place.in("header_value_match")), Expect: truth(h.GetExpectMatch(), true),
		}
	case *routev3.RateLimit_Action_QueryParameterValueMatch_:
		q := v.QueryParameterValueMatch
		return config.RateAction{
			Key: orKey(q.GetDescriptorKey(), "query_match"), Value: q.GetDescriptorValue(), Default: q.GetDefaultValue(),
			QueryMatch: d.queryMatchers(q.GetQueryParameters(), place.in("query_parameter_value_match")), Expect: truth(q.GetExpectMatch(), true),
		}
	case *routev3.RateLimit_Action_Metadata:
		m := v.Metadata
		route := m.GetSource() == routev3.RateLimit_Action_MetaData_ROUTE_ENTRY
		return config.RateAction{
			Key: m.GetDescriptorKey(), Default: m.GetDefaultValue(), SkipIfAbsent: m.GetSkipIfAbsent(),
			Metadata: rateMetadata(m.GetMetadataKey(), route, place.in("metadata")),
		}
	}
	return config.RateAction{} // reported as a rule of the proto
}

func rateMetadata(k *metadatav3.MetadataKey, route bool, place at) *config.RateMetadata {
	out := &config.RateMetadata{Namespace: k.GetKey(), Route: route}
	for i, segment := range k.GetPath() {
		if _, ok := segment.GetSegment().(*metadatav3.MetadataKey_PathSegment_Key); !ok {
			place.in("metadata_key").item("path", i).bad("must have a key: lists are not supported by outrider")
		}
		out.Path = append(out.Path, segment.GetKey())
	}
	return out
}
