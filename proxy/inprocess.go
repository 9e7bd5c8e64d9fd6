package proxy

import (
	"io"

	"outrider/proxy/config"
	"outrider/proxy/stats"
)

// WritePrometheus writes all metrics, as /stats/prometheus does.
func (s *Server) WritePrometheus(w io.Writer) error {
	s.refreshStats()
	return s.registry.Prometheus(w, stats.Query{})
}

// DrainInbound has the listeners of the direction INBOUND stop accepting. Their
// connections go on, and so do all others.
func (s *Server) DrainInbound() {
	s.listeners.stop(func(l *config.Listener) bool { return l.Direction == config.Inbound })
}
