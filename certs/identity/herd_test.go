package identity_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"outrider/certs/identity"
)

const herd = 1000

// second counts requests by the second in which they came.
type second map[int64]int

func histogram(calls []time.Time) second {
	s := second{}
	for _, c := range calls {
		s[c.Unix()]++
	}
	return s
}

func (s second) peak() int {
	most := 0
	for _, n := range s {
		most = max(most, n)
	}
	return most
}

// aThousand run with one authority, from which all get the same certificate:
// signing so many is not what is tested. fresh signs anew.
func aThousand(t *testing.T, a *authority) (stop func()) {
	t.Helper()
	shared := &sharedAnswer{authority: a}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, herd)
	for range herd {
		k := identity.NewKeeper(identity.Options{})
		source := identity.NewAuthority(identity.AuthorityOptions{Issuer: shared, Name: "ca test"})
		go func() { ended <- source.Run(ctx, k) }()
	}
	synctest.Wait()
	return func() {
		cancel()
		for range herd {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
}

// sharedAnswer signs at most once a minute.
type sharedAnswer struct {
	*authority
	last *identity.Issued
	at   time.Time
}

func (s *sharedAnswer) Issue(ctx context.Context) (*identity.Issued, error) {
	s.mu.Lock()
	last, fresh := s.last, s.last != nil && time.Since(s.at) < time.Minute && s.fail == nil
	if fresh {
		s.calls = append(s.calls, time.Now())
	}
	s.mu.Unlock()
	if fresh {
		return last, nil
	}
	i, err := s.authority.Issue(ctx)
	if err == nil {
		s.mu.Lock()
		s.last, s.at = i, time.Now()
		s.mu.Unlock()
	}
	return i, err
}

func TestAThousandThatCameTogetherRenewApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, time.Hour)
		start := time.Now()
		defer aThousand(t, a)()
		pass(40 * time.Minute)
		if n := histogram(a.asked(start))[start.Unix()]; n != herd {
			t.Errorf("%d requests in the first second, want all %d", n, herd)
		}
		// 1000 over 360 s are 2.8 a second on average.
		calls := a.asked(start.Add(time.Second))
		if peak := histogram(calls).peak(); len(calls) != herd || peak > 15 {
			t.Errorf("%d renewals, at most %d in a second, want %d and 15", len(calls), peak, herd)
		}
		if early, late := slices.MinFunc(calls, time.Time.Compare), slices.MaxFunc(calls, time.Time.Compare); late.Sub(early) < 5*time.Minute {
			t.Errorf("the renewals fell into %s, want 5 minutes at least", late.Sub(early))
		}
	})
}

// TestAThousandAfterAnOutageDoNotComeTogether has the bounds that pace.go
// states: 27 requests a second on average while the authority is away, 440 in
// the last moments of certificates that all expire at once.
func TestAThousandAfterAnOutageDoNotComeTogether(t *testing.T) {
	for _, c := range []struct {
		name string
		// An outage of life 1 h begins after the first certificates.
		ends       time.Duration
		away, back int // bounds of requests in one second
	}{
		{name: "ends while all are good", ends: 42 * time.Minute, away: 100, back: 60},
		{name: "ends as all expire", ends: time.Hour, away: 600, back: 600},
		{name: "ends when all have expired", ends: 90 * time.Minute, away: 600, back: 60},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAuthority(t, time.Hour)
				defer aThousand(t, a)()
				start := time.Now()
				a.down()
				pass(c.ends)
				if peak := histogram(a.asked(start.Add(time.Second))).peak(); peak > c.away {
					t.Errorf("at most %d requests in a second of the outage, want %d", peak, c.away)
				}
				ended := time.Now()
				a.up()
				pass(time.Minute)
				calls := a.asked(ended)
				if len(calls) != herd {
					t.Errorf("%d requests in the minute after, want one of each of %d", len(calls), herd)
				}
				h := histogram(calls)
				t.Logf("away: %d a second at most; after: %d", histogram(a.asked(start.Add(time.Second))).peak(), h.peak())
				if h.peak() > c.back {
					t.Errorf("at most %d requests in a second after the outage, want %d", h.peak(), c.back)
				}
				pass(40 * time.Minute)
				if peak := histogram(a.asked(ended.Add(time.Minute))).peak(); peak > 15 {
					t.Errorf("at most %d renewals in a second afterwards, want 15", peak)
				}
			})
		})
	}
}
