package identity

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"outrider/certs"
)

// AuthorityOptions are how certificates are kept fresh from an authority.
type AuthorityOptions struct {
	Issuer Issuer
	// Name is the authority's for people: "ca istiod.istio-system.svc:15012".
	Name string
	// RenewAt is the share of a certificate's life, from its arrival here to
	// its NotAfter, after which it is renewed; 0 is a half. Half of 24 h leaves
	// 12 h of outage before anything is lost.
	RenewAt float64
	// Disk keeps the last good certificate; nil keeps none.
	Disk *Disk
	Log  *slog.Logger
	// Now is the wall clock; nil is time.Now. Tests make it jump.
	Now func() time.Time
}

// The times of the rotation.
const (
	renewAt = 0.5
	// spread is the share of the life that is left at RenewAt over which the
	// renewals of many are spread: all that got theirs in one minute after an
	// outage come back over hours (Istio's ±1 % of 24 h is 15 minutes).
	spread = 0.2

	// A retry waits for a random part of a limit that doubles from firstLimit
	// to lastLimit. While a certificate is still good the limit is at most a
	// fifth of what is left of it, so that several tries fall into that.
	firstLimit = 500 * time.Millisecond
	lastLimit  = time.Minute
	triesLeft  = 5

	// look is how often the clock is read while waiting: timers stand still
	// while a machine sleeps, and do not see the clock jump.
	look = 10 * time.Second
	// repeat is how often it is said that there is no good certificate.
	repeat = time.Minute
	// skewSaid is the difference of clocks that is worth a warning.
	skewSaid = 30 * time.Second
)

// Authority is the Source that asks an authority for certificates.
type Authority struct{ opts AuthorityOptions }

// NewAuthority makes a Source; it asks nothing yet.
func NewAuthority(opts AuthorityOptions) *Authority {
	opts.RenewAt = cmp.Or(opts.RenewAt, renewAt)
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
// stays.
func (a *Authority) Run(ctx context.Context, k *Keeper) error {
	r := &rotation{Authority: a, keeper: k}
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

	pair     *certs.KeyPair // what is served; nil for nothing
	received time.Time      // when it came, with the monotonic clock
	delay    time.Duration  // how long after received it is renewed
	due      time.Time      // that, or the next try, by the wall clock
	limit    time.Duration  // of the next retry; 0 after a success
	said     time.Time      // when expiry was last said
}

// now is the wall clock alone.
func (r *rotation) now() time.Time { return r.opts.Now().Round(0) }

// start serves what the disk has, if it is still good.
func (r *rotation) start(ctx context.Context) {
	r.due = r.now()
	if r.opts.Disk == nil {
		return
	}
	kept, err := r.opts.Disk.Load()
	if err != nil {
		r.opts.Log.Warn("the certificate on disk is passed over", "dir", r.opts.Disk.Dir, "reason", err)
		return
	}
	if kept == nil {
		return
	}
	if err := ValidAt(kept.KeyPair, r.now()); err != nil {
		r.opts.Log.Warn("the certificate on disk is passed over", "dir", r.opts.Disk.Dir, "reason", err)
		return
	}
	if err := r.take(ctx, kept, kept.KeyPair.TLS.Leaf.NotBefore); err != nil {
		r.opts.Log.Warn("the certificate on disk is passed over", "dir", r.opts.Disk.Dir, "reason", err)
		return
	}
	r.opts.Log.Info("certificate from disk is served", "spiffe_id", kept.KeyPair.ID.String(), "not_after", kept.KeyPair.TLS.Leaf.NotAfter)
}

// renew gets one certificate and serves it.
func (r *rotation) renew(ctx context.Context) error {
	r.keeper.Attempt()
	issued, err := r.opts.Issuer.Issue(ctx)
	if err != nil {
		return err
	}
	r.clock(issued.Clock)
	if err := ValidAt(issued.KeyPair, r.now()); err != nil {
		return fmt.Errorf("%w%s", err, issued.Clock.note())
	}
	if err := r.take(ctx, issued, r.now()); err != nil {
		return err
	}
	leaf := issued.KeyPair.TLS.Leaf
	r.opts.Log.Info("certificate is renewed", "spiffe_id", issued.KeyPair.ID.String(), "serial", leaf.SerialNumber.Text(16), "not_after", leaf.NotAfter, "next", r.due)
	if r.opts.Disk != nil {
		if err := r.opts.Disk.Save(issued); err != nil {
			r.opts.Log.Error("the certificate cannot be kept on disk", "dir", r.opts.Disk.Dir, "reason", err)
		}
	}
	return nil
}

// take has the keeper trust the roots and then serve the certificate, and
// plans the next renewal. from is when its life began for us.
func (r *rotation) take(ctx context.Context, i *Issued, from time.Time) error {
	if err := r.keeper.Trust(r.opts.Name, Bundle{TrustDomain: i.KeyPair.ID.TrustDomain(), Roots: i.Roots}); err != nil {
		return err
	}
	received := r.opts.Now()
	life := i.KeyPair.TLS.Leaf.NotAfter.Sub(from)
	delay := time.Duration(float64(life) * (r.opts.RenewAt + (1-r.opts.RenewAt)*spread*rand.Float64()))
	due := from.Add(delay)
	delay -= received.Round(0).Sub(from)
	if err := r.keeper.Serve(ctx, r.opts.Name, due, i.KeyPair); err != nil {
		return err
	}
	r.pair, r.received, r.delay, r.due, r.limit, r.said = i.KeyPair, received, delay, due, 0, time.Time{}
	return nil
}

// failed plans the next try.
func (r *rotation) failed(err error) {
	r.limit = min(max(2*r.limit, firstLimit), lastLimit)
	limit, now := r.limit, r.now()
	level := slog.LevelWarn
	if r.pair != nil {
		if left := r.pair.TLS.Leaf.NotAfter.Sub(now); left > 0 {
			limit = max(min(limit, left/triesLeft), firstLimit)
		} else {
			level = slog.LevelError
		}
	}
	r.due = now.Add(limit/4 + rand.N(limit*3/4))
	r.keeper.Fail(err, r.due)
	r.opts.Log.Log(context.Background(), level, "no new certificate", "reason", err, "next_try", r.due.Sub(now).Round(time.Millisecond), "served", r.served(now))
}

// served says what goes on meanwhile.
func (r *rotation) served(now time.Time) string {
	if r.pair == nil {
		return "none"
	}
	left := r.pair.TLS.Leaf.NotAfter.Sub(now).Round(time.Second)
	if left <= 0 {
		return fmt.Sprintf("expired %s ago", -left)
	}
	return fmt.Sprintf("good for another %s", left)
}

// wait returns true when it is time to renew, false when ctx ended.
func (r *rotation) wait(ctx context.Context) bool {
	for {
		now := r.now()
		r.sayExpired(now)
		if !now.Before(r.due) || r.lived(now) {
			return ctx.Err() == nil
		}
		sleep := min(r.due.Sub(now), look)
		if r.pair != nil {
			if left := r.pair.TLS.Leaf.NotAfter.Sub(now); left > 0 {
				sleep = min(sleep, left)
			}
		}
		t := time.NewTimer(max(sleep, time.Millisecond))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return false
		}
	}
}

