package istioca

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// Phase is how far a rotation of the root has come.
type Phase string

// The phases of a rotation. No handshake between two peers fails in any of
// them, for whatever one of them presents, the other's bundle has its root:
//
//	introducing  every answer has both roots, and the old authority signs. It
//	             lasts until each certificate that came without the new root has
//	             expired, so that its holder has asked again.
//	retiring     the new authority signs; both roots stay in every answer until
//	             the last certificate below the old one has expired.
//	steady       one authority, its roots only.
const (
	Steady      Phase = "steady"
	Introducing Phase = "introducing"
	Retiring    Phase = "retiring"
)

// Plan is what a state means at one moment.
type Plan struct {
	Phase Phase
	// Signer signs now.
	Signer *Issuer
	// Roots are in every answer now.
	Roots []*x509.Certificate
	// Until is when the phase ends; zero in the steady one. It may move away
	// while the old authority still signs, and never comes nearer.
	Until time.Time
	// Dropped says that a rotation is over: the state may forget its first
	// issuer.
	Dropped bool
}

// Plan says who signs and what is trusted at a moment. It reads no clock and
// no file, so that a rotation goes on the same after a restart.
func (s *State) Plan(now time.Time) Plan {
	if s.Rotation == nil {
		only := s.Issuers[0]
		return Plan{Phase: Steady, Signer: only, Roots: only.roots}
	}
	old, fresh := s.Issuers[0], s.Issuers[1]
	if now.Before(s.Rotation.SignsAt) {
		return Plan{Phase: Introducing, Signer: old, Roots: union(old.roots, fresh.roots), Until: s.Rotation.SignsAt}
	}
	if drop := later(s.Rotation.SignsAt, old.IssuedUntil); now.Before(drop) {
		return Plan{Phase: Retiring, Signer: fresh, Roots: union(old.roots, fresh.roots), Until: drop}
	}
	return Plan{Phase: Steady, Signer: fresh, Roots: fresh.roots, Dropped: true}
}

// union is a and what b has more.
func union(a, b []*x509.Certificate) []*x509.Certificate {
	out := slices.Clone(a)
	for _, c := range b {
		if !slices.ContainsFunc(out, c.Equal) {
			out = append(out, c)
		}
	}
	return out
}

// rotate is s with a rotation to fresh begun. The overlap is the least time
// that both roots are given out before fresh signs. Where everybody has fresh's
// roots already, as for a new intermediate below the same root, only the
// overlap counts.
func (s *State) rotate(fresh *Issuer, overlap time.Duration, now time.Time) (*State, error) {
	old := s.Issuers[0]
	signs := now.Add(overlap)
	if len(union(old.roots, fresh.roots)) > len(old.roots) {
		signs = later(signs, old.IssuedUntil)
	}
	after := *fresh
	back, err := legacy(old, fresh, now)
	if err != nil {
		return nil, err
	}
	after.legacy, after.LegacyPEM = back, PEM(back)
	out := *s
	out.Issuers = []*Issuer{old, &after}
	out.Rotation = &Rotation{Began: now, SignsAt: signs}
	return &out, nil
}

// maxLegacy bounds what the server presents beside its own chain: the way back
// over four rotations.
const maxLegacy = 8

// legacy are fresh's roots signed by old, and old's roots, and so on back. The
// server presents them, so that a client that knows only a root from before, as
// a copied file or a pin, still reaches the authority and learns the new one.
// They are in no answer and make nobody trust more than it did.
func legacy(old, fresh *Issuer, now time.Time) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, root := range fresh.anchors() {
		if slices.ContainsFunc(old.roots, root.Equal) {
			return old.legacy, nil // nothing has changed for such a client
		}
		cross, err := old.signer.Sign(&x509.Certificate{
			RawSubject: root.RawSubject, SubjectKeyId: root.SubjectKeyId,
			NotBefore: later(root.NotBefore, old.begins()), NotAfter: earlier(root.NotAfter, old.ends()),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}, root.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("sign the new root with the old one: %w", err)
		}
		out = append(out, cross)
	}
	out = slices.Concat(out, old.intermediates(), old.anchors(), old.legacy)
	out = slices.DeleteFunc(out, func(c *x509.Certificate) bool { return now.After(c.NotAfter) })
	return out[:min(len(out), maxLegacy)], nil
}

// pruned is s without what a rotation that is over has left; s itself if there
// is nothing.
func (s *State) pruned(now time.Time) *State {
	if !s.Plan(now).Dropped {
		return s
	}
	out := *s
	out.Issuers, out.Rotation = s.Issuers[1:], nil
	return &out
}
