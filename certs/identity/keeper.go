package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
)

// Options are a Keeper's.
type Options struct {
	// TrustDomain is the workload's own; zero takes that of its first
	// certificate.
	TrustDomain spiffeid.TrustDomain
	// Aliases are trust domains whose members are verified with the bundle of
	// another one (Istio: trustDomainAliases): from the alias to the other.
	Aliases map[spiffeid.TrustDomain]spiffeid.TrustDomain
	// PerTrustDomain demands of every peer a SPIFFE ID that its own trust
	// domain's bundle verifies, also where only one bundle is known. With more
	// than one, or with aliases, it is always so.
	PerTrustDomain bool
	// Settled waits until whoever reads the named secret has its current
	// version; its error, after the end of ctx, says who has not. nil does not
	// wait. Serve calls it between new roots and the certificates below them.
	Settled func(ctx context.Context, name string) error
	Log     *slog.Logger
	// Now is the wall clock; nil is time.Now.
	Now func() time.Time
}

// settleTime is the longest that new certificates wait for the clients to
// trust the new roots: a client that hangs must not stop a rotation.
const settleTime = 5 * time.Second

// maxNames bounds the secrets that are handed out: names come from clients.
const maxNames = 1000

// Keeper is one workload's identity now. All methods may be called by many
// goroutines; Trust and Serve of one source must not overlap.
type Keeper struct {
	opts Options

	mu        sync.Mutex
	bundles   bundles                  // guarded by mu
	pairs     []*certs.KeyPair         // guarded by mu; the default one first
	from      string                   // guarded by mu; who brought pairs
	handles   map[string]*certs.Handle // guarded by mu; by name
	next      time.Time                // guarded by mu; when the source means to renew
	clock     Clock                    // guarded by mu
	unsettled bool                     // guarded by mu; there are roots that no Serve has waited for
}

// NewKeeper makes a Keeper that knows nothing yet.
func NewKeeper(opts Options) *Keeper {
	k := &Keeper{opts: opts, handles: map[string]*certs.Handle{}}
	if k.opts.Log == nil {
		k.opts.Log = slog.New(slog.DiscardHandler)
	}
	if k.opts.Now == nil {
		k.opts.Now = time.Now
	}
	for _, name := range []string{DefaultName, RootsName} {
		k.handles[name] = certs.NewHandle(certs.Ref{Name: name})
	}
	return k
}

// Handle is the secret of that name: DefaultName, RootsName, AllName, a SPIFFE
// ID for its certificate, a trust domain's ID ("spiffe://td") for its bundle.
// It waits for a secret that is not known yet. Any other name is an error.
func (k *Keeper) Handle(name string) (*certs.Handle, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h := k.handles[name]; h != nil {
		return h, nil
	}
	if name != AllName {
		if _, err := parseName(name); err != nil {
			return nil, err
		}
	}
	if len(k.handles) >= maxNames {
		return nil, fmt.Errorf("secret %q: %d names are served already", name, maxNames)
	}
	h := certs.NewHandle(certs.Ref{Name: name})
	k.handles[name] = h
	k.publish(name, h)
	return h, nil
}

// parseName reads a name that is a SPIFFE ID, with or without a path.
func parseName(name string) (spiffeid.ID, error) {
	if !strings.HasPrefix(name, "spiffe://") {
		return spiffeid.ID{}, fmt.Errorf("secret %q: the names are %s, %s, %s and SPIFFE IDs", name, DefaultName, RootsName, AllName)
	}
	id, err := spiffeid.FromString(name)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("secret %q: %w", name, err)
	}
	return id, nil
}

// Handles are all secrets that were asked for; the default and the roots
// always.
func (k *Keeper) Handles() []*certs.Handle {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]*certs.Handle, 0, len(k.handles))
	for _, h := range k.handles {
		out = append(out, h)
	}
	return certs.SortByName(out)
}

// Roots are the anchors that are trusted now, by trust domain, oldest first.
func (k *Keeper) Roots() []Root {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.bundles.list()
}

// Trusted are the roots of one trust domain.
func (k *Keeper) Trusted(td spiffeid.TrustDomain) []*x509.Certificate {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.bundles.of(td)
}

