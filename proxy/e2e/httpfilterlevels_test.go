//go:build envoy

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

const filterType = `"@type": type.googleapis.com/envoy.extensions.filters.http.`

// layered is a listener with one filter, and what its routes, its virtual host
// and its route configuration have for it.
func layered(name, filter, table, host, routes string) string {
	text := hcm(name, "", fmt.Sprintf("- name: all\n  domains: [\"*\"]\n  %s\n  routes:\n%s\n  - match: {prefix: /}\n    route: {cluster: h1}\n", host, routes))
	text = strings.Replace(text, "http_filters: [{", "http_filters: ["+filter+", {", 1)
	return strings.Replace(text, "validate_clusters: false", "validate_clusters: false\n            "+table, 1)
}

// asked is a request and on which listener.
type asked struct{ listener, name, raw string }

func levelListeners() string {
	mutation := func(value string) string {
		return `{mutations: {request_mutations: [{append: {header: {key: x-m, value: ` + value + `}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}], response_mutations: [{append: {header: {key: x-n, value: ` + value + `}}}]}`
	}
	override := func(of, value string) string {
		return `typed_per_filter_config: {f: {` + filterType + of + `, ` + strings.TrimPrefix(value, "{") + `}}`
	}
	full := `{numerator: 100}`
	return layered("mutation", `{name: f, typed_config: {`+filterType+`header_mutation.v3.HeaderMutation, `+strings.TrimPrefix(mutation("filter"), "{")+`}}`,
		override("header_mutation.v3.HeaderMutationPerRoute", mutation("table")),
		override("header_mutation.v3.HeaderMutationPerRoute", mutation("host")),
		"  - match: {prefix: /route}\n    route: {cluster: h1}\n    "+override("header_mutation.v3.HeaderMutationPerRoute", mutation("route"))) +
		layered("policies", `{name: f, typed_config: {`+filterType+`cors.v3.Cors}}`, "",
			override("cors.v3.CorsPolicy", `{allow_origin_string_match: [{prefix: "http://ok"}], allow_methods: "GET, PUT", allow_headers: "*", max_age: "10", allow_credentials: true, expose_headers: x-e`),
			"  - match: {prefix: /less}\n    route: {cluster: h1}\n    "+override("cors.v3.CorsPolicy", `{allow_credentials: false, forward_not_matching_preflights: false`)+
				"\n  - match: {prefix: /off}\n    route: {cluster: h1}\n    "+override("cors.v3.CorsPolicy", `{filter_enabled: {default_value: {numerator: 0}}`)) +
		layered("descriptors", `{name: f, typed_config: {`+filterType+`local_ratelimit.v3.LocalRateLimit, stat_prefix: usual}}`, "", "",
			"  - match: {prefix: /limited}\n    route: {cluster: h1, rate_limits: [{actions: [{request_headers: {header_name: x-who, descriptor_key: who}}, {generic_key: {descriptor_value: g}}]}]}\n    "+
				override("local_ratelimit.v3.LocalRateLimit", `{stat_prefix: described, token_bucket: {max_tokens: 4, tokens_per_fill: 1, fill_interval: 1000s},
              filter_enabled: {default_value: `+full+`}, filter_enforced: {default_value: `+full+`}, enable_x_ratelimit_headers: DRAFT_VERSION_03,
              descriptors: [{entries: [{key: who, value: me}, {key: generic_key, value: g}], token_bucket: {max_tokens: 1, tokens_per_fill: 1, fill_interval: 2000s}},
                            {entries: [{key: who}, {key: generic_key, value: g}], token_bucket: {max_tokens: 2, tokens_per_fill: 1, fill_interval: 3000s}}]`)) +
		layered("faults", `{name: f, typed_config: {`+filterType+`fault.v3.HTTPFault, delay: {header_delay: {}, percentage: `+full+`}, abort: {header_abort: {}, percentage: `+full+`}}}`, "", "", "") +
		layered("counts", `{name: f, typed_config: {`+filterType+`grpc_stats.v3.FilterConfig, individual_method_stats_allowlist: {services: [{name: a.b.S, method_names: [M]}]}, enable_upstream_stats: true}}`, "", "", "") +
		layered("checks", `{name: f, typed_config: {`+filterType+`health_check.v3.HealthCheck, pass_through_mode: true, cache_time: 3600s, headers: [{name: ":path", string_match: {prefix: /status/}}]}}`, "", "", "") +
		layered("rules", `{name: f, typed_config: {`+filterType+`rbac.v3.RBAC, rules_stat_prefix: r, shadow_rules_stat_prefix: s, track_per_rule_stats: true,
              rules: {action: DENY, policies: {
                "a template": {permissions: [{uri_template: {name: t, typed_config: {"@type": type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: "/a/{one}/*.txt"}}}], principals: [{any: true}]},
                far: {permissions: [{url_path: {path: {exact: /far}}}], principals: [{remote_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}]},
                near: {permissions: [{url_path: {path: {exact: /near}}}], principals: [{source_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}]},
                named: {permissions: [{any: true}], principals: [{authenticated: {principal_name: {exact: "spiffe://a/b"}}}]}}},
              shadow_rules: {action: ALLOW, policies: {get: {permissions: [{header: {name: ":method", string_match: {exact: GET}}}], principals: [{not_id: {header: {name: x-no, present_match: true}}}]}}}}}`, "", "", "")
}

