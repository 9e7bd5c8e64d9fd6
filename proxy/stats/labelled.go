package stats

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
)

// maxLabelled bounds the labelled metrics of a registry, for what is in their
// labels can come from peers. Envoy has no limit. One of Istio's takes 3 KiB with
// its name.
const maxLabelled = 20_000

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

// labelledKey is what no two names share, whatever dots are in their values;
// the name itself is long.
type labelledKey struct {
	hash [sha256.Size]byte
	kind kind
}

func (l *Labelled) key(k kind) labelledKey {
	var b []byte
	part := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	part(l.Namespace)
	part(l.Name)
	for _, label := range l.Labels {
		part(label.Name)
		part(label.Value)
	}
	return labelledKey{sha256.Sum256(b), k}
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
	id := l.key(k)
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.labelled[id]
	if m == nil {
		if len(r.labelled) >= maxLabelled {
			return nil, func() {}
		}
		made := metric{kind: k, name: l.text(), promName: l.Name, labels: l.Labels, foreign: true}
		m = &labelled{metric: *made.fill(r)}
		if r.labelled == nil {
			r.labelled = map[labelledKey]*labelled{}
		}
		r.labelled[id] = m
	}
	m.holders++
	return &m.metric, func() { r.release(id, m) }
}

func (r *Registry) release(id labelledKey, m *labelled) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.holders--; m.holders == 0 {
		delete(r.labelled, id)
	}
}
