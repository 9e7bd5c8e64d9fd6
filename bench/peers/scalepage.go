package main

import (
	"bytes"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"strings"
)

// renderScale writes scale.md and scale.svg, from the scale measures and from
// performance.json beside them.
func renderScale(r *results, dir string) error {
	performance, err := loadResults(filepath.Join(dir, "performance.json"))
	if err != nil {
		return err
	}
	text, err := scaleText(r, performance)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "scale.svg"), scalePicture(r), 0o644); err != nil {
		return err
	}
	return writeMarked(filepath.Join(dir, "scale.md"), "Scale", text)
}

// pair are outrider's and Envoy's.
type pair[T any] struct{ outrider, envoy T }

// scaleText is the page: what was measured, and what follows.
func scaleText(r, performance *results) (string, error) {
	var c pair[costs]
	var err error
	if c.outrider, err = costsOf(r, performance, "outrider"); err != nil {
		return "", err
	}
	if c.envoy, err = costsOf(r, performance, "envoy"); err != nil {
		return "", err
	}
	var out strings.Builder
	fmt.Fprintf(&out, `
![how memory grows](scale.svg)

How cost grows with connections, configuration and cores, what one core and one GiB
carry, and what a fleet takes. The first part is measured, by `+"`make scale`"+` on %s: %s,
%d cores, %d GiB, Linux %s, %s; each figure is the median of %d rounds with the range
in brackets, outrider and Envoy in turn with the same configuration file, each on one
core. The second part is arithmetic on it and on the figures of
[performance.md](performance.md).%s

| peer | version | what |
| --- | --- | --- |
`, r.Date, r.Machine.CPU, r.Machine.Cores, r.Machine.Memory, r.Machine.Kernel, r.Machine.Go, r.Rounds, r.quiet())
	r.listPeers(&out)
	for _, g := range scaleGroups {
		r.group(&out, scaleRows(), g.id, g.title, g.about)
	}
	writeCosts(&out, c)
	writeOne(&out, c)
	writeFleet(&out, c)
	out.WriteString("\n")
	return out.String(), nil
}

// tableHead begins a table of outrider and Envoy.
const tableHead = "\n| | outrider | envoy | to Envoy |\n| --- | ---: | ---: | ---: |\n"

// compare writes a row: times is how many times better outrider is.
func compare(out *strings.Builder, title string, places int, less bool, outrider, envoy float64) {
	times := outrider / envoy
	if less {
		times = envoy / outrider
	}
	fmt.Fprintf(out, "| %s | %s | %s | %.2f |\n", title, figure(outrider, places), figure(envoy, places), times)
}

func writeCosts(out *strings.Builder, c pair[costs]) {
	o, e := c.outrider, c.envoy
	fmt.Fprintf(out, `
## What one more costs

Memory is a straight line through the sizes above (least squares of the relative
errors): it is off by at most %.1f MiB with connections and %.1f with clusters for
outrider, %.1f and %.1f for Envoy. Processor time for each thing done is that of
performance.md, for one hop: the mean of the terminating and the originating side.
`, o.worstConn, o.worstCluster, e.worstConn, e.worstCluster)
	out.WriteString(tableHead)
	compare(out, "a proxy with nothing open, MiB", 1, true, o.base, e.base)
	compare(out, "an idle mTLS connection, KiB", 1, true, o.conn, e.conn)
	compare(out, "a filter chain with its TLS context, KiB", 1, true, o.chain, e.chain)
	compare(out, "a cluster with an endpoint and its TLS context, KiB", 1, true, o.cluster, e.cluster)
	compare(out, "a proxy that does nothing, CPU ms a second", 2, true, o.idle*1e3, e.idle*1e3)
	compare(out, "an HTTP/1.1 request over HTTP/2 and mTLS, CPU µs", 1, true, o.request*1e6, e.request*1e6)
	compare(out, "a new mTLS connection, full handshake, CPU µs", 0, true, o.full*1e6, e.full*1e6)
	compare(out, "a new mTLS connection, resumed, CPU µs", 0, true, o.resumed*1e6, e.resumed*1e6)
	compare(out, "a GB over mTLS, CPU s", 3, true, o.gb, e.gb)
}

func writeOne(out *strings.Builder, c pair[costs]) {
	o, e := c.outrider, c.envoy
	out.WriteString(`
## One core and one GiB

What one hop's proxy carries with a whole core and nothing else to do, and how much
of one kind fits into a GiB beside the proxy itself. Connections beyond 10,000 and
clusters beyond 10,000 are extrapolated. With all of a core at work requests queue
without bound: plan for half.
`)
	out.WriteString(tableHead)
	compare(out, "requests a second", 0, false, 1/o.request, 1/e.request)
	compare(out, "new mTLS connections a second, full", 0, false, 1/o.full, 1/e.full)
	compare(out, "new mTLS connections a second, resumed", 0, false, 1/o.resumed, 1/e.resumed)
	compare(out, "GB a second over mTLS", 2, false, 1/o.gb, 1/e.gb)
	fit := func(c costs, each float64) float64 { return (1024 - c.base) * 1024 / each }
	compare(out, "idle mTLS connections in a GiB", 0, false, fit(o, o.conn), fit(e, e.conn))
	compare(out, "filter chains in a GiB", 0, false, fit(o, o.chain), fit(e, e.chain))
	compare(out, "clusters in a GiB", 0, false, fit(o, o.cluster), fit(e, e.cluster))
}

