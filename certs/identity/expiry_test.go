package identity_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/certs/identity"
)

// serveFor has k trust authority and serve a certificate of it that lives that
// long from now.
func serveFor(t *testing.T, k *identity.Keeper, authority *ca.CA, life time.Duration) {
	t.Helper()
	issued, err := authority.Issue(ca.Leaf{ID: "spiffe://prod/w", NotAfter: time.Now().Add(life)})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := certs.ParseKeyPair(issued.ChainPEM, issued.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Trust("test", identity.Bundle{TrustDomain: spiffeid.RequireTrustDomainFromString("prod"), Roots: rootCerts(authority)}); err != nil {
		t.Fatal(err)
	}
	if err := k.Serve(context.Background(), "test", time.Time{}, pair); err != nil {
		t.Fatal(err)
	}
}

func TestExpiryIsToldAtOnceThenEachMinuteUntilASuccessorComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &logBuffer{}
		k := identity.NewKeeper(identity.Options{Log: slog.New(slog.NewTextHandler(out, nil))})
		authority := domainRoot(t, "prod")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); k.TellExpiry(ctx) }()
		told := func(after time.Duration, want int) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := strings.Count(out.String(), "level=ERROR"); got != want {
				t.Errorf("expiry was told %d times, want %d:\n%s", got, want, out)
			}
		}
		told(time.Hour, 0) // there is none yet
		serveFor(t, k, authority, 10*time.Minute)
		told(10*time.Minute, 0)
		told(time.Second, 1)
		told(40*time.Second, 1)
		told(2*time.Minute, 3)
		serveFor(t, k, authority, 15*time.Second) // the last word was less than a minute ago
		told(16*time.Second, 4)
		serveFor(t, k, authority, time.Hour)
		told(time.Hour, 4)
		told(time.Second, 5)
		cancel()
		<-ended
		if want := "the certificate of spiffe://prod/w expired"; !strings.Contains(out.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, out)
		}
	})
}
