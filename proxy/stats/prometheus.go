package stats

import (
	"bufio"
	"cmp"
	"io"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/proto"
)

// family is what makes one family: Envoy too has two if a counter and a gauge
// have one name.
type family struct {
	name string
	kind dto.MetricType
}

// Prometheus writes the exposition format, names and labels as Envoy's, the
// families by name. Detailed and Disjoint are Cumulative here. The error is
// w's.
func (r *Registry) Prometheus(w io.Writer, q Query) error {
	families := map[family]*dto.MetricFamily{}
	for _, m := range r.selected(q) {
		if m.kind == textKind && !q.TextReadouts {
			continue
		}
		name, labels := r.tagged(m)
		k, one := m.exposed(labels, q.Buckets)
		id := family{m.family(name), k}
		f := families[id]
		if f == nil {
			f = &dto.MetricFamily{Name: proto.String(id.name), Type: k.Enum()}
			families[id] = f
		}
		f.Metric = append(f.Metric, one)
	}
	ids := make([]family, 0, len(families))
	for id := range families {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b family) int {
		return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(a.kind, b.kind))
	})
	out := bufio.NewWriter(w)
	for _, id := range ids {
		if _, err := expfmt.MetricFamilyToText(out, families[id]); err != nil {
			return err
		}
	}
	return out.Flush()
}

// family is the name of the metric's family.
func (m *metric) family(name string) string {
	if m.foreign {
		return sanitized(name)
	}
	return "envoy_" + sanitized(name)
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

func (m *metric) exposed(labels []Label, b Buckets) (dto.MetricType, *dto.Metric) {
	out := &dto.Metric{}
	for _, l := range labels {
		out.Label = append(out.Label, &dto.LabelPair{Name: proto.String(sanitized(l.Name)), Value: proto.String(strings.ToValidUTF8(l.Value, "?"))})
	}
	switch m.kind {
	case counterKind:
		out.Counter = &dto.Counter{Value: proto.Float64(float64(m.counter.Value()))}
		return dto.MetricType_COUNTER, out
	case gaugeKind:
		out.Gauge = &dto.Gauge{Value: proto.Float64(float64(m.gauge.shown()))}
		return dto.MetricType_GAUGE, out
	case textKind:
		out.Label = append(out.Label, &dto.LabelPair{Name: proto.String("text_value"), Value: proto.String(strings.ToValidUTF8(m.text.Value(), "?"))})
		out.Gauge = &dto.Gauge{Value: proto.Float64(0)}
		return dto.MetricType_GAUGE, out
	case histogramKind:
	}
	if b == Summary {
		out.Summary = m.histogram.summary()
		return dto.MetricType_SUMMARY, out
	}
	out.Histogram = m.histogram.exposed()
	return dto.MetricType_HISTOGRAM, out
}

func (h *Histogram) exposed() *dto.Histogram {
	all := h.bins()
	out := &dto.Histogram{SampleCount: proto.Uint64(total(all)), SampleSum: proto.Float64(float64(h.sum.Load()))}
	limits := h.limits()
	for i, n := range below(all, limits) {
		out.Bucket = append(out.Bucket, &dto.Bucket{UpperBound: proto.Float64(limits[i]), CumulativeCount: proto.Uint64(n)})
	}
	return out
}

// summary has the quantiles of the last interval, as Envoy's.
func (h *Histogram) summary() *dto.Summary {
	last := h.last()
	out := &dto.Summary{SampleCount: proto.Uint64(total(h.bins())), SampleSum: proto.Float64(float64(h.sum.Load()))}
	for _, q := range quantiles {
		out.Quantile = append(out.Quantile, &dto.Quantile{Quantile: proto.Float64(q), Value: proto.Float64(quantile(last, q))})
	}
	return out
}
