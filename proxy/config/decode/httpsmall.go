package decode

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	bufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/buffer/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	healthcheckv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/health_check/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"

	"outrider/proxy/config"
)

// Filters of which there is little to say.

func (d *decoder) healthFilter(c *healthcheckv3.HealthCheck, place at) *config.HTTPHealthCheckFilter {
	out := &config.HTTPHealthCheckFilter{
		PassThrough: c.GetPassThroughMode().GetValue(),
		CacheTime:   duration(c.GetCacheTime(), 0, place.in("cache_time")),
		Headers:     d.headerMatchers(c.GetHeaders(), "headers", place),
	}
	if out.CacheTime > 0 && !out.PassThrough {
		place.in("cache_time").bad("is for pass_through_mode")
	}
	if len(c.GetClusterMinHealthyPercentages()) > 0 {
		out.MinHealthy = map[string]float64{}
	}
	for _, name := range sortedKeys(c.GetClusterMinHealthyPercentages()) {
		out.MinHealthy[name] = c.GetClusterMinHealthyPercentages()[name].GetValue()
	}
	if out.PassThrough && out.MinHealthy != nil {
		place.in("cluster_min_healthy_percentages").bad("is not for pass_through_mode")
	}
	return out
}

// maybeFraction is none where nothing is said.
func (d *decoder) maybeFraction(f *corev3.RuntimeFractionalPercent) uint32 {
	if f == nil {
		return 0
	}
	return *d.fraction(f)
}

// bufferOverride replaces the limit, or switches the filter off.
func bufferOverride(c *bufferv3.BufferPerRoute) *config.FilterOverride {
	if b := c.GetBuffer(); b != nil {
		return &config.FilterOverride{Config: &config.HTTPBuffer{MaxBytes: b.GetMaxRequestBytes().GetValue()}}
	}
	return &config.FilterOverride{Disabled: c.GetDisabled()}
}

func grpcStats(c *grpcstatsv3.FilterConfig) *config.GRPCStats {
	out := &config.GRPCStats{
		AllMethods:      c.GetStatsForAllMethods().GetValue(),
		UpstreamStats:   c.GetEnableUpstreamStats(),
		EmitFilterState: c.GetEmitFilterState(),
		ReplaceDots:     c.GetReplaceDotsInGrpcServiceName(),
	}
	for _, s := range c.GetIndividualMethodStatsAllowlist().GetServices() {
		if out.Methods == nil {
			out.Methods = map[string][]string{}
		}
		out.Methods[s.GetName()] = append(out.Methods[s.GetName()], s.GetMethodNames()...)
	}
	return out
}

func (d *decoder) headerMutation(m *headermutationv3.Mutations, place at) *config.HeaderMutation {
	return &config.HeaderMutation{
		Request:          d.mutations(m.GetRequestMutations(), "request_mutations", place),
		Response:         d.mutations(m.GetResponseMutations(), "response_mutations", place),
		RequestTrailers:  d.mutations(m.GetRequestTrailersMutations(), "request_trailers_mutations", place),
		ResponseTrailers: d.mutations(m.GetResponseTrailersMutations(), "response_trailers_mutations", place),
	}
}

func (d *decoder) setFilterState(c *setstatev3.Config, place at) *config.SetFilterState {
	out := &config.SetFilterState{}
	for i, v := range c.GetOnRequestHeaders() {
		in := place.item("on_request_headers", i)
		one := config.FilterStateValue{
			Key: v.GetObjectKey(), FactoryKey: v.GetFactoryKey(),
			Shared:   int(v.GetSharedWithUpstream()),
			ReadOnly: v.GetReadOnly(), SkipIfEmpty: v.GetSkipIfEmpty(),
		}
		if one.FactoryKey == "" {
			one.FactoryKey = one.Key
		}
		made := &config.AccessLog{}
		d.logFormat(v.GetFormatString(), made, in.in("format_string"))
		if made.JSON != nil {
			in.in("format_string").in("json_format").bad("is not supported by outrider: use text_format_source")
		}
		one.Format, one.OmitEmpty = d.format(made.Format, in.in("format_string")), made.OmitEmpty
		out.OnRequest = append(out.OnRequest, one)
	}
	return out
}
