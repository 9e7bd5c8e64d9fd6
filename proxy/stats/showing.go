package stats

import (
	"regexp"
	"slices"
	"strings"
)

// Showing is what is shown of the metrics, and what becomes a label of them.
type Showing struct {
	// Keep reports whether a metric is shown, by its text name; nil shows all.
	Keep func(name string) bool
	// OwnTagsOnly leaves names whole but for Tags (Envoy:
	// use_all_default_tags).
	OwnTagsOnly bool
	Tags        []Tag
	// Bounds are the buckets of a histogram of that text name, ascending; nil are
	// Envoy's. It is asked when the histogram is made.
	Bounds func(name string) []float64
}

// Tag is a label that is found in text names: what the first group of the
// expression matches is taken out, the second is the value, or the first if
// there is none. Without an expression it is a label of every metric.
type Tag struct {
	Name  string
	Regex *regexp.Regexp
	Value string
}

// Show has metrics shown as s says, from now on. It is called before there are
// any.
func (r *Registry) Show(s Showing) { r.showing.Store(&s) }

// shows reports whether a metric is shown at all.
func (r *Registry) shows(name string) bool {
	s := r.showing.Load()
	return s == nil || s.Keep == nil || s.Keep(name)
}

// boundsOf are the bounds of a histogram; nil for Envoy's.
func (r *Registry) boundsOf(name string) []float64 {
	s := r.showing.Load()
	if s == nil || s.Bounds == nil {
		return nil
	}
	return s.Bounds(name)
}

// tagged is the name for Prometheus, without "envoy_", and the labels of m.
func (r *Registry) tagged(m *metric) (name string, labels []Label) {
	s := r.showing.Load()
	if s == nil || len(s.Tags) == 0 && !s.OwnTagsOnly {
		return m.promName, m.labels
	}
	name, labels = m.promName, slices.Clip(m.labels)
	if s.OwnTagsOnly && !m.foreign {
		name, labels = m.name, nil
	}
	var out []span
	for _, t := range s.Tags {
		if t.Regex == nil {
			labels = append(labels, Label{t.Name, t.Value})
			continue
		}
		if m.foreign || slices.ContainsFunc(labels, func(l Label) bool { return l.Name == t.Name }) {
			continue
		}
		if value, cut, ok := t.find(m.name); ok {
			labels = append(labels, Label{t.Name, value})
			out = append(out, cut)
		}
	}
	return strings.TrimRight(without(name, m.name, out), "."), labels
}

// span is a part of a name.
type span struct{ from, to int }

// find is the value of the tag in a name, and what is to be taken out.
func (t *Tag) find(name string) (value string, cut span, ok bool) {
	at := t.Regex.FindStringSubmatchIndex(name)
	if len(at) < 4 || at[2] < 0 {
		return "", span{}, false
	}
	cut = span{at[2], at[3]}
	value = name[at[2]:at[3]]
	if len(at) >= 6 && at[4] >= 0 {
		value = name[at[4]:at[5]]
	}
	return value, cut, true
}

// without is name less the spans of whole, which name is, or is part of.
func without(name, whole string, cut []span) string {
	if name != whole { // the labels of Envoy's own are out of it already
		for _, c := range cut {
			name = strings.Replace(name, whole[c.from:c.to], "", 1)
		}
		return name
	}
	slices.SortFunc(cut, func(a, b span) int { return a.from - b.from })
	var b strings.Builder
	at := 0
	for _, c := range cut {
		if c.from > at {
			b.WriteString(whole[at:c.from])
		}
		at = max(at, c.to)
	}
	b.WriteString(whole[at:])
	return b.String()
}
