package decode

import "google.golang.org/protobuf/reflect/protoreflect"

// httpFilterSupport are the HTTP filters.
var httpFilterSupport = map[protoreflect.FullName]fields{
	"envoy.extensions.filters.http.router.v3.Router": {
		works: "dynamic_stats start_child_span upstream_log suppress_envoy_headers strict_check_headers " +
			"respect_expected_rq_timeout suppress_grpc_request_failure_code_stats",
	},
	"envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec": {},
	"envoy.extensions.filters.http.cors.v3.Cors":                    {},
	"envoy.extensions.filters.http.cors.v3.CorsPolicy": {
		works: "allow_origin_string_match allow_methods allow_headers expose_headers max_age allow_credentials filter_enabled " +
			"shadow_enabled allow_private_network_access forward_not_matching_preflights",
	},
}
