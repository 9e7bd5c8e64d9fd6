package main

import (
	"bytes"
	"fmt"
	"html"
	"slices"
)

// panel is one diagram of the picture: a row, one of its metrics.
type panel struct{ row, metric, title string }

var allPanels = []panel{
	{"bulk/plain/down/8", "cpu_s_per_gb", "Plaintext, one hop"},
	{"bulk/terminate/down/8", "cpu_s_per_gb", "mTLS terminated, download"},
	{"bulk/two-hops/down/8", "cpu_s_per_gb", "mTLS between two hops"},
	{"new/terminate/full", "conns_per_cpu_s", "New connections, full handshake"},
	{"new/terminate/resumed", "conns_per_cpu_s", "New connections, resumed"},
	{"new/two-hops", "conns_per_cpu_s", "New connections, two hops"},
	{"echo/two-hops/rate", "per_cpu_s", "1 KiB echo, two hops"},
	{"echo/two-hops/latency", "p99_us", "1 KiB echo at 4,000/s, two hops"},
	{"http/h1/8", "per_cpu_s", "HTTP/1.1, two hops"},
	{"http/h2/8x16", "per_cpu_s", "HTTP/2, two hops"},
	{"idle/two-hops", "kib_per_conn_10000", "Idle connection, two hops"},
	{"rest/terminate", "ready_ms", "Ready after"},
}

// Measures of the picture, in pixels.
const (
	columns     = 3
	panelWidth  = 320
	panelTop    = 44 // title and unit
	barHeight   = 18
	panelGap    = 18
	labelWidth  = 76
	figureWidth = 62
	barsWidth   = panelWidth - labelWidth - figureWidth - 24
)

// colours by peer: outrider stands out, what is there for orientation is paler.
var colours = map[string]string{"outrider": "#d9541e", "floor": "#c3ccd6", "direct": "#dfe4ea"}

const otherColour = "#7d8fa3"

// panels are those of which anything was measured.
func (r *results) panels() []panel {
	return slices.DeleteFunc(slices.Clone(allPanels), func(p panel) bool {
		return !slices.ContainsFunc(r.Samples, func(s sample) bool { return s.Row == p.row })
	})
}

// picture is the panels as bars: the median, with the range as a line.
func picture(r *results) []byte {
	panels := r.panels()
	panelHeight := panelTop + barHeight*len(r.Peers) + panelGap
	rows := (len(panels) + columns - 1) / columns
	width, height := columns*panelWidth+24, rows*panelHeight+56
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="system-ui, 'Helvetica Neue', Arial, sans-serif" font-size="11">
<rect width="100%%" height="100%%" fill="#ffffff"/>
<text x="16" y="24" font-size="14" font-weight="600" fill="#1c2733">outrider beside its peers, proxies on one core</text>
<text x="16" y="40" fill="#5b6b7b">%s: median of %d rounds, the line is the range</text>
`, width, height, html.EscapeString(r.Machine.CPU), r.Rounds)
	for i, p := range panels {
		fmt.Fprintf(&out, "<g transform=\"translate(%d,%d)\">\n", 16+i%columns*panelWidth, 56+i/columns*panelHeight)
		r.draw(&out, p)
		out.WriteString("</g>\n")
	}
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// draw draws one panel at the origin.
func (r *results) draw(out *bytes.Buffer, p panel) {
	id, key := p.row, p.metric
	w, m := find(id, key)
	better := "more is better"
	if m.less {
		better = "less is better"
	}
	fmt.Fprintf(out, `<text y="14" font-size="12" font-weight="600" fill="#1c2733">%s</text><text y="29" fill="#5b6b7b">%s, %s</text>`+"\n",
		html.EscapeString(p.title), html.EscapeString(m.title), better)
	most := 0.0
	for _, p := range r.Peers {
		if s, ok := r.of(id, p.Name, key); ok {
			most = max(most, s.max)
		}
	}
	for i, p := range r.Peers {
		y := panelTop - 6 + i*barHeight
		weight := "400"
		if p.Name == "outrider" {
			weight = "600"
		}
		fmt.Fprintf(out, `<text x="%d" y="%d" text-anchor="end" font-weight="%s" fill="#1c2733">%s</text>`, labelWidth-6, y+12, weight, p.Name)
		s, ok := r.of(id, p.Name, key)
		if !ok {
			fmt.Fprintf(out, `<text x="%d" y="%d" fill="#9aa7b4" font-style="italic">%s</text>`+"\n", labelWidth, y+12, r.why(w.id, p.Name))
			continue
		}
		colour, named := colours[p.Name]
		if !named {
			colour = otherColour
		}
		scale := func(v float64) float64 { return v / most * barsWidth }
		fmt.Fprintf(out, `<rect x="%d" y="%d" width="%.1f" height="%d" rx="1.5" fill="%s"/>`, labelWidth, y+2, max(1, scale(s.median)), barHeight-5, colour)
		fmt.Fprintf(out, `<path d="M%.1f %dH%.1f" stroke="#1c2733" stroke-width="1"/>`, labelWidth+scale(s.min), y+8, labelWidth+scale(s.max))
		fmt.Fprintf(out, `<text x="%.1f" y="%d" fill="#1c2733" font-weight="%s">%s</text>`+"\n", labelWidth+scale(s.max)+5, y+12, weight, figure(s.median, m.places))
	}
}

// find is a row and one of its metrics.
func find(id, key string) (row, metric) {
	for _, w := range allRows() {
		for _, m := range w.metrics {
			if w.id == id && m.key == key {
				return w, m
			}
		}
	}
	return row{}, metric{}
}
