package stats

import "strings"

// maxLabelled bounds the labelled metrics of a registry: their labels can come
// from peers. Envoy has no limit; a metric of Istio's with its labels takes 2 KiB.
const maxLabelled = 50_000

// Labelled names a metric with all that varies in labels, under a name that is
// not Envoy's (Envoy: a custom stat namespace). In text it is
// namespace.name.label.value.label.value; for Prometheus it is the name alone,
// without "envoy_" before it.
type Labelled struct {
	Namespace, Name string
	Labels          []Label // in the order in which they are shown
}

// text is the text name. As in Envoy, an empty value leaves no trace.
func (l *Labelled) text() string {
	var b strings.Builder
	part := func(s string) {
		if s != "" {
			b.WriteByte('.')
			b.WriteString(s)
		}
	}
	b.WriteString(l.Namespace)
	part(l.Name)
	for _, label := range l.Labels {
		part(label.Name)
		part(label.Value)
	}
	return b.String()
}

// id is what no two names share: a value may have dots, or be empty.
func (l *Labelled) id() string {
	var b strings.Builder
	b.WriteString(l.Namespace)
	b.WriteByte(0)
	b.WriteString(l.Name)
	for _, label := range l.Labels {
		b.WriteByte(0)
		b.WriteString(label.Name)
		b.WriteByte(0)
		b.WriteString(label.Value)
	}
	return b.String()
}

// labelled is a metric that goes with its last holder.
type labelled struct {
	metric
	holders int
}

// HoldCounter is the counter of l, the same one for all who hold it. It is gone
// with its last holder. It is nil if there are too many labelled metrics
// already; release may be called then too, and is to be called once.
func (r *Registry) HoldCounter(l Labelled) (c *Counter, release func()) {
	m, release := r.hold(l, counterKind)
	if m == nil {
		return nil, release
	}
	return m.counter, release
}

// HoldGauge is HoldCounter for a gauge.
func (r *Registry) HoldGauge(l Labelled) (g *Gauge, release func()) {
	m, release := r.hold(l, gaugeKind)
	if m == nil {
		return nil, release
	}
	return m.gauge, release
}

// HoldHistogram is HoldCounter for a histogram.
func (r *Registry) HoldHistogram(l Labelled) (h *Histogram, release func()) {
	m, release := r.hold(l, histogramKind)
	if m == nil {
		return nil, release
	}
	return m.histogram, release
}

func (r *Registry) hold(l Labelled, k kind) (*metric, func()) {
	id := key{l.id(), k}
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.labelled[id]
	if m == nil {
		if len(r.labelled) >= maxLabelled {
			return nil, func() {}
		}
		made := metric{kind: k, name: l.text(), promName: l.Name, labels: l.Labels, foreign: true}
		m = &labelled{metric: *made.fill()}
		if r.labelled == nil {
			r.labelled = map[key]*labelled{}
		}
		r.labelled[id] = m
	}
	m.holders++
	return &m.metric, func() { r.release(id, m) }
}

func (r *Registry) release(id key, m *labelled) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.holders--; m.holders == 0 {
		delete(r.labelled, id)
	}
}
