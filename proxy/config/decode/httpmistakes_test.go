package decode

import (
	"strings"
	"testing"
)

const (
	hcm0   = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config"
	vhost0 = hcm0 + ".route_config.virtual_hosts[0]"
	route0 = vhost0 + ".routes[0]"

	typeOf     = `"@type": type.googleapis.com/envoy.extensions.`
	prefixOnly = "match: {prefix: /}"
	toUp       = "route: {cluster: up}"
	inHCM      = "stat_prefix: s"
	inRoutes   = "            name: local"
	inVHost    = `domains: ["*"]`
	inFilters  = "          http_filters:\n"
	inCluster  = "    connect_timeout: 1s"
	template   = `path_match_policy: {name: t, typed_config: {` + typeOf + `path.match.uri_template.v3.UriTemplateMatchConfig, path_template: `
	options    = `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {` + typeOf + `upstreams.http.v3.HttpProtocolOptions, `
)

// withFilter is inFilters with a filter before the router.
func withFilter(typeName, fields string) string {
	return inFilters + "          - {name: f, typed_config: {" + typeOf + "filters.http." + typeName + ", " + fields + "}}\n"
}

const lastFilter = inFilters + "          - name: router\n            typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}\n"

const corsURL = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"

// byDiscovery is inFilters with a filter by discovery before the router.
func byDiscovery(fields string) string {
	return inFilters + "          - {name: f, config_discovery: {config_source: {path_config_source: {path: /dev/null}}, " + fields + "}}\n"
}

// routeFilter is a route with configuration for a filter.
func routeFilter(typeName, fields string) string {
	return prefixOnly + "\n                typed_per_filter_config: {f: {" + typeOf + "filters.http." + typeName + ", " + fields + "}}"
}

// inMatch, inAction, and the others are what stands there in httpBase, with
// more in it.
func inMatch(fields string) string  { return "match: {prefix: /, " + fields + "}" }
func inAction(fields string) string { return "route: {cluster: up, " + fields + "}" }

const (
	filter0   = hcm0 + ".http_filters[0].typed_config"
	override0 = route0 + `.typed_per_filter_config["f"]`
	upHTTP    = up0 + `.typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]`
)

