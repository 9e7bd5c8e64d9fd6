package identity_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"outrider/certs/identity"
)

func TestAMachineThatSleptPastTheRenewalRenewsWithinSecondsOfWaking(t *testing.T) {
	for name, slept := range map[string]time.Duration{"past the renewal": 40 * time.Minute, "past the expiry": 30 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAuthority(t, time.Hour)
				r := rotate(t, a)
				defer r.stop()
				pass(7 * time.Second)
				a.set(func() { a.ahead = slept }) // the authority did not sleep
				r.clock.jump(slept)               // timers stood still meanwhile
				pass(10 * time.Second)
				if n := len(a.answers()); n != 2 {
					t.Errorf("%d certificates 10 s after waking, want 2", n)
				}
				if err := r.keeper.Expired(); err != nil {
					t.Errorf("expired is %v, want nil", err)
				}
				pass(20 * time.Minute)
				if n := len(a.asked(time.Time{})); n != 2 {
					t.Errorf("%d requests, want 2", n)
				}
			})
		})
	}
}

func TestAClockThatJumpsPastExpiryIsSaidAndItsReturnHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, time.Hour)
		r := rotate(t, a)
		defer r.stop()
		a.set(func() { a.clock = identity.Clock{Ahead: -24 * time.Hour, Margin: time.Second, From: "date header"} })
		start := time.Now()
		r.clock.jump(24 * time.Hour) // ours alone: what the authority gives is of yesterday
		pass(10 * time.Minute)
		if n := len(a.asked(start)); n < 10 || n > 40 {
			t.Errorf("%d requests in ten minutes, want 10 to 40", n)
		}
		want := "the authority's clock is 24h0m0s behind ours, by its date header"
		if err := r.keeper.Expired(); err == nil || strings.Count(err.Error(), want) != 2 {
			t.Errorf("expired is %v, want %q for what is served and for what came", err, want)
		}
		if n := lines(r.log, `level=WARN msg="the clocks differ`); n != 1 {
			t.Errorf("the clocks are warned of %d times, want once:\n%s", n, r.log)
		}
		r.clock.jump(-24 * time.Hour)
		a.set(func() { a.clock = identity.Clock{Margin: time.Second, From: "date header"} })
		if err := r.keeper.Expired(); err != nil {
			t.Errorf("expired is %v with the clock right again, want nil", err)
		}
		pass(time.Minute)
		if n := len(a.answers()); r.keeper.Pair() != a.answers()[n-1].KeyPair {
			t.Error("what is served is not what came last")
		}
		each(10*time.Second, 2*time.Hour, r.good)
	})
}

func TestAClockThatJumpsBackNeitherStopsTheRotationNorMakesAStorm(t *testing.T) {
	for name, back := range map[string]time.Duration{"by less than the life": 20 * time.Minute, "by a year": 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAuthority(t, time.Hour)
				r := rotate(t, a)
				defer r.stop()
				pass(time.Minute)
				r.clock.jump(-back)
				each(10*time.Second, 24*time.Hour, r.good) // by the real clock: peers have it
				if n := len(a.asked(time.Time{})); n < 39 || n > 49 {
					t.Errorf("%d certificates in a day, want 39 to 49", n)
				}
			})
		})
	}
}

func TestATryIsNotHeldUpByAClockThatJumpsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, time.Hour)
		r := rotate(t, a)
		defer r.stop()
		a.down()
		pass(50 * time.Minute)
		r.clock.jump(-365 * 24 * time.Hour)
		a.up()
		pass(time.Minute)
		if n := len(a.answers()); n != 2 {
			t.Errorf("%d certificates a minute after the outage, want 2", n)
		}
	})
}

func TestAClockThatIsAFewSecondsOffIsNotWarnedOf(t *testing.T) {
	for name, c := range map[string]struct {
		clock identity.Clock
		warn  int
	}{
		"not measured":                {identity.Clock{Ahead: time.Hour}, 0},
		"less than 30 s":              {identity.Clock{Ahead: 29 * time.Second, From: "date header"}, 0},
		"less than 30 s and margin":   {identity.Clock{Ahead: -3 * time.Minute, Margin: 150 * time.Second, From: "NotBefore"}, 0},
		"more than 30 s":              {identity.Clock{Ahead: 32 * time.Second, Margin: time.Second, From: "date header"}, 1},
		"behind by more":              {identity.Clock{Ahead: -32 * time.Second, Margin: time.Second, From: "date header"}, 1},
		"more than margin, NotBefore": {identity.Clock{Ahead: 4 * time.Minute, Margin: 150 * time.Second, From: "NotBefore"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAuthority(t, time.Hour)
				a.clock = c.clock
				r := rotate(t, a)
				defer r.stop()
				pass(3 * time.Hour) // several certificates, one warning
				if n := lines(r.log, `level=WARN msg="the clocks differ`); n != c.warn {
					t.Errorf("%d warnings, want %d:\n%s", n, c.warn, r.log)
				}
				if got := r.keeper.Clock(); got != c.clock {
					t.Errorf("the keeper has %+v, want %+v", got, c.clock)
				}
			})
		})
	}
}

func TestWhatTheIssuerBelievesThoughNotValidYetIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, time.Hour)
		a.ahead = 5 * time.Minute
		r := rotate(t, a)
		defer r.stop()
		if r.keeper.Pair() == nil {
			t.Fatalf("nothing is served:\n%s", r.log)
		}
		if err := r.keeper.Expired(); err != nil {
			t.Errorf("expired is %v, want nil", err)
		}
	})
}

func TestTimeErrorsNameTheMomentsAndOurClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it is 2000-01-01 00:00 UTC
		a := newAuthority(t, time.Hour)
		p := a.pair(a.signer, workload, time.Now(), time.Now().Add(time.Hour))
		for name, c := range map[string]struct {
			at   time.Duration
			want string
		}{
			"at the first moment": {0, ""},
			"at the last moment":  {time.Hour, ""},
			"before":              {-90 * time.Second, "the certificate of " + workload + " is not valid before 2000-01-01T00:00:00Z, in 1m30s; our clock is 1999-12-31T23:58:30Z"},
			"after":               {2 * time.Hour, "the certificate of " + workload + " expired 1h0m0s ago, at 2000-01-01T01:00:00Z; our clock is 2000-01-01T02:00:00Z"},
		} {
			got := ""
			if err := identity.ValidAt(p, time.Now().Add(c.at)); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("%s: got %q, want %q", name, got, c.want)
			}
		}
	})
}
