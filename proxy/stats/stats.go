// Package stats holds counters, gauges, histograms and text readouts under
// Envoy's names.
//
// A metric has a text name (cluster.uc.upstream_cx_total) and, for Prometheus,
// a name without the variable parts, which become labels
// (envoy_cluster_upstream_cx_total{envoy_cluster_name="uc"}).
package stats

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Registry is the set of all metrics of a process.
type Registry struct {
	mu   sync.RWMutex
	root node // guarded by mu
	// labelled are apart from root, for their names are long and full of dots.
	// Guarded by mu.
	labelled map[labelledKey]*labelled
	showing  atomic.Pointer[Showing]
}

// node is what begins with one prefix: the part of the name before a dot. A
// tree, so that a scope is removed without a look at all the others.
type node struct {
	children map[string]*node
	metrics  map[key]*metric // those without a further dot
}

// key is a name and a kind: a counter and a gauge of one name are two metrics,
// as in Envoy.
type key struct {
	name string // after the last dot
	kind kind
}

type kind int

const (
	counterKind kind = iota
	gaugeKind
	histogramKind
	textKind
)

// metric is one entry: the pointer of its kind is set.
type metric struct {
	name      string // text
	promName  string // without "envoy_" and not yet sanitized
	labels    []Label
	kind      kind
	foreign   bool // promName is whole: no "envoy_" before it
	counter   *Counter
	gauge     *Gauge
	histogram *Histogram
	text      *TextReadout
}

// Label is one Prometheus label, from one of Envoy's tags.
type Label struct{ Name, Value string }

// New makes an empty registry.
func New() *Registry { return &Registry{} }

// flushInterval is Envoy's default stats_flush_interval.
const flushInterval = 5 * time.Second

// Run ends an interval of all histograms every 5 seconds (Envoy: the default
// stats_flush_interval) until ctx ends. Without it, histograms have no
// interval values; nothing else needs it.
func (r *Registry) Run(ctx context.Context) error {
	tick := time.NewTicker(flushInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			for _, m := range r.all() {
				if m.kind == histogramKind {
					m.histogram.flush()
				}
			}
		}
	}
}

// Scope is a prefix of names. Scopes with the same prefix share their metrics.
type Scope struct {
	registry *Registry
	prefix   string // "cluster.uc."
	prom     string // "cluster."
	labels   []Label
}

// Root is the scope without a prefix, for names that stand alone.
func (r *Registry) Root() *Scope { return &Scope{registry: r} }

// Scope is the root scope's Scope.
func (r *Registry) Scope(name string) *Scope { return r.Root().Scope(name) }

// Tagged is the root scope's Tagged, for names that begin with what is variable
// (rb.rbac.allowed).
func (r *Registry) Tagged(tag, value string) *Scope { return r.Root().Tagged(tag, value) }

// Scope is the scope name under s: its metrics are s.name.x.
func (s *Scope) Scope(name string) *Scope {
	return &Scope{s.registry, s.prefix + name + ".", s.prom + name + ".", s.labels}
}

// Tagged is the scope value under s, where value is variable: it is part of
// the text name, and the label tag (envoy_cluster_name) of the Prometheus
// name.
func (s *Scope) Tagged(tag, value string) *Scope {
	return &Scope{s.registry, s.prefix + value + ".", s.prom, s.with(tag, value)}
}

// with are s's labels and one more.
func (s *Scope) with(tag, value string) []Label {
	return append(append([]Label(nil), s.labels...), Label{tag, value})
}

// Counter is the counter of that name, the same one at every call.
func (s *Scope) Counter(name string) *Counter {
	return s.metric(metric{kind: counterKind, name: s.prefix + name, promName: s.prom + name, labels: s.labels}).counter
}

// Valued is the counter name.value, where value is variable: for Prometheus it
// is the label tag of the metric name.
func (s *Scope) Valued(name, tag, value string) *Counter {
	return s.metric(metric{
		kind: counterKind, name: s.prefix + name + "." + value, promName: s.prom + name, labels: s.with(tag, value),
	}).counter
}

// Gauge is the gauge of that name, the same one at every call.
func (s *Scope) Gauge(name string) *Gauge {
	return s.metric(metric{kind: gaugeKind, name: s.prefix + name, promName: s.prom + name, labels: s.labels}).gauge
}

