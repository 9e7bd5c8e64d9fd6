package cluster

import (
	"testing"

	"outrider/proxy/config"
	"outrider/proxy/stats"
)

func TestARetryBudgetIsAShareOfTheRequestsThatAreThere(t *testing.T) {
	b := newBreaker(config.Thresholds{
		MaxRequests: 100, MaxPendingRequests: 100, MaxRetries: 1, RetryBudget: &config.RetryBudget{Percent: 25, Min: 2},
	}, stats.New().Scope("test"))
	retries := func(want int) {
		t.Helper()
		got := 0
		for b.retry.take() {
			if got++; got > 100 {
				break
			}
		}
		if got != want {
			t.Errorf("%d requests and %d that wait: got %d retries, want %d", b.rq.active.Load(), b.pending.active.Load(), got, want)
		}
		for range got {
			b.retry.release()
		}
	}
	retries(2) // the minimum, in place of max_retries
	for range 10 {
		b.rq.add()
	}
	retries(2)
	for range 10 {
		b.pending.add()
	}
	retries(5)
	for range 10 {
		b.rq.release()
	}
	retries(2)
}
