// Package stats holds counters, gauges and histograms under Envoy's names.
//
// A metric has a text name (cluster.uc.upstream_cx_total) and, for Prometheus,
// a name without the variable parts, which become labels
// (envoy_cluster_upstream_cx_total{envoy_cluster_name="uc"}).
package stats

import (
	"strings"
	"sync"
	"sync/atomic"
)

// Registry is the set of all metrics of a process.
type Registry struct {
	mu      sync.Mutex
	metrics map[string]*metric // guarded by mu; by text name
}

// metric is one entry: exactly one of the pointers is set.
type metric struct {
	name      string // text
	promName  string // without "envoy_" and not yet sanitized
	labels    []Label
	counter   *Counter
	gauge     *Gauge
	histogram *Histogram
}

// Label is one Prometheus label, from one of Envoy's tags.
type Label struct{ Name, Value string }

// New makes an empty registry.
func New() *Registry { return &Registry{metrics: map[string]*metric{}} }

// Scope is a prefix of names.
type Scope struct {
	registry *Registry
	prefix   string // "cluster.uc."
	prom     string // "cluster."
	labels   []Label
}

// Root is the scope without a prefix, for names that stand alone.
func (r *Registry) Root() *Scope { return &Scope{registry: r} }

// Scope is the root scope's Scope.
func (r *Registry) Scope(name string) *Scope { return (&Scope{registry: r}).Scope(name) }

// Tagged is the root scope's Tagged, for names that begin with what is variable
// (rb.rbac.allowed).
func (r *Registry) Tagged(tag, value string) *Scope {
	return (&Scope{registry: r}).Tagged(tag, value)
}

// Scope is the scope name under s: its metrics are s.name.x.
func (s *Scope) Scope(name string) *Scope {
	return &Scope{s.registry, s.prefix + name + ".", s.prom + name + ".", s.labels}
}

// Tagged is the scope value under s, where value is variable: it is part of
// the text name, and the label tag (envoy_cluster_name) of the Prometheus
// name.
func (s *Scope) Tagged(tag, value string) *Scope {
	labels := append(append([]Label(nil), s.labels...), Label{tag, value})
	return &Scope{s.registry, s.prefix + value + ".", s.prom, labels}
}

// Counter is the counter of that name, the same one at every call.
func (s *Scope) Counter(name string) *Counter {
	m := s.metric(name, func(m *metric) { m.counter = &Counter{} })
	return m.counter
}

// Valued is the counter name.value, where value is variable: for Prometheus it
// is the label tag of the metric name.
func (s *Scope) Valued(name, tag, value string) *Counter {
	labels := append(append([]Label(nil), s.labels...), Label{tag, value})
	valued := &Scope{s.registry, s.prefix + name + ".", s.prom, labels}
	m := valued.metric(value, func(m *metric) { m.promName, m.counter = s.prom+name, &Counter{} })
	return m.counter
}

// Gauge is the gauge of that name, the same one at every call.
func (s *Scope) Gauge(name string) *Gauge {
	m := s.metric(name, func(m *metric) { m.gauge = &Gauge{} })
	return m.gauge
}

// Histogram is the histogram of that name, the same one at every call.
func (s *Scope) Histogram(name string) *Histogram {
	m := s.metric(name, func(m *metric) { m.histogram = &Histogram{} })
	return m.histogram
}

func (s *Scope) metric(name string, fill func(*metric)) *metric {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	full := s.prefix + name
	m := s.registry.metrics[full]
	if m == nil {
		m = &metric{name: full, promName: s.prom + name, labels: s.labels}
		fill(m)
		s.registry.metrics[full] = m
	}
	return m
}

// Remove forgets every metric under s, once what it counted is gone.
func (s *Scope) Remove() {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	for name := range s.registry.metrics {
		if strings.HasPrefix(name, s.prefix) {
			delete(s.registry.metrics, name)
		}
	}
}

// Counter only grows.
type Counter struct {
	n    atomic.Uint64
	used atomic.Bool // written since the start; a reset does not unset it
}

// Inc adds one.
func (c *Counter) Inc() { c.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) {
	c.n.Add(n)
	if !c.used.Load() {
		c.used.Store(true)
	}
}

// Value is the count since the start or the last reset.
func (c *Counter) Value() uint64 { return c.n.Load() }

// Gauge goes up and down.
type Gauge struct {
	n    atomic.Int64
	used atomic.Bool
}

// Inc adds one.
func (g *Gauge) Inc() { g.Add(1) }

// Dec takes one.
func (g *Gauge) Dec() { g.Add(-1) }

// Add adds n.
func (g *Gauge) Add(n int64) { g.n.Add(n); g.used.Store(true) }

// Set makes it n.
func (g *Gauge) Set(n int64) { g.n.Store(n); g.used.Store(true) }

// Value is the gauge now.
func (g *Gauge) Value() int64 { return g.n.Load() }
