package stats

import "sync/atomic"

// Counter only grows.
type Counter struct {
	n        atomic.Uint64
	wasReset atomic.Bool // it was not 0 at some reset
}

// Inc adds one.
func (c *Counter) Inc() { c.n.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.n.Add(n) }

// Value is the count since the start or the last reset.
func (c *Counter) Value() uint64 { return c.n.Load() }

func (c *Counter) used() bool { return c.n.Load() != 0 || c.wasReset.Load() }

func (c *Counter) reset() {
	if c.n.Swap(0) != 0 {
		c.wasReset.Store(true)
	}
}

// Gauge goes up and down.
type Gauge struct {
	n        atomic.Int64
	used     atomic.Bool
	unsigned atomic.Bool // n is a uint64
}

// Inc adds one.
func (g *Gauge) Inc() { g.Add(1) }

// Dec takes one.
func (g *Gauge) Dec() { g.Add(-1) }

// Add adds n.
func (g *Gauge) Add(n int64) {
	g.n.Add(n)
	g.touch()
}

// Set makes it n.
func (g *Gauge) Set(n int64) {
	g.n.Store(n)
	g.touch()
}

// SetUnsigned makes it n, which may be more than an int64: a hash (Envoy:
// version).
func (g *Gauge) SetUnsigned(n uint64) {
	g.unsigned.Store(true)
	g.Set(int64(n))
}

// touch writes only once: the flag shares a cache line with the value.
func (g *Gauge) touch() {
	if !g.used.Load() {
		g.used.Store(true)
	}
}

// Value is the gauge now; a negative number if SetUnsigned gave more than an
// int64 holds.
func (g *Gauge) Value() int64 { return g.n.Load() }

// TextReadout is a text that changes (Envoy: version_text).
type TextReadout struct{ text atomic.Pointer[string] }

// Set makes it text.
func (t *TextReadout) Set(text string) { t.text.Store(&text) }

// Value is the text now; "" before the first Set.
func (t *TextReadout) Value() string {
	if text := t.text.Load(); text != nil {
		return *text
	}
	return ""
}

func (t *TextReadout) used() bool { return t.text.Load() != nil }
