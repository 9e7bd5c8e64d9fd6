//go:build envoy

package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

const allRoutes = `
- name: exact
  domains: ["exact.example", "exact.example:8080"]
  routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: "exact"}}}]
- name: suffix
  domains: ["*.example.org"]
  routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: "suffix"}}}]
- name: longer
  domains: ["*.b.example.org"]
  routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: "longer suffix"}}}]
- name: prefix
  domains: ["pre.*"]
  routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: "prefix"}}}]
- name: tls
  domains: ["secure.example"]
  require_tls: ALL
  routes: [{match: {prefix: /}, direct_response: {status: 200}}]
- name: all
  domains: ["*"]
  include_request_attempt_count: true
  include_attempt_count_in_response: true
  request_headers_to_add: [{header: {key: x-vhost, value: "all"}}]
  response_headers_to_add: [{header: {key: x-proto, value: "%PROTOCOL%"}}]
  routes:
  - {name: exact-path, match: {path: /exact}, direct_response: {status: 201, body: {inline_string: "exact path"}}, response_headers_to_add: [{header: {key: x-direct, value: "yes"}}]}
  - {match: {path: /CASE, case_sensitive: false}, direct_response: {status: 200, body: {inline_string: "case"}}}
  - {match: {path_separated_prefix: /sep}, direct_response: {status: 200, body: {inline_string: "separated"}}}
  - {match: {safe_regex: {regex: "/re/[0-9]+"}}, direct_response: {status: 200, body: {inline_string: "regex"}}}
  - {match: {prefix: /hdr, headers: [{name: x-a, string_match: {exact: "1"}}]}, direct_response: {status: 200, body: {inline_string: "x-a is 1"}}}
  - {match: {prefix: /hdr, headers: [{name: x-b, present_match: true, invert_match: true}]}, direct_response: {status: 200, body: {inline_string: "no x-b"}}}
  - {match: {prefix: /hdr, headers: [{name: x-n, range_match: {start: 5, end: 10}}]}, direct_response: {status: 200, body: {inline_string: "x-n in range"}}}
  - {match: {prefix: /q, query_parameters: [{name: a, string_match: {exact: "1"}}]}, direct_response: {status: 200, body: {inline_string: "a=1"}}}
  - {match: {prefix: /q, query_parameters: [{name: b, present_match: true}]}, direct_response: {status: 200, body: {inline_string: "b"}}}
  - {match: {prefix: /grpc, grpc: {}}, direct_response: {status: 403, body: {inline_string: "for grpc"}}}
  - {match: {prefix: /to-https}, redirect: {https_redirect: true}}
  - {match: {prefix: /to-host}, redirect: {host_redirect: other.example, response_code: FOUND}}
  - {match: {prefix: /to-port}, redirect: {port_redirect: 8443, scheme_redirect: https}}
  - {match: {prefix: /to-path}, redirect: {path_redirect: "/new?x=1", strip_query: true, response_code: TEMPORARY_REDIRECT}}
  - {match: {prefix: /to-prefix}, redirect: {prefix_rewrite: /rewritten}}
  - {match: {prefix: /to-regex}, redirect: {regex_rewrite: {pattern: {regex: "^/to-regex/(.*)$"}, substitution: '/r/\1'}}}
  - {match: {prefix: /rewrite/}, route: {cluster: h1, prefix_rewrite: /changed/}}
  - {match: {prefix: /rewrite-re/}, route: {cluster: h1, regex_rewrite: {pattern: {regex: "/rewrite-re/([a-z]+)/([0-9]+)"}, substitution: '/\2/\1'}}}
  - {match: {prefix: /host-literal}, route: {cluster: h1, host_rewrite_literal: literal.example, append_x_forwarded_host: true}}
  - {match: {prefix: /host-header}, route: {cluster: h1, host_rewrite_header: x-host}}
  - match: {prefix: /headers}
    route: {cluster: h1}
    request_headers_to_add:
    - {header: {key: x-added, value: "v"}}
    - {header: {key: x-over, value: "new"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
    - {header: {key: x-absent, value: "%REQ(x-in)%"}, append_action: ADD_IF_ABSENT}
    - {header: {key: x-only, value: "changed"}, append_action: OVERWRITE_IF_EXISTS}
    - {header: {key: x-remote, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}
    request_headers_to_remove: [x-gone]
    response_headers_to_add: [{header: {key: x-resp, value: "%RESPONSE_CODE%"}}]
    response_headers_to_remove: [x-out]
  - {match: {prefix: /missing}, route: {cluster: nowhere, cluster_not_found_response_code: NOT_FOUND}}
  - {match: {prefix: /missing503}, route: {cluster: nowhere}}
  - {match: {prefix: /by-header}, route: {cluster_header: x-cluster}}
  - {match: {prefix: /timeout/slow}, route: {cluster: h1, timeout: 0.1s, prefix_rewrite: /slow}}
  - {match: {prefix: /dead}, route: {cluster: dead}}
  - {match: {prefix: /nobody}, route: {cluster: nobody}}
  - {match: {prefix: /h2}, route: {cluster: h2}}
  - {match: {prefix: /retry}, route: {cluster: h1, prefix_rewrite: /status, retry_policy: {retry_on: "5xx", num_retries: 2, retry_back_off: {base_interval: 0.001s, max_interval: 0.01s}}}}
  - {match: {prefix: /}, route: {cluster: h1}}
`

