package csr

import (
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs/identity"
)

// The ways in which an answer can be wrong. Each is the Err of an *Error of
// StageAnswer.

// ShortError is an answer without a leaf or without a root.
type ShortError struct{ Elements int }

func (e *ShortError) Error() string {
	return fmt.Sprintf("the chain has %d elements, and not a certificate and a root at least", e.Elements)
}

// PEMError is an element, counted from 1, with no certificates that can be
// read.
type PEMError struct {
	Element, Elements int
	Err               error
}

func (e *PEMError) Error() string {
	return fmt.Sprintf("element %d of the chain's %d: %v", e.Element, e.Elements, e.Err)
}
func (e *PEMError) Unwrap() error { return e.Err }

// KeyError is a certificate for another key than the one that we asked for.
type KeyError struct {
	Leaf      *x509.Certificate
	Want, Got string // kinds of keys
}

func (e *KeyError) Error() string {
	return fmt.Sprintf("the certificate of %s (serial %x) is not for our key: we asked for %s, and it has another, %s", nameOf(e.Leaf), e.Leaf.SerialNumber, e.Want, e.Got)
}

// CAError is an authority in place of a workload, or the other way round.
type CAError struct {
	Cert   *x509.Certificate
	Reason string
}

func (e *CAError) Error() string {
	return fmt.Sprintf("%s (serial %x): %s", nameOf(e.Cert), e.Cert.SerialNumber, e.Reason)
}

// WeakError is a key or a signature that could be forged.
type WeakError struct {
	Cert *x509.Certificate
	What string
}

func (e *WeakError) Error() string {
	return fmt.Sprintf("%s (serial %x): %s is too weak", nameOf(e.Cert), e.Cert.SerialNumber, e.What)
}

// UsageError is a certificate that peers would refuse on one side of a
// connection.
type UsageError struct {
	Leaf    *x509.Certificate
	Missing string
}

func (e *UsageError) Error() string {
	return fmt.Sprintf("the certificate of %s (serial %x) cannot be used for %s", nameOf(e.Leaf), e.Leaf.SerialNumber, e.Missing)
}

// IDError is a certificate that does not say who we are.
type IDError struct {
	Want        spiffeid.ID          // zero: any in TrustDomain
	TrustDomain spiffeid.TrustDomain // zero: any
	Got         []string             // the certificate's URIs
	Err         error
}

func (e *IDError) Error() string {
	want := "one SPIFFE ID"
	switch {
	case !e.Want.IsZero():
		want = fmt.Sprintf("%q", e.Want)
	case !e.TrustDomain.IsZero():
		want = fmt.Sprintf("an ID of trust domain %q", e.TrustDomain)
	}
	return fmt.Sprintf("the certificate is for %q, wanted is %s: %v", e.Got, want, e.Err)
}
func (e *IDError) Unwrap() error { return e.Err }

// ChainError is a certificate that leads to no root.
type ChainError struct {
	Leaf  *x509.Certificate
	Roots []*x509.Certificate // those that came with it, and those known before
	Err   error
}

func (e *ChainError) Error() string {
	var roots []string
	for _, r := range e.Roots[:min(len(e.Roots), maxNamed)] {
		roots = append(roots, fmt.Sprintf("%q", r.Subject))
	}
	if more := len(e.Roots) - maxNamed; more > 0 {
		roots = append(roots, fmt.Sprintf("%d more", more))
	}
	return fmt.Sprintf("the certificate of %s (serial %x), issued by %q, does not lead to %s: %v",
		nameOf(e.Leaf), e.Leaf.SerialNumber, e.Leaf.Issuer, strings.Join(roots, ", "), e.Err)
}
func (e *ChainError) Unwrap() error { return e.Err }

// maxNamed bounds the roots that an error names.
const maxNamed = 5

// TimeError is a certificate that our clock does not accept.
type TimeError struct {
	Cert   *x509.Certificate // of the leaf, or of what leads to the root
	IsLeaf bool
	Now    time.Time      // our clock
	Clock  identity.Clock // the authority's
}

func (e *TimeError) Error() string {
	what := "the certificate of " + nameOf(e.Cert)
	if !e.IsLeaf {
		what = "the authority's certificate of " + nameOf(e.Cert)
	}
	state := fmt.Sprintf("has expired %s ago", round(e.Now.Sub(e.Cert.NotAfter)))
	if e.Now.Before(e.Cert.NotBefore) {
		state = fmt.Sprintf("is not valid for another %s", round(e.Cert.NotBefore.Sub(e.Now)))
	}
	return fmt.Sprintf("%s (serial %x) %s: it is valid from %s to %s, our clock says %s; %s",
		what, e.Cert.SerialNumber, state, stamp(e.Cert.NotBefore), stamp(e.Cert.NotAfter), stamp(e.Now), describeClock(e.Clock))
}

// explained says that the certificate is valid by the authority's clock, so
// that one of the clocks is wrong rather than the certificate.
func (e *TimeError) explained() bool {
	if !differ(e.Clock) {
		return false
	}
	theirs := e.Now.Add(e.Clock.Ahead)
	return !e.Cert.NotBefore.After(theirs.Add(e.Clock.Margin)) && !theirs.Add(-e.Clock.Margin).After(e.Cert.NotAfter)
}
