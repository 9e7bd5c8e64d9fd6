package identity_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrider/certs/identity"
)

func TestRotationsOfAnyLengthOfLifeLeaveNoGap(t *testing.T) {
	for _, c := range []struct {
		life, during, step time.Duration
		least, most        int // renewals
	}{
		{life: time.Hour, during: 24 * time.Hour, step: 10 * time.Second, least: 39, most: 49},
		{life: 2 * time.Second, during: time.Minute, step: 100 * time.Millisecond, least: 40, most: 65},
		{life: 24 * time.Hour, during: 10 * 24 * time.Hour, step: time.Hour, least: 16, most: 21},
		{life: 30 * 24 * time.Hour, during: 40 * 24 * time.Hour, step: 24 * time.Hour, least: 3, most: 3},
	} {
		t.Run(fmt.Sprintf("%s for %s", c.life, c.during), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAuthority(t, c.life)
				r := rotate(t, a)
				defer r.stop()
				each(c.step, c.during, r.good)
				calls := a.asked(time.Time{})
				if len(calls) < c.least || len(calls) > c.most {
					t.Errorf("%d certificates were asked for, want %d to %d", len(calls), c.least, c.most)
				}
				for i, call := range calls[1:] {
					// NotAfter is cut to whole seconds.
					early, late := c.life/2-time.Second, c.life*6/10+time.Second
					if after := call.Sub(calls[i]); after < early || after > late {
						t.Errorf("renewal %d came after %s, want %s to %s", i, after, early, late)
					}
				}
				if got := r.log.String(); strings.Contains(got, "WARN") || strings.Contains(got, "ERROR") {
					t.Errorf("the log complains:\n%s", got)
				}
			})
		})
	}
}

func TestTheFirstCertificateIsAskedForAtOnceAndItsPlanShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, time.Hour)
		start := time.Now()
		r := rotate(t, a)
		defer r.stop()
		if calls := a.asked(start); len(calls) != 1 || !calls[0].Equal(start) {
			t.Errorf("requests at %v, want one at %s", calls, start)
		}
		h, err := r.keeper.Handle(identity.DefaultName)
		if err != nil {
			t.Fatal(err)
		}
		if next := h.Planned().Sub(start); next < 30*time.Minute || next > 36*time.Minute {
			t.Errorf("the renewal is planned in %s, want 30 to 36 minutes", next)
		}
		if got, want := h.Stats(), (struct{ Attempts, Successes uint64 }{1, 1}); got.Attempts != want.Attempts || got.Successes != want.Successes {
			t.Errorf("stats are %+v, want %+v", got, want)
		}
	})
}

func TestAnOutageOfAnyLengthIsSurvived(t *testing.T) {
	const life = time.Hour
	for _, outage := range []time.Duration{
		time.Minute, 20 * time.Minute, 35 * time.Minute, 45 * time.Minute, 59*time.Minute + 50*time.Second,
		61 * time.Minute, 2 * time.Hour, 3 * 24 * time.Hour,
	} {
		t.Run(outage.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAuthority(t, life)
				r := rotate(t, a) // the certificate is of now
				defer r.stop()
				a.down()
				lost := func() bool { return identity.ValidAt(r.keeper.Pair(), time.Now()) != nil }
				each(time.Second, min(outage, life), func() {
					if lost() {
						t.Fatalf("%s: the certificate is lost", time.Now())
					}
				})
				if outage > life {
					pass(outage - life)
					if !lost() {
						t.Fatal("the test is wrong: the certificate is good")
					}
					r.tells("the certificate of " + workload + " expired")
					peers := x509.NewCertPool()
					peers.AddCert(a.signer.Cert)
					if _, err := r.keeper.Pair().TLS.Leaf.Verify(x509.VerifyOptions{Roots: peers, CurrentTime: time.Now()}); err == nil {
						t.Error("a peer accepts the certificate, want a refusal")
					}
				}
				ended := time.Now()
				a.up()
				for lost() || len(a.answers()) < 2 {
					pass(100 * time.Millisecond)
					if took := time.Since(ended); took > time.Minute && (lost() || outage > life*6/10) {
						t.Fatalf("no certificate %s after the outage; log:\n%s", took, r.log)
					}
				}
				if err := r.keeper.Expired(); err != nil {
					t.Errorf("expired is %v, want nil", err)
				}
				if h, _ := r.keeper.Handle(identity.DefaultName); outage > life {
					if last, _ := h.LastFailure(); last != nil {
						t.Errorf("the last failure is still %v", last)
					}
				}
				each(10*time.Second, 2*life, r.good)
			})
		})
	}
}

