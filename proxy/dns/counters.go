package dns

import "outrider/proxy/stats"

// counters are the metrics, under the scope that they are made in.
type counters struct {
	requests, table, cached, failures *stats.Counter
	upstream, upstreamFailures        *stats.Counter
	upstreamTCP, mismatched, shared   *stats.Counter
	malformed, dropped, loops         *stats.Counter
	upstreamTime                      *stats.Histogram
	active, connections, entries      *stats.Gauge
}

func newCounters(s *stats.Scope) *counters {
	if s == nil {
		s = stats.New().Root()
	}
	return &counters{
		requests: s.Counter("requests_total"), table: s.Counter("table_answers_total"),
		cached: s.Counter("negative_cache_hits_total"), failures: s.Counter("server_failures_total"),
		upstream: s.Counter("upstream_requests_total"), upstreamFailures: s.Counter("upstream_failures_total"),
		upstreamTCP: s.Counter("upstream_tcp_retries_total"), mismatched: s.Counter("upstream_mismatched_total"),
		shared: s.Counter("upstream_shared_total"), malformed: s.Counter("malformed_total"),
		dropped: s.Counter("dropped_total"), loops: s.Counter("loops_total"),
		upstreamTime: s.Histogram("upstream_request_duration_ms"),
		active:       s.Gauge("upstream_active"), connections: s.Gauge("connections_active"), entries: s.Gauge("table_hosts"),
	}
}
