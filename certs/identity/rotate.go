package identity

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
)

// AuthorityOptions are how certificates are kept fresh from an authority.
type AuthorityOptions struct {
	Issuer Issuer
	// Name is the authority's for people: "ca istiod.istio-system.svc:15012".
	Name string
	// RootsFile reads roots that are trusted beside those of the authority's
	// answers, for the same trust domain; nil reads none. It is called every
	// few seconds: a new root can be there before the authority uses it. An
	// error leaves what was read before.
	RootsFile func() ([]*x509.Certificate, error)
	// RenewAt is the share of a certificate's life, from its arrival here to
	// its NotAfter, after which it is renewed; 0 is a half. Half of 24 h leaves
	// 12 h of outage before anything is lost. It is between 0.1 and 0.8.
	RenewAt float64
	// Jitter is the share of the time between RenewAt and the last moment for
	// a renewal (nine tenths of the life) over which renewals are spread; 0 is
	// a quarter, 1 the whole.
	Jitter float64
	// Disk keeps the last good certificate; nil keeps none.
	Disk *Disk
	Log  *slog.Logger
	// Now is the wall clock; nil is time.Now. Tests make it jump.
	Now func() time.Time
}

// issueTime bounds one call of the Issuer: one that hangs must not stop the
// rotation.
const issueTime = 30 * time.Second

// Authority is the Source that asks an authority for certificates.
type Authority struct{ opts AuthorityOptions }

// NewAuthority makes a Source; it asks nothing yet.
func NewAuthority(opts AuthorityOptions) *Authority {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Authority{opts}
}

// Run gets a certificate at once, and then a new one whenever it is time,
// until ctx ends. Every failure is tried again, without end; what is served
// stays. An error says which option can never work.
func (a *Authority) Run(ctx context.Context, k *Keeper) error {
	pace, err := newPace(a.opts.RenewAt, a.opts.Jitter)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	told := make(chan struct{})
	go func() { defer close(told); k.TellExpiry(ctx) }() // also while the issuer is waited for
	defer func() { cancel(); <-told }()
	r := &rotation{Authority: a, keeper: k, pace: pace}
	r.start(ctx)
	for r.wait(ctx) {
		if err := r.renew(ctx); err != nil && ctx.Err() == nil {
			r.failed(err)
		}
	}
	return nil
}

// rotation is a run of an Authority.
type rotation struct {
	*Authority
	keeper *Keeper
	pace   pace

	pair  *certs.KeyPair // what is served; nil for nothing
	life  time.Duration  // of pair, as it was when it came
	due   alarm          // the next renewal, or the next try
	limit time.Duration  // of the next wait for a try; 0 after a success

	td      spiffeid.TrustDomain // our own; zero before the first certificate
	roots   []*x509.Certificate  // what RootsFile said last
	rootErr string               // why RootsFile could not be read last
}

// now is the wall clock alone.
func (r *rotation) now() time.Time { return r.opts.Now().Round(0) }

// start serves what the disk has, if it is still good.
func (r *rotation) start(ctx context.Context) {
	r.due = newAlarm(r.now(), 0)
	if r.opts.Disk == nil {
		return
	}
	kept, saved, err := r.opts.Disk.load()
	if err == nil && kept == nil {
		return
	}
	if err == nil {
		err = ValidAt(kept.KeyPair, r.now())
	}
	if err == nil {
		if now := r.now(); saved.After(now) {
			saved = now
		}
		err = r.take(ctx, kept, saved)
	}
	if err != nil {
		r.opts.Log.Warn("the certificate on disk is passed over", "dir", r.opts.Disk.Dir, "reason", err)
		return
	}
	r.opts.Log.Info("certificate from disk is served", "spiffe_id", kept.KeyPair.ID.String(), "not_after", kept.KeyPair.TLS.Leaf.NotAfter, "next", r.due.wall)
}

// renew gets one certificate and serves it.
func (r *rotation) renew(ctx context.Context) error {
	r.keeper.Attempt()
	issued, err := r.issue(ctx)
	if err != nil {
		return err
	}
	r.clock(issued.Clock)
	// Whether one that is not valid yet is good enough, the issuer knows.
	now := r.now()
	if leaf := issued.KeyPair.TLS.Leaf; now.After(leaf.NotAfter) {
		return fmt.Errorf("%w%s", ValidAt(issued.KeyPair, now), issued.Clock.note())
	}
	if err := r.take(ctx, issued, now); err != nil {
		return err
	}
	leaf := issued.KeyPair.TLS.Leaf
	r.opts.Log.Info("certificate is renewed", "spiffe_id", issued.KeyPair.ID.String(), "serial", leaf.SerialNumber.Text(16), "not_after", leaf.NotAfter, "next", r.due.wall)
	if r.opts.Disk != nil {
		if err := r.opts.Disk.Save(issued); err != nil {
			r.opts.Log.Error("the certificate cannot be kept on disk", "dir", r.opts.Disk.Dir, "reason", err)
		}
	}
	return nil
}

