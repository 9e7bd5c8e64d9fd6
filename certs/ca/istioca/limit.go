package istioca

import (
	"sync"
	"time"
)

// maxBuckets bounds how many callers are counted apart. Beyond it, those that
// are not known yet share one bucket.
const maxBuckets = 10_000

// limiter allows each key rate events a second, and burst at once.
type limiter struct {
	rate  float64
	burst float64

	mu      sync.Mutex
	buckets map[string]*bucket // guarded by mu
	swept   time.Time          // guarded by mu; when the full ones were dropped
}

type bucket struct {
	left float64
	at   time.Time // when left was true
}

func newLimiter(rate float64, burst int) *limiter {
	return &limiter{rate: rate, burst: float64(burst), buckets: map[string]*bucket{}}
}

// allow takes one event of key's, if there is one left.
func (l *limiter) allow(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[key]
	if b == nil {
		if len(l.buckets) >= maxBuckets && now.Sub(l.swept).Abs() >= time.Second {
			l.forget(now)
		}
		if len(l.buckets) >= maxBuckets {
			key = "" // no caller's key
		}
		if b = l.buckets[key]; b == nil {
			b = &bucket{left: l.burst, at: now}
			l.buckets[key] = b
		}
	}
	b.fill(l, now)
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

func (b *bucket) fill(l *limiter, now time.Time) {
	if passed := now.Sub(b.at); passed > 0 {
		b.left = min(l.burst, b.left+passed.Seconds()*l.rate)
		b.at = now
	}
}

// forget drops the buckets that are full again; mu is held.
func (l *limiter) forget(now time.Time) {
	l.swept = now
	for key, b := range l.buckets {
		if b.fill(l, now); b.left >= l.burst {
			delete(l.buckets, key)
		}
	}
}
