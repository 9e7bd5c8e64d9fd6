package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// String is the figures in the order of their names, for the log of a run.
func (v values) String() string {
	var out strings.Builder
	for _, k := range slices.Sorted(maps.Keys(v)) {
		fmt.Fprintf(&out, " %s=%s", k, strconv.FormatFloat(v[k], 'g', 4, 64))
	}
	return out.String()
}

// spread is the median of the rounds, and their range.
type spread struct{ median, min, max float64 }

// of is the spread of one figure; false if there is none.
func (r *results) of(row, peer, metric string) (spread, bool) {
	var all []float64
	for _, s := range r.Samples {
		if v, ok := s.Values[metric]; ok && s.Row == row && s.Peer == peer {
			all = append(all, v)
		}
	}
	if len(all) == 0 {
		return spread{}, false
	}
	slices.Sort(all)
	n := len(all)
	return spread{(all[(n-1)/2] + all[n/2]) / 2, all[0], all[n-1]}, true
}

// printTable writes the medians to standard output.
func printTable(r *results) {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer t.Flush()
	fmt.Fprint(t, "row\tfigure\t")
	for _, p := range r.Peers {
		fmt.Fprint(t, p.Name, "\t")
	}
	fmt.Fprintln(t)
	for _, w := range append(allRows(), scaleRows()...) {
		for _, m := range w.metrics {
			if !slices.ContainsFunc(r.Samples, func(s sample) bool { return s.Row == w.id }) {
				continue
			}
			fmt.Fprintf(t, "%s\t%s\t", w.id, m.title)
			for _, p := range r.Peers {
				if s, ok := r.of(w.id, p.Name, m.key); ok {
					fmt.Fprint(t, strconv.FormatFloat(s.median, 'f', m.places, 64), "\t")
				} else {
					fmt.Fprint(t, "-\t")
				}
			}
			fmt.Fprintln(t)
		}
	}
}

// printBehind writes where outrider is behind the best peer.
func printBehind(r *results) {
	first := true
	for _, w := range append(allRows(), scaleRows()...) {
		for _, m := range w.metrics {
			times, best, ok := r.against(w, m, contenders)
			if !ok || times >= 1 {
				continue
			}
			if first {
				fmt.Println("\nbehind the best peer:")
				first = false
			}
			fmt.Printf("  %-24s %-22s %.2f of %s\n", w.id, m.title, times, best)
		}
	}
}