// lived reports whether a certificate that was not tried to be renewed yet has
// had its time by a clock that does not jump, or has expired by one that did.
func (r *rotation) lived(now time.Time) bool {
	if r.pair == nil || r.limit != 0 {
		return false
	}
	return r.opts.Now().Sub(r.received) >= r.delay || now.After(r.pair.TLS.Leaf.NotAfter)
}

// sayExpired says at once, and then once a minute, that nothing good is served.
func (r *rotation) sayExpired(now time.Time) {
	if r.pair == nil || !now.After(r.pair.TLS.Leaf.NotAfter) || now.Sub(r.said).Abs() < repeat {
		return
	}
	r.said = now
	r.opts.Log.Error("the certificate has expired: peers refuse it", "reason", r.keeper.Expired())
}

// clock records the authority's clock, and says if it is far from ours.
func (r *rotation) clock(c Clock) {
	before := r.keeper.Clock()
	r.keeper.SetClock(c)
	if c.off() && !before.off() {
		r.opts.Log.Warn("the clocks differ"+c.note(), "authority", r.opts.Name)
	}
}

// off reports whether the clocks differ for certain, and by more than matters
// little.
func (c Clock) off() bool { return c.From != "" && c.Ahead.Abs() > c.Margin+skewSaid }

// note is what an error about time should say of the authority's clock.
func (c Clock) note() string {
	if !c.off() {
		return ""
	}
	side := "ahead of"
	if c.Ahead < 0 {
		side = "behind"
	}
	return fmt.Sprintf(" (the authority's clock is %s %s ours, by its %s)", c.Ahead.Abs().Round(time.Second), side, c.From)
}

// ValidAt is nil, or why a pair's leaf is not valid then.
func ValidAt(p *certs.KeyPair, now time.Time) error {
	leaf := p.TLS.Leaf
	switch {
	case now.After(leaf.NotAfter):
		return &TimeError{ID: p.ID.String(), Edge: leaf.NotAfter, Now: now, Expired: true}
	case now.Before(leaf.NotBefore):
		return &TimeError{ID: p.ID.String(), Edge: leaf.NotBefore, Now: now}
	}
	return nil
}

// TimeError is a certificate of ours that the clock does not accept.
type TimeError struct {
	ID        string
	Edge, Now time.Time // NotAfter if Expired, else NotBefore
	Expired   bool
}

func (e *TimeError) Error() string {
	if e.Expired {
		return fmt.Sprintf("the certificate of %s expired %s ago, at %s; our clock is %s", e.ID, e.Now.Sub(e.Edge).Round(time.Second), e.Edge.UTC().Format(time.RFC3339), e.Now.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("the certificate of %s is not valid before %s, in %s; our clock is %s", e.ID, e.Edge.UTC().Format(time.RFC3339), e.Edge.Sub(e.Now).Round(time.Second), e.Now.UTC().Format(time.RFC3339))
}
