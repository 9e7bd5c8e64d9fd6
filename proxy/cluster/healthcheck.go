package cluster

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/cluster/health"
	"outrider/proxy/config"
	"outrider/proxy/stats"
	"outrider/tlsmux"
)

// healthChecks are the active health checks of a cluster: one session for each
// host, alive while the host is.
type healthChecks struct {
	c      *Cluster
	cfg    *config.HealthCheck
	events *healthEvents
	stats  healthStats
	// newProbe is health.New, but in tests.
	newProbe func(*config.HealthCheck, health.Target) health.Probe

	mu    sync.Mutex
	known bool // guarded by mu; discovery has answered
}

type healthStats struct {
	attempt, success, failure, passiveFailure, networkFailure, verifyCluster *stats.Counter
	healthy, degraded                                                        *stats.Gauge
}

func newHealthChecks(c *Cluster, cfg *config.HealthCheck) *healthChecks {
	s := c.scope.Scope("health_check")
	return &healthChecks{c: c, cfg: cfg, newProbe: health.New, events: newHealthEvents(c, cfg), stats: healthStats{
		attempt: s.Counter("attempt"), success: s.Counter("success"), failure: s.Counter("failure"),
		passiveFailure: s.Counter("passive_failure"), networkFailure: s.Counter("network_failure"),
		verifyCluster: s.Counter("verify_cluster"), healthy: s.Gauge("healthy"), degraded: s.Gauge("degraded"),
	}}
}

// run keeps the sessions of the hosts as they come and go until ctx ends.
func (hc *healthChecks) run(ctx context.Context) {
	var wait sync.WaitGroup
	defer hc.events.close()
	defer wait.Wait()
	sessions := map[*Host]context.CancelFunc{}
	for {
		present := map[*Host]bool{}
		for _, h := range hc.c.snap.Load().hosts {
			if h.spec.Load().endpoint.DisableHealthCheck {
				continue
			}
			present[h] = true
			if sessions[h] == nil {
				running, stop := context.WithCancel(ctx)
				sessions[h] = stop
				s := &session{hc: hc, host: h, first: true}
				wait.Go(func() { s.run(running) })
			}
		}
		for h, stop := range sessions {
			if !present[h] {
				stop()
				delete(sessions, h)
			}
		}
		hc.warmIfChecked()
		select {
		case <-ctx.Done():
			for _, stop := range sessions {
				stop()
			}
			return
		case <-hc.c.update:
		}
	}
}

// discovered says that the hosts are known; it is true if none has to be
// checked first.
func (hc *healthChecks) discovered() bool {
	hc.mu.Lock()
	hc.known = true
	hc.mu.Unlock()
	return hc.allChecked()
}

func (hc *healthChecks) allChecked() bool {
	for _, h := range hc.c.snap.Load().hosts {
		if !h.checked.Load() && !h.spec.Load().endpoint.DisableHealthCheck {
			return false
		}
	}
	return true
}

func (hc *healthChecks) warmIfChecked() {
	hc.mu.Lock()
	known := hc.known
	hc.mu.Unlock()
	if known && !hc.c.isWarm() && hc.allChecked() {
		hc.c.markWarm()
	}
}

// session checks one host.
type session struct {
	hc                 *healthChecks
	host               *Host
	first              bool
	healthy, unhealthy uint32 // results in a row
}

// transition is what a result did to the host's health.
type transition int

const (
	unchanged transition = iota
	changed
	changePending
)

func (s *session) run(ctx context.Context) {
	hc, h := s.hc, s.host
	spec := h.spec.Load()
	probe := hc.newProbe(hc.cfg, health.Target{
		Cluster: hc.c.cfg.Name, Hostname: spec.endpoint.HealthCheckHost, Reuse: true,
	})
	defer probe.Close()
	if !h.has(failedActiveHC) {
		hc.stats.healthy.Inc()
	}
	if h.has(degradedActiveHC) {
		hc.stats.degraded.Inc()
	}
	defer s.end()
	if j := hc.cfg.InitialJitter; j > 0 && !sleep(ctx, time.Duration(hc.c.opts.Rand()%uint64(j))) {
		return
	}
	for {
		hc.stats.attempt.Inc()
		timed, cancel := context.WithTimeout(ctx, hc.cfg.Timeout)
		r := probe.Check(timed, s.dial)
		cancel()
		if ctx.Err() != nil {
			return
		}
		ok := r.Kind == ""
		what := s.take(r)
		if !sleep(ctx, hc.interval(ok, what)) {
			return
		}
	}
}

// end takes the host out of the gauges.
func (s *session) end() {
	if !s.host.has(failedActiveHC) {
		s.hc.stats.healthy.Dec()
	}
	if s.host.has(degradedActiveHC) {
		s.hc.stats.degraded.Dec()
	}
}

// take applies one result.
func (s *session) take(r health.Result) transition {
	hc, h := s.hc, s.host
	if r.VerifiedCluster {
		hc.stats.verifyCluster.Inc()
	}
	if r.Exclude {
		h.set(excludedByHC)
	}
	var what transition
	if r.Kind == "" {
		what = s.success(r)
	} else {
		what = s.failure(r)
	}
	if h.clear(pendingActiveHC) {
		what = changed
	}
	first := s.first
	s.first = false
	if what == changed || r.Exclude {
		hc.c.healthChanged(h)
	}
	if r.Kind == "" && hc.c.outlier != nil && !h.has(failedActiveHC) {
		hc.c.outlier.checkedHealthy(h)
	}
	if first {
		h.checked.Store(true)
		hc.warmIfChecked()
	}
	return what
}

