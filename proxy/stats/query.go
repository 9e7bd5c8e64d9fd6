package stats

import (
	"regexp"
	"slices"
	"strings"
)

// Query chooses metrics, and how histograms are shown.
type Query struct {
	// Filter is searched in the text name; nil takes all. Invert takes those
	// that it does not find.
	Filter *regexp.Regexp
	Invert bool
	// UsedOnly leaves out what was never written.
	UsedOnly bool
	// Type is "Counters", "Gauges", "Histograms" or "TextReadouts"; "" and
	// "All" take all.
	Type    string
	Buckets Buckets
	// TextReadouts shows them in Prometheus' format too, as gauges of value 0
	// with the label text_value.
	TextReadouts bool
}

// Buckets is how histograms are shown.
type Buckets int

const (
	// Unset is Summary in text and JSON, Cumulative for Prometheus.
	Unset Buckets = iota
	// Summary shows quantiles.
	Summary
	// Cumulative shows for each bound how many values were not above it.
	Cumulative
	// Disjoint shows how many values lay between two bounds.
	Disjoint
	// Detailed shows the bins as they are counted, and the quantiles.
	Detailed
)

// selected are the metrics of q by name.
func (r *Registry) selected(q Query) []*metric {
	all := slices.DeleteFunc(r.all(), func(m *metric) bool {
		return !m.is(q.Type) || q.UsedOnly && !m.used() || !r.shows(m.name) ||
			q.Filter != nil && q.Filter.MatchString(m.name) == q.Invert
	})
	slices.SortFunc(all, func(a, b *metric) int { return strings.Compare(a.name, b.name) })
	return all
}

func (m *metric) is(typ string) bool {
	switch typ {
	case "Counters":
		return m.kind == counterKind
	case "Gauges":
		return m.kind == gaugeKind
	case "Histograms":
		return m.kind == histogramKind
	case "TextReadouts":
		return m.kind == textKind
	}
	return true
}

func (m *metric) used() bool {
	switch m.kind {
	case counterKind:
		return m.counter.used()
	case gaugeKind:
		return m.gauge.used.Load()
	case histogramKind:
		return m.histogram.used()
	default:
		return m.text.used()
	}
}

// sections are the metrics in the order of Envoy's listing: texts, counters
// with gauges, histograms.
func sections(all []*metric) (texts, values, histograms []*metric) {
	for _, m := range all {
		switch m.kind {
		case textKind:
			texts = append(texts, m)
		case histogramKind:
			histograms = append(histograms, m)
		default:
			values = append(values, m)
		}
	}
	return texts, values, histograms
}
