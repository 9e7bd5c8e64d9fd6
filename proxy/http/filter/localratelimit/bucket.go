package localratelimit

import (
	"math"
	"sync/atomic"
	"time"

	"outrider/proxy/config"
)

// bucket is a token bucket that fills continuously, as Envoy's: so many tokens
// an interval is a rate, and nothing happens at the end of an interval. It
// takes no lock and has no timer: its state is the time at which it would have
// been empty. It is full at first.
type bucket struct {
	made  time.Time     // what times are relative to
	max   float64       // tokens
	rate  float64       // tokens a second
	empty atomic.Uint64 // bits of a float64: seconds after made
	// shadow says that who gets no token may go on.
	shadow bool
}

func newBucket(cfg config.TokenBucket, shadow bool) *bucket {
	b := &bucket{made: time.Now(), max: float64(cfg.Max), rate: float64(cfg.PerFill) / cfg.Interval.Seconds(), shadow: shadow}
	b.empty.Store(math.Float64bits(math.Inf(-1)))
	return b
}

// tokens are those there would be at now, if it was empty at that time.
func (b *bucket) tokens(empty, now float64) float64 {
	return min(b.max, (now-empty)*b.rate)
}

// take takes n tokens, or none if there are not so many.
func (b *bucket) take(n uint64) bool {
	want := float64(n)
	for {
		was := b.empty.Load()
		now := time.Since(b.made).Seconds()
		left := b.tokens(math.Float64frombits(was), now) - want
		if left < 0 {
			return false
		}
		if b.empty.CompareAndSwap(was, math.Float64bits(now-left/b.rate)) {
			return true
		}
	}
}

// remaining is how many whole tokens there are.
func (b *bucket) remaining() uint64 {
	return uint64(max(b.now(), 0))
}

// wait is how long until the next whole token; 0 if there is one.
func (b *bucket) wait() time.Duration {
	if n := b.now(); n < 1 {
		return time.Duration((1 - n) / b.rate * float64(time.Second))
	}
	return 0
}

func (b *bucket) now() float64 {
	return b.tokens(math.Float64frombits(b.empty.Load()), time.Since(b.made).Seconds())
}