// Trust makes said the whole of what from names as roots: what it named before
// and does not any more goes, unless another source names it. A bundle without
// roots is refused, and with it the whole call: nothing changes.
func (k *Keeper) Trust(from string, said ...Bundle) error {
	for _, s := range said {
		if len(s.Roots) == 0 {
			return fmt.Errorf("roots of trust domain %q from %s: there are none", s.TrustDomain, from)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.bundles.replace(from, said, k.opts.Now()) {
		return nil
	}
	k.unsettled = true
	for _, r := range k.bundles.list() {
		k.opts.Log.Debug("root is trusted", "trust_domain", r.TrustDomain.Name(), "subject", r.Cert.Subject.String(), "from", r.From, "since", r.Since)
	}
	k.publishRoots()
	k.warnUntrusted()
	return nil
}

// warnUntrusted says so if our own certificate does not chain to our roots any
// more: peers that trust the same will refuse it. mu is held.
func (k *Keeper) warnUntrusted() {
	for _, p := range k.pairs {
		if err := k.chains(p); err != nil {
			k.opts.Log.Warn("our own certificate is not of the roots that are trusted now", "spiffe_id", p.ID.String(), "reason", err)
		}
	}
}

// Serve makes pairs the workload's certificates, the default one first, once
// the clients have the roots that are trusted now. Each must have a SPIFFE ID
// and chain to the roots of its own trust domain; otherwise all are refused
// and what is served stays. next is when the source will renew, zero if it is
// told.
func (k *Keeper) Serve(ctx context.Context, from string, next time.Time, pairs ...*certs.KeyPair) error {
	if len(pairs) == 0 {
		return fmt.Errorf("certificates from %s: there are none", from)
	}
	if err := k.checkPairs(pairs); err != nil {
		return err
	}
	k.settle(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pairs, k.from, k.next = pairs, from, next
	k.publishRoots() // our own trust domain may be another one
	k.publishPairs()
	for _, h := range k.handles {
		h.Plan(next)
	}
	return nil
}

func (k *Keeper) checkPairs(pairs []*certs.KeyPair) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for _, p := range pairs {
		if p.ID.IsZero() {
			errs = append(errs, fmt.Errorf("certificate %q has no SPIFFE ID", p.TLS.Leaf.Subject))
			continue
		}
		if err := k.chains(p); err != nil {
			errs = append(errs, fmt.Errorf("certificate of %s: %w", p.ID, err))
		}
	}
	return errors.Join(errs...)
}

// chains verifies a pair with the roots of its trust domain, whatever the
// time; mu is held.
func (k *Keeper) chains(p *certs.KeyPair) error {
	td := k.canonical(p.ID.TrustDomain())
	roots := k.bundles.of(td)
	if len(roots) == 0 {
		return fmt.Errorf("there are no roots for trust domain %q", td)
	}
	return VerifyChain(p, roots)
}

// VerifyChain checks that a pair's chain leads to one of roots. The time now is
// not looked at: it is enough that all of the chain was valid together once.
func VerifyChain(p *certs.KeyPair, roots []*x509.Certificate) error {
	opts := x509.VerifyOptions{Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	youngest := p.TLS.Leaf.NotBefore
	for _, der := range p.TLS.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		opts.Intermediates.AddCert(c)
		youngest = later(youngest, c.NotBefore)
	}
	var last error
	for _, r := range roots {
		opts.Roots, opts.CurrentTime = x509.NewCertPool(), later(youngest, r.NotBefore)
		opts.Roots.AddCert(r)
		if _, last = p.TLS.Leaf.Verify(opts); last == nil {
			return nil
		}
	}
	return last
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// DemandTrustDomains sets Options.PerTrustDomain for good. A source whose roots
// are each for one trust domain only calls it before it names any.
func (k *Keeper) DemandTrustDomains() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.opts.PerTrustDomain = true
	k.publishRoots()
}

// settle waits until the clients have the roots that are trusted now; not so
// long that the certificate that is served expires meanwhile.
func (k *Keeper) settle(ctx context.Context) {
	k.mu.Lock()
	wait, limit := k.unsettled && k.opts.Settled != nil && k.pairs != nil, settleTime
	k.unsettled = false
	k.mu.Unlock()
	if !wait {
		return
	}
	if left := k.Pair().TLS.Leaf.NotAfter.Sub(k.opts.Now()); left > 0 {
		limit = min(limit, left/2)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, name := range []string{RootsName, AllName} {
		if err := k.opts.Settled(ctx, name); err != nil {
			k.opts.Log.Warn("a new certificate is served to clients that may not trust its root yet", "reason", err)
		}
	}
}

// Attempt counts a try to renew.
func (k *Keeper) Attempt() {
	for _, h := range k.certificates() {
		h.Attempt()
	}
}

// Fail records a try that brought nothing; what is served stays. next is when
// the next try will be, zero if it is not known.
func (k *Keeper) Fail(err error, next time.Time) {
	for _, h := range k.certificates() {
		h.Fail(err)
		h.Plan(next)
	}
}

// certificates are the handles of key pairs.
func (k *Keeper) certificates() []*certs.Handle {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := []*certs.Handle{}
	for name, h := range k.handles {
		if !isRoots(name) {
			out = append(out, h)
		}
	}
	return out
}

// isRoots reports whether a name is of roots, not of a certificate.
func isRoots(name string) bool {
	if name == RootsName || name == AllName {
		return true
	}
	id, err := spiffeid.FromString(name)
	return err == nil && id.Path() == ""
}

// Pair is the workload's default certificate, nil if there is none yet.
func (k *Keeper) Pair() *certs.KeyPair {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.pairs) == 0 {
		return nil
	}
	return k.pairs[0]
}

// Expired is nil, or what has become of the default certificate: since when it
// is not good any more, and why there is none in its place. One that is not
// valid yet by our clock was believed by its source.
func (k *Keeper) Expired() error {
	p := k.Pair()
	if p == nil {
		return nil
	}
	now := k.opts.Now().Round(0)
	if !now.After(p.TLS.Leaf.NotAfter) {
		return nil
	}
	err := ValidAt(p, now)
	k.mu.Lock()
	defer k.mu.Unlock()
	if last, _ := k.handles[DefaultName].LastFailure(); last != nil {
		return fmt.Errorf("%w%s; no other one came: %w", err, k.clock.note(), last)
	}
	return fmt.Errorf("%w%s", err, k.clock.note())
}

// SetClock records what was learnt of the authority's clock.
func (k *Keeper) SetClock(c Clock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.clock = c
}

// Clock is what was learnt last of the authority's clock.
func (k *Keeper) Clock() Clock {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.clock
}
