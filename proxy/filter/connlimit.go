package filter

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
)

// connectionLimit refuses connections beyond a number of open ones.
type connectionLimit struct {
	name  string
	max   int64
	delay time.Duration
	open  atomic.Int64 // with those that are being refused, as in Envoy

	active  *stats.Gauge
	limited *stats.Counter
}

func newConnectionLimit(name string, cfg *config.ConnectionLimit, d *Deps) *connectionLimit {
	scope := d.Stats.Scope("connection_limit").Tagged("envoy_connection_limit_prefix", cfg.StatPrefix)
	limit := int64(cfg.MaxConnections)
	if limit < 0 {
		limit = 1<<63 - 1 // more than an int64: no limit that could be reached
	}
	return &connectionLimit{
		name: name, max: limit, delay: cfg.Delay,
		active: scope.Gauge("active_connections"), limited: scope.Counter("limited_connections"),
	}
}

// admit refuses at the limit, after the delay.
func (l *connectionLimit) admit(ctx context.Context, c *Conn) (func(), error) {
	open := l.open.Add(1)
	l.active.Inc()
	done := func() {
		l.open.Add(-1)
		l.active.Dec()
	}
	if open <= l.max {
		return done, nil
	}
	l.limited.Inc()
	c.Info.LocalCloseReason = "over_connection_limit"
	wait(ctx, l.delay)
	return done, flow.End(flow.StageNetworkFilter, 0, l.over(open-1))
}

func (l *connectionLimit) over(open int64) error {
	return fmt.Errorf("connection_limit: max_connections is %d, and %d are open", l.max, open)
}

func (l *connectionLimit) explain(*flow.Info) Verdict {
	open := l.open.Load()
	v := Verdict{Filter: l.name, Type: "connection_limit", Reason: fmt.Sprintf("%d of %d connections are open", open, l.max)}
	if open >= l.max {
		v.Denied, v.Reason = true, l.over(open).Error()
	}
	return v
}

// sniCluster makes the server name the cluster's name; without one tcp_proxy's
// own cluster stays.
type sniCluster struct{ name string }

func (s *sniCluster) admit(_ context.Context, c *Conn) (func(), error) {
	s.set(c.Info)
	return nil, nil
}

func (*sniCluster) set(info *flow.Info) {
	if info.SNI != "" {
		info.SetState(clusterState, info.SNI)
	}
}

func (s *sniCluster) explain(info *flow.Info) Verdict {
	s.set(info)
	v := Verdict{Filter: s.name, Type: "sni_cluster", Reason: "no server name: tcp_proxy's cluster"}
	if info.SNI != "" {
		v.Reason = fmt.Sprintf("the server name %q is the cluster", info.SNI)
	}
	return v
}
