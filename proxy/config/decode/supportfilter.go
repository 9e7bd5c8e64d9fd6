package decode

import "google.golang.org/protobuf/reflect/protoreflect"

// filterSupport are the network filters. Nothing of rbac is ever ignored.
var filterSupport = map[protoreflect.FullName]fields{
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy": {
		works: "stat_prefix cluster weighted_clusters idle_timeout access_log max_connect_attempts backoff_options hash_policy " +
			"max_downstream_connection_duration max_downstream_connection_duration_jitter_percentage " +
			"access_log_flush_interval flush_access_log_on_connected access_log_options " +
			"proxy_protocol_tlvs proxy_protocol_tlv_merge_policy upstream_connect_mode",
		ignored: map[string]string{
			"max_early_data_bytes":    "what the client sends before the upstream is connected waits in the kernel",
			"downstream_idle_timeout": "Envoy does not implement it either: idle_timeout counts",
			"upstream_idle_timeout":   "Envoy does not implement it either: idle_timeout counts",
		},
		refused: map[string]string{
			"metadata_match":   "subset load balancing is not implemented",
			"tunneling_config": "tunnels over HTTP are not implemented for TCP connections",
			"on_demand":        "clusters on demand are not implemented",
		},
		unlessFalse: "check_drain_close",
	},
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster": {works: "clusters"},
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight": {
		works:   "name weight",
		refused: map[string]string{"metadata_match": "subset load balancing is not implemented"},
	},
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.TcpAccessLogOptions": {
		works: "access_log_flush_interval flush_access_log_on_connected",
	},
	"envoy.config.core.v3.BackoffStrategy":                       {works: "base_interval max_interval"},
	"envoy.type.v3.HashPolicy":                                   {works: "source_ip filter_state"},
	"envoy.type.v3.HashPolicy.SourceIp":                          {},
	"envoy.type.v3.HashPolicy.FilterState":                       {works: "key"},
	"envoy.extensions.filters.network.echo.v3.Echo":              {},
	"envoy.extensions.filters.network.sni_cluster.v3.SniCluster": {},
	"envoy.extensions.filters.network.direct_response.v3.Config": {works: "response"},
	"envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit": {
		works: "stat_prefix max_connections delay",
	},
	metadataExchangeType: {
		works:   "protocol additional_labels",
		ignored: map[string]string{"enable_discovery": "finds the metadata of peers that do not exchange them, for telemetry"},
	},

	"envoy.extensions.filters.network.rbac.v3.RBAC": {
		works: "rules shadow_rules shadow_rules_stat_prefix stat_prefix enforcement_type delay_deny",
		refused: map[string]string{
			"matcher":        "use rules",
			"shadow_matcher": "use shadow_rules",
		},
	},
	"envoy.config.rbac.v3.RBAC":   {works: "action policies"},
	"envoy.config.rbac.v3.Policy": {works: "permissions principals"},
	"envoy.config.rbac.v3.Permission": {
		works: "and_rules or_rules any header url_path destination_ip destination_port destination_port_range metadata not_rule requested_server_name sourced_metadata uri_template",
	},
	"envoy.config.rbac.v3.Permission.Set": {works: "rules"},
	"envoy.config.rbac.v3.Principal": {
		works: "and_ids or_ids any authenticated source_ip direct_remote_ip remote_ip header url_path metadata filter_state not_id sourced_metadata",
	},
	"envoy.config.rbac.v3.Principal.Set":           {works: "ids"},
	"envoy.config.rbac.v3.Principal.Authenticated": {works: "principal_name"},
	"envoy.config.rbac.v3.SourcedMetadata":         {works: "metadata_matcher metadata_source"},
	"envoy.type.matcher.v3.PathMatcher":            {works: "path"},
	"envoy.type.matcher.v3.StringMatcher": {
		works: "exact prefix suffix safe_regex contains ignore_case",
	},
	"envoy.type.matcher.v3.RegexMatcher": {
		works:   "regex",
		ignored: map[string]string{"google_re2": "expressions are always RE2, whose limit of size is fixed"},
	},
	"envoy.type.matcher.v3.MetadataMatcher":             {works: "filter path value invert"},
	"envoy.type.matcher.v3.MetadataMatcher.PathSegment": {works: "key"},
	"envoy.type.matcher.v3.ValueMatcher": {
		works: "null_match double_match string_match bool_match present_match list_match or_match",
	},
	"envoy.type.matcher.v3.ValueMatcher.NullMatch": {},
	"envoy.type.matcher.v3.DoubleMatcher":          {works: "range exact"},
	"envoy.type.matcher.v3.ListMatcher":            {works: "one_of"},
	"envoy.type.matcher.v3.OrMatcher":              {works: "value_matchers"},
	"envoy.type.matcher.v3.FilterStateMatcher":     {works: "key string_match"},
}
