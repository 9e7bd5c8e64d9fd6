package stats

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/proto"
)

// Query chooses metrics.
type Query struct {
	// Filter is searched in the text name; nil takes all.
	Filter *regexp.Regexp
	// UsedOnly leaves out what was never written.
	UsedOnly bool
	// Type is "Counters", "Gauges" or "Histograms"; "" and "All" take all.
	Type string
}

// selected are the metrics of q by name.
func (r *Registry) selected(q Query) []*metric {
	r.mu.Lock()
	all := make([]*metric, 0, len(r.metrics))
	for _, m := range r.metrics {
		all = append(all, m)
	}
	r.mu.Unlock()
	all = slices.DeleteFunc(all, func(m *metric) bool {
		return q.Filter != nil && !q.Filter.MatchString(m.name) || q.UsedOnly && !m.used() || !m.is(q.Type)
	})
	slices.SortFunc(all, func(a, b *metric) int { return strings.Compare(a.name, b.name) })
	return all
}

func (m *metric) is(kind string) bool {
	switch kind {
	case "Counters":
		return m.counter != nil
	case "Gauges":
		return m.gauge != nil
	case "Histograms":
		return m.histogram != nil
	}
	return true
}

func (m *metric) used() bool {
	switch {
	case m.counter != nil:
		return m.counter.used.Load()
	case m.gauge != nil:
		return m.gauge.used.Load()
	}
	return m.histogram.count.Load() > 0
}

// Text writes Envoy's text format: counters and gauges by name, then
// histograms.
func (r *Registry) Text(w io.Writer, q Query) error {
	all := r.selected(q)
	for _, m := range all {
		switch {
		case m.counter != nil:
			fmt.Fprintf(w, "%s: %d\n", m.name, m.counter.Value())
		case m.gauge != nil:
			fmt.Fprintf(w, "%s: %d\n", m.name, m.gauge.Value())
		}
	}
	for _, m := range all {
		if m.histogram != nil {
			fmt.Fprintf(w, "%s: %s\n", m.name, m.histogram.summary())
		}
	}
	return nil
}

// JSON writes Envoy's JSON format.
func (r *Registry) JSON(w io.Writer, q Query) error {
	type one struct {
		Name  string `json:"name"`
		Value any    `json:"value"`
	}
	out := struct {
		Stats []any `json:"stats"`
	}{Stats: []any{}}
	var computed []any
	for _, m := range r.selected(q) {
		switch {
		case m.counter != nil:
			out.Stats = append(out.Stats, one{m.name, m.counter.Value()})
		case m.gauge != nil:
			out.Stats = append(out.Stats, one{m.name, m.gauge.Value()})
		default:
			computed = append(computed, map[string]any{"name": m.name, "values": m.histogram.quantileValues()})
		}
	}
	if computed != nil {
		out.Stats = append(out.Stats, map[string]any{"histograms": map[string]any{
			"supported_quantiles": []float64{0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100}, "computed_quantiles": computed,
		}})
	}
	return json.NewEncoder(w).Encode(out)
}

// Prometheus writes the exposition format, names and labels as Envoy's.
func (r *Registry) Prometheus(w io.Writer, q Query) error {
	families := map[string]*dto.MetricFamily{}
	for _, m := range r.selected(q) {
		name := "envoy_" + sanitized(strings.TrimSuffix(m.promName, "."))
		kind, one := m.exposed()
		f := families[name]
		if f == nil {
			f = &dto.MetricFamily{Name: proto.String(name), Type: kind.Enum()}
			families[name] = f
		}
		if f.GetType() != kind {
			continue // two kinds under one name cannot be exposed; the first by name is
		}
		for _, l := range m.labels {
			one.Label = append(one.Label, &dto.LabelPair{Name: proto.String(sanitized(l.Name)), Value: proto.String(l.Value)})
		}
		f.Metric = append(f.Metric, one)
	}
	names := make([]string, 0, len(families))
	for name := range families {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if _, err := expfmt.MetricFamilyToText(w, families[name]); err != nil {
			return err
		}
	}
	return nil
}