// httpMistakes are of httpBase.
var httpMistakes = []mistake{
	{"no routes", "route_config:\n            name: local\n            virtual_hosts:\n            - name: all\n              domains: [\"*\"]\n              routes:\n              - match: {prefix: /}\n                route: {cluster: up}\n", "via: x\n", hcm0 + `: one of rds, route_config, scoped_routes must be set`, ""},
	{"no filters", inFilters + "          - name: router\n            typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}\n", "", hcm0 + `.http_filters: has no filter: the last one is the router`, "requests get no answer"},
	{"a last filter that is not the router", "http.router.v3.Router", "http.cors.v3.Cors", hcm0 + `.http_filters[0]: router does not end the chain: the last filter must be the router`, ""},
	{"a router before the last", inFilters, withFilter("router.v3.Router", ""), hcm0 + `.http_filters[0]: f ends the chain: it must be the last filter`, ""},
	{"a router that is disabled", "- name: router", "- disabled: true\n            name: router", hcm0 + `.http_filters[0].disabled: is not for the filter that ends the chain`, ""},
	{"a filter that is not supported", inFilters, withFilter("lua.v3.Lua", "inline_code: 'function envoy_on_request(h) end'"), filter0, "it has it"},
	{"a filter by discovery at the end", lastFilter, byDiscovery("type_urls: [" + corsURL + "]"), hcm0 + `.http_filters[0].config_discovery: is not for the last filter`, "it takes the router by discovery"},
	{"a filter by discovery of types that are not there", inFilters, byDiscovery("type_urls: [a.B, c.D]"), hcm0 + `.http_filters[0].config_discovery.type_urls: outrider supports none of a.B, c.D`, ""},
	{"a filter by discovery of no types", inFilters, byDiscovery("type_urls: []"), hcm0 + `.http_filters[0].config_discovery.type_urls: value must contain at least 1 item(s)`, ""},
	{"a default of another type", inFilters, byDiscovery("type_urls: [" + corsURL + "], default_config: {" + typeOf + "filters.http.buffer.v3.Buffer, max_request_bytes: 1}"), hcm0 + `.http_filters[0].config_discovery.default_config: envoy.extensions.filters.http.buffer.v3.Buffer is not among type_urls`, ""},
	{"a default that is wrong", inFilters, byDiscovery("type_urls: [" + corsURL + "], default_config: {" + typeOf + "filters.http.buffer.v3.Buffer, max_request_bytes: 0}"), hcm0 + `.http_filters[0].config_discovery.default_config.max_request_bytes: `, ""},
	{"no default to apply", inFilters, byDiscovery("apply_default_config_without_warming: true, type_urls: [" + corsURL + "]"), hcm0 + `.http_filters[0].config_discovery.apply_default_config_without_warming: needs a default_config`, ""},
	{"HTTP/3", inHCM, inHCM + "\n          codec_type: HTTP3", hcm0 + `.codec_type: HTTP3 is not supported by outrider`, ""},
	{"scoped routes", "route_config:", "scoped_routes:", hcm0 + `.scoped_routes`, ""},
	{"ports stripped twice", inHCM, inHCM + "\n          strip_matching_host_port: true\n          strip_any_host_port: true", hcm0 + `.strip_matching_host_port: cannot be set together with strip_any_host_port`, ""},
	{"a stat prefix that is empty", inHCM, "stat_prefix: ''", hcm0 + `.stat_prefix: value length must be at least 1 runes`, ""},
	{"headers that are too large", inHCM, inHCM + "\n          max_request_headers_kb: 8193", hcm0 + `.max_request_headers_kb: 8193: value must be inside range (0, 8192]`, ""},
	{"an upgrade twice", inHCM, inHCM + "\n          upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: WebSocket}]", hcm0 + `.upgrade_configs[1].upgrade_type: "WebSocket" is the type of another upgrade`, ""},
	{"an upgrade with filters that end nowhere", inHCM, inHCM + "\n          upgrade_configs: [{upgrade_type: websocket, filters: [{name: c, typed_config: {" + typeOf + "filters.http.cors.v3.Cors}}]}]", hcm0 + `.upgrade_configs[0].filters[0]: c does not end the chain`, ""},
	{"two ways to say when the log is written", inHCM, inHCM + "\n          access_log_flush_interval: 1s\n          access_log_options: {}", hcm0 + `.access_log_options: cannot be set together with access_log_flush_interval`, ""},
	{"a request ID that is none", inHCM, inHCM + "\n          request_id_extension: {typed_config: {" + typeOf + "filters.http.cors.v3.Cors}}", hcm0 + `.request_id_extension.typed_config: "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors" is not supported by outrider as a request ID`, ""},
	{"spans", inHCM, inHCM + "\n          tracing: {provider: {name: envoy.tracers.zipkin, typed_config: {\"@type\": type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, collector_cluster: up, collector_endpoint: /x, collector_endpoint_version: HTTP_JSON}}}", hcm0 + `.tracing.provider: is not supported by outrider`, "it makes them"},
	{"internal addresses that are none", inHCM, inHCM + "\n          internal_address_config: {cidr_ranges: [{address_prefix: x, prefix_len: 1}]}", hcm0 + `.internal_address_config.cidr_ranges[0].address_prefix: "x" is not an address`, ""},
	{"a user agent of its own", inHCM, inHCM + "\n          add_user_agent: true", hcm0 + `.add_user_agent: is not supported by outrider`, "it sets it"},
	{"a local reply with a header that decides", inHCM, inHCM + "\n          local_reply_config: {mappers: [{filter: {status_code_filter: {comparison: {op: EQ, value: {default_value: 404, runtime_key: x}}}}, headers_to_add: [{header: {key: ':status', value: '200'}}]}]}", hcm0 + `.local_reply_config.mappers[0].headers_to_add[0].header.key: ":status": pseudo-headers and host may not be changed here`, ""},
	{"a status that is none in a local reply", inHCM, inHCM + "\n          local_reply_config: {mappers: [{filter: {not_health_check_filter: {}}, status_code: 600}]}", hcm0 + `.local_reply_config.mappers[0].status_code: 600: value must be inside range [200, 600)`, ""},
	{"a connection that tells nothing upstream", inHCM, inHCM + "\n          add_proxy_protocol_connection_state: false", hcm0 + `.add_proxy_protocol_connection_state: false is not supported by outrider`, "it does not tell"},
	{"a keepalive without a timeout", inHCM, inHCM + "\n          http2_protocol_options: {connection_keepalive: {interval: 1s}}", hcm0 + `.http2_protocol_options.connection_keepalive.timeout: value is required`, ""},
	{"a window that is too small", inHCM, inHCM + "\n          http2_protocol_options: {initial_stream_window_size: 1000}", hcm0 + `.http2_protocol_options.initial_stream_window_size: 1000: value must be inside range [65535, 2147483647]`, ""},
	{"no header table", inHCM, inHCM + "\n          http2_protocol_options: {hpack_table_size: 0}", hcm0 + `.http2_protocol_options.hpack_table_size: 0 is not supported by outrider`, "headers are sent without a table"},
	{"METADATA frames", inHCM, inHCM + "\n          http2_protocol_options: {allow_metadata: true}", hcm0 + `.http2_protocol_options.allow_metadata: is not supported by outrider`, "it has them"},
	{"letters of headers preserved", inHCM, inHCM + "\n          http_protocol_options: {header_key_format: {stateful_formatter: {name: p, typed_config: {" + typeOf + "http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig}}}}", hcm0 + `.http_protocol_options.header_key_format.stateful_formatter`, "it has it"},

	{"RDS without a name", "route_config:\n            name: local\n            virtual_hosts:\n            - name: all\n              domains: [\"*\"]\n              routes:\n              - match: {prefix: /}\n                route: {cluster: up}\n", "rds: {config_source: {ads: {}, resource_api_version: V3}}\n", hcm0 + `.rds.route_config_name: must be set`, "it is asked for as it is"},
	{"RDS from a file that is not there", "route_config:\n            name: local\n            virtual_hosts:\n            - name: all\n              domains: [\"*\"]\n              routes:\n              - match: {prefix: /}\n                route: {cluster: up}\n", "rds: {route_config_name: r, config_source: {path_config_source: {path: testdata/none.yaml}, resource_api_version: V3}}\n", hcm0 + `.rds.config_source.path_config_source.path: open testdata/none.yaml`, ""},

	{"a domain twice", inVHost, `domains: [a.example, A.example]`, vhost0 + `.domains[1]: "a.example" is a domain of virtual host "all" too`, ""},
	{"a domain of two virtual hosts", "            - name: all\n", "            - {name: other, domains: ['*'], routes: []}\n            - name: all\n", hcm0 + `.route_config.virtual_hosts[1].domains[0]: "*" is a domain of virtual host "other" too`, ""},
	{"a star in the middle of a domain", inVHost, `domains: ["a.*.example"]`, vhost0 + `.domains[0]: "a.*.example" is not a wildcard`, "it is a star"},
	{"stars at both ends of a domain", inVHost, `domains: ["*.example.*"]`, vhost0 + `.domains[0]: "*.example.*" is not a wildcard`, "the second is a star"},
	{"a virtual host without a domain", inVHost, "domains: []", vhost0 + `.domains: value must contain at least 1 item(s)`, ""},
	{"a virtual host without a name", "- name: all", "- name: ''", vhost0 + `.name: value length must be at least 1 runes`, ""},
	{"a virtual cluster that nothing tells", inVHost, inVHost + "\n              virtual_clusters: [{name: v}]", vhost0 + `.virtual_clusters[0].headers: is empty`, ""},
	{"two limits for one body", inVHost, inVHost + "\n              per_request_buffer_limit_bytes: 1\n              request_body_buffer_limit: 2", vhost0 + `.request_body_buffer_limit: cannot be set together with per_request_buffer_limit_bytes`, "the newer one counts"},
	{"hedged requests", inVHost, inVHost + "\n              hedge_policy: {hedge_on_per_try_timeout: true}", vhost0 + `.hedge_policy: is not supported by outrider: requests are not hedged`, "it hedges"},
	{"rate limits of a service", inVHost, inVHost + "\n              rate_limits: [{limit: {dynamic_metadata: {metadata_key: {key: a, path: [{key: b}]}}}, actions: [{remote_address: {}}]}]", vhost0 + `.rate_limits[0].limit: is not supported by outrider: is for the rate limit service`, "it has it"},

	{"a route without a match", prefixOnly, "match: {}", route0 + `.match: one of prefix, path, safe_regex, connect_matcher, path_separated_prefix, path_match_policy must be set`, ""},
	{"a route without an action", toUp, "name: r", route0 + `: one of route, redirect, direct_response, filter_action, non_forwarding_action must be set`, ""},
	{"a path expression that is none", prefixOnly, "match: {safe_regex: {regex: '(a'}}", route0 + `.match.safe_regex.regex: "(a": error parsing regexp`, ""},
	{"an expression that RE2 has not", prefixOnly, "match: {safe_regex: {regex: 'a(?=b)'}}", route0 + `.match.safe_regex.regex: "a(?=b)": error parsing regexp`, ""},
	{"a separated prefix with a slash at its end", prefixOnly, "match: {path_separated_prefix: /a/}", route0 + `.match.path_separated_prefix: "/a/": value does not match regex pattern`, ""},
	{"a template that is none", prefixOnly, "match: {" + template + "'/{a}/{a}'}}}", route0 + `.match.path_match_policy.typed_config.path_template: "/{a}/{a}": variable "a" is there twice`, ""},
	{"a template with a slash too much", prefixOnly, "match: {" + template + "'/a//b'}}}", route0 + `.match.path_match_policy.typed_config.path_template: "/a//b": a segment is empty`, ""},
	{"a template with more after **", prefixOnly, "match: {" + template + "'/{a=**}/{b}'}}}", route0 + `.match.path_match_policy.typed_config.path_template: "/{a=**}/{b}": * stands after **`, ""},
	{"a template with a brace that is open", prefixOnly, "match: {" + template + "'/{a'}}}", route0 + `.match.path_match_policy.typed_config.path_template: "/{a": "{a" has no closing brace`, ""},
	{"a template with six variables", prefixOnly, "match: {" + template + "'/{a}/{b}/{c}/{d}/{e}/{f}'}}}", route0 + `.match.path_match_policy.typed_config.path_template: "/{a}/{b}/{c}/{d}/{e}/{f}": has more than 5 variables`, ""},
	{"a template with a name that is too long", prefixOnly, "match: {" + template + "'/{abcdefghijklmnopq}'}}}", route0 + `.match.path_match_policy.typed_config.path_template`, ""},
	{"a range of numbers that holds none", prefixOnly, inMatch("headers: [{name: x, range_match: {start: 5, end: 5}}]"), route0 + `.match.headers[0].range_match: [5, 5) holds no number`, "nothing matches"},
	{"a header without a name", prefixOnly, inMatch("headers: [{name: ''}]"), route0 + `.match.headers[0].name: value length must be at least 1 runes`, ""},
	{"a header expression that is none", prefixOnly, inMatch("headers: [{name: x, safe_regex_match: {regex: '['}}]"), route0 + `.match.headers[0].safe_regex_match.regex: "[": error parsing regexp`, ""},
	{"a query parameter without a name", prefixOnly, inMatch("query_parameters: [{name: ''}]"), route0 + `.match.query_parameters[0].name: value length must be at least 1 runes`, ""},
	{"a cookie without a matcher", prefixOnly, inMatch("cookies: [{name: c}]"), route0 + `.match.cookies[0].string_match: value is required`, ""},

	{"a cluster that is unknown", toUp, "route: {cluster: down}", route0 + `.route.cluster: unknown cluster "down"`, ""},
	{"a route to nowhere", toUp, "route: {timeout: 1s}", route0 + `.route: one of cluster, cluster_header, weighted_clusters, cluster_specifier_plugin, inline_cluster_specifier_plugin must be set`, ""},
	{"weights of nothing", toUp, "route: {weighted_clusters: {clusters: [{name: up, weight: 0}]}}", route0 + `.route.weighted_clusters: weights sum to 0`, ""},
	{"weights that are too much", toUp, "route: {weighted_clusters: {clusters: [{name: up, weight: 4294967295}, {name: up, weight: 1}]}}", route0 + `.route.weighted_clusters: weights sum to 4294967296`, ""},
	{"a weighted cluster without a name", toUp, "route: {weighted_clusters: {clusters: [{weight: 1}]}}", route0 + `.route.weighted_clusters.clusters[0]: one of name, cluster_header must be set`, ""},
	{"a weighted cluster without a weight", toUp, "route: {weighted_clusters: {clusters: [{name: up}]}}", route0 + `.route.weighted_clusters.clusters[0].weight: must be set`, ""},
	{"a weighted cluster with two names", toUp, "route: {weighted_clusters: {clusters: [{name: up, cluster_header: x, weight: 1}]}}", route0 + `.route.weighted_clusters.clusters[0].cluster_header: cannot be set together with name`, ""},
	{"a weighted cluster that is unknown", toUp, "route: {weighted_clusters: {clusters: [{name: down, weight: 1}]}}", route0 + `.route.weighted_clusters.clusters[0].name: unknown cluster "down"`, ""},
	{"two rewrites of the path", toUp, inAction("prefix_rewrite: /x, regex_rewrite: {pattern: {regex: a}, substitution: b}"), route0 + `.route.regex_rewrite: cannot be set together with prefix_rewrite`, ""},
	{"a rewrite with a group that is not there", toUp, inAction("regex_rewrite: {pattern: {regex: (a)}, substitution: '\\2'}"), route0 + `.route.regex_rewrite.substitution: "\\2": the expression has no group 2`, "nothing is replaced"},
	{"a rewrite with a backslash too much", toUp, inAction("regex_rewrite: {pattern: {regex: (a)}, substitution: '\\x'}"), route0 + `.route.regex_rewrite.substitution: "\\x": a backslash stands before a digit or a backslash`, "nothing is replaced"},
	{"a rewrite by a template without one", toUp, inAction("path_rewrite_policy: {name: t, typed_config: {" + typeOf + "path.rewrite.uri_template.v3.UriTemplateRewriteConfig, path_template_rewrite: /x}}"), route0 + `.route.path_rewrite_policy.typed_config.path_template_rewrite: needs a route that matches by a path template`, ""},
	{"a rewrite with a variable that is not matched", prefixOnly + "\n                " + toUp, "match: {" + template + "'/{a}'}}}\n                " + inAction("path_rewrite_policy: {name: t, typed_config: {"+typeOf+"path.rewrite.uri_template.v3.UriTemplateRewriteConfig, path_template_rewrite: '/{b}'}}"), route0 + `.route.path_rewrite_policy.typed_config.path_template_rewrite: "/{b}": the template that is matched has no variable "b"`, ""},
	{"a retry policy that ends before it begins", toUp, inAction("retry_policy: {retry_back_off: {base_interval: 2s, max_interval: 1s}}"), route0 + `.route.retry_policy.retry_back_off.max_interval: 1s is below base_interval, 2s`, ""},
	{"a predicate of hosts that is none", toUp, inAction("retry_policy: {retry_host_predicate: [{name: x, typed_config: {" + typeOf + "filters.http.cors.v3.Cors}}]}"), route0 + `.route.retry_policy.retry_host_predicate[0].typed_config: extension "x" is not supported by outrider as a predicate of hosts`, ""},
	{"a mirror to nowhere", toUp, inAction("request_mirror_policies: [{}]"), route0 + `.route.request_mirror_policies[0]: one of cluster, cluster_header must be set`, ""},
	{"a mirror to two places", toUp, inAction("request_mirror_policies: [{cluster: up, cluster_header: x}]"), route0 + `.route.request_mirror_policies[0].cluster_header: cannot be set together with cluster`, ""},
	{"a mirror that is unknown", toUp, inAction("request_mirror_policies: [{cluster: down}]"), route0 + `.route.request_mirror_policies[0].cluster: unknown cluster "down"`, ""},
	{"a hash of nothing", toUp, inAction("hash_policy: [{terminal: true}]"), route0 + `.route.hash_policy[0]: one of header, cookie, connection_properties, query_parameter, filter_state must be set`, ""},
	{"an upgrade of a route twice", toUp, inAction("upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: websocket}]"), route0 + `.route.upgrade_configs[1].upgrade_type: "websocket" is the type of another upgrade`, ""},
	{"a redirect by a status that is none", toUp, inAction("internal_redirect_policy: {redirect_response_codes: [200]}"), route0 + `.route.internal_redirect_policy.redirect_response_codes[0]: 200 is not one of 301, 302, 303, 307, 308`, "it is left out"},
	{"a host copied from a redirect", toUp, inAction("internal_redirect_policy: {response_headers_to_copy: [Host]}"), route0 + `.route.internal_redirect_policy.response_headers_to_copy[0]: "host": pseudo-headers and host may not be copied`, ""},
	{"subsets", toUp, inAction("metadata_match: {filter_metadata: {envoy.lb: {a: b}}}"), route0 + `.route.metadata_match: is not supported by outrider: subset load balancing is not implemented`, "it has them"},
	{"a timeout below zero", toUp, inAction("timeout: -1s"), route0 + `.route.timeout: -1s is out of range`, ""},
	{"a path added as a header", toUp, toUp + "\n                request_headers_to_add: [{header: {key: ':path', value: x}}]", route0 + `.request_headers_to_add[0].header.key: ":path": pseudo-headers and host may not be changed here`, ""},
	{"a host removed", toUp, toUp + "\n                request_headers_to_remove: [Host]", route0 + `.request_headers_to_remove[0]: "Host": pseudo-headers and host may not be removed`, ""},
	{"two ways to say what is appended", toUp, toUp + "\n                request_headers_to_add: [{header: {key: x, value: x}, append: true, append_action: ADD_IF_ABSENT}]", route0 + `.request_headers_to_add[0].append: cannot be set together with append_action`, ""},
	{"a header with a line break", toUp, toUp + "\n                request_headers_to_add: [{header: {key: \"a\\nb\", value: x}}]", route0 + `.request_headers_to_add[0].header.key: `, ""},
	{"a direct response with a status that is none", toUp, "direct_response: {status: 99}", route0 + `.direct_response.status: 99: value must be inside range [200, 600)`, ""},
	{"a body above its limit", toUp, "direct_response: {status: 200, body: {inline_string: " + strings.Repeat("a", 4097) + "}}", route0 + `.direct_response.body.inline_string: has 4097 bytes: max_direct_response_body_size_bytes is 4096`, ""},
	{"a redirect that rewrites twice", toUp, "redirect: {path_redirect: /x, prefix_rewrite: /y}", route0 + `.redirect.prefix_rewrite: cannot be set together with path_redirect`, ""},
	{"filters chosen by metadata", prefixOnly, prefixOnly + "\n                typed_per_filter_config: {f: {\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig}}", override0 + `.config: must be set, for disabled is false`, ""},
	{"a filter's own configuration at a route", prefixOnly, routeFilter("router.v3.Router", ""), override0 + `: envoy.extensions.filters.http.router.v3.Router is not supported by outrider as configuration of filter "f" for a route`, ""},

	{"an RBAC filter with a matcher", inFilters, withFilter("rbac.v3.RBAC", "matcher: {matcher_list: {matchers: []}}"), filter0 + `.matcher: is not supported by outrider: use rules`, ""},
	{"an RBAC filter with a condition", inFilters, withFilter("rbac.v3.RBAC", "rules: {policies: {p: {permissions: [{any: true}], principals: [{any: true}], condition: {ident_expr: {name: x}}}}}"), filter0 + `.rules.policies["p"].condition: is not supported by outrider`, "it has it"},
	{"a header of RBAC without a name", inFilters, withFilter("rbac.v3.RBAC", "rules: {policies: {p: {permissions: [{any: true}], principals: [{header: {name: ''}}]}}}"), filter0 + `.rules.policies["p"].principals[0].header.name: value length must be at least 1 runes`, ""},
	{"a path of RBAC that is none", inFilters, withFilter("rbac.v3.RBAC", "rules: {policies: {p: {permissions: [{url_path: {path: {safe_regex: {regex: '('}}}}], principals: [{any: true}]}}}"), filter0 + `.rules.policies["p"].permissions[0].url_path.path.safe_regex.regex: "(": error parsing regexp`, ""},
	{"a fault with a status that is none", inFilters, withFilter("fault.v3.HTTPFault", "abort: {http_status: 99}"), filter0 + `.abort.http_status: 99: value must be inside range [200, 600)`, ""},
	{"a fault of nothing", inFilters, withFilter("fault.v3.HTTPFault", "abort: {percentage: {numerator: 1}}"), filter0 + `.abort: one of http_status, grpc_status, header_abort must be set`, ""},
	{"a health check that is kept and not asked for", inFilters, withFilter("health_check.v3.HealthCheck", "pass_through_mode: false, cache_time: 1s"), filter0 + `.cache_time: is for pass_through_mode`, ""},
	{"a health check that passes and counts", inFilters, withFilter("health_check.v3.HealthCheck", "pass_through_mode: true, cluster_min_healthy_percentages: {up: {value: 1}}"), filter0 + `.cluster_min_healthy_percentages: is not for pass_through_mode`, "it passes"},
	{"a bucket that is filled too often", inFilters, withFilter("local_ratelimit.v3.LocalRateLimit", "stat_prefix: s, token_bucket: {max_tokens: 1, fill_interval: 0.049s}"), filter0 + `.token_bucket.fill_interval: 49ms is less than 50ms`, ""},
	{"a descriptor twice", inFilters, withFilter("local_ratelimit.v3.LocalRateLimit", "stat_prefix: s, token_bucket: {max_tokens: 1, fill_interval: 1s}, descriptors: [&d {entries: [{key: a, value: b}], token_bucket: {max_tokens: 1, fill_interval: 1s}}, *d]"), filter0 + `.descriptors[1]: "a=b" is another descriptor too`, ""},
	{"a stage of a filter's own rate limits", inFilters, withFilter("local_ratelimit.v3.LocalRateLimit", "stat_prefix: s, token_bucket: {max_tokens: 1, fill_interval: 1s}, rate_limits: [{stage: 1, actions: [{remote_address: {}}]}]"), filter0 + `.rate_limits[0]: may have no stage and no disable_key`, ""},
	{"a mask that is too long", toUp, inAction("rate_limits: [{actions: [{masked_remote_address: {v4_prefix_mask_len: 40}}]}]"), route0 + `.route.rate_limits[0].actions[0].masked_remote_address.v4_prefix_mask_len: 40: value must be less than or equal to 32`, ""},
	{"a rate limit by a list in metadata", toUp, inAction("rate_limits: [{actions: [{metadata: {descriptor_key: d, metadata_key: {key: k, path: [{key: a}, {index: 1}]}}}]}]"), route0 + `.route.rate_limits[0].actions[0].metadata.metadata_key.path[1]: must have a key`, "it takes lists"},
	{"a buffer of nothing", inFilters, withFilter("buffer.v3.Buffer", "max_request_bytes: 0"), filter0 + `.max_request_bytes: 0: value must be greater than 0`, ""},
	{"a compressor without a library", inFilters, withFilter("compressor.v3.Compressor", "choose_first: true"), filter0 + `.compressor_library: value is required`, ""},
	{"a path set by mutation", inFilters, withFilter("header_mutation.v3.HeaderMutation", "mutations: {request_mutations: [{append: {header: {key: ':path', value: x}}}]}"), filter0 + `.mutations.request_mutations[0].append.header.key: ":path": pseudo-headers and host may not be changed here`, ""},
	{"keys that are nothing", inFilters, withFilter("jwt_authn.v3.JwtAuthentication", "providers: {p: {local_jwks: {inline_string: '{}'}}}"), filter0 + `.providers["p"].local_jwks.inline_string: has no keys`, ""},
	{"a rate limit of a route without a bucket", prefixOnly, routeFilter("local_ratelimit.v3.LocalRateLimit", "stat_prefix: s"), override0 + `.token_bucket: must be set for a route`, ""},
	{"a library that compresses nothing", inFilters, withFilter("compressor.v3.Compressor", "compressor_library: {name: x, typed_config: {"+typeOf+"filters.http.cors.v3.Cors}}"), filter0 + `.compressor_library.typed_config: extension "x" is not supported by outrider as a compressor`, ""},
	{"a token of nobody", inFilters, withFilter("jwt_authn.v3.JwtAuthentication", "providers: {}, rules: [{match: {prefix: /}, requires: {provider_name: p}}]"), filter0 + `.rules[0].requires.provider_name: "p" is not among the providers`, ""},
	{"a requirement that is unknown", inFilters, withFilter("jwt_authn.v3.JwtAuthentication", "rules: [{match: {prefix: /}, requirement_name: r}]"), filter0 + `.rules[0].requirement_name: "r" is not in requirement_map`, ""},
	{"keys at no URL", inFilters, withFilter("jwt_authn.v3.JwtAuthentication", "providers: {p: {remote_jwks: {http_uri: {uri: '*', cluster: up, timeout: 1s}}}}"), filter0 + `.providers["p"].remote_jwks.http_uri.uri: "*" is not an http or https URL`, ""},
	{"an alternative that asks for nothing", inFilters, withFilter("jwt_authn.v3.JwtAuthentication", "rules: [{match: {prefix: /}, requires: {requires_any: {requirements: [{allow_missing: {}}, {}]}}}]"), filter0 + `.rules[0].requires.requires_any.requirements[1]: is empty`, "nothing is asked for"},
	{"a formatter that is none", inHCM, inHCM + "\n          local_reply_config: {body_format: {text_format: x, formatters: [{name: m, typed_config: {" + typeOf + "filters.http.cors.v3.Cors}}]}}", hcm0 + `.local_reply_config.body_format.formatters[0].typed_config: extension "m" is not supported by outrider as a formatter`, ""},
	{"a claim without a name", inFilters, withFilter("jwt_authn.v3.JwtAuthentication", "providers: {p: {local_jwks: {inline_string: '{\"keys\":[{}]}'}, claim_to_headers: [{header_name: x}]}}"), filter0 + `.providers["p"].claim_to_headers[0].claim_name: must be set`, ""},
	{"a host for authorization", inFilters, withFilter("ext_authz.v3.ExtAuthz", "http_service: {server_uri: {uri: 'http://x', cluster: up, timeout: 1s}, authorization_request: {headers_to_add: [{key: Host, value: x}]}}"), filter0 + `.http_service.authorization_request.headers_to_add[0].key: "Host": pseudo-headers and host may not be changed here`, ""},
	{"a provider without keys", inFilters, withFilter("jwt_authn.v3.JwtAuthentication", "providers: {p: {issuer: i}}"), filter0 + `.providers["p"]: one of remote_jwks, local_jwks must be set`, ""},
	{"keys that are none", inFilters, withFilter("jwt_authn.v3.JwtAuthentication", "providers: {p: {local_jwks: {inline_string: x}}}"), filter0 + `.providers["p"].local_jwks.inline_string: not a JWK set`, ""},
	{"a rule of tokens by a cookie", inFilters, withFilter("jwt_authn.v3.JwtAuthentication", "rules: [{match: {prefix: /, cookies: [{name: c, string_match: {exact: x}}]}}]"), filter0 + `.rules[0].match.cookies: is without effect here`, "it does not look"},
	{"authorization by nobody", inFilters, withFilter("ext_authz.v3.ExtAuthz", "transport_api_version: V3"), filter0 + `: one of grpc_service, http_service must be set`, "nobody is asked"},
	{"authorization by an API that is gone", inFilters, withFilter("ext_authz.v3.ExtAuthz", "grpc_service: {envoy_grpc: {cluster_name: up}}, transport_api_version: V2"), filter0 + `.transport_api_version: V2 is not supported: it must be V3`, ""},
	{"authorization by a cluster that is unknown", inFilters, withFilter("ext_authz.v3.ExtAuthz", "transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: down}}"), filter0 + `.grpc_service.envoy_grpc.cluster_name: unknown cluster "down"`, "nobody can be asked"},
	{"a prefix of authorization without a slash", inFilters, withFilter("ext_authz.v3.ExtAuthz", "transport_api_version: V3, http_service: {path_prefix: x, server_uri: {uri: x, cluster: up, timeout: 1s}}"), filter0 + `.http_service.path_prefix: "x" does not begin with /`, ""},

	{"options of HTTP twice", inCluster, inCluster + "\n    http_protocol_options: {}\n    " + options + "explicit_http_config: {http_protocol_options: {}}}}", up0 + `.http_protocol_options: cannot be set together with envoy.extensions.upstreams.http.v3.HttpProtocolOptions`, "the newer ones count"},
	{"options of HTTP without a protocol", inCluster, inCluster + "\n    " + options + "common_http_protocol_options: {}}}", upHTTP + `: one of explicit_http_config, use_downstream_protocol_config, auto_config must be set`, ""},
	{"a protocol by ALPN without TLS", inCluster, inCluster + "\n    " + options + "auto_config: {}}}", up0 + `.transport_socket: must be TLS: the cluster has auto_config, and ALPN decides`, ""},
	{"HTTP/3 to a cluster", inCluster, inCluster + "\n    " + options + "explicit_http_config: {http3_protocol_options: {}}}}", upHTTP + `.explicit_http_config.http3_protocol_options: is not supported by outrider`, ""},
	{"a filter on the way to a cluster", inCluster, inCluster + "\n    " + options + "explicit_http_config: {http_protocol_options: {}}, http_filters: [{name: b, typed_config: {" + typeOf + "filters.http.header_mutation.v3.HeaderMutation}}, {name: c, typed_config: {" + typeOf + "filters.http.upstream_codec.v3.UpstreamCodec}}]}}", upHTTP + `.http_filters[0]: extension "b" is not supported by outrider as an upstream HTTP filter`, "it has them"},
	{"preconnecting less than is needed", inCluster, inCluster + "\n    preconnect_policy: {per_upstream_preconnect_ratio: 0.5}", up0 + `.preconnect_policy.per_upstream_preconnect_ratio: 0.5: value must be inside range [1, 3]`, ""},
	{"preconnecting to what may come", inCluster, inCluster + "\n    preconnect_policy: {predictive_preconnect_ratio: 2}", up0 + `.preconnect_policy.predictive_preconnect_ratio: is not supported by outrider`, "it does"},
}

func TestMistakesOfHTTPAreNamedWithTheirPath(t *testing.T) {
	for _, m := range httpMistakes {
		t.Run(m.name, func(t *testing.T) {
			_, err := Bootstrap([]byte(m.textOf(t, httpBase)), Options{})
			if err == nil {
				t.Fatal("it is accepted")
			}
			if !strings.Contains(err.Error(), m.want) {
				t.Errorf("got\n%v\nwant a line with\n%s", err, m.want)
			}
		})
	}
}
