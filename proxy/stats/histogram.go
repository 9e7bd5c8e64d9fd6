package stats

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

// bounds are Envoy's default histogram buckets.
var bounds = [...]float64{ //nolint:gochecknoglobals // a table
	0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000,
}

// quantiles are what Envoy prints.
var quantiles = [...]float64{0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1} //nolint:gochecknoglobals // a table

// Histogram counts values by their two leading decimal digits, as Envoy's
// (circllhist) does: quantiles are good to one part in ten at worst. The zero
// value is ready. Record takes no lock.
type Histogram struct {
	zero    atomic.Uint64
	sum     atomic.Uint64
	decades [decades]atomic.Pointer[decade]
	upper   []float64 // its bounds, ascending; nil: bounds

	mu       sync.Mutex
	flushed  []bin // guarded by mu; all that was there at the last flush
	interval []bin // guarded by mu; what came between the last two
}

// decades is how many powers of ten a uint64 has: up to 18 446 744 073 709 551 615.
const decades = 20

// decade counts the values of one power of ten; [0] is 1.0, [89] is 9.9.
type decade [90]atomic.Uint64

// bin is a half-open range of values with what was counted in it. The bin of
// zero has no width.
type bin struct {
	low, width float64
	count      uint64
}

// Record adds one value, in the unit that the name says (_ms, else plain).
func (h *Histogram) Record(v uint64) {
	h.sum.Add(v)
	if v == 0 {
		h.zero.Add(1)
		return
	}
	exponent, digits := 0, v*10
	if v >= 10 {
		for digits = v; digits >= 100; digits /= 10 {
			exponent++
		}
		exponent++
	}
	d := h.decades[exponent].Load()
	for d == nil {
		h.decades[exponent].CompareAndSwap(nil, new(decade))
		d = h.decades[exponent].Load()
	}
	d[digits-10].Add(1)
}

func (h *Histogram) used() bool { return h.zero.Load() != 0 || h.sum.Load() != 0 }

// bins are what is not 0, ascending.
func (h *Histogram) bins() []bin {
	var out []bin
	if n := h.zero.Load(); n > 0 {
		out = append(out, bin{count: n})
	}
	for e := range h.decades {
		d := h.decades[e].Load()
		if d == nil {
			continue
		}
		width := math.Pow10(e - 1)
		for i := range d {
			if n := d[i].Load(); n > 0 {
				out = append(out, bin{low: round(float64(i+10) * width), width: width, count: n})
			}
		}
	}
	return out
}

// round takes the noise off a product with a power of ten: 1.1, not
// 1.1000000000000001.
func round(f float64) float64 {
	if f < 10 {
		return math.Round(f*10) / 10
	}
	return math.Round(f)
}

// flush ends an interval.
func (h *Histogram) flush() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.bins()
	h.interval = since(now, h.flushed)
	h.flushed = now
}

// last are the bins of the last whole interval.
func (h *Histogram) last() []bin {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.interval
}

// since is now less before, which has no bin that now has not.
func since(now, before []bin) []bin {
	var out []bin
	for _, b := range now {
		if len(before) > 0 && before[0].low == b.low {
			b.count -= before[0].count
			before = before[1:]
		}
		if b.count > 0 {
			out = append(out, b)
		}
	}
	return out
}

func total(bins []bin) uint64 {
	var n uint64
	for _, b := range bins {
		n += b.count
	}
	return n
}

// quantile is where the sample of that rank would be if the samples of its bin
// lay evenly in it, as Envoy has it; NaN without samples.
func quantile(bins []bin, q float64) float64 {
	// 1e-9: 0.999 * 1000 is a little more than 999.
	rank := max(uint64(math.Ceil(q*float64(total(bins))-1e-9)), 1)
	for _, b := range bins {
		if rank <= b.count {
			return b.low + b.width*float64(rank)/float64(b.count+1)
		}
		rank -= b.count
	}
	return math.NaN()
}

// limits are the bounds of h.
func (h *Histogram) limits() []float64 {
	if h.upper == nil {
		return bounds[:]
	}
	return h.upper
}

// below are the cumulative counts of the bounds. A bin that contains its bound
// counts whole, as in Envoy.
func below(bins []bin, bounds []float64) []uint64 {
	out := make([]uint64, len(bounds))
	for _, b := range bins {
		i, _ := slices.BinarySearch(bounds, b.low)
		for ; i < len(out); i++ {
			out[i] += b.count
		}
	}
	return out
}

// disjoint are the counts between two bounds.
func disjoint(cumulative []uint64) []uint64 {
	out := slices.Clone(cumulative)
	for i := 1; i < len(out); i++ {
		out[i] -= cumulative[i-1]
	}
	return out
}