// tells checks that the keeper and the log say that the certificate expired,
// with the reason for there being no other.
func (r *rotating) tells(want string) {
	r.T.Helper()
	err := r.keeper.Expired()
	if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, errAway) {
		r.T.Errorf("expired is %v, want %q and %q", err, want, errAway)
	}
	var te *identity.TimeError
	if !errors.As(err, &te) || !te.Expired {
		r.T.Errorf("expired is %v, want a TimeError", err)
	}
	if n := lines(r.log, `level=ERROR msg="the certificate has expired`); n == 0 {
		r.T.Errorf("the log says nothing of it:\n%s", r.log)
	}
}

func TestExpiryIsSaidWhileTheIssuerHangsAndWhenItReturnsItIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, 40*time.Second)
		r := rotate(t, a)
		defer r.stop()
		a.set(func() { a.fail = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() } })
		pass(43 * time.Second) // the try that began at 20 s to 24 s lasts for 30 s
		if n := lines(r.log, `level=ERROR msg="the certificate has expired`); n != 1 {
			t.Errorf("expiry is said %d times, want once:\n%s", n, r.log)
		}
		pass(15 * time.Second)
		if want := "no answer within 30s"; !strings.Contains(r.log.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, r.log)
		}
		a.set(func() { a.fail = nil })
		pass(31 * time.Second)
		r.good()
	})
}

func TestTriesWhoseTokenExpiredGoOnUntilTheFileChanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("good until noon")
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, time.Hour)
		noon := time.Now().Add(10 * time.Minute)
		a.fail = func(context.Context) error {
			token, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if string(token) == "good until noon" && time.Now().After(noon) {
				return fmt.Errorf("create certificate: %w", status.Error(codes.Unauthenticated, "token is expired"))
			}
			return nil
		}
		r := rotate(t, a)
		defer r.stop()
		each(time.Second, 55*time.Minute, r.good) // half an hour of refusals or nearly
		if tries := len(a.asked(time.Time{})); tries < 20 {
			t.Errorf("%d tries, want 20 at least: a refusal is tried again like any failure", tries)
		}
		if len(a.answers()) != 1 {
			t.Fatalf("%d answers, want 1: the test is wrong", len(a.answers()))
		}
		h, err := r.keeper.Handle(identity.DefaultName)
		if err != nil {
			t.Fatal(err)
		}
		if last, _ := h.LastFailure(); status.Code(errors.Unwrap(last)) != codes.Unauthenticated {
			t.Errorf("the last failure is %v, want Unauthenticated", last)
		}
		write("good for ever")
		each(time.Second, time.Minute, r.good)
		if len(a.answers()) != 2 {
			t.Errorf("%d answers a minute after the token changed, want 2", len(a.answers()))
		}
	})
}

