package istioca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var webID = spiffeid.RequireFromString("spiffe://cluster.local/ns/dev/sa/web") //nolint:gochecknoglobals // a constant

func openTest(t *testing.T, c Config) *Authority {
	t.Helper()
	c.TrustDomain = webID.TrustDomain()
	a, err := Open(filepath.Join(t.TempDir(), "state"), c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func testKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func mustIssue(t *testing.T, a *Authority, ttl time.Duration) *Issued {
	t.Helper()
	got, err := a.Issue(Order{ID: webID, Public: testKey(t).Public(), TTL: ttl, Caller: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// accepts says whether a peer with bundle roots takes what other presents.
func accepts(roots []*x509.Certificate, other *Issued) error {
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range roots {
		pool.AddCert(c)
	}
	for _, c := range other.Intermediates {
		between.AddCert(c)
	}
	_, err := other.Cert.Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: between, CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

// workload renews at half of its life, and has what the last answer said.
type workload struct {
	ttl   time.Duration
	has   *Issued
	renew time.Time
}

func (w *workload) step(t *testing.T, a *Authority) {
	if now := time.Now(); w.has == nil || !now.Before(w.renew) {
		w.has = mustIssue(t, a, w.ttl)
		w.renew = now.Add(w.ttl / 2)
	}
}

// Each pair of peers meets every minute through two whole rotations. One of
// them renews in the last minute of its life only.
func TestRotationFailsNoHandshakeBetweenAnyTwoPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := openTest(t, Config{})
		peers := []*workload{{ttl: time.Hour}, {ttl: 3 * time.Hour}, {ttl: 40 * time.Minute}, {ttl: 6 * time.Hour}}
		late := &workload{ttl: 2 * time.Hour}
		peers = append(peers, late)
		seen := map[Phase]int{}
		signers := map[string]bool{}
		for minute := range 60 * 40 {
			if minute == 60*2 || minute == 60*22 {
				if _, err := a.RotateRoot(Root{}, 30*time.Minute); err != nil {
					t.Fatal(err)
				}
			}
			for _, w := range peers {
				w.step(t, a)
			}
			late.renew = late.has.Cert.NotAfter.Add(-time.Minute)
			for i, from := range peers {
				for j, to := range peers {
					if err := accepts(to.has.Roots, from.has); err != nil {
						t.Fatalf("minute %d: peer %d is refused by peer %d: %v", minute, i, j, err)
					}
				}
			}
			s, err := a.upkeep()
			if err != nil {
				t.Fatal(err)
			}
			p := s.Plan(time.Now())
			seen[p.Phase]++
			signers[p.Signer.ID()] = true
			time.Sleep(time.Minute)
		}
		if len(signers) != 3 || seen[Introducing] < 60 || seen[Retiring] < 60 || seen[Steady] < 60 {
			t.Errorf("got %d signers and phases %v, want 3 signers and an hour of each phase", len(signers), seen)
		}
		if s, err := a.Status(); err != nil || len(s.Issuers) != 1 || len(s.Plan.Roots) != 1 {
			t.Errorf("at the end: got %+v, %v, want one issuer with one root", s, err)
		}
	})
}

// The phases follow from the times in the state.
func TestPlanFollowsFromStateAndTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := openTest(t, Config{})
		mustIssue(t, a, time.Hour)
		began := time.Now()
		if _, err := a.RotateRoot(Root{}, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Minute)
		mustIssue(t, a, time.Hour) // below the old one, until 1h30m
		s, err := a.dir.load()
		if err != nil {
			t.Fatal(err)
		}
		old, fresh := s.Issuers[0].ID(), s.Issuers[1].ID()
		slack := promiseSlack
		for _, c := range []struct {
			after  time.Duration
			phase  Phase
			signer string
			roots  int
		}{
			{-time.Hour, Introducing, old, 2}, // a clock that was set back
			{0, Introducing, old, 2},
			{time.Hour + slack - 1, Introducing, old, 2},
			{time.Hour + slack, Retiring, fresh, 2},
			{90*time.Minute + slack - 1, Retiring, fresh, 2},
			{90*time.Minute + slack, Steady, fresh, 1},
			{1000 * time.Hour, Steady, fresh, 1},
		} {
			p := s.Plan(began.Add(c.after))
			if p.Phase != c.phase || p.Signer.ID() != c.signer || len(p.Roots) != c.roots {
				t.Errorf("after %s: got %s, %s, %d roots, want %s, %s, %d", c.after, p.Phase, p.Signer.ID(), len(p.Roots), c.phase, c.signer, c.roots)
			}
		}
	})
}

func TestRotationGoesOnAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := openTest(t, Config{})
		mustIssue(t, a, time.Hour)
		want, err := a.RotateRoot(Root{}, 2*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			sleep time.Duration
			phase Phase
			roots int
		}{{0, Introducing, 2}, {2 * time.Hour, Steady, 1}} {
			time.Sleep(step.sleep)
			b, err := OpenExisting(a.dir.path)
			if err != nil {
				t.Fatal(err)
			}
			s, err := b.Status()
			if err != nil || s.Plan.Phase != step.phase || len(s.Plan.Roots) != step.roots {
				t.Fatalf("got %s with %d roots, %v, want %s with %d", s.Plan.Phase, len(s.Plan.Roots), err, step.phase, step.roots)
			}
		}
		if got := want.Until.Sub(time.Now()); got != 0 {
			t.Errorf("phase 1 ended %s from its time", got)
		}
	})
}

