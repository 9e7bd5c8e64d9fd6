package istioca

import (
	"fmt"
	"testing"
	"time"
)

func TestLimiterAllowsABurstAndThenTheRate(t *testing.T) {
	l, now := newLimiter(2, 5), time.Now()
	count := func() (n int) {
		for range 100 {
			if l.allow("a", now) {
				n++
			}
		}
		return n
	}
	if got := count(); got != 5 {
		t.Errorf("at once: got %d, want 5", got)
	}
	if !l.allow("b", now) {
		t.Error("another caller is refused")
	}
	now = now.Add(time.Second)
	if got := count(); got != 2 {
		t.Errorf("a second later: got %d, want 2", got)
	}
	now = now.Add(-time.Hour) // a clock that was set back
	if got := count(); got != 0 {
		t.Errorf("an hour before: got %d, want 0", got)
	}
	now = now.Add(2 * time.Hour)
	if got := count(); got != 5 {
		t.Errorf("long after: got %d, want 5", got)
	}
}

func TestLimiterIsBounded(t *testing.T) {
	l, now := newLimiter(1, 1), time.Now()
	allowed := 0
	for n := range 3 * maxBuckets {
		if l.allow(fmt.Sprint(n), now) {
			allowed++
		}
	}
	if len(l.buckets) > maxBuckets+1 || allowed != maxBuckets+1 {
		t.Errorf("got %d buckets and %d allowed, want %d", len(l.buckets), allowed, maxBuckets+1)
	}
	if !l.allow("late", now.Add(time.Minute)) || len(l.buckets) > 2 {
		t.Errorf("a minute later: %d buckets are left", len(l.buckets))
	}
}
