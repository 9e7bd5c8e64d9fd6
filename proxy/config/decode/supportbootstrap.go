package decode

import "google.golang.org/protobuf/reflect/protoreflect"

// Reasons that recur in the tables.
const (
	telemetry    = "changes what is counted or how it is shown, not traffic"
	informative  = "is for people and for other filters; it stays in /config_dump"
	noWorkers    = "is about Envoy's worker threads, which outrider has not"
	fixedBuffers = "a connection holds little, and nothing while it is idle"
	serverTuning = "tunes Envoy's process, not traffic"
)

// bootstrapSupport are the messages of the bootstrap, and those that are used
// everywhere.
var bootstrapSupport = map[protoreflect.FullName]fields{
	"envoy.config.bootstrap.v3.Bootstrap": {
		works: "node static_resources dynamic_resources layered_runtime admin overload_manager stats_config bootstrap_extensions cluster_manager",
		ignored: map[string]string{
			"node_context_params":              "is for xdstp:// names, which are refused where they are used",
			"flags_path":                       "names files of Envoy's runtime flags",
			"stats_sinks":                      telemetry,
			"deferred_stat_options":            telemetry,
			"stats_flush_interval":             telemetry,
			"stats_flush_on_admin":             telemetry,
			"stats_eviction_interval":          telemetry,
			"stats_server_version_override":    telemetry,
			"watchdog":                         serverTuning,
			"watchdogs":                        serverTuning,
			"tracing":                          "no spans are made, and requests get no header for them",
			"enable_dispatcher_stats":          telemetry,
			"perf_tracing_file_path":           serverTuning,
			"application_log_config":           "is the format of Envoy's own log",
			"memory_allocator_manager":         serverTuning,
			"enable_worker_cpu_affinity":       noWorkers,
			"grpc_async_client_manager_config": serverTuning,
		},
		refused: map[string]string{
			"hds_config":           "health discovery is not implemented",
			"default_regex_engine": "expressions are always RE2",
			"header_prefix":        "headers of Envoy begin with x-envoy",
		},
	},
	"envoy.config.bootstrap.v3.Bootstrap.StaticResources": {works: "listeners clusters secrets"},
	"envoy.config.bootstrap.v3.Bootstrap.DynamicResources": {
		works: "lds_config cds_config ads_config",
	},
	"envoy.config.bootstrap.v3.Admin": {
		works: "access_log access_log_path address",
		ignored: map[string]string{
			"profile_path":             "is for /cpuprofiler, which outrider has not",
			"ignore_global_conn_limit": "the admin interface never counts against the limit",
		},
	},
	"envoy.config.metrics.v3.StatsConfig": {
		works: "stats_tags use_all_default_tags stats_matcher histogram_bucket_settings",
	},
	"envoy.config.metrics.v3.HistogramBucketSettings": {
		works:   "match buckets",
		ignored: map[string]string{"bins": "tunes Envoy's histograms"},
	},
	"envoy.config.metrics.v3.TagSpecifier":     {works: "tag_name regex fixed_value"},
	"envoy.config.metrics.v3.StatsMatcher":     {works: "reject_all exclusion_list inclusion_list"},
	"envoy.config.bootstrap.v3.LayeredRuntime": {works: "layers"},
	"envoy.config.bootstrap.v3.RuntimeLayer": {
		works:   "name static_layer",
		ignored: map[string]string{"admin_layer": "outrider has no /runtime_modify"},
	},
	"envoy.config.core.v3.Node": {
		works: "id cluster metadata locality dynamic_parameters user_agent_name user_agent_version user_agent_build_version extensions client_features listening_addresses",
	},
	"envoy.config.core.v3.BuildVersion":  {works: "version metadata"},
	"envoy.type.v3.SemanticVersion":      {works: "major_number minor_number patch"},
	"envoy.config.core.v3.Extension":     {works: "name category type_descriptor version disabled type_urls"},
	"xds.core.v3.ContextParams":          {works: "params"},
	"envoy.config.core.v3.Locality":      {works: "region zone sub_zone"},
	"envoy.config.core.v3.Address":       {works: "socket_address pipe"},
	"envoy.config.core.v3.SocketAddress": {works: "protocol address port_value ipv4_compat"},
	"envoy.config.core.v3.Pipe":          {works: "path mode"},
	"envoy.config.core.v3.CidrRange":     {works: "address_prefix prefix_len"},
	"envoy.config.core.v3.TcpKeepalive":  {works: "keepalive_probes keepalive_time keepalive_interval"},
	"envoy.config.core.v3.SocketOption": {
		works:   "level name int_value buf_value state",
		ignored: map[string]string{"description": informative},
	},
	"envoy.config.core.v3.BindConfig": {
		works: "source_address freebind socket_options extra_source_addresses additional_source_addresses",
	},
	"envoy.config.core.v3.ExtraSourceAddress": {works: "address"},
	"envoy.config.core.v3.Metadata": {
		works:   "filter_metadata",
		ignored: map[string]string{"typed_filter_metadata": "of an endpoint, `envoy.transport_sockets.proxy_protocol` works; no other extension that reads it is implemented"},
	},
	"envoy.config.core.v3.DataSource": {
		works:   "filename inline_bytes inline_string environment_variable",
		refused: map[string]string{"watched_directory": "watch the secret, with the watched_directory beside the certificate"},
	},
	"envoy.config.core.v3.WatchedDirectory":     {works: "path", ignored: map[string]string{"watch_modify": "a file written in place is always seen"}},
	"envoy.config.core.v3.TransportSocket":      {works: "name typed_config"},
	"envoy.config.core.v3.TypedExtensionConfig": {works: "name typed_config"},
	"envoy.config.core.v3.ConfigSource": {
		works: "path path_config_source api_config_source ads initial_fetch_timeout resource_api_version",
	},
	"envoy.config.core.v3.PathConfigSource":       {works: "path watched_directory"},
	"envoy.config.core.v3.AggregatedConfigSource": {},
	"envoy.config.core.v3.ApiConfigSource": {
		works: "api_type transport_api_version grpc_services set_node_on_first_message_only rate_limit_settings",
		ignored: map[string]string{
			"refresh_delay":   "is for REST",
			"request_timeout": "is for REST",
		},
	},
	"envoy.config.core.v3.RateLimitSettings": {works: "max_tokens fill_rate"},
	"envoy.config.core.v3.GrpcService": {
		works: "envoy_grpc timeout initial_metadata",
	},
	"envoy.config.core.v3.GrpcService.EnvoyGrpc": {
		works:   "cluster_name authority",
		ignored: map[string]string{"skip_envoy_headers": "outrider sends none of these headers"},
	},
	"envoy.config.core.v3.RuntimeUInt32": {works: "default_value runtime_key"},
	"envoy.config.core.v3.RuntimeDouble": {works: "default_value runtime_key"},
	"envoy.config.overload.v3.OverloadManager": {
		works:   "resource_monitors",
		ignored: map[string]string{"refresh_interval": "connections are counted as they come"},
	},
	"envoy.config.overload.v3.ResourceMonitor":                                                 {works: "name typed_config"},
	"envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig": {works: "max_active_downstream_connections"},
	"envoy.type.v3.Percent":           {works: "value"},
	"envoy.type.v3.FractionalPercent": {works: "numerator denominator"},
	"envoy.type.v3.Int32Range":        {works: "start end"},
	"envoy.type.v3.Int64Range":        {works: "start end"},
	"envoy.type.v3.DoubleRange":       {works: "start end"},
	"envoy.service.discovery.v3.DiscoveryResponse": {
		works: "version_info resources type_url",
		ignored: map[string]string{
			"nonce":         "is for streams",
			"canary":        informative,
			"control_plane": informative,
		},
	},
	"envoy.service.discovery.v3.Resource": {
		works: "resource",
		ignored: map[string]string{
			"name":          "the resource has its own",
			"version":       "is for delta streams",
			"aliases":       "is for delta streams",
			"metadata":      informative,
			"cache_control": "there is no cache on the way",
		},
	},
	"udpa.type.v1.TypedStruct": {works: "type_url value"},
	"xds.type.v3.TypedStruct":  {works: "type_url value"},
}