func TestSecondRotationWaitsForTheFirst(t *testing.T) {
	a := openTest(t, Config{})
	mustIssue(t, a, time.Hour)
	if _, err := a.RotateRoot(Root{}, time.Hour); err != nil {
		t.Fatal(err)
	}
	_, err := a.RotateRoot(Root{}, time.Hour)
	wantText(t, err, "a rotation that began at")
	_, err = a.RotateRoot(Root{}, -time.Second)
	wantText(t, err, "must not be negative")
}

// Another process that has read the state before the rotation may sign for a
// while without knowing of it.
func TestRotationCoversWhatAStaleProcessIssues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := openTest(t, Config{})
		mustIssue(t, a, time.Hour)
		stale, err := a.dir.load()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.RotateRoot(Root{}, 0); err != nil {
			t.Fatal(err)
		}
		now, err := a.dir.load()
		if err != nil {
			t.Fatal(err)
		}
		_, notAfter, err := stale.term(time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if notAfter.After(stale.Issuers[0].IssuedUntil) || now.Rotation.SignsAt.Before(stale.Issuers[0].IssuedUntil) {
			t.Errorf("a certificate until %s, promised until %s, new root signs at %s", notAfter, stale.Issuers[0].IssuedUntil, now.Rotation.SignsAt)
		}
	})
}

// A new intermediate below the same root needs no wait: everybody has its root.
func TestNewIntermediateBelowTheSameRootSignsAtOnce(t *testing.T) {
	root := newGivenRoot(t)
	a := openTest(t, Config{Root: Root{Given: root.intermediate(t, "one")}})
	mustIssue(t, a, 24*time.Hour)
	plan, err := a.RotateRoot(Root{Given: root.intermediate(t, "two")}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if plan.Phase != Retiring || plan.Signer.Cert().Subject.CommonName != "two" || len(plan.Roots) != 1 {
		t.Errorf("got %s, signer %q, %d roots", plan.Phase, plan.Signer.Cert().Subject, len(plan.Roots))
	}
}

// A client that has a copy of the first root and nothing else reaches the
// server after three rotations.
func TestOldRootFileStillReachesTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := openTest(t, Config{})
		first, err := a.Roots()
		if err != nil {
			t.Fatal(err)
		}
		s := newTestServer(t, a)
		for n := range 4 {
			if err := serverVerifies(s, first); err != nil {
				t.Fatalf("after %d rotations: %v", n, err)
			}
			if _, err := a.RotateRoot(Root{}, 0); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Hour)
			if _, err := a.upkeep(); err != nil {
				t.Fatal(err)
			}
		}
		now, err := a.Roots()
		if err != nil || len(now) != 1 || now[0].Equal(first[0]) {
			t.Errorf("the first root is still trusted: %d roots, %v", len(now), err)
		}
	})
}

func newTestServer(t *testing.T, a *Authority) *Server {
	t.Helper()
	s, err := NewServer(a, ServerConfig{Names: []string{"istiod.istio-system.svc"}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func serverVerifies(s *Server, roots []*x509.Certificate) error {
	cert, err := s.certificate(nil)
	if err != nil {
		return err
	}
	return verifyServing(cert, roots)
}

func verifyServing(cert *tls.Certificate, roots []*x509.Certificate) error {
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range roots {
		pool.AddCert(c)
	}
	for _, der := range cert.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		between.AddCert(c)
	}
	_, err := cert.Leaf.Verify(x509.VerifyOptions{
		DNSName: "istiod.istio-system.svc", Roots: pool, Intermediates: between, CurrentTime: time.Now(),
	})
	return err
}

func TestServingCertificateRenewsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := openTest(t, Config{})
		s := newTestServer(t, a)
		roots, err := a.Roots()
		if err != nil {
			t.Fatal(err)
		}
		serials := map[string]bool{}
		for range 10 * 24 { // ten days, then a suspended month
			cert, err := s.certificate(nil)
			if err == nil {
				err = verifyServing(cert, roots)
			}
			if err != nil {
				t.Fatal(err)
			}
			serials[cert.Leaf.SerialNumber.String()] = true
			time.Sleep(time.Hour)
		}
		if len(serials) != 20 {
			t.Errorf("got %d certificates in ten days, want 20: one for each half of a day", len(serials))
		}
		time.Sleep(30 * 24 * time.Hour)
		if err := serverVerifies(s, roots); err != nil {
			t.Errorf("after a month's sleep: %v", err)
		}
	})
}

// Two commands and a server on one directory lose nothing of each other's.
func TestConcurrentUpdatesLoseNothing(t *testing.T) {
	a := openTest(t, Config{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	var latest time.Time
	for n := range 4 {
		b, err := OpenExisting(a.dir.path)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for i := range 10 {
				got, err := b.Issue(Order{ID: webID, Public: webKey(), TTL: time.Duration(n*10+i+1) * time.Hour, Caller: "test"})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				latest = later(latest, got.Cert.NotAfter)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	s, err := a.dir.load()
	if err != nil || s.Issuers[0].IssuedUntil.Before(latest) {
		t.Errorf("issued until %s, and the state says %s: %v", latest, s.Issuers[0].IssuedUntil, err)
	}
	text, err := os.ReadFile(filepath.Join(a.dir.path, logFile))
	if err != nil || len(lines(text)) != 40 {
		t.Errorf("got %d lines in the log, %v, want 40", len(lines(text)), err)
	}
}

func webKey() any {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key.Public()
}
