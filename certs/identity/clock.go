package identity

import (
	"fmt"
	"time"

	"outrider/certs"
)

// skewSaid is the difference of clocks that is worth a warning: a quarter of
// the two minutes by which Istio's authority dates certificates back.
const skewSaid = 30 * time.Second

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

// ValidAt is nil, or why a pair's leaf is not valid then, a *TimeError.
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
