package telemetry

import (
	"sync"

	"outrider/proxy/stats"
)

// series are the metrics of one subject; nil where one is dropped, or was one
// too many.
type series struct {
	counters   [standardMetrics]*stats.Counter
	histograms [standardMetrics]*stats.Histogram
	defined    []definedSeries // as overrides.defined
	release    []func()
}

// maxSeries bounds the subjects that one Reporter remembers.
const maxSeries = 8192

// cache is the series of each subject. A metric that nobody holds is gone, with
// what it has counted.
type cache struct {
	mu sync.RWMutex
	// now are those that were used since the last rotation, and before all
	// others. Both are guarded by mu.
	now, before map[subject]*series
	rotates     bool
}

// find are the series of a subject, made where they are not there. It takes no
// memory where they are.
func (r *Reporter) find(s subject) *series {
	c := &r.series
	c.mu.RLock()
	found := c.now[s]
	c.mu.RUnlock()
	if found != nil {
		return found
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if found := c.now[s]; found != nil {
		return found
	}
	if found = c.before[s]; found != nil {
		delete(c.before, s)
	} else {
		found = r.create(s)
	}
	c.add(s, found)
	return found
}

// add is called with mu held. When there is no room, all that are there give
// way: where metrics are forgotten, as if they had not been used since a
// rotation, and else they stay for whoever asks for them again.
func (c *cache) add(s subject, one *series) {
	if len(c.now) >= maxSeries {
		if c.rotates {
			c.giveBack()
			c.before = c.now
		}
		c.now = nil
	}
	if c.now == nil {
		c.now = map[subject]*series{}
	}
	c.now[s] = one
}

// rotate begins an interval: what is not used until forget is given back then.
// It reports whether there is anything.
func (c *cache) rotate() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.before == nil {
		c.before = c.now
	} else {
		for s, one := range c.now {
			c.before[s] = one
		}
	}
	c.now = nil
	return len(c.before) > 0
}

// forget gives back what was not used since rotate.
func (c *cache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.giveBack()
}

// giveBack is called with mu held.
func (c *cache) giveBack() {
	for _, one := range c.before {
		for _, release := range one.release {
			release()
		}
	}
	c.before = nil
}

// create holds the metrics of a subject.
func (r *Reporter) create(s subject) *series {
	out := &series{}
	base := r.labels(&s)
	values := splitValues(s.values)
	for _, m := range s.kind.metrics() {
		if r.overrides.drops(m) {
			continue
		}
		l := stats.Labelled{Namespace: namespace, Name: "istio_" + metricNames[m], Labels: r.overrides.apply(m, base, values)}
		var release func()
		if m.histogram() {
			out.histograms[m], release = r.deps.Stats.HoldHistogram(l)
		} else {
			out.counters[m], release = r.deps.Stats.HoldCounter(l)
		}
		out.release = append(out.release, release)
		if out.histograms[m] == nil && out.counters[m] == nil {
			r.overflow.Inc()
		}
	}
	if s.kind == defined {
		r.createDefined(out, values)
	}
	return out
}

func (s *series) add(m metric, n uint64) {
	if c := s.counters[m]; c != nil {
		c.Add(n)
	}
}

func (s *series) record(m metric, v uint64) {
	if h := s.histograms[m]; h != nil {
		h.Record(v)
	}
}
