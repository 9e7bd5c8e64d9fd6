package istioca

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// RotateRoot begins a rotation to another authority, and returns its plan. Both
// roots are given out for the overlap at least. A rotation that is under way is
// an error: two at once would need three roots in every answer.
func (a *Authority) RotateRoot(to Root, overlap time.Duration) (Plan, error) {
	if overlap < 0 {
		return Plan{}, fmt.Errorf("overlap %s: it must not be negative", overlap)
	}
	fresh, err := to.issuer(a.td)
	if err != nil {
		return Plan{}, err
	}
	s, err := a.dir.update(func(old *State) (*State, error) {
		now := time.Now()
		if old == nil {
			return nil, ErrNoState
		}
		old = old.pruned(now)
		if old.Rotation != nil {
			p := old.Plan(now)
			return nil, fmt.Errorf("a rotation that began at %s is under way: it is %s until %s",
				old.Rotation.Began.Format(time.RFC3339), p.Phase, p.Until.UTC().Format(time.RFC3339))
		}
		if old.Issuers[0].Cert().Equal(fresh.Cert()) {
			return nil, fmt.Errorf("the given authority %q signs already", fresh.Cert().Subject)
		}
		return old.rotate(fresh, overlap, now.UTC())
	})
	if err != nil {
		return Plan{}, fmt.Errorf("rotate the root: %w", err)
	}
	return s.Plan(time.Now()), nil
}

// Status is a state at one moment, for people.
type Status struct {
	TrustDomain spiffeid.TrustDomain
	Now         time.Time
	Plan        Plan
	Rotation    *Rotation // nil if none is under way
	// Issuers are all in the state, the old one first.
	Issuers []*Issuer
}

// Status is what the state says now.
func (a *Authority) Status() (Status, error) {
	s, err := a.dir.load()
	if err != nil {
		return Status{}, err
	}
	now := time.Now()
	s = s.pruned(now)
	return Status{TrustDomain: s.TrustDomain, Now: now, Plan: s.Plan(now), Rotation: s.Rotation, Issuers: slices.Clone(s.Issuers)}, nil
}

// Ends is the last moment of anything that i signs.
func (i *Issuer) Ends() time.Time { return i.ends() }

// trial signs a certificate that nobody gets, and verifies it as a peer would:
// so a name constraint, a path length or a wrong key usage comes to light
// before a workload meets it.
func (i *Issuer) trial(td spiffeid.TrustDomain) error {
	id, err := spiffeid.FromSegments(td, "ns", "trial", "sa", "trial")
	if err != nil {
		return err
	}
	if len(i.anchors()) == 0 {
		return fmt.Errorf("it does not lead to the given root: %q is not signed by %q", i.top().Subject, i.roots[0].Subject)
	}
	template := Order{ID: id}.template()
	now := time.Now()
	template.NotBefore, template.NotAfter = later(now, i.begins()), earlier(now.Add(time.Minute), i.ends())
	leaf, err := i.signer.Sign(template, i.signer.Key().Public())
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range i.roots {
		roots.AddCert(c)
	}
	for _, c := range i.intermediates() {
		between.AddCert(c)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
		})
		if err != nil {
			return fmt.Errorf("what it signs is not accepted: %w", err)
		}
	}
	return nil
}
