package decode

import "google.golang.org/protobuf/reflect/protoreflect"

// routeSupport are route configurations.
var routeSupport = map[protoreflect.FullName]fields{
	"envoy.config.route.v3.RouteConfiguration": {
		works: "name virtual_hosts internal_only_headers response_headers_to_add response_headers_to_remove request_headers_to_add " +
			"request_headers_to_remove most_specific_header_mutations_wins validate_clusters max_direct_response_body_size_bytes " +
			"request_mirror_policies ignore_port_in_host_matching ignore_path_parameters_in_path_matching typed_per_filter_config",
		ignored: map[string]string{"metadata": informative},
		refused: map[string]string{
			"vhds":                      "virtual hosts come with their configuration",
			"cluster_specifier_plugins": "use cluster, cluster_header or weighted_clusters",
		},
	},
	"envoy.config.route.v3.VirtualHost": {
		works: "name domains routes require_tls virtual_clusters request_headers_to_add request_headers_to_remove " +
			"response_headers_to_add response_headers_to_remove cors typed_per_filter_config include_request_attempt_count " +
			"include_attempt_count_in_response retry_policy include_is_timeout_retry_header per_request_buffer_limit_bytes " +
			"request_body_buffer_limit request_mirror_policies rate_limits",
		ignored: map[string]string{"metadata": informative},
		refused: map[string]string{
			"matcher":      "use routes",
			"hedge_policy": "requests are not hedged",
		},
	},
	"envoy.config.route.v3.VirtualCluster": {works: "headers name"},
	"envoy.config.route.v3.Route": {
		works: "name match route redirect direct_response non_forwarding_action metadata typed_per_filter_config " +
			"request_headers_to_add request_headers_to_remove response_headers_to_add response_headers_to_remove " +
			"per_request_buffer_limit_bytes stat_prefix request_body_buffer_limit",
		ignored: map[string]string{"decorator": noTracing, "tracing": noTracing},
	},
	"envoy.config.route.v3.NonForwardingAction": {},
	"envoy.config.route.v3.RouteMatch": {
		works: "prefix path safe_regex connect_matcher path_separated_prefix path_match_policy case_sensitive runtime_fraction " +
			"headers query_parameters cookies grpc tls_context dynamic_metadata filter_state",
	},
	"envoy.config.route.v3.RouteMatch.ConnectMatcher":         {},
	"envoy.config.route.v3.RouteMatch.GrpcRouteMatchOptions":  {},
	"envoy.config.route.v3.RouteMatch.TlsContextMatchOptions": {works: "presented validated"},
	"envoy.config.core.v3.RuntimeFractionalPercent":           {works: "default_value runtime_key"},
	"envoy.config.route.v3.HeaderMatcher": {
		works: "name exact_match safe_regex_match range_match present_match prefix_match suffix_match contains_match string_match " +
			"invert_match treat_missing_header_as_empty",
	},
	"envoy.config.route.v3.QueryParameterMatcher":                            {works: "name string_match present_match"},
	"envoy.config.route.v3.CookieMatcher":                                    {works: "name string_match invert_match"},
	"envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig":     {works: "path_template"},
	"envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig": {works: "path_template_rewrite"},

	"envoy.config.route.v3.RouteAction": {
		works: "cluster cluster_header weighted_clusters cluster_not_found_response_code prefix_rewrite regex_rewrite " +
			"path_rewrite_policy path_rewrite host_rewrite_literal auto_host_rewrite host_rewrite_header host_rewrite_path_regex " +
			"host_rewrite append_x_forwarded_host timeout idle_timeout flush_timeout retry_policy request_mirror_policies priority " +
			"hash_policy cors max_grpc_timeout grpc_timeout_offset upgrade_configs internal_redirect_policy max_stream_duration " +
			"rate_limits include_vh_rate_limits",
		ignored: map[string]string{
			"early_data_policy": "TLS early data are neither taken nor sent",
		},
		refused: map[string]string{
			"metadata_match":                  noSubsets,
			"hedge_policy":                    "requests are not hedged",
			"cluster_specifier_plugin":        "use cluster, cluster_header or weighted_clusters",
			"inline_cluster_specifier_plugin": "use cluster, cluster_header or weighted_clusters",
			"internal_redirect_action":        "use internal_redirect_policy",
			"max_internal_redirects":          "use internal_redirect_policy",
		},
	},
	"envoy.config.route.v3.WeightedCluster": {
		works:   "clusters runtime_key_prefix header_name use_hash_policy",
		ignored: map[string]string{"total_weight": "is without effect in Envoy too: the weights are summed"},
	},
	"envoy.config.route.v3.WeightedCluster.ClusterWeight": {
		works: "name cluster_header weight request_headers_to_add request_headers_to_remove response_headers_to_add " +
			"response_headers_to_remove typed_per_filter_config host_rewrite_literal",
		refused: map[string]string{"metadata_match": noSubsets},
	},
	"envoy.type.matcher.v3.RegexMatchAndSubstitute": {works: "pattern substitution"},
	"envoy.config.route.v3.RetryPolicy": {
		works: "retry_on num_retries per_try_timeout per_try_idle_timeout retry_host_predicate " +
			"host_selection_retry_max_attempts retriable_status_codes retry_back_off rate_limited_retry_back_off " +
			"retriable_headers retriable_request_headers",
		refused: map[string]string{"retry_priority": "another attempt goes by the health of the priorities, as the first"},
	},
	"envoy.config.route.v3.RetryPolicy.RetryHostPredicate":                              {works: "name typed_config"},
	"envoy.config.route.v3.RetryPolicy.RetryBackOff":                                    {works: "base_interval max_interval"},
	"envoy.config.route.v3.RetryPolicy.RateLimitedRetryBackOff":                         {works: "reset_headers max_interval"},
	"envoy.config.route.v3.RetryPolicy.ResetHeader":                                     {works: "name format"},
	"envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate":              {},
	"envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate":         {},
	"envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig":        {},
	"envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig":     {},
	"envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig": {works: "allowed_route_names"},
	"envoy.config.route.v3.RouteAction.RequestMirrorPolicy": {
		works:   "cluster cluster_header runtime_fraction disable_shadow_host_suffix_append request_headers_mutations host_rewrite_literal",
		ignored: map[string]string{"trace_sampled": noTracing},
	},
	"envoy.config.common.mutation_rules.v3.HeaderMutation":               {works: "remove append remove_on_match"},
	"envoy.config.common.mutation_rules.v3.HeaderMutation.RemoveOnMatch": {works: "key_matcher"},
	"envoy.config.route.v3.RouteAction.HashPolicy": {
		works: "header cookie connection_properties query_parameter filter_state terminal",
	},
	"envoy.config.route.v3.RouteAction.HashPolicy.Header":               {works: "header_name regex_rewrite"},
	"envoy.config.route.v3.RouteAction.HashPolicy.Cookie":               {works: "name ttl path attributes"},
	"envoy.config.route.v3.RouteAction.HashPolicy.CookieAttribute":      {works: "name value"},
	"envoy.config.route.v3.RouteAction.HashPolicy.ConnectionProperties": {works: "source_ip"},
	"envoy.config.route.v3.RouteAction.HashPolicy.QueryParameter":       {works: "name"},
	"envoy.config.route.v3.RouteAction.HashPolicy.FilterState":          {works: "key"},
	"envoy.config.route.v3.CorsPolicy": {
		works: "allow_origin_string_match allow_methods allow_headers expose_headers max_age allow_credentials filter_enabled " +
			"shadow_enabled allow_private_network_access forward_not_matching_preflights",
	},
	"envoy.config.route.v3.RouteAction.UpgradeConfig": {
		works:   "upgrade_type enabled",
		refused: map[string]string{"connect_config": "a CONNECT is not ended here, it goes on as one"},
	},
	"envoy.config.route.v3.InternalRedirectPolicy": {
		works: "max_internal_redirects redirect_response_codes predicates allow_cross_scheme_redirect response_headers_to_copy",
	},
	"envoy.config.route.v3.RouteAction.MaxStreamDuration": {
		works: "max_stream_duration grpc_timeout_header_max grpc_timeout_header_offset",
	},
	"envoy.config.route.v3.RedirectAction": {
		works: "https_redirect scheme_redirect host_redirect port_redirect path_redirect prefix_rewrite regex_rewrite response_code strip_query",
	},
	"envoy.config.route.v3.DirectResponseAction": {works: "status body body_format"},
	"envoy.config.route.v3.FilterConfig":         {works: "config is_optional disabled"},
}
