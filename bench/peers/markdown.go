package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The part of performance.md that this program writes is between these; what
// is around them stays.
const (
	beginMark = "<!-- begin: written by bench/peers -->"
	endMark   = "<!-- end: written by bench/peers -->"
)

// render writes performance.md's tables and performance.svg.
func render(r *results, dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "performance.svg"), picture(r), 0o644); err != nil {
		return err
	}
	return writeMarked(filepath.Join(dir, "performance.md"), "Performance", markdown(r))
}

// writeMarked puts text between the marks of a page, which it makes with that
// title if there is none.
func writeMarked(path, title, text string) error {
	page, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		page, err = []byte("# "+title+"\n\n"+beginMark+"\n"+endMark+"\n"), nil
	}
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(page, []byte(beginMark))
	_, after, ok2 := bytes.Cut(rest, []byte(endMark))
	if !ok || !ok2 {
		return fmt.Errorf("%s: the lines %q and %q are not there", path, beginMark, endMark)
	}
	var out bytes.Buffer
	out.Write(before)
	out.WriteString(beginMark + "\n" + text + endMark)
	out.Write(after)
	return os.WriteFile(path, out.Bytes(), 0o644)
}

func markdown(r *results) string {
	var out strings.Builder
	fmt.Fprintf(&out, `
![outrider beside its peers](performance.svg)

All figures are of one run of `+"`make peers`"+` on %s: %s, %d cores, %d GiB, Linux %s, %s.
Proxies are on one core, client and server on the other. Each measure is taken %d
times (memory of connections twice), %gs long after a warm-up, peers in turn; a
figure is the median, with the range in brackets. Certificates are the same for
all (ECDSA P-256), as are X25519, TLS 1.3 and AES-128-GCM, and that clients and
servers with other certificates are refused is checked before anything is
measured. A row alone is measured by `+"`make peers PEERS=\"-row ID\"`"+`, with its ID from the
first column. *To the best* is how many times better outrider is than the best of
%s: below 1 it is behind.%s

| peer | version | what |
| --- | --- | --- |
`, r.Date, r.Machine.CPU, r.Machine.Cores, r.Machine.Memory, r.Machine.Kernel, r.Machine.Go, r.Rounds, r.Seconds, strings.Join(contenders, ", "), r.quiet())
	r.listPeers(&out)
	for _, g := range groups {
		r.group(&out, allRows(), g.id, g.title, g.about)
	}
	out.WriteString("\n")
	return out.String()
}

// listPeers writes the rows of the table of peers.
func (r *results) listPeers(out *strings.Builder) {
	for _, p := range r.Peers {
		about := p.About
		if p.Missing != "" {
			about += "; **" + p.Missing + "**"
		}
		fmt.Fprintf(out, "| %s | %s | %s |\n", p.Name, p.Version, about)
	}
}

// group writes the table of one group of rows, if anything of it was measured.
func (r *results) group(out *strings.Builder, all []row, id, title, about string) {
	var rows []row
	for _, w := range all {
		has := func(s sample) bool { return s.Row == w.id }
		if strings.HasPrefix(w.id, id+"/") && slices.ContainsFunc(r.Samples, has) {
			rows = append(rows, w)
		}
	}
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(out, "\n## %s\n\n%s\n\n| row | figure | ", title, about)
	for _, p := range r.Peers {
		fmt.Fprintf(out, "%s | ", p.Name)
	}
	out.WriteString("to the best |\n| --- | --- |" + strings.Repeat(" ---: |", len(r.Peers)+1) + "\n")
	for _, w := range rows {
		for i, m := range w.metrics {
			name := ""
			if i == 0 {
				name = w.title + " `" + w.id + "`"
			}
			fmt.Fprintf(out, "| %s | %s |", name, m.title)
			for _, p := range r.Peers {
				fmt.Fprintf(out, " %s |", r.cell(w, p.Name, m))
			}
			if times, best, ok := r.against(w, m, contenders); ok {
				fmt.Fprintf(out, " %.2f (%s) |\n", times, best)
			} else {
				out.WriteString(" |\n")
			}
		}
	}
	r.notes(out, rows)
}

// notes say why there is no figure, and what else differs from what a table
// promises.
func (r *results) notes(out *strings.Builder, rows []row) {
	var said []string
	say := func(note string) {
		if !slices.Contains(said, note) {
			said = append(said, note)
		}
	}
	for _, w := range rows {
		for _, g := range r.Gaps {
			if g.Row != w.id {
				continue
			}
			if word := r.why(g.Row, g.Peer); word == "failed" {
				say("`" + g.Row + "`: " + g.Why)
			} else {
				say(g.Peer + ": " + g.Why)
			}
		}
		for _, s := range r.Samples {
			if n, ok := s.Values["conns_10000"]; ok && s.Row == w.id && n < 10000 {
				say(fmt.Sprintf("at 10,000: in truth %s, which is what the limit of open files allows here", figure(n, 0)))
			}
		}
	}
	for _, w := range rows {
		if names := r.loadBound(w); len(names) > 0 {
			say(fmt.Sprintf("`%s`: the load's core was the limit with %s, whose rate could be higher", w.id, strings.Join(names, ", ")))
		}
	}
	for i, note := range said {
		if i == 0 {
			out.WriteString("\n")
		}
		fmt.Fprintf(out, "- %s\n", note)
	}
}

// loadBound are the peers with which the client and server had no CPU left.
func (r *results) loadBound(w row) (names []string) {
	const full = 96 // per cent
	for _, p := range r.Peers {
		if s, ok := r.of(w.id, p.Name, "load_busy"); ok && s.median >= full {
			names = append(names, p.Name)
		}
	}
	return names
}

// quiet says how much else went on, where it was enough to matter.
func (r *results) quiet() string {
	const little = 5 // per cent of a CPU
	var all []float64
	for _, s := range r.Samples {
		if v, ok := s.Values["other_busy"]; ok {
			all = append(all, v)
		}
	}
	if len(all) == 0 {
		return ""
	}
	slices.Sort(all)
	if mid := all[len(all)/2]; mid > little {
		return fmt.Sprintf("\n**The machine was not quiet**: other work took %.0f%% of a core in the median measure.", mid)
	}
	return ""
}