func (r *rotation) issue(ctx context.Context) (*Issued, error) {
	late := fmt.Errorf("no answer within %s: %w", issueTime, context.DeadlineExceeded)
	ctx, cancel := context.WithTimeoutCause(ctx, issueTime, late)
	defer cancel()
	issued, err := r.opts.Issuer.Issue(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return issued, err
}

// take has the keeper trust the roots and then serve the certificate, and
// plans the next renewal. from is when its life began for us.
func (r *rotation) take(ctx context.Context, i *Issued, from time.Time) error {
	td := i.KeyPair.ID.TrustDomain()
	// Roots replace those before: those of an answer that does not hold in
	// itself must not.
	if err := VerifyChain(i.KeyPair, slices.Concat(i.Roots, r.keeper.Trusted(td))); err != nil {
		return fmt.Errorf("certificate of %s: %w", i.KeyPair.ID, err)
	}
	r.td = td
	r.readRoots()
	if err := r.keeper.Trust(r.opts.Name, Bundle{TrustDomain: td, Roots: i.Roots}); err != nil {
		return err
	}
	now, life := r.now(), lifeFrom(i.KeyPair.TLS.Leaf, from)
	due := newAlarm(now, r.pace.renewal(life)-now.Sub(from))
	if err := r.keeper.Serve(ctx, r.opts.Name, due.wall, i.KeyPair); err != nil {
		return err
	}
	r.pair, r.life, r.due, r.limit = i.KeyPair, life, due, 0
	return nil
}

// failed plans the next try.
func (r *rotation) failed(err error) {
	first := r.limit == 0
	r.limit = min(max(2*r.limit, firstLimit), lastLimit)
	now, limit, level := r.now(), r.limit, slog.LevelWarn
	if r.pair != nil {
		left := r.pair.TLS.Leaf.NotAfter.Sub(now)
		limit = limitNear(limit, left, r.life)
		switch {
		case left < 0:
			level = slog.LevelError
		case left >= r.life/4 && !first:
			level = slog.LevelInfo // there is time
		}
	}
	r.due = newAlarm(now, retryWait(limit))
	r.keeper.Fail(err, r.due.wall)
	r.opts.Log.Log(context.Background(), level, "no new certificate", "reason", err, "next_try_in", r.due.wall.Sub(now).Round(time.Millisecond), "served", r.served(now))
}

// served says what goes on meanwhile.
func (r *rotation) served(now time.Time) string {
	if r.pair == nil {
		return "none"
	}
	left := r.pair.TLS.Leaf.NotAfter.Sub(now).Round(time.Second)
	if left < 0 {
		return fmt.Sprintf("expired %s ago", -left)
	}
	return fmt.Sprintf("good for another %s", left)
}

// wait returns true when it is time to renew, false when ctx ended.
func (r *rotation) wait(ctx context.Context) bool {
	for {
		left := r.due.left(r.now())
		if left <= 0 {
			return ctx.Err() == nil
		}
		t := time.NewTimer(min(left, look))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return false
		}
		r.readRoots()
	}
}

// readRoots has the keeper trust what RootsFile says. It waits for the first
// certificate: that says whose roots they are.
func (r *rotation) readRoots() {
	if r.opts.RootsFile == nil || r.td.IsZero() {
		return
	}
	roots, err := r.opts.RootsFile()
	if err == nil && slices.EqualFunc(roots, r.roots, (*x509.Certificate).Equal) && r.rootErr == "" {
		return
	}
	if err == nil {
		err = r.keeper.Trust(r.opts.Name+", roots file", Bundle{TrustDomain: r.td, Roots: roots})
	}
	if err == nil {
		r.roots, r.rootErr = roots, ""
		r.opts.Log.Info("roots file is taken", "authority", r.opts.Name, "roots", len(roots))
		return
	}
	if r.rootErr != err.Error() {
		r.opts.Log.Warn("roots file is refused, and what it said before stays", "authority", r.opts.Name, "reason", err)
	}
	r.rootErr = err.Error()
}

// clock records the authority's clock, and says if it is far from ours.
func (r *rotation) clock(c Clock) {
	before := r.keeper.Clock()
	r.keeper.SetClock(c)
	if c.off() && !before.off() {
		r.opts.Log.Warn("the clocks differ"+c.note(), "authority", cmp.Or(r.opts.Name, "?"))
	}
}