func (s *session) success(r health.Result) transition {
	hc, h := s.hc, s.host
	s.unhealthy = 0
	what := unchanged
	if h.has(failedActiveHC) {
		what = changePending
		// The first result counts at once, so that a start does not wait for
		// healthy_threshold intervals.
		if s.healthy++; s.first || s.healthy == hc.cfg.HealthyThreshold {
			h.clear(activeHCTimeout | excludedByHC | failedActiveHC)
			hc.stats.healthy.Inc()
			what = changed
			hc.events.log(h, healthEvent{AddHealthy: &addHealthy{FirstCheck: s.first}})
		}
		h.healthyAt.Store(hc.c.age())
	}
	if r.Degraded != h.has(degradedActiveHC) {
		if r.Degraded {
			h.set(degradedActiveHC)
			hc.stats.degraded.Inc()
			hc.events.log(h, healthEvent{Degraded: &struct{}{}})
		} else {
			h.clear(degradedActiveHC)
			hc.stats.degraded.Dec()
			hc.events.log(h, healthEvent{NoLongerDegraded: &struct{}{}})
		}
		if what == unchanged {
			what = changed
		}
	}
	hc.stats.success.Inc()
	return what
}

func (s *session) failure(r health.Result) transition {
	hc, h := s.hc, s.host
	s.healthy = 0
	what := unchanged
	if !h.has(failedActiveHC) {
		what = changePending
		s.unhealthy++
		if r.Kind == health.Active && !r.Retriable || s.unhealthy >= hc.cfg.UnhealthyThreshold {
			s.unhealthy = 0
			h.set(failedActiveHC)
			hc.stats.healthy.Dec()
			what = changed
			hc.events.log(h, healthEvent{Eject: &ejectUnhealthy{Type: string(r.Kind), Status: r.Status}})
			hc.c.opts.Log.Info("host failed its health checks", "cluster", hc.c.cfg.Name, "host", h.String(), "reason", r.Err)
		}
	}
	if r.Kind == health.Timeout && h.has(failedActiveHC) {
		h.set(activeHCTimeout)
	} else {
		h.clear(activeHCTimeout)
	}
	if s.first || hc.cfg.AlwaysLogFailures {
		hc.events.log(h, healthEvent{Failure: &checkFailure{Type: string(r.Kind), First: s.first, Status: r.Status}})
	}
	hc.stats.failure.Inc()
	if r.Kind != health.Active {
		hc.stats.networkFailure.Inc()
	}
	return what
}

// interval is the time to the next check: slow as long as the cluster has had
// no traffic, special while a change of health is under way.
func (hc *healthChecks) interval(ok bool, what transition) time.Duration {
	cfg := hc.cfg
	var d time.Duration
	switch {
	case hc.c.trafficNow.Load() == nil || hc.c.traffic().cxTotal.Value() == 0:
		d = or(cfg.NoTrafficInterval, 60*time.Second)
		if ok && what != changePending {
			d = or(cfg.NoTrafficHealthyInterval, d)
		}
	case ok && what == changePending:
		d = or(cfg.HealthyEdge, cfg.Interval)
	case ok:
		d = cfg.Interval
	case what == changePending:
		d = or(cfg.UnhealthyEdge, or(cfg.UnhealthyInterval, cfg.Interval))
	default:
		d = or(cfg.UnhealthyInterval, cfg.Interval)
	}
	if percent := time.Duration(cfg.IntervalJitterPercent) * d / 100; percent > 0 {
		d += time.Duration(hc.c.opts.Rand() % uint64(percent))
	}
	if cfg.IntervalJitter > 0 {
		d += time.Duration(hc.c.opts.Rand() % uint64(cfg.IntervalJitter))
	}
	return max(d, time.Millisecond)
}

func or(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}

// dial opens the connection of a check: to the health check address, with the
// transport socket of transport_socket_match_criteria.
func (s *session) dial(ctx context.Context) (net.Conn, error) {
	c, spec := s.hc.c, s.host.spec.Load()
	raw, err := c.dialer.dial(ctx, s.hc.address(spec))
	if err != nil {
		return nil, err
	}
	socket := spec.socket
	if criteria := s.hc.cfg.SocketMatch; criteria != nil {
		metadata := map[string]*structpb.Struct{matchNamespace: criteria}
		socket = c.socketAt(MatchSocket(c.cfg.SocketMatches, metadata, nil, false).Index)
	}
	if socket.header != nil {
		if err := socket.header.send(ctx, raw, nil, nil); err != nil {
			raw.Close()
			return nil, err
		}
	}
	conn, _, err := socket.handshake(ctx, raw, tlsmux.ClientOptions{Host: spec.hostname, ALPN: s.hc.cfg.TLSALPN})
	if err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// address is where spec is checked.
func (hc *healthChecks) address(spec *hostSpec) config.Address {
	a, port := spec.address, spec.endpoint.HealthCheckPort
	if own := spec.endpoint.HealthCheckAddress; own != nil && own.Host == "" {
		a = *own
	}
	if port == 0 {
		port = hc.cfg.AltPort
	}
	if port != 0 && a.AddrPort.IsValid() {
		a.AddrPort = netip.AddrPortFrom(a.AddrPort.Addr(), port)
	}
	return a
}
