package identity_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/certs/identity"
)

// mesh are workloads that all speak with each other.
type mesh struct {
	*testing.T
	all  []*rotating
	seen map[string]bool // pairs of certificate and roots that were verified
}

// check has each workload verify each other's certificate, as in a handshake.
func (m *mesh) check() {
	m.Helper()
	for i, client := range m.all {
		roots := secret(m.T, client.keeper, identity.RootsName)
		for j, server := range m.all {
			pair := secret(m.T, server.keeper, identity.DefaultName)
			key := roots.Version + pair.Version
			if m.seen[key] {
				continue
			}
			if err := verify(pair.KeyPair, roots.Validation); err != nil {
				m.Fatalf("%s: workload %d does not accept workload %d: %v", time.Now(), i, j, err)
			}
			m.seen[key] = true
		}
	}
	for _, r := range m.all {
		r.good()
	}
}

// verify is what a peer does in a handshake with that validation.
func verify(p *certs.KeyPair, v *certs.Validation) error {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), CurrentTime: time.Now()}
	for _, c := range v.Roots {
		opts.Roots.AddCert(c)
	}
	if v.TrustDomains != nil {
		return errors.New("the roots are by trust domain, which is not meant here")
	}
	_, err := p.TLS.Leaf.Verify(opts)
	return err
}

func TestARootRotationBreaksNoHandshakeAtAnyMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, time.Hour)
		before, after := a.signer, domainRoot(t, "after")
		m := &mesh{T: t, seen: map[string]bool{}}
		for range 5 {
			r := rotate(t, a)
			defer r.stop()
			m.all = append(m.all, r)
			pass(3 * time.Minute)
		}
		for _, phase := range []struct {
			signer *ca.CA
			bundle []*ca.CA
		}{
			{before, []*ca.CA{before}},
			{before, []*ca.CA{before, after}},
			{after, []*ca.CA{before, after}},
			{after, []*ca.CA{after}},
		} {
			a.set(func() { a.signer, a.bundle = phase.signer, phase.bundle })
			each(time.Second, time.Hour, m.check) // each workload has had a renewal
		}
		for i, r := range m.all {
			if got := r.keeper.Roots(); len(got) != 1 || !got[0].Cert.Equal(after.Cert) {
				t.Errorf("workload %d trusts %d roots, want the new one alone", i, len(got))
			}
			if err := verify(r.keeper.Pair(), &certs.Validation{Roots: rootCerts(after)}); err != nil {
				t.Errorf("workload %d: %v", i, err)
			}
		}
	})
}

// settling is a Settled hook that takes its time.
type settling struct {
	takes  time.Duration // for the roots; 0 is for ever
	keeper *identity.Keeper

	mu     sync.Mutex
	called []string // guarded by mu; what was there: root and signer
}

