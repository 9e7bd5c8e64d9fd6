package workload

import (
	"math/rand/v2"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// backoff are go-spiffe's waits and ours: doubled each time from first up to
// most, each with jitter, so that the workloads of a host do not come back to
// their agent together. It is for one goroutine.
type backoff struct {
	first, most time.Duration
	step        time.Duration // before jitter
	upcoming    time.Duration
}

func newBackoff(first, most time.Duration) *backoff {
	b := &backoff{first: first, most: most}
	b.Reset()
	return b
}

// NewBackoff is b itself: the waits go on where one watch ended and the next
// begins (workloadapi.BackoffStrategy).
func (b *backoff) NewBackoff() workloadapi.Backoff { return b }

// Upcoming is what Next will return.
func (b *backoff) Upcoming() time.Duration { return b.upcoming }

// Next is how long to wait now: between half of the step and all of it.
func (b *backoff) Next() time.Duration {
	wait := b.upcoming
	b.step = min(2*b.step, b.most)
	b.draw()
	return wait
}

// Reset begins anew, after an answer.
func (b *backoff) Reset() {
	b.step = b.first
	b.draw()
}

func (b *backoff) draw() { b.upcoming = b.step/2 + rand.N(b.step/2+1) }
