package decode

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"outrider/certs"
	"outrider/proxy/config"
)

// withLogFilter is base with an access log that has the filter.
func withLogFilter(filter string) []byte {
	return []byte(strings.Replace(base, "          stat_prefix: s", `          access_log:
          - filter: `+filter+`
            name: l
            typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog}
          stat_prefix: s`, 1))
}

func TestFiltersOfAccessLogs(t *testing.T) {
	yes, half := true, uint32(500_000)
	for filter, want := range map[string]*config.AccessLogFilter{
		"{status_code_filter: {comparison: {op: GE, value: {default_value: 500, runtime_key: k}}}}":                                                                                         {Status: true, Op: "GE", Value: 500},
		`{extension_filter: {name: cel, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter, expression: "response.code >= 400"}}}`: {Expression: "response.code >= 400"},
		"{not_health_check_filter: {}}":                                                                          {NotHealth: true},
		"{response_flag_filter: {flags: [UF, UC]}}":                                                              {IsFlags: true, Flags: []string{"UF", "UC"}},
		"{header_filter: {header: {name: X-A, present_match: true}}}":                                            {Header: &config.HeaderMatcher{Name: "x-a", Present: &yes}},
		"{header_filter: {header: {name: ':path', string_match: {prefix: /a}, invert_match: true}}}":             {Header: &config.HeaderMatcher{Name: ":path", String: &certs.StringMatcher{Kind: certs.MatchPrefix, Pattern: "/a"}, Invert: true}},
		"{grpc_status_filter: {statuses: [UNAVAILABLE, INTERNAL], exclude: true}}":                               {GRPC: &config.GRPCStatusFilter{Statuses: []uint32{14, 13}, Exclude: true}},
		"{log_type_filter: {types: [DownstreamEnd], exclude: true}}":                                             {LogTypes: []string{"DownstreamEnd"}, ExcludeTypes: true},
		"{runtime_filter: {runtime_key: k, percent_sampled: {numerator: 50}}}":                                   {RuntimePPM: &half, RuntimeUnit: 10_000},
		"{runtime_filter: {runtime_key: k, percent_sampled: {numerator: 50}, use_independent_randomness: true}}": {RuntimePPM: &half, RuntimeUnit: 10_000, Independent: true},
		"{and_filter: {filters: [{not_health_check_filter: {}}, {grpc_status_filter: {statuses: [OK]}}]}}":       {And: []*config.AccessLogFilter{{NotHealth: true}, {GRPC: &config.GRPCStatusFilter{Statuses: []uint32{0}}}}},
	} {
		b, err := Bootstrap(withLogFilter(filter), Options{})
		if err != nil {
			t.Errorf("%s: %v", filter, err)
			continue
		}
		got := b.Listeners[0].Chains[0].Filters[0].TCPProxy.AccessLogs[0].Filter
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", filter, diff)
		}
	}
}

func TestFiltersOfAccessLogsThatAreNotThereAreRefused(t *testing.T) {
	for filter, want := range map[string]string{
		"{traceable_filter: {}}": "filter.traceable_filter",
		"{header_filter: {header: {name: a, string_match: {safe_regex: {regex: '('}}}}}":                                                                "filter.header_filter.header",
		`{extension_filter: {name: cel, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter}}}`: "filter.extension_filter.typed_config.expression: is empty",
		`{extension_filter: {name: other, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}}}`:                    `extension "other" is not supported`,
		"{}": "filter",
	} {
		if _, err := Bootstrap(withLogFilter(filter), Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error at %s", filter, err, want)
		}
	}
}
