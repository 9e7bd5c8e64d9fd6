package stats

import (
	"bufio"
	"fmt"
	"html"
	"io"
	"math"
	"strconv"
	"strings"
)

// Text writes Envoy's text format: texts, then counters and gauges, then
// histograms, each by name. The error is w's.
func (r *Registry) Text(w io.Writer, q Query) error {
	out := bufio.NewWriter(w)
	texts, values, histograms := sections(r.selected(q))
	for _, m := range texts {
		fmt.Fprintf(out, "%s: \"%s\"\n", m.name, html.EscapeString(m.text.Value()))
	}
	var number []byte
	for _, m := range values {
		if m.kind == counterKind {
			number = strconv.AppendUint(number[:0], m.counter.Value(), 10)
		} else {
			number = strconv.AppendUint(number[:0], m.gauge.shown(), 10)
		}
		out.WriteString(m.name)
		out.WriteString(": ")
		out.Write(number)
		out.WriteByte('\n')
	}
	for _, m := range histograms {
		fmt.Fprintf(out, "%s:%s\n", m.name, m.histogram.shown(q.Buckets))
	}
	return out.Flush()
}

// shown is the value for output. Envoy's gauges have no sign: less than 0,
// which is for a moment between two counters, is 0.
func (g *Gauge) shown() uint64 {
	if g.unsigned.Load() {
		return uint64(g.Value())
	}
	return uint64(max(g.Value(), 0))
}

// shown is the text of a histogram after its name and colon.
func (h *Histogram) shown(b Buckets) string {
	all := h.bins()
	if len(all) == 0 {
		return " No recorded values"
	}
	last := h.last()
	switch b {
	case Cumulative:
		return " " + boundsText(h.limits(), below(last, h.limits()), below(all, h.limits()))
	case Disjoint:
		return " " + boundsText(h.limits(), disjoint(below(last, h.limits())), disjoint(below(all, h.limits())))
	case Detailed:
		return "\n  totals=" + binsText(all) + "\n  intervals=" + binsText(last) + "\n  summary=" + quantilesText(last, all)
	case Unset, Summary:
	}
	return " " + quantilesText(last, all)
}

func quantilesText(last, all []bin) string {
	out := make([]string, 0, len(quantiles))
	for _, q := range quantiles {
		out = append(out, fmt.Sprintf("P%s(%s,%s)", float(q*100), float(quantile(last, q)), float(quantile(all, q))))
	}
	return strings.Join(out, " ")
}

func boundsText(bounds []float64, last, all []uint64) string {
	out := make([]string, 0, len(bounds))
	for i, b := range bounds {
		out = append(out, fmt.Sprintf("B%.6g(%d,%d)", b, last[i], all[i]))
	}
	return strings.Join(out, " ")
}

func binsText(bins []bin) string {
	out := make([]string, 0, len(bins))
	for _, b := range bins {
		out = append(out, fmt.Sprintf("%s,%s:%d", float(b.low), float(b.width), b.count))
	}
	return strings.Join(out, ", ")
}

// float is f as C++'s fmt prints it: the shortest text, "nan" for NaN.
func float(f float64) string {
	if math.IsNaN(f) {
		return "nan"
	}
	if f >= 1e16 {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}
