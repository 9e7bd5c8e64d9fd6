//go:build envoy

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// flaky is an origin that remembers what it was asked, by proxy (the listener's
// port is in no request, so each proxy has an origin of its own).
type flaky struct {
	mu    sync.Mutex
	count map[string]int
	asked []string
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	f.count[r.URL.Path]++
	n := f.count[r.URL.Path]
	f.asked = append(f.asked, fmt.Sprintf("%s %s %s %q attempt=%s original=%s internal=%s", r.Method, r.Host, r.RequestURI, body,
		r.Header.Get("x-envoy-attempt-count"), r.Header.Get("x-envoy-original-url"), r.Header.Get("x-envoy-is-timeout-retry")))
	f.mu.Unlock()
	switch p := r.URL.Path; {
	case strings.HasPrefix(p, "/once503") && n == 1:
		w.WriteHeader(503)
	case strings.HasPrefix(p, "/once409") && n == 1:
		w.WriteHeader(409)
	case strings.HasPrefix(p, "/oncereset") && n == 1:
		panic(http.ErrAbortHandler)
	case strings.HasPrefix(p, "/onceslow") && n == 1:
		time.Sleep(1500 * time.Millisecond)
	case strings.HasPrefix(p, "/slow"):
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		time.Sleep(1500 * time.Millisecond)
	case strings.HasPrefix(p, "/never"):
		time.Sleep(1500 * time.Millisecond)
	case strings.HasPrefix(p, "/redirect"):
		w.Header().Set("Location", r.URL.Query().Get("to"))
		w.WriteHeader(302)
	default:
		fmt.Fprintf(w, "%s: %s", p, body)
	}
}

const attemptRoutes = `
- name: all
  domains: ["*"]
  include_request_attempt_count: true
  include_attempt_count_in_response: true
  include_is_timeout_retry_header: true
  retry_policy: {retry_on: "connect-failure"}
  routes:
  - {match: {prefix: /once503}, route: {cluster: o, retry_policy: {retry_on: "5xx"}}}
  - {match: {prefix: /once409}, route: {cluster: o, retry_policy: {retry_on: "retriable-4xx"}}}
  - {match: {prefix: /oncereset}, route: {cluster: o, retry_policy: {retry_on: "reset"}}}
  - {match: {prefix: /onceslow}, route: {cluster: o, retry_policy: {retry_on: "5xx", num_retries: 1, per_try_timeout: 0.3s}}}
  - {match: {prefix: /never/try}, route: {cluster: o, retry_policy: {retry_on: "5xx", num_retries: 1, per_try_timeout: 0.2s}}}
  - {match: {prefix: /never/idle}, route: {cluster: o, timeout: 0s, idle_timeout: 0.3s}}
  - {match: {prefix: /never/max}, route: {cluster: o, timeout: 0s, max_stream_duration: {max_stream_duration: 0.3s}}}
  - {match: {prefix: /never}, route: {cluster: o, timeout: 0.3s}}
  - {match: {prefix: /slow/idle}, route: {cluster: o, timeout: 0s, idle_timeout: 0.3s}}
  - {match: {prefix: /slow}, route: {cluster: o, timeout: 0.3s}}
  - {match: {prefix: /redirect}, route: {cluster: o, internal_redirect_policy: {max_internal_redirects: 2}}}
  - {match: {prefix: /mirrored}, route: {cluster: o, request_mirror_policies: [{cluster: o}]}}
  - {match: {prefix: /dead}, route: {cluster: dead, retry_policy: {retry_on: "connect-failure", num_retries: 2, retry_back_off: {base_interval: 0.001s}}}}
  - {match: {prefix: /}, route: {cluster: o}}
`

func TestAttemptsAreTheSameAsEnvoys(t *testing.T) {
	origins := map[kind]*flaky{}
	p := &pairOf{t: t, each: map[kind]*running{}}
	for _, k := range kinds {
		f := &flaky{count: map[string]int{}}
		origins[k] = f
		bootstrap := "static_resources:\n  listeners:" +
			hcm("in", "internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}", attemptRoutes) +
			"  clusters:" + httpCluster("o", serveHTTP(t, f), "") + httpCluster("dead", "127.0.0.1:1", "")
		p.each[k] = start(t, k, t.TempDir(), bootstrap).ready()
	}
	post := func(path string, fields ...string) string {
		return "POST " + path + " HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\nbody"
	}
	for _, c := range []struct{ name, raw string }{
		{"retried after 503", post("/once503")}, {"after 409", post("/once409")}, {"after a reset", post("/oncereset")},
		{"after a timeout of the try", post("/onceslow")}, {"timeouts of all tries", get("/never/try")},
		{"the route's timeout", get("/never")}, {"idle timeout", get("/never/idle")}, {"max_stream_duration", get("/never/max")},
		{"timeout in the answer", get("/slow")}, {"idle in the answer", get("/slow/idle")},
		{"asked for by the client", get("/once503x", "x-forwarded-for: 10.1.1.1", "x-envoy-retry-on: gateway-error", "x-envoy-max-retries: 3")},
		{"timeout by the client", get("/neverx", "x-forwarded-for: 10.1.1.1", "x-envoy-upstream-rq-timeout-ms: 200")},
		{"204 in place of a timeout", get("/nevery", "x-forwarded-for: 10.1.1.1", "x-envoy-upstream-rq-timeout-ms: 200", "x-envoy-upstream-rq-timeout-alt-response: 1")},
		{"by a stranger", get("/once503", "x-envoy-retry-on: 5xx")},
		{"redirected inside", get("/redirect?to=http://b.example/other?x=1")}, {"redirected with a body", post("/redirect?to=http://a.example/again")}, {"redirected to a path", get("/redirect?to=/again")},
		{"redirected too often", get("/redirect?to=http://b/redirect%3Fto=http://b/redirect%253Fto=http://b/redirect%25253Fto=http://b/end")},
		{"redirected to another scheme", get("/redirect?to=https://b.example/other")},
		{"redirected to nowhere", get("/redirect?to=::nonsense")},
		{"mirrored", post("/mirrored")},
		{"nobody listens", get("/dead")},
	} {
		t.Run(c.name, func(t *testing.T) {
			method, _, _ := strings.Cut(c.raw, " ")
			p.same(t, "in", func(addr string) []exchanged { return ask1(addr, c.raw, method) })
		})
	}
	time.Sleep(200 * time.Millisecond) // the mirrored request is nobody's to wait for
	seen := map[kind][]string{}
	for k, f := range origins {
		f.mu.Lock()
		seen[k] = slices.Clone(f.asked)
		f.mu.Unlock()
		slices.Sort(seen[k])
	}
	if strings.Join(seen[envoy], "\n") != strings.Join(seen[outrider], "\n") {
		t.Errorf("the origin was asked\nby envoy:\n%s\nby outrider:\n%s", strings.Join(seen[envoy], "\n"), strings.Join(seen[outrider], "\n"))
	}
	p.sameStats(t, "http.in.", "downstream_cx", "_active", "rq_time")
	p.sameStats(t, "cluster.o.upstream_rq", "_active", "rq_time", "pending", "rq_total", "cancelled", "max_duration", "http3", "0rtt", "per_try_idle", "drop_overload")
	sameLogs(t, p)
}
