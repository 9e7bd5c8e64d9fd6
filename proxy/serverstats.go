package proxy

import (
	"runtime"
	"slices"
	"time"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/listener"
	"outrider/proxy/stats"
)

// serverStats are the metrics of the whole process, under Envoy's names, and
// ours under "outrider.".
type serverStats struct {
	scope *stats.Scope // server.

	workersStarted    *stats.Gauge
	connections       *stats.Gauge // server.total_connections
	initializationMS  *stats.Histogram
	panics            *stats.Counter
	updateRejected    *stats.Counter // of a file of LDS, CDS or EDS
	held, holdExpired *stats.Counter // connections that waited for something to be there
	end               map[flow.Stage]*stats.Counter
	lm                managerStats
	secrets           secretTotals
	certs             certTotals
}

// managerStats are listener_manager.*
type managerStats struct {
	added, modified, removed, inPlace, createFailure, createSuccess *stats.Counter
	lds, cds                                                        updateStats
}

func newServerStats(r *stats.Registry) *serverStats {
	server, lm, own := r.Scope("server"), r.Scope("listener_manager"), r.Scope("outrider")
	s := &serverStats{
		scope:            server,
		workersStarted:   lm.Gauge("workers_started"),
		connections:      server.Gauge("total_connections"),
		initializationMS: server.Histogram("initialization_time_ms"),
		panics:           own.Counter("connection_panics"),
		updateRejected:   own.Counter("file_update_rejected"),
		held:             own.Counter("connections_held"), holdExpired: own.Counter("connections_hold_expired"),
		end: map[flow.Stage]*stats.Counter{},
		lm: managerStats{
			added: lm.Counter("listener_added"), modified: lm.Counter("listener_modified"),
			removed: lm.Counter("listener_removed"), inPlace: lm.Counter("listener_in_place_updated"),
			createFailure: lm.Counter("listener_create_failure"), createSuccess: lm.Counter("listener_create_success"),
			lds: newUpdateStats(lm.Scope("lds")), cds: newUpdateStats(r.Scope("cluster_manager").Scope("cds")),
		},
	}
	for _, stage := range []flow.Stage{
		flow.StageAccept, flow.StageListenerFilter, flow.StageLoop, flow.StageHold, flow.StageMatch, flow.StageTLS, flow.StageNetworkFilter,
		flow.StageCluster, flow.StageConnect, flow.StageUpstreamTLS, flow.StageRelay,
	} {
		s.end[stage] = own.Scope("connection_ended_early").Counter(string(stage))
	}
	return s
}

func (s *serverStats) ended(stage flow.Stage) {
	if c := s.end[stage]; c != nil {
		c.Inc()
	}
}

// stateNumbers are ServerInfo.State, as server.state shows it.
var stateNumbers = map[string]int64{"LIVE": 0, "DRAINING": 1, "PRE_INITIALIZING": 2, "INITIALIZING": 3}

// refreshStats sets what is computed when somebody looks.
func (s *Server) refreshStats() {
	server := s.stats.scope
	server.Gauge("uptime").Set(int64(time.Since(s.start).Seconds()))
	server.Gauge("concurrency").Set(int64(s.opts.Concurrency))
	server.Gauge("state").Set(stateNumbers[s.State()])
	server.Gauge("live").Set(boolGauge(s.State() == "LIVE"))
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	server.Gauge("memory_allocated").Set(int64(mem.HeapAlloc))
	server.Gauge("memory_heap_size").Set(int64(mem.HeapSys))
	server.Gauge("memory_physical_size").Set(int64(mem.Sys - mem.HeapReleased))
	if days, ok := s.daysUntilFirstExpiry(); ok {
		server.Gauge("days_until_first_cert_expiring").Set(days)
	}
	lm := s.registry.Scope("listener_manager")
	active, warming, draining := s.listeners.counts()
	lm.Gauge("total_listeners_active").Set(active)
	lm.Gauge("total_listeners_warming").Set(warming)
	lm.Gauge("total_listeners_draining").Set(draining)
	lm.Gauge("total_filter_chains_draining").Set(s.listeners.chainsDraining())
	s.secretStats()
	s.discovery.streams.showAge()
}

