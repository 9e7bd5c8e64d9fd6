package main

import "context"

// metric is one figure of a row.
type metric struct {
	key, title string
	less       bool // less is better
	places     int  // decimal places
}

// row is one measure.
type row struct {
	id, title string
	scene     scene
	metrics   []metric
	rounds    int // at most; 0 is as many as the run has
	measure   func(context.Context, *bed) (values, error)
}

// echoRate is of the latency rows, which every peer carries with ease, in
// messages a second.
const echoRate = 4000

var (
	bulkMetrics = []metric{{"gbps", "GB/s", false, 2}, {"cpu_s_per_gb", "CPU-s/GB", true, 3}}
	connMetrics = []metric{{"conns_per_cpu_s", "connections per CPU-s", false, 0}}
	echoMetrics = []metric{{"per_s", "round trips/s", false, 0}, {"per_cpu_s", "round trips per CPU-s", false, 0}}
	paceMetrics = []metric{{"p50_us", "p50 µs", true, 0}, {"p99_us", "p99 µs", true, 0}, {"p999_us", "p99.9 µs", true, 0}}
	httpMetrics = []metric{{"per_cpu_s", "requests per CPU-s", false, 0}, {"per_s", "requests/s", false, 0}}
	idleMetrics = []metric{{"kib_per_conn_2000", "KiB at 2,000", true, 1}, {"kib_per_conn_10000", "KiB at 10,000", true, 1}}
	restMetrics = []metric{{"pss_mib", "memory MiB", true, 1}, {"ready_ms", "ready ms", true, 1}, {"binary_mib", "binary MiB", true, 1}}
)

var shapeTitles = map[shape]string{
	plain: "plaintext, one hop", terminate: "mTLS terminated", originate: "mTLS originated", twoHops: "mTLS between two hops",
}

// allRows are the rows of the tables, in order. An id is the group, then what.
func allRows() []row {
	var all []row
	for _, s := range []shape{plain, terminate, originate, twoHops} {
		name := shapeTitles[s]
		all = append(all,
			row{id: "bulk/" + string(s) + "/down/1", title: name + ", down, 1 connection", scene: scene{shape: s}, metrics: bulkMetrics, measure: bulk(askDownload, 1)},
			row{id: "bulk/" + string(s) + "/down/8", title: name + ", down, 8 connections", scene: scene{shape: s}, metrics: bulkMetrics, measure: bulk(askDownload, 8)},
			row{id: "bulk/" + string(s) + "/up/8", title: name + ", up, 8 connections", scene: scene{shape: s}, metrics: bulkMetrics, measure: bulk(askUpload, 8)},
		)
	}
	all = append(all,
		row{id: "new/plain", title: "plaintext", scene: scene{shape: plain}, metrics: connMetrics, measure: connections(false)},
		row{id: "new/terminate/full", title: "mTLS terminated, full", scene: scene{shape: terminate}, metrics: connMetrics, measure: connections(false)},
		row{id: "new/terminate/resumed", title: "mTLS terminated, resumed", scene: scene{shape: terminate}, metrics: connMetrics, measure: connections(true)},
		row{id: "new/originate/full", title: "mTLS originated, full", scene: scene{shape: originate}, metrics: connMetrics, measure: connections(false)},
		row{id: "new/originate/resumed", title: "mTLS originated, resumed", scene: scene{shape: originate, tickets: true}, metrics: connMetrics, measure: connections(true)},
		row{id: "new/two-hops", title: "mTLS between two hops, as they come", scene: scene{shape: twoHops}, metrics: connMetrics, measure: connections(false)},
	)
	for _, s := range []shape{terminate, twoHops} {
		name := shapeTitles[s]
		all = append(all,
			row{id: "echo/" + string(s) + "/rate", title: name + ", 32 connections at saturation", scene: scene{shape: s}, metrics: echoMetrics, measure: saturate(32)},
			row{id: "echo/" + string(s) + "/latency", title: name + ", 16 connections at 4,000 a second", scene: scene{shape: s}, metrics: paceMetrics, measure: paced(echoRate, 16)},
		)
	}
	all = append(all,
		row{id: "http/h1/8", title: "HTTP/1.1, 8 connections", scene: scene{shape: twoHops, http: "h1"}, metrics: httpMetrics, measure: requests(8, 1)},
		row{id: "http/h2/8x16", title: "HTTP/2, 8 connections of 16 streams", scene: scene{shape: twoHops, http: "h2"}, metrics: httpMetrics, measure: requests(8, 16)},
		row{id: "http/h2/1x1", title: "HTTP/2, 1 connection of 1 stream", scene: scene{shape: twoHops, http: "h2"}, metrics: httpMetrics, measure: requests(1, 1)},
	)
	for _, s := range []shape{terminate, twoHops} {
		all = append(all, row{id: "idle/" + string(s), title: shapeTitles[s], scene: scene{shape: s}, metrics: idleMetrics, rounds: 2, measure: idleMemory(2000, 10000)})
	}
	return append(all, row{id: "rest/terminate", title: "at rest", scene: scene{shape: terminate, rest: true}, metrics: restMetrics, measure: atRest})
}

// groups are the tables, by the first part of a row's id.
var groups = []struct{ id, title, about string }{
	{"bulk", "Bulk", "Bytes one way. GB/s is what the client sees, CPU-seconds are the proxies' for each GB."},
	{"new", "New connections", "Connect, handshake, one byte there and back, close: for each CPU-second of the proxies."},
	{"echo", "1 KiB there and back", "At saturation each connection sends when the last message is back. At the fixed rate each is sent when it is due, and its time counts from then."},
	{"http", "Requests", "GET with a 1 KiB answer over two proxies with mTLS between them."},
	{"idle", "Memory of an idle connection", "Proportional set size of the proxies, less what they took without connections, for each."},
	{"rest", "At rest", "Memory (PSS) with no connection, time from exec to the first byte answered over mTLS, size of the binary."},
}
