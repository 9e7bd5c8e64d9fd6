package identity

import (
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"time"
)

// When certificates are renewed, as shares of a life that begins when the
// certificate arrives here and ends with its NotAfter.
const (
	renewAt = 0.5
	// jitter is the share of what lies between renewAt and lastRenewal over
	// which the renewals of many are spread: the half of a life to six tenths
	// of it. A thousand that got theirs in one moment after an outage come back
	// over 144 minutes (24 h) or six (1 h), where Istio's 1 % either way of the
	// grace is 29 minutes or one.
	jitter = 0.25
	// lastRenewal is never passed, whatever the options.
	lastRenewal = 0.9

	minRenewAt, maxRenewAt = 0.1, 0.8
)

// The waits between tries. One is a random part, from a quarter to the whole,
// of a limit that doubles from firstLimit to lastLimit: a thousand clients that
// have failed for a while ask 1000 / (5/8 x 60 s) = 27 times a second together.
const (
	firstLimit = 500 * time.Millisecond
	lastLimit  = time.Minute
	// triesLeft is how many tries fall at least into what is left of the life
	// of the certificate that is served: the limit is at most this part of it,
	triesLeft = 5
	// unless that is less than a thousandth of the life, between firstLimit and
	// nearLimit: a thousand clients whose certificates expire in the same
	// moment ask 1000 / (5/8 x 5 s) = 320 times a second before it (24 h), or
	// 440 (1 h). Those that got theirs by renewals do not expire together.
	nearShare = 1000
	nearLimit = 5 * time.Second
)

// look is how often the clock is read while waiting: timers stand still while a
// machine sleeps, and do not see the clock jump.
const look = 10 * time.Second

// pace is when to renew.
type pace struct{ renewAt, jitter float64 }

// newPace checks the shares; 0 is the default.
func newPace(at, spread float64) (pace, error) {
	p := pace{renewAt, jitter}
	if at != 0 {
		p.renewAt = at
	}
	if spread != 0 {
		p.jitter = spread
	}
	if !(p.renewAt >= minRenewAt && p.renewAt <= maxRenewAt) { // so that NaN is none
		return pace{}, fmt.Errorf("certificates cannot be renewed after %v of their life: it is from %v to %v", at, minRenewAt, maxRenewAt)
	}
	if !(p.jitter > 0 && p.jitter <= 1) {
		return pace{}, fmt.Errorf("a jitter of %v is not above 0 and at most 1", spread)
	}
	return p, nil
}

// renewal is after how much of a life to renew. Whatever an authority answers,
// it is not asked again at once.
func (p pace) renewal(life time.Duration) time.Duration {
	share := p.renewAt + p.jitter*rand.Float64()*(lastRenewal-p.renewAt)
	return max(time.Duration(share*float64(life)), firstLimit)
}

// lifeFrom is how long a leaf that came at from will live. If our clock is so
// late that this is more than the authority gave, it is what it gave.
func lifeFrom(leaf *x509.Certificate, from time.Time) time.Duration {
	return max(0, min(leaf.NotAfter.Sub(from), leaf.NotAfter.Sub(leaf.NotBefore)))
}

// limitNear is the limit of a wait while a certificate is served that is good
// for another left of its life.
func limitNear(limit, left, life time.Duration) time.Duration {
	if left < 0 {
		return limit
	}
	least := min(max(life/nearShare, firstLimit), nearLimit)
	return min(limit, max(left/triesLeft, least))
}

func retryWait(limit time.Duration) time.Duration { return limit/4 + rand.N(limit*3/4+1) }

// alarm rings when its time has passed by the wall clock, which jumps and sees
// that the machine slept, or by the monotonic one, which does neither.
type alarm struct {
	wall time.Time
	mono time.Time // with the monotonic reading
}

// newAlarm rings in d; now is the wall clock.
func newAlarm(now time.Time, d time.Duration) alarm {
	return alarm{wall: now.Add(d), mono: time.Now().Add(d)}
}

// left is how long it is until a rings, if no clock jumps.
func (a alarm) left(now time.Time) time.Duration {
	return min(a.wall.Sub(now), time.Until(a.mono))
}