// grpcPost is a request with two messages, of one byte and of none.
func grpcPost(path string) string {
	return "POST " + path + " HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 11\r\n\r\n\x00\x00\x00\x00\x01x\x00\x00\x00\x00\x00"
}

func TestHTTPFiltersOfAllLevelsAreTheSameAsEnvoys(t *testing.T) {
	p := both(t, "static_resources:\n  listeners:"+levelListeners()+"\n  clusters:"+httpCluster("h1", origin(t), ""))
	preflight := func(path, origin string) string {
		return "OPTIONS " + path + " HTTP/1.1\r\nHost: a\r\nOrigin: " + origin + "\r\nAccess-Control-Request-Method: PUT\r\n\r\n"
	}
	all := []asked{
		{"mutation", "the least specific wins", get("/route")}, {"mutation", "without the route", get("/")},
		{"policies", "the virtual host's", preflight("/", "http://ok.a")}, {"policies", "another origin goes on", preflight("/", "http://no")},
		{"policies", "another origin does not go on", preflight("/less", "http://no")}, {"policies", "merged by field", preflight("/less", "http://ok")},
		{"policies", "switched off", preflight("/off", "http://ok")}, {"policies", "a response", get("/", "Origin: http://ok")}, {"policies", "a response, merged", get("/less", "Origin: http://ok")},
		{"faults", "aborted", get("/", "x-envoy-fault-abort-request: 555")}, {"faults", "aborted for gRPC", get("/", "x-envoy-fault-abort-grpc-request: 5", "content-type: application/grpc")},
		{"faults", "aborted for gRPC, by HTTP", get("/", "x-envoy-fault-abort-grpc-request: 5")}, {"faults", "never by chance", get("/", "x-envoy-fault-abort-request: 500", "x-envoy-fault-abort-request-percentage: 0")},
		{"faults", "delayed", get("/", "x-envoy-fault-delay-request: 5", "x-envoy-downstream-service-cluster: dsc")}, {"faults", "delayed and aborted", get("/", "x-envoy-fault-delay-request: 5", "x-envoy-fault-abort-request: 500")},
		{"faults", "no status", get("/", "x-envoy-fault-abort-request: 600")},
		{"checks", "the upstream's answer", get("/status/404")}, {"checks", "is kept", get("/status/200")}, {"checks", "another request", get("/x")},
		{"counts", "a listed method", grpcPost("/a.b.S/M")}, {"counts", "another method", grpcPost("/a.b.S/N")}, {"counts", "no method", grpcPost("/a")},
		{"rules", "a template", get("/a/b/c.txt?q")}, {"rules", "no template", get("/a/b/c/d.txt")}, {"rules", "near", get("/near", "x-forwarded-for: 10.1.1.1")}, {"rules", "far", get("/far", "x-forwarded-for: 10.1.1.1")},
		{"rules", "a name in a header", get("/", `x-forwarded-client-cert: URI=spiffe://a/b`)}, {"rules", "shadow denied", get("/", "x-no: 1")},
	}
	for i, who := range []string{"me", "me", "a", "a", "a", "b", "", ""} {
		raw := get("/limited")
		if who != "" {
			raw = get("/limited", "x-who: "+who)
		}
		all = append(all, asked{"descriptors", fmt.Sprintf("%d %q", i, who), raw})
	}
	for _, c := range all {
		t.Run(c.listener+": "+c.name, func(t *testing.T) {
			method, _, _ := strings.Cut(c.raw, " ")
			p.same(t, c.listener, func(addr string) []exchanged { return ask1(addr, c.raw, method) })
		})
	}
	for _, prefix := range []string{"http.policies.cors.", "http.faults.fault.", "http.rules.rbac.", "http.checks.health_check.", "cluster.h1.grpc.", "described.", "usual."} {
		p.sameStats(t, prefix)
	}
}
