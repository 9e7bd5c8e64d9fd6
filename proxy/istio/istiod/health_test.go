package istiod_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"outrider/proxy/istio/istiod"
)

func TestHealthIsReportedWhenItHasChangedForLongEnough(t *testing.T) {
	for _, c := range []struct {
		name                string
		states              string // of each check: + or -
		successes, failures int
		want                []string // the reports, each with the number of checks before it
	}{
		{"at once", "+-+", 1, 1, []string{"1 well", "2 ill", "3 well"}},
		{"in a row", "++-+--+++", 2, 2, []string{"2 well", "6 ill", "8 well"}},
		{"no change", "-----", 1, 2, []string{"2 ill"}},
		{"never well", "+-+-+-", 2, 3, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second+time.Duration(len(c.states))*10*time.Second-time.Second)
				defer cancel()
				begin, checks := time.Now(), 0
				h := istiod.Health{
					Delay: 5 * time.Second, Period: 10 * time.Second, Timeout: time.Second, Successes: c.successes, Failures: c.failures,
					Log: slog.New(slog.DiscardHandler),
					Check: func(ctx context.Context) error {
						if at := time.Since(begin); at != 5*time.Second+time.Duration(checks)*10*time.Second {
							t.Errorf("check %d is after %s", checks, at)
						}
						state := c.states[checks]
						if checks++; state == '+' {
							return nil
						}
						<-ctx.Done() // the slowest way to be ill
						return errors.New("it does not answer")
					},
				}
				var got []string
				h.Run(ctx, func(r istiod.Report) {
					state := " well"
					if r.Err != nil {
						state = " ill"
					}
					got = append(got, string(rune('0'+checks))+state)
				})
				if !slices.Equal(got, c.want) {
					t.Errorf("reports %q, want %q", got, c.want)
				}
			})
		})
	}
}
