package decode

import "google.golang.org/protobuf/reflect/protoreflect"

// listenerSupport are listeners, filter chains, listener filters and access
// logs.
var listenerSupport = map[protoreflect.FullName]fields{
	"envoy.config.listener.v3.Listener": {
		works: "name address additional_addresses stat_prefix filter_chains use_original_dst default_filter_chain " +
			"deprecated_v1 listener_filters listener_filters_timeout " +
			"continue_on_listener_filters_timeout transparent freebind socket_options traffic_direction " +
			"per_connection_buffer_limit_bytes enable_reuse_port access_log tcp_backlog_size bind_to_port ignore_global_conn_limit tcp_keepalive metadata",
		ignored: map[string]string{
			"stats_matcher":                              telemetry,
			"bypass_overload_manager":                    "the overload manager limits connections only, and ignore_global_conn_limit says whether these count",
			"drain_type":                                 "connections are told to go when their listener or the server goes, and have the drain time in any case",
			"reuse_port":                                 "is deprecated and without effect in Envoy too: enable_reuse_port counts",
			"connection_balance_config":                  noWorkers,
			"tcp_fast_open_queue_length":                 "saves a round trip where both sides can; connections work without",
			"max_connections_to_accept_per_socket_event": noWorkers,
		},
		refused: map[string]string{
			"filter_chain_matcher": "use filter_chain_match",
			"udp_listener_config":  "UDP and QUIC are not implemented",
			"api_listener":         "it is for embedding Envoy",
		},
	},
	"envoy.config.listener.v3.Listener.DeprecatedV1": {works: "bind_to_port"},
	"envoy.config.listener.v3.AdditionalAddress":     {works: "address"},
	"envoy.config.listener.v3.FilterChain": {
		works:       "filter_chain_match filters transport_socket transport_socket_connect_timeout name",
		ignored:     map[string]string{"metadata": informative},
		refused:     map[string]string{"use_proxy_proto": "use the proxy_protocol listener filter"},
		unlessFalse: "use_proxy_proto",
	},
	"envoy.config.listener.v3.FilterChainMatch": {
		works: "destination_port prefix_ranges direct_source_prefix_ranges source_type source_prefix_ranges " +
			"source_ports server_names transport_protocol application_protocols",
		refused: map[string]string{
			"address_suffix": "Envoy does not implement it either",
			"suffix_len":     "Envoy does not implement it either",
		},
	},
	"envoy.config.listener.v3.Filter": {
		works:   "name typed_config",
		refused: map[string]string{"config_discovery": "only HTTP filters come by discovery"},
	},
	"envoy.config.listener.v3.ListenerFilter": {
		works:   "name typed_config filter_disabled",
		refused: map[string]string{"config_discovery": "only HTTP filters come by discovery"},
	},
	"envoy.config.listener.v3.ListenerFilterChainMatchPredicate": {
		works: "or_match and_match not_match any_match destination_port_range",
	},
	"envoy.config.listener.v3.ListenerFilterChainMatchPredicate.MatchSet": {works: "rules"},

	"envoy.extensions.filters.listener.original_dst.v3.OriginalDst":     {},
	"envoy.extensions.filters.listener.original_src.v3.OriginalSrc":     {works: "bind_port mark"},
	"envoy.extensions.filters.listener.http_inspector.v3.HttpInspector": {},
	"envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector": {
		ignored:     map[string]string{"initial_read_buffer_size": "changes how often the socket is looked at, not what is found"},
		works:       "close_connection_on_client_hello_parsing_errors max_client_hello_size",
		unlessFalse: "enable_ja3_fingerprinting enable_ja4_fingerprinting",
	},
	"envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol": {
		works: "rules allow_requests_without_proxy_protocol disallowed_versions stat_prefix pass_through_tlvs",
	},
	"envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol.Rule":         {works: "tlv_type on_tlv_present"},
	"envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol.KeyValuePair": {works: "metadata_namespace key"},

	"envoy.config.accesslog.v3.AccessLog": {works: "name filter typed_config"},
	"envoy.config.accesslog.v3.AccessLogFilter": {
		works: "status_code_filter duration_filter not_health_check_filter runtime_filter and_filter or_filter " +
			"response_flag_filter log_type_filter header_filter grpc_status_filter extension_filter",
	},
	"envoy.config.accesslog.v3.ExtensionFilter":                       {works: "name typed_config"},
	"envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter": {works: "expression"},
	"envoy.extensions.formatter.cel.v3.Cel":                           {},
	"envoy.config.accesslog.v3.StatusCodeFilter":                      {works: "comparison"},
	"envoy.config.accesslog.v3.DurationFilter":                        {works: "comparison"},
	"envoy.config.accesslog.v3.ComparisonFilter":                      {works: "op value"},
	"envoy.config.accesslog.v3.NotHealthCheckFilter":                  {},
	"envoy.config.accesslog.v3.RuntimeFilter": {
		works: "runtime_key percent_sampled use_independent_randomness",
	},
	"envoy.config.accesslog.v3.HeaderFilter":       {works: "header"},
	"envoy.config.accesslog.v3.GrpcStatusFilter":   {works: "statuses exclude"},
	"envoy.config.accesslog.v3.AndFilter":          {works: "filters"},
	"envoy.config.accesslog.v3.OrFilter":           {works: "filters"},
	"envoy.config.accesslog.v3.ResponseFlagFilter": {works: "flags"},
	"envoy.config.accesslog.v3.LogTypeFilter":      {works: "types exclude"},
	"envoy.extensions.access_loggers.file.v3.FileAccessLog": {
		works: "path format json_format typed_json_format log_format",
	},
	"envoy.extensions.access_loggers.stream.v3.StdoutAccessLog":       {works: "log_format"},
	"envoy.extensions.access_loggers.stream.v3.StderrAccessLog":       {works: "log_format"},
	"envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery": {},
	"envoy.extensions.formatter.metadata.v3.Metadata":                 {},
	"envoy.config.core.v3.SubstitutionFormatString": {
		works:   "text_format json_format text_format_source omit_empty_values content_type formatters",
		ignored: map[string]string{"json_format_options": "JSON is always written in the order of its keys"},
	},
}