// sanitized is a name with everything else than letters, digits and _ made _.
func sanitized(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, s)
}

func (m *metric) exposed() (dto.MetricType, *dto.Metric) {
	switch {
	case m.counter != nil:
		return dto.MetricType_COUNTER, &dto.Metric{Counter: &dto.Counter{Value: proto.Float64(float64(m.counter.Value()))}}
	case m.gauge != nil:
		return dto.MetricType_GAUGE, &dto.Metric{Gauge: &dto.Gauge{Value: proto.Float64(float64(m.gauge.Value()))}}
	}
	h := m.histogram
	out := &dto.Histogram{SampleCount: proto.Uint64(h.count.Load()), SampleSum: proto.Float64(float64(h.sum.Load()))}
	var below uint64
	for i, bound := range bounds {
		below += h.buckets[i].Load()
		out.Bucket = append(out.Bucket, &dto.Bucket{UpperBound: proto.Float64(bound), CumulativeCount: proto.Uint64(below)})
	}
	return dto.MetricType_HISTOGRAM, &dto.Metric{Histogram: out}
}

// Reset makes all counters 0 and forgets histograms (Envoy: /reset_counters).
func (r *Registry) Reset() {
	for _, m := range r.selected(Query{}) {
		switch {
		case m.counter != nil:
			m.counter.n.Store(0)
		case m.histogram != nil:
			m.histogram.reset()
		}
	}
}

// bounds are Envoy's default histogram buckets.
var bounds = [...]float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000}

// Histogram counts values in Envoy's default buckets.
type Histogram struct {
	buckets    [len(bounds) + 1]atomic.Uint64
	count, sum atomic.Uint64
	mu         sync.Mutex
	low, high  uint64 // guarded by mu
}

// Record adds one value, in the unit that the name says (_ms, else plain).
func (h *Histogram) Record(v uint64) {
	i, _ := slices.BinarySearch(bounds[:], float64(v))
	h.buckets[i].Add(1)
	h.sum.Add(v)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.count.Add(1) == 1 || v < h.low {
		h.low = v
	}
	h.high = max(h.high, v)
}

func (h *Histogram) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.buckets {
		h.buckets[i].Store(0)
	}
	h.count.Store(0)
	h.sum.Store(0)
	h.low, h.high = 0, 0
}

// quantiles are what Envoy prints.
var quantiles = [...]float64{0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1}

// quantile is estimated from the buckets; it is exact for the least and the
// greatest value.
func (h *Histogram) quantile(q float64) float64 {
	h.mu.Lock()
	low, high := float64(h.low), float64(h.high)
	h.mu.Unlock()
	switch q {
	case 0:
		return low
	case 1:
		return high
	}
	rank := q * float64(h.count.Load())
	var below float64
	for i := range h.buckets {
		n := float64(h.buckets[i].Load())
		if below+n >= rank && n > 0 {
			from, to := low, high
			if i > 0 {
				from = max(low, bounds[i-1])
			}
			if i < len(bounds) {
				to = min(high, bounds[i])
			}
			return math.Round((from+(to-from)*(rank-below)/n)*100) / 100
		}
		below += n
	}
	return high
}

// summary is Envoy's text of a histogram. It knows no interval: both values of
// each pair are over all time.
func (h *Histogram) summary() string {
	if h.count.Load() == 0 {
		return "No recorded values"
	}
	var out []string
	for _, q := range quantiles {
		v := h.quantile(q)
		out = append(out, fmt.Sprintf("P%v(%v,%v)", q*100, v, v))
	}
	return strings.Join(out, " ")
}

func (h *Histogram) quantileValues() []map[string]any {
	var out []map[string]any
	for _, q := range quantiles {
		var v any
		if h.count.Load() > 0 {
			v = h.quantile(q)
		}
		out = append(out, map[string]any{"interval": v, "cumulative": v})
	}
	return out
}
