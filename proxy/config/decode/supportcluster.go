package decode

import "google.golang.org/protobuf/reflect/protoreflect"

// clusterSupport are clusters, endpoints and health checks.
var clusterSupport = map[protoreflect.FullName]fields{
	"envoy.config.cluster.v3.Cluster": {
		works: "transport_socket_matches name alt_stat_name type eds_cluster_config connect_timeout " +
			"lb_policy load_assignment health_checks circuit_breakers " +
			"http2_protocol_options upstream_http_protocol_options typed_extension_protocol_options dns_refresh_rate dns_jitter dns_failure_refresh_rate " +
			"respect_dns_ttl dns_lookup_family outlier_detection upstream_bind_config ring_hash_lb_config " +
			"maglev_lb_config original_dst_lb_config least_request_lb_config round_robin_lb_config common_lb_config " +
			"transport_socket metadata upstream_connection_options close_connections_on_host_health_failure " +
			"ignore_health_on_host_removal filters load_balancing_policy max_requests_per_connection common_http_protocol_options " +
			"http_protocol_options protocol_selection preconnect_policy typed_dns_resolver_config",
		ignored: map[string]string{
			"per_connection_buffer_limit_bytes": fixedBuffers,
			"stats_matcher":                     telemetry,
			"track_timeout_budgets":             telemetry,
			"track_cluster_stats":               telemetry,
			"lrs_report_endpoint_metrics":       telemetry,
			"wait_for_warm_on_init":             "a cluster is used as soon as it has endpoints",
			"cleanup_interval":                  "hosts of ORIGINAL_DST clusters go with their last connection",
		},
		refused: map[string]string{
			"transport_socket_matcher":                  "use transport_socket_matches",
			"lb_subset_config":                          "subset load balancing is not implemented",
			"cluster_type":                              "no custom cluster type is implemented",
			"dns_resolvers":                             asTheSystem,
			"dns_resolution_config":                     asTheSystem,
			"connection_pool_per_downstream_connection": "requests of all clients share connections, and every TCP connection has one of its own",
			"lrs_server":                                "load is not reported",
		},
	},
	"envoy.config.cluster.v3.Cluster.TransportSocketMatch": {works: "name match transport_socket"},
	"envoy.config.cluster.v3.Cluster.EdsClusterConfig":     {works: "eds_config service_name"},
	"envoy.config.cluster.v3.Cluster.RoundRobinLbConfig":   {works: "slow_start_config"},
	"envoy.config.cluster.v3.Cluster.LeastRequestLbConfig": {works: "choice_count active_request_bias slow_start_config"},
	"envoy.config.cluster.v3.Cluster.SlowStartConfig":      {works: "slow_start_window aggression min_weight_percent"},
	"envoy.config.cluster.v3.Cluster.RingHashLbConfig":     {works: "minimum_ring_size hash_function maximum_ring_size"},
	"envoy.config.cluster.v3.Cluster.MaglevLbConfig":       {works: "table_size"},
	"envoy.config.cluster.v3.Cluster.OriginalDstLbConfig": {
		works:   "upstream_port_override",
		refused: map[string]string{"use_http_header": "the original destination is the connection's"},
	},
	"envoy.config.cluster.v3.Cluster.CommonLbConfig": {
		works: "healthy_panic_threshold zone_aware_lb_config locality_weighted_lb_config ignore_new_hosts_until_first_hc " +
			"consistent_hashing_lb_config",
		ignored: map[string]string{
			"update_merge_window":  "updates are taken as they come",
			"override_host_status": "is for sticky sessions, which are not implemented",
		},
	},
	"envoy.config.cluster.v3.Cluster.CommonLbConfig.ZoneAwareLbConfig": {
		works: "fail_traffic_on_panic",
		ignored: map[string]string{
			"routing_enabled":  "needs the local cluster (cluster_manager.local_cluster_name), which is refused: without it Envoy does not route by zone either",
			"min_cluster_size": "see routing_enabled",
		},
	},
	"envoy.config.cluster.v3.Cluster.CommonLbConfig.LocalityWeightedLbConfig":  {},
	"envoy.config.cluster.v3.Cluster.CommonLbConfig.ConsistentHashingLbConfig": {works: "use_hostname_for_hashing hash_balance_factor"},
	"envoy.config.cluster.v3.Cluster.RefreshRate":                              {works: "base_interval max_interval"},
	"envoy.config.cluster.v3.UpstreamConnectionOptions": {
		works:   "tcp_keepalive",
		ignored: map[string]string{"set_local_interface_name_on_upstream_connections": telemetry},
	},
	"envoy.config.cluster.v3.Filter":                     {works: "name typed_config"},
	"envoy.config.cluster.v3.LoadBalancingPolicy":        {works: "policies"},
	"envoy.config.cluster.v3.LoadBalancingPolicy.Policy": {works: "typed_extension_config"},
	"envoy.config.cluster.v3.CircuitBreakers":            {works: "thresholds per_host_thresholds"},
	"envoy.config.cluster.v3.CircuitBreakers.Thresholds": {
		works: "priority max_connections max_pending_requests max_requests max_retries track_remaining retry_budget",
		ignored: map[string]string{
			"max_connection_pools": "there are as many pools as hosts, transport sockets and protocols need",
		},
	},
	"envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget": {
		works:   "budget_percent min_retry_concurrency",
		refused: map[string]string{"budget_interval": "the requests of now count"},
	},
	"envoy.config.cluster.v3.OutlierDetection": {
		works: "consecutive_5xx interval base_ejection_time max_ejection_percent enforcing_consecutive_5xx enforcing_success_rate " +
			"success_rate_minimum_hosts success_rate_request_volume success_rate_stdev_factor consecutive_gateway_failure " +
			"enforcing_consecutive_gateway_failure split_external_local_origin_errors consecutive_local_origin_failure " +
			"enforcing_consecutive_local_origin_failure enforcing_local_origin_success_rate failure_percentage_threshold " +
			"enforcing_failure_percentage enforcing_failure_percentage_local_origin failure_percentage_minimum_hosts " +
			"failure_percentage_request_volume max_ejection_time max_ejection_time_jitter " +
			"successful_active_health_check_uneject_host always_eject_one_host",
		refused: map[string]string{"detect_degraded_hosts": "no host is degraded by what it answers"},
	},

	"envoy.config.endpoint.v3.ClusterLoadAssignment":                     {works: "cluster_name endpoints policy"},
	"envoy.config.endpoint.v3.ClusterLoadAssignment.Policy":              {works: "drop_overloads overprovisioning_factor endpoint_stale_after weighted_priority_health"},
	"envoy.config.endpoint.v3.ClusterLoadAssignment.Policy.DropOverload": {works: "category drop_percentage"},
	"envoy.config.endpoint.v3.LocalityLbEndpoints": {
		works:   "locality metadata lb_endpoints load_balancer_endpoints load_balancing_weight priority",
		ignored: map[string]string{"proximity": "Envoy does not implement it either"},
	},
	"envoy.config.endpoint.v3.LocalityLbEndpoints.LbEndpointList": {works: "lb_endpoints"},
	"envoy.config.endpoint.v3.LbEndpoint":                         {works: "endpoint health_status metadata load_balancing_weight"},
	"envoy.config.endpoint.v3.Endpoint": {
		works:   "address health_check_config hostname additional_addresses",
		ignored: map[string]string{"observability_name": telemetry},
	},
	"envoy.config.endpoint.v3.Endpoint.HealthCheckConfig": {works: "port_value hostname address disable_active_health_check"},
	"envoy.config.endpoint.v3.Endpoint.AdditionalAddress": {works: "address"},

	"envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin":           {works: "slow_start_config locality_lb_config"},
	"envoy.extensions.load_balancing_policies.random.v3.Random":                    {works: "locality_lb_config"},
	"envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest":       {works: "choice_count active_request_bias slow_start_config locality_lb_config selection_method"},
	"envoy.extensions.load_balancing_policies.common.v3.SlowStartConfig":           {works: "slow_start_window aggression min_weight_percent"},
	"envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided": {},
	"envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash": {
		works: "hash_function minimum_ring_size maximum_ring_size use_hostname_for_hashing hash_balance_factor consistent_hashing_lb_config locality_weighted_lb_config",
	},
	"envoy.extensions.load_balancing_policies.maglev.v3.Maglev": {works: "table_size consistent_hashing_lb_config locality_weighted_lb_config"},
	"envoy.extensions.load_balancing_policies.common.v3.ConsistentHashingLbConfig": {
		works:   "use_hostname_for_hashing hash_balance_factor",
		refused: map[string]string{"hash_policy": "routes and tcp_proxy have a hash_policy of their own"},
	},
	"envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig":                          {works: "zone_aware_lb_config locality_weighted_lb_config"},
	"envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.LocalityWeightedLbConfig": {},
	"envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.ZoneAwareLbConfig": {
		works: "fail_traffic_on_panic",
		ignored: map[string]string{
			"routing_enabled":  "needs the local cluster (cluster_manager.local_cluster_name), which is refused: without it Envoy does not route by zone either",
			"min_cluster_size": "see routing_enabled",
		},
	},

	"envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport": {
		works: "config transport_socket",
		ignored: map[string]string{
			"tlv_as_pool_key": "every TCP connection has one of its own upstream",
		},
		refused: map[string]string{"allow_unspecified_address": "Envoy does not implement it either"},
	},
	"envoy.config.core.v3.ProxyProtocolConfig":          {works: "version pass_through_tlvs added_tlvs"},
	"envoy.config.core.v3.ProxyProtocolPassThroughTLVs": {works: "match_type tlv_type"},
	"envoy.config.core.v3.TlvEntry":                     {works: "type value format_string"},
	"envoy.config.core.v3.PerHostConfig":                {works: "added_tlvs"},

	"envoy.config.core.v3.HealthCheck": {
		works: "timeout interval initial_jitter interval_jitter interval_jitter_percent unhealthy_threshold healthy_threshold " +
			"alt_port reuse_connection http_health_check tcp_health_check grpc_health_check no_traffic_interval " +
			"no_traffic_healthy_interval unhealthy_interval unhealthy_edge_interval healthy_edge_interval event_log_path " +
			"event_logger always_log_health_check_failures tls_options transport_socket_match_criteria",
		ignored: map[string]string{"always_log_health_check_success": telemetry, "name": informative},
	},
	"envoy.config.core.v3.HealthCheck.TlsOptions":     {works: "alpn_protocols"},
	"envoy.config.core.v3.HealthCheck.Payload":        {works: "text binary"},
	"envoy.config.core.v3.HealthCheck.TcpHealthCheck": {works: "send receive"},
	"envoy.config.core.v3.HealthCheck.HttpHealthCheck": {
		works: "host path send receive request_headers_to_add request_headers_to_remove expected_statuses retriable_statuses " +
			"codec_client_type service_name_matcher method",
		ignored: map[string]string{"response_buffer_size": "as much of a body is read as receive needs, within a fixed limit"},
	},
	"envoy.config.core.v3.HealthCheck.GrpcHealthCheck":                           {works: "service_name authority initial_metadata"},
	"envoy.config.core.v3.HeaderValueOption":                                     {works: "header append append_action keep_empty_value"},
	"envoy.config.core.v3.HeaderValue":                                           {works: "key value raw_value"},
	"envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink": {works: "event_log_path"},
}
