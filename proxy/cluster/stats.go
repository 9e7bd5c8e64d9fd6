package cluster

import (
	"strings"

	"outrider/proxy/config"
	"outrider/proxy/stats"
)

// traffic are the metrics of connections (Envoy: ClusterTrafficStats). A
// cluster that replaces another of its name goes on with the same ones.
type traffic struct {
	cxTotal, cxConnectFail, cxConnectTimeout, cxOverflow, cxNoneHealthy *stats.Counter

	cxDestroy, cxDestroyLocal, cxDestroyRemote                *stats.Counter
	cxDestroyWithRq, cxDestroyLocalWithRq, cxDestroyRemWithRq *stats.Counter

	rxBytes, txBytes, bindErrors, healthyPanic              *stats.Counter
	rqTotal, rqPendingTotal, rqPendingOverflow, rqCancelled *stats.Counter
	rqPendingFailureEject, rqDropOverload                   *stats.Counter

	cxActive, rqActive, rqPendingActive *stats.Gauge
	connectMS, lengthMS                 *stats.Histogram
}

func newTraffic(s *stats.Scope) *traffic {
	return &traffic{
		cxTotal: s.Counter("upstream_cx_total"), cxConnectFail: s.Counter("upstream_cx_connect_fail"),
		cxConnectTimeout: s.Counter("upstream_cx_connect_timeout"), cxOverflow: s.Counter("upstream_cx_overflow"),
		cxNoneHealthy: s.Counter("upstream_cx_none_healthy"), cxDestroy: s.Counter("upstream_cx_destroy"),
		cxDestroyLocal: s.Counter("upstream_cx_destroy_local"), cxDestroyRemote: s.Counter("upstream_cx_destroy_remote"),
		cxDestroyWithRq:      s.Counter("upstream_cx_destroy_with_active_rq"),
		cxDestroyLocalWithRq: s.Counter("upstream_cx_destroy_local_with_active_rq"),
		cxDestroyRemWithRq:   s.Counter("upstream_cx_destroy_remote_with_active_rq"),
		rxBytes:              s.Counter("upstream_cx_rx_bytes_total"), txBytes: s.Counter("upstream_cx_tx_bytes_total"),
		bindErrors: s.Counter("bind_errors"), healthyPanic: s.Counter("lb_healthy_panic"),
		rqTotal: s.Counter("upstream_rq_total"), rqPendingTotal: s.Counter("upstream_rq_pending_total"),
		rqPendingOverflow: s.Counter("upstream_rq_pending_overflow"), rqCancelled: s.Counter("upstream_rq_cancelled"),
		rqPendingFailureEject: s.Counter("upstream_rq_pending_failure_eject"),
		rqDropOverload:        s.Counter("upstream_rq_drop_overload"),
		cxActive:              s.Gauge("upstream_cx_active"), rqActive: s.Gauge("upstream_rq_active"),
		rqPendingActive: s.Gauge("upstream_rq_pending_active"),
		connectMS:       s.Histogram("upstream_cx_connect_ms"), lengthMS: s.Histogram("upstream_cx_length_ms"),
	}
}

// membership are the metrics of the host set and its updates.
type membership struct {
	change                                         *stats.Counter
	total, healthy, degraded, excluded             *stats.Gauge
	attempt, success, failure, empty, noRebuild    *stats.Counter
	rejected, assignmentStale, assignmentTimeoutRx *stats.Counter
}

func newMembership(s *stats.Scope, typ config.ClusterType) *membership {
	m := &membership{
		change: s.Counter("membership_change"), total: s.Gauge("membership_total"),
		healthy: s.Gauge("membership_healthy"), degraded: s.Gauge("membership_degraded"),
		excluded: s.Gauge("membership_excluded"),
		attempt:  s.Counter("update_attempt"), success: s.Counter("update_success"),
		failure: s.Counter("update_failure"), empty: s.Counter("update_empty"),
		noRebuild: s.Counter("update_no_rebuild"),
	}
	if typ == config.EDSType {
		m.rejected = s.Counter("update_rejected")
		m.assignmentStale = s.Counter("assignment_stale")
		m.assignmentTimeoutRx = s.Counter("assignment_timeout_received")
	}
	return m
}

// statName is the cluster's part of metric names: colons would be read as
// something else by metric systems, so Envoy replaces them.
func statName(cfg *config.Cluster) string {
	name := cfg.AltStatName
	if name == "" {
		name = cfg.Name
	}
	return strings.NewReplacer("://", "_", ":/", "_", ":", "_", "\x00", "_").Replace(name)
}

func statScope(r *stats.Registry, cfg *config.Cluster) *stats.Scope {
	return r.Scope("cluster").Tagged("envoy_cluster_name", statName(cfg))
}
