// Package telemetry counts requests and connections as Istio's stats filter
// does: Istio's standard metrics, with the workloads at both ends, the service
// and the principals in labels. Source: Envoy's contrib/istio, istio_stats.
//
// What the labels of a request are made of is small and can be compared (see
// subject), so that a request whose like was there before finds its counters
// without a word being written.
package telemetry

import (
	"context"
	"sync"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/stats"
)

// namespace is what the names of Istio's metrics begin with in text.
const namespace = "istiocustom"

// Deps is what a Reporter is made with.
type Deps struct {
	Stats *stats.Registry
	Node  *config.Node
	// Direction is the listener's.
	Direction config.Direction
	// Cluster is the configuration of a cluster, nil if there is none of that
	// name.
	Cluster func(name string) *config.Cluster
}

// Reporter counts for one filter. It is safe for concurrent use.
type Reporter struct {
	cfg       *config.IstioStats
	deps      Deps
	local     local
	overrides *overrides // nil: none
	series    cache
	sans      sanCache
	overflow  *stats.Counter
}

// New makes a Reporter. An error names the field of the configuration that
// cannot be.
func New(cfg *config.IstioStats, d Deps) (*Reporter, error) {
	if d.Node == nil {
		d.Node = &config.Node{}
	}
	o, err := newOverrides(cfg)
	if err != nil {
		return nil, err
	}
	r := &Reporter{
		cfg: cfg, deps: d, local: localOf(d.Node), overrides: o,
		overflow: d.Stats.Scope("istio_stats").Counter("series_overflow"),
	}
	r.series.rotates = cfg.Rotation > 0
	r.version()
	return r, nil
}

// version sets istio_build, which stays.
func (r *Reporter) version() {
	tag := r.deps.Node.Metadata.GetFields()["ISTIO_VERSION"].GetStringValue()
	if tag == "" {
		tag = unknown
	}
	build, _ := r.deps.Stats.HoldGauge(stats.Labelled{
		Namespace: namespace, Name: "istio_build", Labels: []stats.Label{{Name: "component", Value: "proxy"}, {Name: "tag", Value: tag}},
	})
	if build != nil {
		build.Set(1)
	}
}

// Every is how often an open connection, or a call of gRPC, is to be counted; 0
// is at its end alone.
func (r *Reporter) Every() time.Duration { return r.cfg.ReportDuration }

// Run forgets what is not used any more, if the configuration says how often,
// until ctx ends.
func (r *Reporter) Run(ctx context.Context) error {
	if r.cfg.Rotation <= 0 {
		return nil
	}
	rotate := time.NewTicker(r.cfg.Rotation)
	defer rotate.Stop()
	forget := time.NewTimer(0)
	defer forget.Stop()
	for {
		select {
		case <-ctx.Done():
			r.retire()
			return nil
		case <-rotate.C:
			r.series.rotate()
			forget.Reset(r.cfg.GracefulDeletion)
		case <-forget.C:
			r.series.forget()
		}
	}
}

// retire forgets, when the filter is gone, what its last connections and the
// filter in its place do not use for a while.
func (r *Reporter) retire() {
	r.series.rotate()
	var again *time.Timer
	var armed sync.Mutex // held until again is set
	armed.Lock()
	defer armed.Unlock()
	again = time.AfterFunc(r.cfg.GracefulDeletion, func() {
		armed.Lock()
		defer armed.Unlock()
		r.series.forget()
		if r.series.rotate() {
			again.Reset(r.cfg.GracefulDeletion)
		}
	})
}

// metric is one of Istio's standard metrics.
type metric int

const (
	requestsTotal metric = iota
	requestDuration
	requestBytes
	responseBytes
	requestMessages
	responseMessages
	tcpOpened
	tcpClosed
	tcpSent
	tcpReceived
	standardMetrics // how many there are
)

// metricNames are without "istio_".
var metricNames = [standardMetrics]string{ //nolint:gochecknoglobals // a table
	"requests_total", "request_duration_milliseconds", "request_bytes", "response_bytes",
	"request_messages_total", "response_messages_total",
	"tcp_connections_opened_total", "tcp_connections_closed_total", "tcp_sent_bytes_total", "tcp_received_bytes_total",
}

func (m metric) histogram() bool {
	return m == requestDuration || m == requestBytes || m == responseBytes
}

// kind is what is counted under the same labels at the same moment.
type kind int

const (
	requests kind = iota
	messages
	opened
	traffic
	closed
	defined // the metrics of definitions
)

// metrics are those of a kind.
func (k kind) metrics() []metric {
	switch k {
	case requests:
		return []metric{requestsTotal, requestDuration, requestBytes, responseBytes}
	case messages:
		return []metric{requestMessages, responseMessages}
	case opened:
		return []metric{tcpOpened}
	case traffic:
		return []metric{tcpSent, tcpReceived}
	case closed:
		return []metric{tcpClosed}
	case defined:
	}
	return nil
}