func writeFleet(out *strings.Builder, c pair[costs]) {
	f := profile
	fmt.Fprintf(out, `
## A fleet of %s sidecars

A simulation (bench/peers/scalemodel.go, seed %d): each sidecar draws its load, and
costs what its parts do by the lines above. Nothing in it is queued or contended, so
it says what the work costs, not what latency it has. What it assumes:

- %d filter chains and %d clusters known to each sidecar, with one endpoint each;
- open mTLS connections: lognormal, median %g, sigma %g (one sidecar in a hundred has
  %.0f and more); requests a second, inbound and outbound together: median %g, sigma %g;
  new mTLS connections a second: median %g, sigma %g, of which %.0f%% resume;
- a request is HTTP/1.1 at the application and HTTP/2 between sidecars, with %s bytes
  of bodies beyond the first KiB;
- a certificate every %g hours, at %g ms of CPU;
- Envoy's sidecar has istio's agent beside it, which is not counted: outrider needs
  none. Memory is proportional set size of a process alone on its machine: sidecars of
  one node share the program's pages, which makes both smaller.
`, figure(float64(f.sidecars), 0), f.seed, f.chains, f.clusters,
		f.connections.median, f.connections.sigma, f.connections.at(2.326), f.requests.median, f.requests.sigma,
		f.fresh.median, f.fresh.sigma, 100*f.resumed, figure(f.bodies, 0), f.renewals/3600, f.renewal*1e3)
	out.WriteString(tableHead)
	for _, f := range fleets() {
		o, e := f.run(c.outrider), f.run(c.envoy)
		compare(out, "**"+f.name+"**: cores in all", 0, true, o.cores, e.cores)
		compare(out, "of which for being there", 0, true, o.idleCores, e.idleCores)
		compare(out, "memory in all, GiB", 0, true, o.gib, e.gib)
		compare(out, "the median sidecar, MiB", 1, true, o.medianMiB, e.medianMiB)
		compare(out, "one in a hundred has more MiB", 1, true, o.p99MiB, e.p99MiB)
		compare(out, "the median sidecar, thousandths of a core", 2, true, o.medianMilli, e.medianMilli)
		compare(out, "one in a hundred has more thousandths", 1, true, o.p99Milli, e.p99Milli)
	}
}

// scalePanels are the diagrams of the picture.
var scalePanels = []struct {
	group string
	sizes []int
	m     metric
	title string
}{
	{"connections", connectionSizes, memoryMetric, "Memory by open connections"},
	{"clusters", clusterSizes, memoryMetric, "Memory by clusters"},
	{"chains", chainSizes, memoryMetric, "Memory by filter chains"},
	{"clusters", clusterSizes, readyMetric, "Ready by clusters"},
}

// plotHeight is of a diagram's axes, in pixels.
const plotWidth, plotHeight = 250, 150

// scalePicture is memory and readiness by size, outrider and Envoy, both axes
// linear.
func scalePicture(r *results) []byte {
	var out bytes.Buffer
	width, height := 2*panelWidth+24, 2*(plotHeight+86)+50
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="system-ui, 'Helvetica Neue', Arial, sans-serif" font-size="11">
<rect width="100%%" height="100%%" fill="#ffffff"/>
<text x="16" y="24" font-size="14" font-weight="600" fill="#1c2733">How cost grows: <tspan fill="%s">outrider</tspan> and <tspan fill="%s">Envoy</tspan></text>
<text x="16" y="40" fill="#5b6b7b">%s: median of %d rounds</text>
`, width, height, colours["outrider"], otherColour, html.EscapeString(r.Machine.CPU), r.Rounds)
	for i, p := range scalePanels {
		fmt.Fprintf(&out, "<g transform=\"translate(%d,%d)\">\n", 16+i%2*panelWidth, 56+i/2*(plotHeight+86))
		r.plot(&out, p.group, p.sizes, p.m, p.title)
		out.WriteString("</g>\n")
	}
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// plot draws one diagram at the origin.
func (r *results) plot(out *bytes.Buffer, group string, sizes []int, m metric, title string) {
	mostX, mostY := float64(sizes[len(sizes)-1]), 0.0
	for _, n := range sizes {
		for _, p := range r.Peers {
			if s, ok := r.of(fmt.Sprint(group, "/", n), p.Name, m.key); ok {
				mostY = max(mostY, s.max)
			}
		}
	}
	const left, top = 12, 26
	fmt.Fprintf(out, `<text y="14" font-size="12" font-weight="600" fill="#1c2733">%s</text>`+"\n", html.EscapeString(title))
	fmt.Fprintf(out, `<path d="M%d %dV%dH%d" fill="none" stroke="#9aa7b4"/><text x="%d" y="%d" fill="#5b6b7b">%s %s</text><text x="%d" y="%d" text-anchor="end" fill="#5b6b7b">%s</text>`+"\n",
		left, top, top+plotHeight, left+plotWidth, left+4, top+8, figure(mostY, 0), html.EscapeString(m.title), left+plotWidth, top+plotHeight+14, figure(mostX, 0))
	for _, p := range r.Peers {
		colour, named := colours[p.Name]
		if !named {
			colour = otherColour
		}
		var points []string
		for _, n := range sizes {
			if s, ok := r.of(fmt.Sprint(group, "/", n), p.Name, m.key); ok && mostX > 0 && mostY > 0 {
				x, y := left+float64(n)/mostX*plotWidth, top+plotHeight-s.median/mostY*plotHeight
				points = append(points, fmt.Sprintf("%.1f,%.1f", x, y))
				fmt.Fprintf(out, `<circle cx="%.1f" cy="%.1f" r="2.5" fill="%s"/>`, x, y, colour)
			}
		}
		fmt.Fprintf(out, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`+"\n", strings.Join(points, " "), colour)
	}
}
