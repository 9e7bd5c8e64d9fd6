package decode

import "google.golang.org/protobuf/reflect/protoreflect"

// Reasons that recur in the tables of HTTP.
const (
	noTracing  = "no spans are made, as in Envoy without a provider; a provider is refused where it would get some"
	noSubsets  = "subset load balancing is not implemented"
	envoyCodec = "chooses between Envoy's codecs"
)

const hcmPackage = "envoy.extensions.filters.network.http_connection_manager.v3."

// httpSupport are the connection manager, the options of the protocols and how
// clusters speak HTTP.
var httpSupport = map[protoreflect.FullName]fields{
	hcmPackage + "HttpConnectionManager": {
		works: "codec_type stat_prefix rds route_config http_filters tracing common_http_protocol_options http_protocol_options " +
			"http2_protocol_options server_name server_header_transformation scheme_header_transformation max_request_headers_kb " +
			"stream_idle_timeout request_timeout request_headers_timeout drain_timeout delayed_close_timeout access_log " +
			"access_log_flush_interval flush_access_log_on_new_request access_log_options use_remote_address xff_num_trusted_hops " +
			"internal_address_config skip_xff_append via generate_request_id preserve_external_request_id " +
			"always_set_request_id_in_response forward_client_cert_details set_current_client_cert_details proxy_100_continue " +
			"represent_ipv4_remote_address_as_ipv4_mapped_ipv6 upgrade_configs normalize_path merge_slashes " +
			"path_with_escaped_slashes_action request_id_extension local_reply_config strip_matching_host_port strip_any_host_port " +
			"stream_error_on_invalid_http_message strip_trailing_host_dot append_x_forwarded_port " +
			"add_proxy_protocol_connection_state",
		ignored: map[string]string{
			"append_local_overload": "no request is shed for overload, of which the header would tell",
		},
		refused: map[string]string{
			"scoped_routes":                      "use rds or route_config",
			"http3_protocol_options":             "HTTP/3 is not implemented",
			"original_ip_detection_extensions":   "use use_remote_address and xff_num_trusted_hops",
			"early_header_mutation_extensions":   "use the filter header_mutation",
			"typed_header_validation_config":     "headers are always validated",
			"path_normalization_options":         "use normalize_path and merge_slashes",
			"forward_client_cert_matcher":        "use forward_client_cert_details",
			"http1_safe_max_connection_duration": "a connection is closed between two requests in any case",
		},
		unlessFalse: "add_user_agent",
	},
	hcmPackage + "HttpConnectionManager.Tracing": {
		works: "client_sampling random_sampling overall_sampling provider",
		ignored: map[string]string{
			"verbose":                noTracing,
			"max_path_tag_length":    noTracing,
			"custom_tags":            noTracing,
			"spawn_upstream_span":    noTracing,
			"operation":              noTracing,
			"upstream_operation":     noTracing,
			"no_context_propagation": noTracing,
		},
	},
	"envoy.config.trace.v3.Tracing.Http": {
		works:   "name",
		ignored: map[string]string{"typed_config": noTracing},
	},
	hcmPackage + "HttpConnectionManager.HcmAccessLogOptions": {
		works: "access_log_flush_interval flush_access_log_on_new_request flush_log_on_tunnel_successfully_established",
	},
	hcmPackage + "HttpConnectionManager.InternalAddressConfig":       {works: "unix_sockets cidr_ranges"},
	hcmPackage + "HttpConnectionManager.SetCurrentClientCertDetails": {works: "subject cert chain dns uri"},
	hcmPackage + "HttpConnectionManager.UpgradeConfig":               {works: "upgrade_type filters enabled"},
	hcmPackage + "Rds":              {works: "config_source route_config_name"},
	hcmPackage + "LocalReplyConfig": {works: "mappers body_format"},
	hcmPackage + "ResponseMapper": {
		works: "filter status_code body body_format_override headers_to_add",
	},
	hcmPackage + "HttpFilter": {works: "name typed_config config_discovery is_optional disabled"},
	"envoy.config.core.v3.ExtensionConfigSource": {
		works: "config_source default_config apply_default_config_without_warming type_urls",
	},
	hcmPackage + "RequestIDExtension": {works: "typed_config"},
	"envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig": {
		ignored: map[string]string{
			"pack_trace_reason":                 noTracing,
			"use_request_id_for_trace_sampling": noTracing,
		},
	},

	"envoy.config.core.v3.SchemeHeaderTransformation": {works: "scheme_to_overwrite match_upstream"},
	"envoy.config.core.v3.HttpProtocolOptions": {
		works: "idle_timeout max_connection_duration max_headers_count max_response_headers_kb max_stream_duration " +
			"headers_with_underscores_action max_requests_per_connection",
	},
	"envoy.config.core.v3.Http1ProtocolOptions": {
		works: "allow_absolute_url accept_http_10 default_host_for_http_10 header_key_format enable_trailers allow_chunked_length " +
			"override_stream_error_on_invalid_http_message send_fully_qualified_url ignore_http_11_upgrade",
		ignored: map[string]string{"use_balsa_parser": envoyCodec},
	},
	"envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat": {
		works:   "proper_case_words",
		refused: map[string]string{"stateful_formatter": "use proper_case_words"},
	},
	"envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat.ProperCaseWords": {},
	"envoy.config.core.v3.Http2ProtocolOptions": {
		works: "hpack_table_size max_concurrent_streams initial_stream_window_size initial_connection_window_size allow_connect " +
			"max_outbound_frames max_outbound_control_frames max_consecutive_inbound_frames_with_empty_payload " +
			"max_inbound_priority_frames_per_stream max_inbound_window_update_frames_per_data_frame_sent " +
			"stream_error_on_invalid_http_messaging override_stream_error_on_invalid_http_message connection_keepalive",
		ignored: map[string]string{
			"use_oghttp2_codec":       envoyCodec,
			"enable_huffman_encoding": "both ends take either",
			"max_metadata_size":       "is of METADATA frames, which allow_metadata is refused for",
		},
		refused: map[string]string{"allow_metadata": "METADATA frames are Envoy's own, and ignored"},
	},
	"envoy.config.core.v3.KeepaliveSettings": {works: "interval timeout interval_jitter connection_idle_interval"},

	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
		works: "common_http_protocol_options upstream_http_protocol_options explicit_http_config " +
			"use_downstream_protocol_config auto_config http_filters",
		refused: map[string]string{
			"request_mirror_policies": "use those of routes",
			"hash_policy":             "use that of routes",
			"retry_policy":            "use that of routes",
		},
	},
	"envoy.config.core.v3.UpstreamHttpProtocolOptions": {works: "auto_sni auto_san_validation override_auto_sni_header"},
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig": {
		works:   "http_protocol_options http2_protocol_options",
		refused: map[string]string{"http3_protocol_options": "HTTP/3 is not implemented"},
	},
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig": {
		works:   "http_protocol_options http2_protocol_options",
		refused: map[string]string{"http3_protocol_options": "HTTP/3 is not implemented"},
	},
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig": {
		works: "http_protocol_options http2_protocol_options",
		refused: map[string]string{
			"http3_protocol_options":            "HTTP/3 is not implemented",
			"alternate_protocols_cache_options": "HTTP/3 is not implemented",
		},
	},
	"envoy.config.cluster.v3.Cluster.PreconnectPolicy": {works: "per_upstream_preconnect_ratio"},
}
