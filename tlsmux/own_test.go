package tlsmux

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"outrider/certs"
)

func expired(t *x509.Certificate) {
	t.NotBefore, t.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Minute)
}

func TestAnExpiredCertificateOfOurOwnIsNotPresentedAndTheReasonIsTold(t *testing.T) {
	m := newMesh(t)
	key := certs.Ref{Name: "default"}
	over := &certs.Secret{Name: "default", Version: "1", From: "sds agent", KeyPair: m.root.issue(t, "over", uri("spiffe://prod/a"), expired).pair()}
	told := func(err error, side Side) {
		t.Helper()
		var own *OwnExpiredError
		if reasonOf(err) != ReasonOwnExpired || !errors.As(err, &own) {
			t.Fatalf("%v side: %v", side, err)
		}
		for _, want := range []string{`secret "default"`, "sds agent", "no such authority", "expired 1m"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v side: %q is not in %q", side, want, err)
			}
		}
	}
	feed := func() *certs.Store {
		store := noFeeds()
		h := store.Get(key)
		h.Publish(over)
		h.Fail(errors.New("no such authority"))
		return store
	}
	sc := m.serverConfig()
	sc.Certificates = []certs.Ref{key}
	told(shakeHands(t, NewClient(m.clientConfig(), noFeeds()), NewServer(sc, feed()), ClientOptions{}).serverErr, Downstream)
	cc := m.clientConfig()
	cc.Certificates = []certs.Ref{key}
	told(shakeHands(t, NewClient(cc, feed()), NewServer(m.serverConfig(), noFeeds()), ClientOptions{}).clientErr, Upstream)
}

func TestStandingTellsWhatHasBecomeOfThePeersTrust(t *testing.T) {
	m := newMesh(t)
	trust := certs.Ref{Name: "ROOTCA"}
	store := noFeeds()
	publish := func(version string, v *certs.Validation) {
		store.Get(trust).Publish(&certs.Secret{Name: "ROOTCA", Version: version, Validation: v})
	}
	publish("1", &certs.Validation{Roots: roots(m.root)})
	sc := m.serverConfig()
	sc.Validation, sc.ValidationRef = &certs.Validation{}, &trust
	got := shakeHands(t, NewClient(m.clientConfig(), noFeeds()), NewServer(sc, store), ClientOptions{})
	if got.serverErr != nil {
		t.Fatal(got.serverErr)
	}
	s := got.server.State()
	if s.Root == nil || !s.Root.Equal(m.root.cert) || s.PeerUntil.IsZero() || s.Bundle() != store.Get(trust) {
		t.Fatalf("root %v, until %s, bundle %v", s.Root, s.PeerUntil, s.Bundle())
	}
	stands := func(what string, want Loss) {
		t.Helper()
		if loss, why := s.Standing(time.Now()); loss != want || (why != nil) != (want != NoLoss) {
			t.Errorf("%s: %v, %v; want %v", what, loss, why, want)
		}
	}
	stands("nothing has changed", NoLoss)
	another := root(t, "another")
	publish("2", &certs.Validation{Roots: roots(m.root, another)})
	stands("a root more", NoLoss)
	publish("3", &certs.Validation{Roots: roots(another)})
	stands("its root is gone", RootRemoved)
	publish("4", &certs.Validation{Roots: roots(m.root)})
	stands("its root is back", NoLoss)
}