// Histogram is the histogram of that name, the same one at every call.
func (s *Scope) Histogram(name string) *Histogram {
	return s.metric(metric{kind: histogramKind, name: s.prefix + name, promName: s.prom + name, labels: s.labels}).histogram
}

// Text is the text readout of that name, the same one at every call.
func (s *Scope) Text(name string) *TextReadout {
	return s.metric(metric{kind: textKind, name: s.prefix + name, promName: s.prom + name, labels: s.labels}).text
}

// metric is the one that is there, or m.
func (s *Scope) metric(m metric) *metric {
	dir, last := cut(m.name)
	k := key{last, m.kind}
	r := s.registry
	r.mu.RLock()
	found := r.root.find(dir).get(k)
	r.mu.RUnlock()
	if found != nil {
		return found
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.root.make(dir)
	if found := n.get(k); found != nil {
		return found
	}
	if n.metrics == nil {
		n.metrics = map[key]*metric{}
	}
	n.metrics[k] = m.fill(r)
	return n.metrics[k]
}

func (m metric) fill(r *Registry) *metric {
	switch m.kind {
	case counterKind:
		m.counter = &Counter{}
	case gaugeKind:
		m.gauge = &Gauge{}
	case histogramKind:
		m.histogram = &Histogram{upper: r.boundsOf(m.name)}
	case textKind:
		m.text = &TextReadout{}
	}
	return &m
}

// cut is "a.b", "c" of "a.b.c".
func cut(name string) (dir, last string) {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

// find is the node of dir under n, which is "" for n itself; nil if there is
// none.
func (n *node) find(dir string) *node {
	for first := ""; dir != "" && n != nil; {
		first, dir, _ = strings.Cut(dir, ".")
		n = n.children[first]
	}
	return n
}

// make is find, which makes what is not there.
func (n *node) make(dir string) *node {
	for first := ""; dir != ""; {
		first, dir, _ = strings.Cut(dir, ".")
		child := n.children[first]
		if child == nil {
			child = &node{}
			if n.children == nil {
				n.children = map[string]*node{}
			}
			n.children[first] = child
		}
		n = child
	}
	return n
}

func (n *node) get(k key) *metric {
	if n == nil {
		return nil
	}
	return n.metrics[k]
}

// Remove forgets every metric under s, once what it counted is gone. It does
// so for all scopes of the same prefix: who shares a prefix (two versions of
// one cluster) counts its users and removes after the last. A metric that
// somebody still holds goes on counting, but is not shown any more.
//
// Names with dots share prefixes without sharing metrics: to remove cluster
// "a" leaves those of cluster "a.b", which have other labels.
func (s *Scope) Remove() {
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	path := strings.TrimSuffix(s.prefix, ".")
	if path == "" {
		r.root = node{}
		return
	}
	r.root.remove(path, s.labels)
}

// remove empties the node of path of what labels do not say is another's, and
// cuts off what is empty then.
func (n *node) remove(path string, labels []Label) {
	first, rest, more := strings.Cut(path, ".")
	child := n.children[first]
	if child == nil {
		return
	}
	if more {
		child.remove(rest, labels)
	} else {
		child.drop(labels)
	}
	if child.empty() {
		delete(n.children, first)
	}
}

// drop forgets the metrics at and below n, but those whose labels say that
// they are another's.
func (n *node) drop(labels []Label) {
	for k, m := range n.metrics {
		if common := min(len(m.labels), len(labels)); slices.Equal(m.labels[:common], labels[:common]) {
			delete(n.metrics, k)
		}
	}
	for name, child := range n.children {
		if child.drop(labels); child.empty() {
			delete(n.children, name)
		}
	}
}

func (n *node) empty() bool { return len(n.children) == 0 && len(n.metrics) == 0 }

// all are the metrics in no order.
func (r *Registry) all() []*metric {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := r.root.collect(make([]*metric, 0, len(r.labelled)))
	for _, m := range r.labelled {
		out = append(out, &m.metric)
	}
	return out
}

func (n *node) collect(out []*metric) []*metric {
	for _, m := range n.metrics {
		out = append(out, m)
	}
	for _, child := range n.children {
		out = child.collect(out)
	}
	return out
}

// Reset makes all counters 0 (Envoy: /reset_counters), and no other metric.
func (r *Registry) Reset() {
	for _, m := range r.all() {
		if m.kind == counterKind {
			m.counter.reset()
		}
	}
}