func (s *settling) wait(ctx context.Context, name string) error {
	if name != identity.RootsName {
		return nil
	}
	roots, err := s.handle(identity.RootsName).Current()
	if err != nil {
		return err
	}
	pair, err := s.handle(identity.DefaultName).Current()
	if err != nil {
		return err
	}
	var names []string
	for _, c := range roots.Validation.Roots {
		names = append(names, c.Subject.CommonName)
	}
	slices.Sort(names)
	s.mu.Lock()
	s.called = append(s.called, fmt.Sprintf("%s serves %s", names, pair.KeyPair.TLS.Leaf.Issuer.CommonName))
	s.mu.Unlock()
	if s.takes == 0 {
		<-ctx.Done()
		return fmt.Errorf("client 7 has not answered: %w", ctx.Err())
	}
	select {
	case <-time.After(s.takes):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *settling) handle(name string) *certs.Handle {
	h, err := s.keeper.Handle(name)
	if err != nil {
		panic(err) // these names always are
	}
	return h
}

func TestClientsHaveANewRootBeforeTheFirstCertificateBelowIt(t *testing.T) {
	for _, c := range []struct {
		name        string
		life, takes time.Duration
		wait        time.Duration // until the certificate is served after all
		warn        int
	}{
		{name: "a slow client is waited for", life: time.Hour, takes: 3 * time.Second, wait: 3 * time.Second},
		{name: "a client that hangs is waited for five seconds", life: time.Hour, wait: 5 * time.Second, warn: 1},
		{name: "never for more than half of what is left", life: 10 * time.Second, wait: 2500 * time.Millisecond, warn: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAuthority(t, c.life)
				s := &settling{takes: c.takes}
				r := rotate(t, a, func(_ *identity.AuthorityOptions, keep *identity.Options) { keep.Settled = s.wait })
				defer r.stop()
				s.keeper = r.keeper
				after := domainRoot(t, "after")
				a.set(func() { a.signer, a.bundle = after, append(a.bundle, after) })
				roots, pair := s.handle(identity.RootsName), s.handle(identity.DefaultName)
				served := pair.Changed()
				<-roots.Changed()
				trusted := time.Now()
				<-served
				if got := time.Since(trusted); got > c.wait || got < c.wait-time.Second {
					t.Errorf("the certificate came %s after its root, want %s", got, c.wait)
				}
				want := "[after root] serves root"
				s.mu.Lock()
				if len(s.called) != 1 || s.called[0] != want {
					t.Errorf("while it was waited: %q, want %q", s.called, want)
				}
				s.mu.Unlock()
				if n := lines(r.log, "client 7 has not answered"); n != c.warn {
					t.Errorf("%d warnings, want %d:\n%s", n, c.warn, r.log)
				}
				pass(c.life) // further certificates of the same roots wait for nobody
				s.mu.Lock()
				if len(s.called) != 1 {
					t.Errorf("it was waited %d times, want once", len(s.called))
				}
				s.mu.Unlock()
				r.good()
			})
		})
	}
}

func TestARootsFileIsFollowedAndStaysWhenItBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, time.Hour)
		next, third := domainRoot(t, "next"), domainRoot(t, "third")
		var mu sync.Mutex
		var said []*ca.CA
		var broken error
		say := func(err error, roots ...*ca.CA) {
			mu.Lock()
			defer mu.Unlock()
			said, broken = roots, err
		}
		say(nil, next)
		r := rotate(t, a, func(opts *identity.AuthorityOptions, _ *identity.Options) {
			opts.RootsFile = func() ([]*x509.Certificate, error) {
				mu.Lock()
				defer mu.Unlock()
				return rootCerts(said...), broken
			}
		})
		defer r.stop()
		trusts := func(want ...*ca.CA) {
			t.Helper()
			if got := secret(t, r.keeper, identity.RootsName).Validation.Roots; !sameRoots(got, want) {
				t.Errorf("%d roots are trusted, want %d", len(got), len(want))
			}
		}
		trusts(a.bundle[0], next)
		if h, _ := r.keeper.Handle(identity.RootsName); h.Revision() > 2 {
			t.Errorf("the roots were published %d times", h.Revision())
		}
		say(nil, next, third)
		pass(11 * time.Second)
		trusts(a.bundle[0], next, third)
		say(errors.New("input/output error"))
		pass(2 * time.Hour)
		trusts(a.bundle[0], next, third)
		say(nil)
		pass(2 * time.Hour)
		trusts(a.bundle[0], next, third)
		if n := lines(r.log, "roots file is refused"); n != 2 {
			t.Errorf("%d warnings, want one for each reason:\n%s", n, r.log)
		}
		say(nil, third)
		pass(11 * time.Second)
		trusts(a.bundle[0], third)
		for _, root := range r.keeper.Roots() {
			want := "ca test"
			if root.Cert.Equal(third.Cert) {
				want = "ca test, roots file"
			}
			if strings.Join(root.From, "; ") != want {
				t.Errorf("root %s is from %q, want %q", root.Cert.Subject, root.From, want)
			}
		}
	})
}
