package main

import (
	"context"
	"fmt"
	"net"
	"time"
)

// The sizes that the scale page measures.
var (
	connectionSizes = []int{0, 1000, 2500, 5000, 10000}
	chainSizes      = []int{1, 10, 100, 1000, 3000}
	clusterSizes    = []int{1, 10, 100, 1000, 10000}
	workerSizes     = []int{1, 2}
)

var (
	memoryMetric = metric{"pss_mib", "memory MiB", true, 1}
	idleMetric   = metric{"idle_ms_per_s", "CPU ms/s while nothing happens", true, 2}
	newMetric    = metric{"conns_per_cpu_s", "new connections per CPU-s", false, 0}
	readyMetric  = metric{"ready_ms", "ready ms", true, 0}
)

// scaleGroups are the tables of the scale page.
var scaleGroups = []struct{ id, title, about string }{
	{"connections", "Open connections", "mTLS connections that have echoed once and are idle, and what a new one with a full handshake costs beside them."},
	{"chains", "Filter chains", "A listener with that many filter chains by server name, each with a TLS context; connections ask for the last."},
	{"clusters", "Clusters", "Static clusters with one endpoint and a TLS context each; connections go to the last, over a full handshake."},
	{"cores", "Cores", "The same work with one and two workers. With two they share a core with client and server here, so that what a core does for its second is the figure, and the rate is not."},
}

// scaleRows are the measures of the scale page: an id is the group, then the
// size.
func scaleRows() []row {
	var all []row
	for _, n := range connectionSizes {
		all = append(all, row{
			id: fmt.Sprint("connections/", n), title: figure(float64(n), 0) + " connections", scene: scene{shape: terminate},
			metrics: []metric{memoryMetric, idleMetric, newMetric}, measure: grown(n),
		})
	}
	for _, n := range chainSizes {
		all = append(all, row{
			id: fmt.Sprint("chains/", n), title: figure(float64(n), 0) + " filter chains", scene: scene{shape: terminate, extent: extent{chains: n}},
			metrics: []metric{memoryMetric, readyMetric, newMetric}, measure: configured,
		})
	}
	for _, n := range clusterSizes {
		all = append(all, row{
			id: fmt.Sprint("clusters/", n), title: figure(float64(n), 0) + " clusters", scene: scene{shape: originate, extent: extent{clusters: n}},
			metrics: []metric{memoryMetric, readyMetric, newMetric}, measure: configured,
		})
	}
	for _, work := range []struct {
		id, title string
		scene     scene
		metric    metric
		measure   func(context.Context, *bed) (values, error)
	}{
		{"bulk", "bulk, mTLS terminated", scene{shape: terminate}, metric{"cpu_s_per_gb", "CPU-s/GB", true, 3}, bulk(askDownload, 8)},
		{"echo", "1 KiB there and back, mTLS terminated", scene{shape: terminate}, metric{"per_cpu_s", "round trips per CPU-s", false, 0}, saturate(32)},
		{"h2", "HTTP/2 requests, two hops", scene{shape: twoHops, http: "h2"}, metric{"per_cpu_s", "requests per CPU-s", false, 0}, requests(8, 16)},
	} {
		for _, n := range workerSizes {
			s := work.scene
			s.workers = n
			all = append(all, row{
				id: fmt.Sprintf("cores/%s/%d", work.id, n), title: fmt.Sprintf("%s, workers: %d", work.title, n), scene: s,
				metrics: []metric{work.metric}, measure: work.measure,
			})
		}
	}
	return all
}

// idleWindow is how long a proxy is watched while nothing happens.
const idleWindow = 10 * time.Second

// grown measures a proxy with that many idle connections.
func grown(want int) func(context.Context, *bed) (values, error) {
	return func(ctx context.Context, b *bed) (values, error) {
		n := allowed(want)
		var open []net.Conn
		defer func() { closeAll(open) }()
		open, err := b.openMany(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("at %d connections: %w", len(open), err)
		}
		if err := sleep(ctx, settle); err != nil {
			return nil, err
		}
		before, err := b.cpu()
		if err != nil {
			return nil, err
		}
		begin := time.Now()
		if err := sleep(ctx, idleWindow); err != nil {
			return nil, err
		}
		after, err := b.cpu()
		if err != nil {
			return nil, err
		}
		idle := (after - before).Seconds() * 1e3 / time.Since(begin).Seconds()
		pss, _, err := b.memory()
		if err != nil {
			return nil, err
		}
		v, err := connections(false)(ctx, b)
		if err != nil {
			return nil, err
		}
		v["pss_mib"], v["idle_ms_per_s"], v["size"] = float64(pss)/(1<<20), idle, float64(n)
		return v, nil
	}
}

// configured measures a proxy with much configuration, and new connections
// through it.
func configured(ctx context.Context, b *bed) (values, error) {
	if err := sleep(ctx, settle); err != nil {
		return nil, err
	}
	pss, _, err := b.memory()
	if err != nil {
		return nil, err
	}
	v, err := connections(false)(ctx, b)
	if err != nil {
		return nil, err
	}
	v["pss_mib"], v["ready_ms"] = float64(pss)/(1<<20), float64(b.ready.Microseconds())/1e3
	v["size"] = float64(max(b.scene.chains, b.scene.clusters))
	return v, nil
}
