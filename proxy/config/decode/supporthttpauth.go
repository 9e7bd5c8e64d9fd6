package decode

import "google.golang.org/protobuf/reflect/protoreflect"

const (
	jwtPackage   = "envoy.extensions.filters.http.jwt_authn.v3."
	authzPackage = "envoy.extensions.filters.http.ext_authz.v3."
)

// Why fields of Istio's telemetry have no effect.
const (
	noLonger  = "Istio's filter reads it no longer"
	noAmbient = "tells of the peer at the end of a tunnel of Istio's ambient mode, which there is none of"
)

// httpAuthSupport are the HTTP filters that ask who it is, and Istio's.
var httpAuthSupport = map[protoreflect.FullName]fields{
	jwtPackage + "JwtAuthentication": {
		works: "providers rules filter_state_rules bypass_cors_preflight requirement_map strip_failure_response stat_prefix",
	},
	jwtPackage + "JwtProvider": {
		works: "issuer audiences subjects require_expiration max_lifetime remote_jwks local_jwks forward from_headers from_params " +
			"from_cookies forward_payload_header pad_forward_payload_header payload_in_metadata normalize_payload_in_metadata " +
			"header_in_metadata failed_status_in_metadata clock_skew_seconds claim_to_headers clear_route_cache",
		ignored: map[string]string{"jwt_cache_config": "a token that was verified before is verified again"},
	},
	jwtPackage + "JwtProvider.NormalizePayload": {works: "space_delimited_claims"},
	jwtPackage + "RemoteJwks":                   {works: "http_uri cache_duration async_fetch retry_policy"},
	jwtPackage + "JwksAsyncFetch":               {works: "fast_listener failed_refetch_duration"},
	jwtPackage + "JwtHeader":                    {works: "name value_prefix"},
	jwtPackage + "JwtClaimToHeader": {
		works:   "header_name claim_name",
		refused: map[string]string{"claim_path": "use claim_name"},
	},
	jwtPackage + "RequirementRule":       {works: "match requires requirement_name"},
	jwtPackage + "ProviderWithAudiences": {works: "provider_name audiences"},
	jwtPackage + "JwtRequirementOrList":  {works: "requirements"},
	jwtPackage + "JwtRequirementAndList": {works: "requirements"},
	jwtPackage + "FilterStateRule":       {works: "name requires"},
	jwtPackage + "PerRouteConfig":        {works: "disabled requirement_name"},
	jwtPackage + "JwtRequirement": {
		works:   "provider_name provider_and_audiences requires_any requires_all allow_missing_or_failed allow_missing",
		refused: map[string]string{"extract_only_without_validation": "a token that is not verified is not read"},
	},
	"google.protobuf.Empty":        {},
	"envoy.config.core.v3.HttpUri": {works: "uri cluster timeout"},
	"envoy.config.core.v3.RetryPolicy": {
		works: "retry_back_off num_retries",
	},

	authzPackage + "ExtAuthz": {
		works: "grpc_service http_service transport_api_version failure_mode_allow failure_mode_allow_header_add with_request_body " +
			"clear_route_cache status_on_error metadata_context_namespaces filter_enabled " +
			"filter_enabled_metadata deny_at_disable include_peer_certificate stat_prefix bootstrap_metadata_labels_key " +
			"allowed_headers disallowed_headers include_tls_session decoder_header_mutation_rules " +
			"enable_dynamic_metadata_ingestion emit_filter_state_stats",
		ignored: map[string]string{
			"charge_cluster_response_stats": telemetry,
			"validate_mutations":            "what the service answers is always validated",
			"emit_client_span":              noTracing,
		},
	},
	authzPackage + "BufferSettings": {works: "max_request_bytes allow_partial_message pack_as_bytes"},
	authzPackage + "HttpService":    {works: "server_uri path_prefix authorization_request authorization_response"},
	authzPackage + "AuthorizationRequest": {
		works: "allowed_headers headers_to_add",
	},
	authzPackage + "AuthorizationResponse": {
		works: "allowed_upstream_headers allowed_upstream_headers_to_append allowed_client_headers allowed_client_headers_on_success dynamic_metadata_from_headers",
	},
	authzPackage + "ExtAuthzPerRoute": {works: "disabled check_settings"},
	authzPackage + "CheckSettings": {
		works:   "context_extensions disable_request_body_buffering with_request_body",
		ignored: map[string]string{"emit_client_span": noTracing},
	},
	"envoy.type.matcher.v3.ListStringMatcher": {works: "patterns"},
	"envoy.config.common.mutation_rules.v3.HeaderMutationRules": {
		works: "allow_all_routing allow_envoy disallow_system disallow_all allow_expression disallow_expression disallow_is_error",
	},

	"istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig":              {works: "alpn_override"},
	"istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig.AlpnOverride": {works: "upstream_protocol alpn_override"},
	"stats.PluginConfig": {
		works: "disable_host_header_fallback tcp_reporting_duration metrics definitions reporter rotation_interval graceful_deletion_interval",
		ignored: map[string]string{
			"debug":               noLonger,
			"max_peer_cache_size": noLonger,
			"stat_prefix":         noLonger,
			"field_separator":     noLonger,
			"value_separator":     noLonger,
		},
	},
	"stats.MetricConfig":     {works: "dimensions name tags_to_remove drop"},
	"stats.MetricDefinition": {works: "name value type"},
	peerMetadataType: {
		works:   "downstream_discovery upstream_discovery downstream_propagation upstream_propagation additional_labels",
		ignored: map[string]string{"shared_with_upstream": "nothing on the upstream's side of a connection reads the filter state"},
	},
	peerMetadataType + ".DiscoveryMethod": {
		works:   "baggage workload_discovery istio_headers",
		ignored: map[string]string{"upstream_filter_state": noAmbient},
	},
	peerMetadataType + ".PropagationMethod":   {works: "istio_headers baggage"},
	peerMetadataType + ".IstioHeaders":        {works: "skip_external_clusters"},
	peerMetadataType + ".Baggage":             {},
	peerMetadataType + ".WorkloadDiscovery":   {},
	peerMetadataType + ".UpstreamFilterState": {ignored: map[string]string{"peer_metadata_key": noAmbient}},
}