func boolGauge(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// daysUntilFirstExpiry is over all certificates and roots in use.
func (s *Server) daysUntilFirstExpiry() (int64, bool) {
	var first time.Time
	earlier := func(t time.Time) {
		if first.IsZero() || t.Before(first) {
			first = t
		}
	}
	for _, h := range s.secrets.Handles() {
		secret, err := h.Current()
		if err != nil {
			continue
		}
		if secret.KeyPair != nil {
			earlier(secret.KeyPair.TLS.Leaf.NotAfter)
		}
		if secret.Validation != nil {
			for _, root := range secret.Validation.Roots {
				earlier(root.NotAfter)
			}
		}
	}
	if first.IsZero() {
		return 0, false
	}
	return max(int64(time.Until(first).Hours()/24), 0), true
}

// listenerStats are listener.<address>.*
type listenerStats struct {
	scope  *stats.Scope
	server *serverStats

	total, destroy, noFilterChainMatch, overflow, socketTimeout *stats.Counter
	active                                                      *stats.Gauge
	length                                                      *stats.Histogram
	tls                                                         *stats.TLS
	accept                                                      *listener.AcceptStats

	// Of servers that speak first; ours. serverFirst counts the connections
	// that went on by it, the others what was dialled for it.
	serverFirst, serverFirstDialed, serverFirstFailed, serverFirstUnused *stats.Counter
	loopRefused                                                          *stats.Counter
}

// statName is stat_prefix, or the address.
func statName(cfg *config.Listener) string {
	if cfg.StatPrefix != "" {
		return cfg.StatPrefix
	}
	return listener.StatName(cfg.Address)
}

func (s *Server) listenerStats(cfg *config.Listener) *listenerStats {
	scope := s.registry.Scope("listener").Tagged("envoy_listener_address", statName(cfg))
	return &listenerStats{
		scope: scope, server: s.stats,
		total: scope.Counter("downstream_cx_total"), destroy: scope.Counter("downstream_cx_destroy"),
		noFilterChainMatch: scope.Counter("no_filter_chain_match"), overflow: scope.Counter("downstream_cx_overflow"),
		socketTimeout: scope.Counter("downstream_cx_transport_socket_connect_timeout"),
		active:        scope.Gauge("downstream_cx_active"),
		length:        scope.Histogram("downstream_cx_length_ms"),
		tls:           stats.NewTLS(scope),
		accept:        listener.NewAcceptStats(scope),

		serverFirst: scope.Counter("server_first"), serverFirstDialed: scope.Counter("server_first_dialed"),
		serverFirstFailed: scope.Counter("server_first_dial_failed"), serverFirstUnused: scope.Counter("server_first_unused"),
		loopRefused: scope.Counter("loop_refused"),
	}
}

// open counts a connection in, and returns what counts it out.
func (l *listenerStats) open() func() {
	l.total.Inc()
	l.active.Inc()
	l.server.connections.Inc()
	return l.close
}

func (l *listenerStats) close() {
	l.active.Dec()
	l.destroy.Inc()
	l.server.connections.Dec()
}

// showing is what stats_config shows of metrics.
func showing(cfg *config.StatsConfig) stats.Showing {
	out := stats.Showing{OwnTagsOnly: cfg.OwnTagsOnly}
	for _, t := range cfg.Tags {
		out.Tags = append(out.Tags, stats.Tag{Name: t.Name, Regex: t.Regex, Value: t.Fixed})
	}
	if len(cfg.Buckets) > 0 {
		out.Bounds = func(name string) []float64 {
			for _, b := range cfg.Buckets {
				if b.Match.Match(name) {
					return b.Bounds
				}
			}
			return nil
		}
	}
	matches := func(list []certs.StringMatcher, name string) bool {
		return slices.ContainsFunc(list, func(m certs.StringMatcher) bool { return m.Match(name) })
	}
	switch m := cfg.Matcher; {
	case m.RejectAll:
		out.Keep = func(string) bool { return false }
	case m.Include != nil:
		out.Keep = func(name string) bool { return matches(m.Include, name) }
	case m.Exclude != nil:
		out.Keep = func(name string) bool { return !matches(m.Exclude, name) }
	}
	return out
}