// routed is the bootstrap of the comparison of routes.
func routed(t *testing.T) string {
	server := origin(t)
	return `
static_resources:
  listeners:` + hcm("in", "", allRoutes) + `
  clusters:` + httpCluster("h1", server, "") + httpCluster("h2", server, speaksHTTP2) +
		httpCluster("dead", "127.0.0.1:1", "") + "\n  - {name: nobody, type: STATIC, connect_timeout: 1s}\n"
}

func TestRoutesAreTheSameAsEnvoys(t *testing.T) {
	p := both(t, routed(t))
	for _, c := range []struct{ name, raw string }{
		{"exact domain", "GET / HTTP/1.1\r\nHost: exact.example\r\n\r\n"},
		{"exact domain in upper case", "GET / HTTP/1.1\r\nHost: EXACT.example\r\n\r\n"},
		{"domain with its port", "GET / HTTP/1.1\r\nHost: exact.example:8080\r\n\r\n"},
		{"domain with another port", "GET /nothing HTTP/1.1\r\nHost: exact.example:81\r\n\r\n"},
		{"suffix wildcard", "GET / HTTP/1.1\r\nHost: a.example.org\r\n\r\n"},
		{"the longer suffix wins", "GET / HTTP/1.1\r\nHost: a.b.example.org\r\n\r\n"},
		{"a wildcard needs one character", "GET /exact HTTP/1.1\r\nHost: example.org\r\n\r\n"},
		{"prefix wildcard", "GET / HTTP/1.1\r\nHost: pre.whatever\r\n\r\n"},
		{"TLS demanded", "GET /x?y=1 HTTP/1.1\r\nHost: secure.example\r\n\r\n"},
		{"exact path", get("/exact")},
		{"exact path with a query", get("/exact?a=b")},
		{"exact path of a HEAD", "HEAD /exact HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"case", get("/case")},
		{"separated prefix", get("/sep/x")}, {"separated prefix itself", get("/sep?x")}, {"not separated", get("/separate")},
		{"regex", get("/re/12")}, {"regex matches the whole path", get("/re/12x")},
		{"header exact", get("/hdr", "x-a: 1")}, {"header not there", get("/hdr")}, {"header in range", get("/hdr", "x-b: 1", "x-n: 7")},
		{"header out of range", get("/hdr", "x-b: 1", "x-n: 10")},
		{"query", get("/q?a=1")}, {"query present", get("/q?c=1&b")}, {"query of another value", get("/q?a=2")},
		{"grpc", get("/grpc", "content-type: application/grpc+proto")}, {"not grpc", get("/grpc", "content-type: application/grpcx")},
		{"https redirect", get("/to-https?x=1")}, {"host redirect", get("/to-host/p?q")}, {"port redirect", get("/to-port")},
		{"path redirect", get("/to-path/x?y=2")}, {"prefix redirect", get("/to-prefix/x?y")}, {"regex redirect", get("/to-regex/abc?d")},
		{"prefix rewrite", get("/rewrite/a?b=c")}, {"regex rewrite", get("/rewrite-re/abc/12?d")},
		{"host literal", get("/host-literal")}, {"host from header", get("/host-header", "x-host: from.header")},
		{"header operations", get("/headers?set-x-out=1", "x-over: old", "x-only: old", "x-in: in", "x-gone: 1")},
		{"header operations on nothing", get("/headers")},
		{"no such cluster, 404", get("/missing")}, {"no such cluster", get("/missing503")},
		{"cluster by header", get("/by-header", "x-cluster: h1")}, {"cluster by a header that is not there", get("/by-header")},
		{"timeout", get("/timeout/slow/2000")}, {"connection refused", get("/dead")}, {"no host", get("/nobody")},
		{"HTTP/2 upstream", get("/h2/x", "x-y: z")},
		{"retried to the end", get("/retry/503")}, {"not retried", get("/retry/404")},
		{"echo", get("/plain?x=1", "x-custom: 1", "Accept: */*")},
		{"body", "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"},
		{"chunked body", "POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"hop-by-hop fields", get("/p", "Connection: keep-alive, x-hop", "Keep-Alive: 1", "Proxy-Connection: x", "x-hop: 1", "TE: trailers", "Upgrade: foo")},
		{"envoy's own fields of a stranger", get("/p", "x-envoy-internal: true", "x-envoy-retry-on: 5xx", "x-envoy-upstream-rq-timeout-ms: 1", "x-forwarded-for: 1.2.3.4")},
		{"trusted by x-forwarded-for", get("/p", "x-forwarded-for: 10.1.2.3", "x-envoy-upstream-rq-timeout-ms: 5000", "x-forwarded-proto: https")},
		{"request ID kept", get("/p", "x-request-id: mine")},
		{"304", get("/status/304")}, {"204", get("/status/204")}, {"500", get("/status/500")},
		{"trailers of HTTP/1 are dropped", get("/trailers")}, {"trailers of HTTP/2", get("/h2/trailers")},
		{"big answer", get("/big/200000")},
		{"upstream resets", get("/reset")}, {"upstream resets the stream", get("/h2/reset")},
		{"no host field", "GET / HTTP/1.1\r\n\r\n"},
		{"absolute form", "GET http://exact.example/x HTTP/1.1\r\nHost: other\r\n\r\n"},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"},
		{"HTTP/1.0", "GET /p HTTP/1.0\r\nHost: a\r\n\r\n"},
		{"upgrade that is not allowed", get("/p", "Connection: Upgrade", "Upgrade: websocket")},
		{"expect continue", "POST /p HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi"},
	} {
		t.Run(c.name, func(t *testing.T) {
			method, _, _ := strings.Cut(c.raw, " ")
			p.same(t, "in", func(addr string) []exchanged { return ask1(addr, c.raw, method) })
		})
		if strings.HasPrefix(c.raw, "GET /") && strings.Contains(c.raw, "HTTP/1.1\r\nHost: a.example\r\n") && !strings.Contains(c.raw, "Connection:") {
			t.Run(c.name+", HTTP/2", func(t *testing.T) {
				p.same(t, "in", func(addr string) []exchanged { return []exchanged{ask2(addr, over2(t, c.raw))} })
			})
		}
	}
	p.sameStats(t, "http.in.", "downstream_cx", "_active", "rq_time")
	sameLogs(t, p)
}

// over2 is a request of HTTP/1 for HTTP/2.
func over2(t *testing.T, raw string) *http.Request {
	t.Helper()
	head, _, _ := strings.Cut(raw, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	target := strings.Fields(lines[0])[1]
	req, err := http.NewRequest("GET", "http://a.example"+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines[2:] {
		name, value, _ := strings.Cut(l, ": ")
		req.Header.Add(name, value)
	}
	return req
}

// sortedFlags is a line of the access log with its response flags in the order
// of the alphabet: Envoy writes them in the order in which they were set. What
// a redirect inside of the proxy has received, Envoy counts twice.
func sortedFlags(line string) string {
	fields := strings.Split(line, "|")
	if len(fields) > 7 {
		flags := strings.Split(fields[5], ",")
		slices.Sort(flags)
		fields[5] = strings.Join(flags, ",")
		if fields[2] == "/again" {
			fields[7] = "-"
		}
	}
	return strings.Join(fields, "|")
}

// sameLogs compares the access logs.
func sameLogs(t *testing.T, p *pairOf) {
	t.Helper()
	want := p.each[envoy].accessLog(p.answered)
	got := p.each[outrider].accessLog(len(want))
	for i := range min(len(want), len(got)) {
		if sortedFlags(want[i]) != sortedFlags(got[i]) {
			t.Errorf("access log, line %d:\nenvoy    %s\noutrider %s", i, want[i], got[i])
		}
	}
	if len(want) != len(got) {
		t.Errorf("envoy logged %d requests, outrider %d", len(want), len(got))
	}
}