func TestAnAnswerThatDoesNotHoldChangesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		twist func(t *testing.T, a *authority, i *identity.Issued)
		want  string
	}{
		"expired": {func(_ *testing.T, a *authority, i *identity.Issued) {
			i.KeyPair = a.pair(a.signer, workload, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
		}, "expired 1h0m"},
		"no roots": {func(_ *testing.T, _ *authority, i *identity.Issued) { i.Roots = nil }, "there are none"},
		"below a root that is not among its roots": {func(t *testing.T, a *authority, i *identity.Issued) {
			i.KeyPair = a.pair(domainRoot(t, "x"), workload, time.Now(), time.Now().Add(time.Hour))
		}, "signed by unknown authority"},
		"of roots that it does not lead to": {func(t *testing.T, a *authority, i *identity.Issued) {
			i.KeyPair = a.pair(domainRoot(t, "x"), workload, time.Now(), time.Now().Add(time.Hour))
			i.Roots = rootCerts(domainRoot(t, "y"))
		}, "signed by unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAuthority(t, time.Hour)
				r := rotate(t, a)
				defer r.stop()
				pair, roots := secret(t, r.keeper, identity.DefaultName), secret(t, r.keeper, identity.RootsName)
				a.set(func() { a.twist = func(i *identity.Issued) { c.twist(t, a, i) } })
				pass(50 * time.Minute)
				if got := secret(t, r.keeper, identity.DefaultName); got != pair {
					t.Errorf("the certificate is another: %+v", got)
				}
				if got := secret(t, r.keeper, identity.RootsName); got != roots {
					t.Errorf("the roots are others: %+v", got)
				}
				h, _ := r.keeper.Handle(identity.DefaultName)
				if last, _ := h.LastFailure(); last == nil || !strings.Contains(last.Error(), c.want) {
					t.Errorf("the last failure is %v, want %q in it", last, c.want)
				}
				if tries := len(a.asked(time.Time{})); tries < 15 || tries > 100 {
					t.Errorf("%d tries, want 15 to 100", tries)
				}
				a.set(func() { a.twist = nil })
				each(time.Second, time.Hour, r.good)
			})
		})
	}
}

func TestAnAuthorityThatGivesNoTimeIsNotAskedInAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, 0) // NotAfter is now, or up to a second ago
		r := rotate(t, a)
		defer r.stop()
		pass(time.Minute)
		if n := len(a.asked(time.Time{})); n > 130 {
			t.Errorf("%d requests in a minute, want 130 at most", n)
		}
	})
}

func TestTheLogGetsLouderAsExpiryNears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, time.Hour)
		r := rotate(t, a)
		defer r.stop()
		a.down()
		count := func(level string) int { return lines(r.log, "level="+level+` msg="no new certificate"`) }
		pass(44 * time.Minute)
		if warn, info := count("WARN"), count("INFO"); warn != 1 || info < 5 {
			t.Errorf("%d warnings and %d notes in the third quarter, want 1 (the first failure) and 5 at least", warn, info)
		}
		pass(2 * time.Minute)
		info := count("INFO")
		pass(13 * time.Minute)
		if warn := count("WARN"); warn < 10 || count("INFO") != info {
			t.Errorf("%d warnings and %d notes in the last quarter, want 10 and none", warn, count("INFO")-info)
		}
		if count("ERROR") != 0 {
			t.Errorf("%d errors before the expiry, want none", count("ERROR"))
		}
		pass(5 * time.Minute)
		if count("ERROR") == 0 {
			t.Error("no error after the expiry")
		}
	})
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		opts identity.AuthorityOptions
		want string
	}{
		"after the last moment": {identity.AuthorityOptions{RenewAt: 0.95}, "0.95"},
		"at once":               {identity.AuthorityOptions{RenewAt: 0.01}, "0.01"},
		"negative":              {identity.AuthorityOptions{RenewAt: -1}, "-1"},
		"negative jitter":       {identity.AuthorityOptions{Jitter: -0.5}, "-0.5"},
		"too much jitter":       {identity.AuthorityOptions{Jitter: 1.5}, "1.5"},
	} {
		t.Run(name, func(t *testing.T) {
			err := identity.NewAuthority(c.opts).Run(t.Context(), identity.NewKeeper(identity.Options{}))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Run returned %v, want an error with %q", err, c.want)
			}
		})
	}
}
