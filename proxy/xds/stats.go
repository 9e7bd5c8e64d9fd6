package xds

import (
	"time"

	"github.com/cespare/xxhash/v2"

	"outrider/proxy/stats"
)

// Stats are those of one subscription (Envoy: cluster_manager.cds.*,
// listener_manager.lds.*, http.<prefix>.rds.<name>.*).
type Stats struct {
	attempt, success, failure, rejected, timeout *stats.Counter
	version, updateTime                          *stats.Gauge
	versionText                                  *stats.TextReadout
	duration                                     *stats.Histogram
	reload, fail                                 *stats.Counter // nil but of extensions
}

// NewStats makes the metrics of one subscription under scope.
func NewStats(scope *stats.Scope) *Stats {
	return &Stats{
		attempt: scope.Counter("update_attempt"), success: scope.Counter("update_success"),
		failure: scope.Counter("update_failure"), rejected: scope.Counter("update_rejected"),
		timeout: scope.Counter("init_fetch_timeout"), version: scope.Gauge("version"),
		versionText: scope.Text("version_text"), updateTime: scope.Gauge("update_time"),
		duration: scope.Histogram("update_duration"),
	}
}

// NewExtensionStats makes those of the configuration of a filter
// (Envoy: extension_config_discovery.<kind>.<name>.*).
func NewExtensionStats(scope *stats.Scope) *Stats {
	s := NewStats(scope)
	s.reload, s.fail = scope.Counter("config_reload"), scope.Counter("config_fail")
	scope.Counter("config_conflict") // 0: nothing is applied in parts
	return s
}

// Begin counts the first request.
func (s *Stats) Begin() {
	if s != nil {
		s.attempt.Inc()
	}
}

// Took counts an update that is in use, and that took the given time.
func (s *Stats) Took(version string, took time.Duration) {
	if s == nil {
		return
	}
	s.attempt.Inc()
	s.success.Inc()
	s.version.SetUnsigned(xxhash.Sum64String(version))
	s.versionText.Set(version)
	s.updateTime.Set(time.Now().UnixMilli())
	s.duration.Record(uint64(took.Milliseconds()))
	if s.reload != nil {
		s.reload.Inc()
	}
}

// failed counts what leaves a filter without a new configuration.
func (s *Stats) failed() {
	if s.fail != nil {
		s.fail.Inc()
	}
}

// Refused counts an update of which something was refused.
func (s *Stats) Refused() {
	if s != nil {
		s.attempt.Inc()
		s.rejected.Inc()
		s.failed()
	}
}

// Failed counts a stream that ended or could not be opened.
func (s *Stats) Failed() {
	if s != nil {
		s.attempt.Inc()
		s.failure.Inc()
		s.failed()
	}
}

// TimedOut counts that no answer came within initial_fetch_timeout.
func (s *Stats) TimedOut() {
	if s != nil {
		s.timeout.Inc()
		s.failed()
	}
}

// ControlPlane are the metrics of a stream (Envoy: control_plane.*).
type ControlPlane struct {
	connected, pending *stats.Gauge
	identifier         *stats.TextReadout
	limited            *stats.Counter
}

// NewControlPlane makes the metrics of a stream under scope: the root for ADS,
// else that of the type's subscription.
func NewControlPlane(scope *stats.Scope) *ControlPlane {
	s := scope.Scope("control_plane")
	c := &ControlPlane{
		connected: s.Gauge("connected_state"), pending: s.Gauge("pending_requests"),
		identifier: s.Text("identifier"), limited: s.Counter("rate_limit_enforced"),
	}
	c.connected.Set(0)
	return c
}

func (c *ControlPlane) setConnected(up bool) {
	switch {
	case c == nil:
	case up:
		c.connected.Set(1)
	default:
		c.connected.Set(0)
	}
}

func (c *ControlPlane) setPending(n int) {
	if c != nil {
		c.pending.Set(int64(n))
	}
}

func (c *ControlPlane) setIdentifier(id string) {
	if c != nil && id != "" {
		c.identifier.Set(id)
	}
}

func (c *ControlPlane) enforce() {
	if c != nil {
		c.limited.Inc()
	}
}
