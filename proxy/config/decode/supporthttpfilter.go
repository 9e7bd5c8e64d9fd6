package decode

import "google.golang.org/protobuf/reflect/protoreflect"

// httpFilterSupport are the HTTP filters.
var httpFilterSupport = map[protoreflect.FullName]fields{
	"envoy.extensions.filters.http.router.v3.Router": {
		works: "dynamic_stats upstream_log suppress_envoy_headers strict_check_headers respect_expected_rq_timeout",
		ignored: map[string]string{
			"start_child_span":                         noTracing,
			"suppress_grpc_request_failure_code_stats": telemetry,
		},
	},
	"envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec": {},
	"envoy.extensions.filters.http.cors.v3.Cors":                    {},
	"envoy.extensions.filters.http.cors.v3.CorsPolicy": {
		works: "allow_origin_string_match allow_methods allow_headers expose_headers max_age allow_credentials filter_enabled " +
			"shadow_enabled allow_private_network_access forward_not_matching_preflights",
	},

	"envoy.extensions.filters.http.rbac.v3.RBAC": {
		works: "rules rules_stat_prefix shadow_rules shadow_rules_stat_prefix track_per_rule_stats",
		refused: map[string]string{
			"matcher":        "use rules",
			"shadow_matcher": "use shadow_rules",
		},
	},
	"envoy.extensions.filters.http.rbac.v3.RBACPerRoute": {works: "rbac"},

	"envoy.extensions.filters.http.fault.v3.HTTPFault": {
		works: "delay abort upstream_cluster headers downstream_nodes max_active_faults response_rate_limit delay_percent_runtime " +
			"abort_percent_runtime delay_duration_runtime abort_http_status_runtime max_active_faults_runtime " +
			"response_rate_limit_percent_runtime abort_grpc_status_runtime disable_downstream_cluster_stats filter_metadata",
	},
	"envoy.extensions.filters.common.fault.v3.FaultDelay":                 {works: "fixed_delay header_delay percentage"},
	"envoy.extensions.filters.common.fault.v3.FaultDelay.HeaderDelay":     {},
	"envoy.extensions.filters.http.fault.v3.FaultAbort":                   {works: "http_status grpc_status header_abort percentage"},
	"envoy.extensions.filters.http.fault.v3.FaultAbort.HeaderAbort":       {},
	"envoy.extensions.filters.common.fault.v3.FaultRateLimit":             {works: "fixed_limit header_limit percentage"},
	"envoy.extensions.filters.common.fault.v3.FaultRateLimit.FixedLimit":  {works: "limit_kbps"},
	"envoy.extensions.filters.common.fault.v3.FaultRateLimit.HeaderLimit": {},

	"envoy.extensions.filters.http.health_check.v3.HealthCheck": {
		works: "pass_through_mode cache_time cluster_min_healthy_percentages headers",
	},
	"envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit": {
		works: "stat_prefix status token_bucket filter_enabled filter_enforced request_headers_to_add_when_not_enforced " +
			"response_headers_to_add stage local_rate_limit_per_downstream_connection enable_x_ratelimit_headers " +
			"rate_limited_as_resource_exhausted descriptors rate_limits vh_rate_limits always_consume_default_token_bucket " +
			"max_dynamic_descriptors enable_retry_after_header",
		refused: map[string]string{"local_cluster_rate_limit": "every proxy counts for itself"},
	},
	"envoy.extensions.common.ratelimit.v3.LocalRateLimitDescriptor":  {works: "entries token_bucket shadow_mode"},
	"envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.Entry": {works: "key value"},
	"envoy.config.route.v3.RateLimit": {
		works:   "stage disable_key actions hits_addend",
		refused: map[string]string{"limit": "is for the rate limit service, which is not implemented"},
	},
	"envoy.config.route.v3.RateLimit.HitsAddend": {works: "number"},
	"envoy.config.route.v3.RateLimit.Action": {
		works: "source_cluster destination_cluster request_headers query_parameters remote_address generic_key header_value_match " +
			"metadata masked_remote_address query_parameter_value_match",
		refused: map[string]string{"dynamic_metadata": "use metadata"},
	},
	"envoy.config.route.v3.RateLimit.Action.SourceCluster":            {},
	"envoy.config.route.v3.RateLimit.Action.DestinationCluster":       {},
	"envoy.config.route.v3.RateLimit.Action.RemoteAddress":            {},
	"envoy.config.route.v3.RateLimit.Action.RequestHeaders":           {works: "header_name descriptor_key skip_if_absent"},
	"envoy.config.route.v3.RateLimit.Action.QueryParameters":          {works: "query_parameter_name descriptor_key skip_if_absent"},
	"envoy.config.route.v3.RateLimit.Action.GenericKey":               {works: "descriptor_value default_value descriptor_key"},
	"envoy.config.route.v3.RateLimit.Action.HeaderValueMatch":         {works: "descriptor_value default_value descriptor_key expect_match headers"},
	"envoy.config.route.v3.RateLimit.Action.MetaData":                 {works: "descriptor_key metadata_key default_value source skip_if_absent"},
	"envoy.config.route.v3.RateLimit.Action.MaskedRemoteAddress":      {works: "v4_prefix_mask_len v6_prefix_mask_len"},
	"envoy.config.route.v3.RateLimit.Action.QueryParameterValueMatch": {works: "descriptor_value default_value descriptor_key expect_match query_parameters"},
	"envoy.type.metadata.v3.MetadataKey":                              {works: "key path"},
	"envoy.type.metadata.v3.MetadataKey.PathSegment":                  {works: "key index"},
	"envoy.type.v3.HttpStatus":                                        {works: "code"},
	"envoy.type.v3.TokenBucket":                                       {works: "max_tokens tokens_per_fill fill_interval"},

	"envoy.extensions.filters.http.buffer.v3.Buffer":         {works: "max_request_bytes"},
	"envoy.extensions.filters.http.buffer.v3.BufferPerRoute": {works: "disabled buffer"},
	"envoy.extensions.filters.http.grpc_stats.v3.FilterConfig": {
		works: "emit_filter_state individual_method_stats_allowlist stats_for_all_methods enable_upstream_stats replace_dots_in_grpc_service_name",
	},
	"envoy.config.core.v3.GrpcMethodList":         {works: "services"},
	"envoy.config.core.v3.GrpcMethodList.Service": {works: "name method_names"},

	"envoy.extensions.filters.http.header_mutation.v3.HeaderMutation":         {works: "mutations most_specific_header_mutations_wins"},
	"envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute": {works: "mutations"},
	"envoy.extensions.filters.http.header_mutation.v3.Mutations": {
		works: "request_mutations response_mutations response_trailers_mutations request_trailers_mutations",
	},
	"envoy.extensions.filters.http.set_filter_state.v3.Config": {works: "on_request_headers"},
	"envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue": {
		works: "object_key factory_key format_string read_only shared_with_upstream skip_if_empty",
	},

	"envoy.extensions.filters.http.compressor.v3.Compressor": {
		works: "content_length content_type disable_on_etag_header remove_accept_encoding_header runtime_enabled compressor_library " +
			"request_direction_config response_direction_config choose_first",
	},
	"envoy.config.core.v3.RuntimeFeatureFlag":                                       {works: "default_value runtime_key"},
	"envoy.extensions.filters.http.compressor.v3.Compressor.RequestDirectionConfig": {works: "common_config"},
	"envoy.extensions.filters.http.compressor.v3.Compressor.CommonDirectionConfig":  {works: "enabled min_content_length content_type"},
	"envoy.extensions.filters.http.compressor.v3.Compressor.ResponseDirectionConfig": {
		works: "common_config disable_on_etag_header remove_accept_encoding_header uncompressible_response_codes",
	},
	"envoy.extensions.filters.http.compressor.v3.CompressorPerRoute":         {works: "disabled overrides"},
	"envoy.extensions.filters.http.compressor.v3.CompressorOverrides":        {works: "response_direction_config"},
	"envoy.extensions.filters.http.compressor.v3.ResponseDirectionOverrides": {works: "remove_accept_encoding_header"},
	"envoy.extensions.compression.gzip.compressor.v3.Gzip": {
		works: "compression_level",
		ignored: map[string]string{
			"memory_level":         tunesCompression,
			"compression_strategy": tunesCompression,
			"window_bits":          tunesCompression,
			"chunk_size":           tunesCompression,
		},
	},
	"envoy.extensions.compression.brotli.compressor.v3.Brotli": {
		works: "quality",
		ignored: map[string]string{
			"encoder_mode":                     tunesCompression,
			"window_bits":                      tunesCompression,
			"input_block_bits":                 tunesCompression,
			"chunk_size":                       tunesCompression,
			"disable_literal_context_modeling": tunesCompression,
		},
	},
	"envoy.extensions.compression.zstd.compressor.v3.Zstd": {
		works: "compression_level",
		ignored: map[string]string{
			"enable_checksum": tunesCompression,
			"strategy":        tunesCompression,
			"chunk_size":      tunesCompression,
		},
	},
}

// tunesCompression is why options of the compressors are accepted: what comes
// out at the other end is the same.
const tunesCompression = "changes the size and the speed of what is compressed, not what it is"
