package stats

import (
	"bufio"
	"encoding/json"
	"io"
	"math"
)

// JSON writes Envoy's JSON format, in the order of the text format. The error
// is w's.
func (r *Registry) JSON(w io.Writer, q Query) error {
	out := bufio.NewWriter(w)
	texts, values, histograms := sections(r.selected(q))
	next := ""
	element := func(v any) {
		text, err := json.Marshal(v)
		if err != nil {
			return // v is made below: numbers that are finite, and texts
		}
		out.WriteString(next)
		out.Write(text)
		next = ","
	}
	out.WriteString(`{"stats":[`)
	for _, m := range texts {
		element(namedText{m.name, m.text.Value()})
	}
	for _, m := range values {
		if m.kind == counterKind {
			element(namedValue{m.name, m.counter.Value()})
		} else {
			element(namedValue{m.name, m.gauge.shown()})
		}
	}
	if len(histograms) > 0 {
		element(map[string]any{"histograms": histogramsJSON(histograms, q.Buckets)})
	}
	out.WriteString("]}")
	return out.Flush()
}

type namedText struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type namedValue struct {
	Name  string `json:"name"`
	Value uint64 `json:"value"`
}

// The shapes of histograms, as Envoy names them.
type (
	quantileJSON struct {
		Cumulative *float64 `json:"cumulative"` // nil: none
		Interval   *float64 `json:"interval"`
	}
	summaryJSON struct {
		Name   string         `json:"name"`
		Values []quantileJSON `json:"values"`
	}
	bucketJSON struct {
		Bound      float64 `json:"upper_bound"`
		Interval   uint64  `json:"interval"`
		Cumulative uint64  `json:"cumulative"`
	}
	bucketsJSON struct {
		Name    string       `json:"name"`
		Buckets []bucketJSON `json:"buckets"`
	}
	binJSON struct {
		Low   float64 `json:"lower_bound"`
		Width float64 `json:"width"`
		Count uint64  `json:"count"`
	}
	detailJSON struct {
		Name        string         `json:"name"`
		Totals      []binJSON      `json:"totals"`
		Intervals   []binJSON      `json:"intervals"`
		Percentiles []quantileJSON `json:"percentiles"`
	}
)

func histogramsJSON(all []*metric, b Buckets) any {
	switch b {
	case Cumulative, Disjoint:
		out := []bucketsJSON{}
		for _, m := range all {
			limits := m.histogram.limits()
			last, ever := below(m.histogram.last(), limits), below(m.histogram.bins(), limits)
			if b == Disjoint {
				last, ever = disjoint(last), disjoint(ever)
			}
			one := bucketsJSON{Name: m.name}
			for i, bound := range limits {
				one.Buckets = append(one.Buckets, bucketJSON{bound, last[i], ever[i]})
			}
			out = append(out, one)
		}
		return out
	case Detailed:
		var out []detailJSON
		for _, m := range all {
			last, ever := m.histogram.last(), m.histogram.bins()
			out = append(out, detailJSON{m.name, binsJSON(ever), binsJSON(last), quantilesJSON(last, ever)})
		}
		return map[string]any{"supported_percentiles": percentiles(), "details": out}
	case Unset, Summary:
	}
	var out []summaryJSON
	for _, m := range all {
		out = append(out, summaryJSON{m.name, quantilesJSON(m.histogram.last(), m.histogram.bins())})
	}
	return map[string]any{"supported_quantiles": percentiles(), "computed_quantiles": out}
}

func percentiles() []float64 {
	var out []float64
	for _, q := range quantiles {
		out = append(out, q*100)
	}
	return out
}

func quantilesJSON(last, ever []bin) []quantileJSON {
	var out []quantileJSON
	for _, q := range quantiles {
		out = append(out, quantileJSON{number(quantile(ever, q)), number(quantile(last, q))})
	}
	return out
}

// number is nil for NaN, which JSON does not have.
func number(f float64) *float64 {
	if math.IsNaN(f) {
		return nil
	}
	return &f
}

func binsJSON(bins []bin) []binJSON {
	out := []binJSON{}
	for _, b := range bins {
		out = append(out, binJSON{b.low, b.width, b.count})
	}
	return out
}
