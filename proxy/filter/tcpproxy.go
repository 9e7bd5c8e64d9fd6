package filter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
)

// tcpProxy carries a connection's bytes to a host of a cluster.
type tcpProxy struct {
	name     string
	cfg      *config.TCPProxy
	clusters func(name string) upstream // nil for no such cluster
	rand     func() uint64
	log      *slog.Logger
	deps     *Deps
	logs     []AccessLogger
	route    *route
	tlvs     []tlvMaker
	stats    *tcpStats
	live     *ledger
}

func newTCPProxy(name string, cfg *config.TCPProxy, d *Deps) (*tcpProxy, error) {
	route, err := newRoute(cfg)
	errs := []error{err}
	p := &tcpProxy{
		name: name, cfg: cfg, clusters: clustersOf(d), rand: d.Rand, log: d.Log, deps: d, route: route,
		stats: newTCPStats(d.Stats.Scope("tcp").Tagged("envoy_tcp_prefix", statName(cfg.StatPrefix))),
		live:  newLedger(),
	}
	for i, tlv := range cfg.TLVs {
		one, err := newTLVMaker(tlv, d)
		errs = append(errs, at(err, "proxy_protocol_tlvs[%d]", i))
		p.tlvs = append(p.tlvs, one)
	}
	for i, al := range cfg.AccessLogs {
		if d.AccessLogs == nil {
			errs = append(errs, fmt.Errorf("access_log[%d]: there are no access logs here", i))
			break
		}
		l, err := d.AccessLogs(al)
		errs = append(errs, at(err, "access_log[%d]", i))
		p.logs = append(p.logs, l)
	}
	return p, errors.Join(errs...)
}

// statName is a stat_prefix in the names of metrics. Envoy does this to
// tcp_proxy's alone.
func statName(prefix string) string {
	prefix = strings.TrimSuffix(prefix, ".")
	return strings.NewReplacer("://", "_", ":/", "_", ":", "_", "\x00", "_").Replace(prefix)
}

// tcpStats are Envoy's ALL_TCP_PROXY_STATS. Those of its buffers and of its
// flow control have no counterpart here and stay 0.
type tcpStats struct {
	total, noRoute, rxBytes, txBytes *stats.Counter
	idleTimeout, maxDuration         *stats.Counter
}

func newTCPStats(s *stats.Scope) *tcpStats {
	for _, unused := range [...]string{
		"downstream_cx_drain_close", "downstream_cx_overload_close", "route_delayed_total",
		"downstream_flow_control_paused_reading_total", "downstream_flow_control_resumed_reading_total",
		"early_data_received_count_total", "upstream_flush_total",
	} {
		s.Counter(unused)
	}
	for _, unused := range [...]string{
		"downstream_cx_rx_bytes_buffered", "downstream_cx_tx_bytes_buffered", "upstream_flush_active",
	} {
		s.Gauge(unused)
	}
	return &tcpStats{
		total: s.Counter("downstream_cx_total"), noRoute: s.Counter("downstream_cx_no_route"),
		rxBytes: s.Counter("downstream_cx_rx_bytes_total"), txBytes: s.Counter("downstream_cx_tx_bytes_total"),
		idleTimeout: s.Counter("idle_timeout"), maxDuration: s.Counter("max_downstream_connection_duration"),
	}
}

// Begin counts the connection in; at its end it is logged, also if another
// filter has refused it.
func (p *tcpProxy) Begin(c *Conn) func() {
	p.stats.total.Inc()
	return func() { p.logAccess(c, EventEnd) }
}

func (p *tcpProxy) logAccess(c *Conn, event AccessEvent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range p.logs {
		l.Log(c.Info, event)
	}
}

// Close ends the ledger of live connections.
func (p *tcpProxy) Close() { p.live.close() }

// errDuration is why max_downstream_connection_duration ends a connection.
var errDuration = errors.New("max_downstream_connection_duration is over")

// Serve is serve, to the end.
func (p *tcpProxy) Serve(ctx context.Context, c *Conn) error {
	ended := make(chan error, 1)
	p.serve(ctx, c, func(err error) { ended <- err })
	return <-ended
}

// serve connects to the upstream and relays. What the client sends meanwhile
// waits in the kernel.
func (p *tcpProxy) serve(ctx context.Context, c *Conn, done func(error)) {
	cancel := func() {}
	if d := p.maxDuration(); d > 0 {
		ctx, cancel = context.WithTimeoutCause(ctx, d, errDuration)
	}
	over := func(err error) {
		err = p.orDuration(ctx, c, err)
		cancel()
		done(err)
	}
	up, err := p.connect(ctx, c)
	if err != nil {
		over(err)
		return
	}
	p.relay(ctx, c, up, func(err error) {
		up.close()
		over(err)
	})
}

// orDuration is err, or that max_downstream_connection_duration is why.
func (p *tcpProxy) orDuration(ctx context.Context, c *Conn, err error) error {
	if err == nil || !errors.Is(context.Cause(ctx), errDuration) {
		return err
	}
	p.stats.maxDuration.Inc()
	c.Info.LocalCloseReason = "max_connection_duration_reached"
	return &flow.EndError{Stage: flow.StageRelay, Flags: flow.DurationTimeout,
		Err: fmt.Errorf("%w: %s", errDuration, p.cfg.MaxDownstreamDuration)}
}

// maxDuration is max_downstream_connection_duration, lengthened by up to its
// jitter; 0 is none.
func (p *tcpProxy) maxDuration() time.Duration {
	d, pct := p.cfg.MaxDownstreamDuration, p.cfg.DurationJitterPercent
	if d <= 0 || pct <= 0 {
		return d
	}
	const steps = 1 << 20
	return d + time.Duration(float64(d)*pct/100*float64(p.rand()%steps)/steps)
}

// Explain is where a connection would go.
func (p *tcpProxy) Explain(info *flow.Info) Verdict {
	v := Verdict{Filter: p.name, Type: "tcp_proxy", Clusters: p.route.shares(info)}
	hash, hasHash := p.route.hash(info)
	for i := range v.Clusters {
		s := &v.Clusters[i]
		s.Hash, s.HasHash = hash, hasHash
		s.Missing = p.clusters(s.Cluster) == nil
		if i > 0 {
			v.Reason += ", "
		}
		v.Reason += fmt.Sprintf("cluster %q", s.Cluster)
		if s.Missing {
			v.Reason += " (there is none)"
		}
		if len(v.Clusters) > 1 {
			v.Reason += fmt.Sprintf(" %.4g%%", 100*s.Share)
		}
	}
	return v
}
