package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// figure writes a number with places decimals and commas between thousands.
func figure(v float64, places int) string {
	text := strconv.FormatFloat(v, 'f', places, 64)
	whole, rest, _ := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		return whole + "." + rest
	}
	return whole
}

// cell is what a table says of a peer: median and range, or why there is none.
func (r *results) cell(w row, peer string, m metric) string {
	s, ok := r.of(w.id, peer, m.key)
	if !ok {
		return r.why(w.id, peer)
	}
	text := figure(s.median, m.places)
	if s.min != s.max {
		text += fmt.Sprintf(" (%s–%s)", figure(s.min, m.places), figure(s.max, m.places))
	}
	if share, ok := r.of(w.id, peer, "resumed"); ok && strings.HasSuffix(w.id, "/resumed") && share.median < 50 {
		text += ", does not resume"
	}
	return text
}

// why is one word for a figure that there is not; the note has the rest.
func (r *results) why(row, peer string) string {
	for _, g := range r.Gaps {
		if g.Row == row && g.Peer == peer {
			word, _, _ := strings.Cut(g.Why, ":")
			if word == "missing" || word == "not applicable" {
				return word
			}
			return "failed"
		}
	}
	return "not measured"
}

// contenders are the peers that outrider is held against: the floor and no
// proxy are beside them for orientation.
var contenders = []string{"envoy", "nginx", "haproxy", "ghostunnel"}

// against is how many times better outrider is than the best of the others
// named, and which that is; false if either has no figure.
func (r *results) against(w row, m metric, others []string) (times float64, best string, ok bool) {
	own, ok := r.of(w.id, "outrider", m.key)
	if !ok {
		return 0, "", false
	}
	times = math.Inf(1)
	for _, name := range others {
		s, ok := r.of(w.id, name, m.key)
		if !ok {
			continue
		}
		if share, ok := r.of(w.id, name, "resumed"); ok && strings.HasSuffix(w.id, "/resumed") && share.median < 50 {
			continue
		}
		t := own.median / s.median
		if m.less {
			t = s.median / own.median
		}
		if t < times {
			times, best = t, name
		}
	}
	return times, best, best != ""
}
