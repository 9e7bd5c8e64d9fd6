package identity_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/certs/identity"
)

const workload = "spiffe://prod/ns/a/sa/w"

// authority is a fake Issuer. All it issues is for one key: what is tested is
// when and in which order things happen.
type authority struct {
	*testing.T
	key crypto.Signer

	mu     sync.Mutex
	signer *ca.CA                          // guarded by mu; nil issues nothing
	bundle []*ca.CA                        // guarded by mu; the roots in the answers
	life   time.Duration                   // guarded by mu; from now
	ahead  time.Duration                   // guarded by mu; of the real clock
	clock  identity.Clock                  // guarded by mu; what the answers say
	fail   func(ctx context.Context) error // guarded by mu; nil answers
	twist  func(*identity.Issued)          // guarded by mu; spoils an answer
	calls  []time.Time                     // guarded by mu; every request
	issued []*identity.Issued              // guarded by mu; every answer
}

// newAuthority has one root; it must be made in the bubble whose clock it is
// to have.
func newAuthority(t *testing.T, life time.Duration) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := domainRoot(t, "root")
	return &authority{T: t, key: key, signer: root, bundle: []*ca.CA{root}, life: life}
}

func (a *authority) Issue(ctx context.Context) (*identity.Issued, error) {
	a.mu.Lock()
	a.calls = append(a.calls, time.Now())
	fail := a.fail
	a.mu.Unlock()
	if fail != nil { // it may block, and no bubble's time goes by where a lock does
		if err := fail(ctx); err != nil {
			return nil, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now().Add(a.ahead)
	i := &identity.Issued{KeyPair: a.pair(a.signer, workload, now, now.Add(a.life)), Roots: rootCerts(a.bundle...), Clock: a.clock}
	if a.twist != nil {
		a.twist(i)
	}
	a.issued = append(a.issued, i)
	return i, nil
}

// pair is a certificate of signer for a's key.
func (a *authority) pair(signer *ca.CA, id string, from, to time.Time) *certs.KeyPair {
	uri, err := url.Parse(id)
	if err != nil {
		a.Error(err)
	}
	leaf, err := signer.Sign(&x509.Certificate{
		URIs: []*url.URL{uri}, NotBefore: from, NotAfter: to, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, a.key.Public())
	if err != nil {
		a.Error(err)
	}
	return &certs.KeyPair{
		TLS: tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: a.key, Leaf: leaf},
		ID:  spiffeid.RequireFromString(id), CertPath: "<inline>",
	}
}

// set changes the fields that mu guards.
func (a *authority) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

var errAway = errors.New("connection refused")

func away(context.Context) error { return errAway }

func (a *authority) down() { a.set(func() { a.fail = away }) }
func (a *authority) up()   { a.set(func() { a.fail = nil }) }

// asked are the times of all requests since a time.
func (a *authority) asked(since time.Time) []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []time.Time
	for _, t := range a.calls {
		if !t.Before(since) {
			out = append(out, t)
		}
	}
	return out
}

func (a *authority) answers() []*identity.Issued {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]*identity.Issued{}, a.issued...)
}

// wallClock is a clock that can be made to jump. It has no monotonic reading.
type wallClock struct {
	mu     sync.Mutex
	offset time.Duration // guarded by mu
}

func (c *wallClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Round(0).Add(c.offset)
}

func (c *wallClock) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
}

// rotating is a workload with a running Authority.
type rotating struct {
	*testing.T
	*authority
	clock  *wallClock
	keeper *identity.Keeper
	log    *logBuffer
	stop   func()
}

// rotate runs an Authority in a bubble. opts and keep may be changed before.
func rotate(t *testing.T, a *authority, change ...func(*identity.AuthorityOptions, *identity.Options)) *rotating {
	t.Helper()
	r := &rotating{T: t, authority: a, clock: &wallClock{}, log: &logBuffer{}}
	log := slog.New(slog.NewTextHandler(r.log, nil))
	opts := identity.AuthorityOptions{Issuer: a, Name: "ca test", Log: log, Now: r.clock.Now}
	keep := identity.Options{Log: log, Now: r.clock.Now}
	for _, c := range change {
		c(&opts, &keep)
	}
	r.keeper = identity.NewKeeper(keep)
	source := identity.NewAuthority(opts)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- source.Run(ctx, r.keeper) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	synctest.Wait()
	return r
}

// pass lets time go by.
func pass(d time.Duration) {
	time.Sleep(d) // the bubble's
	synctest.Wait()
}

// each calls f every step for d.
func each(step, d time.Duration, f func()) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		pass(step)
		f()
	}
}

// good checks that a certificate is served that is valid by the real clock.
func (r *rotating) good() {
	r.T.Helper()
	p := r.keeper.Pair()
	if p == nil {
		r.T.Fatalf("%s: no certificate is served; log:\n%s", time.Now(), r.log)
	}
	if err := identity.ValidAt(p, time.Now()); err != nil {
		r.T.Fatalf("%s: %v; log:\n%s", time.Now(), err, r.log)
	}
}

// secret is the current version of a secret, nil if there is none.
func secret(t *testing.T, k *identity.Keeper, name string) *certs.Secret {
	t.Helper()
	h, err := k.Handle(name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := h.Current()
	if err != nil {
		return nil
	}
	return s
}

func lines(log *logBuffer, part string) int { return strings.Count(log.String(), part) }
