// Package istioca is the authority behind `outrider ca`: it speaks istiod's
// IstioCertificateService, keeps its keys and what it must remember in a
// directory, and changes its root without a failed handshake.
//
// An Authority is the state directory and what is done with it; a Server
// answers workloads from it. Commands may work on the directory of a running
// server: both take each change under a lock, and see the other's at once.
package istioca

import (
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// How long things last.
const (
	// Backdate is how far before the authority's own clock a certificate
	// begins, for peers whose clocks are behind (istiod's clockSkewGracePeriod).
	Backdate = 2 * time.Minute
	// DefaultOverlap is how long both roots are given out at least: for those
	// that hold a copy of the root and no certificate, as a root file does.
	DefaultOverlap = 24 * time.Hour
	// promiseSlack is how far ahead of need Issuer.IssuedUntil is moved at
	// most, so that a thousand requests are not a thousand writes.
	promiseSlack = time.Minute
)

// Config is how a state directory is opened.
type Config struct {
	// TrustDomain is that of all IDs. It is needed at the first start; later a
	// zero one is what the state says, and another one is refused.
	TrustDomain spiffeid.TrustDomain
	// Root is the authority to begin with. Later a given one must be the one in
	// the state.
	Root Root
}

// Authority issues certificates from a state directory. Its methods may be
// called by many goroutines.
type Authority struct {
	dir *dir
	td  spiffeid.TrustDomain
}

// Open opens a state directory, and makes it with its authority if it is not
// there.
func Open(path string, c Config) (*Authority, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	d := &dir{path: path}
	s, err := d.update(func(old *State) (*State, error) {
		if old == nil {
			return firstState(c)
		}
		return old, c.fits(old)
	})
	if err != nil {
		return nil, err
	}
	return &Authority{dir: d, td: s.TrustDomain}, nil
}

// OpenExisting opens a state directory that must hold an authority.
func OpenExisting(path string) (*Authority, error) {
	d := &dir{path: path}
	s, err := d.load()
	if err != nil {
		return nil, err
	}
	return &Authority{dir: d, td: s.TrustDomain}, nil
}

func firstState(c Config) (*State, error) {
	if c.TrustDomain.IsZero() {
		return nil, errors.New("a new authority needs a trust domain")
	}
	token, err := newTokenKey()
	if err != nil {
		return nil, err
	}
	first, err := c.Root.issuer(c.TrustDomain)
	if err != nil {
		return nil, err
	}
	return &State{Version: stateVersion, TrustDomain: c.TrustDomain, TokenKey: token, Issuers: []*Issuer{first}}, nil
}

// fits refuses a configuration that is not what the state was made with.
func (c Config) fits(s *State) error {
	if !c.TrustDomain.IsZero() && c.TrustDomain != s.TrustDomain {
		return fmt.Errorf("trust domain %q: the state is of %q, which cannot change", c.TrustDomain, s.TrustDomain)
	}
	if c.Root.Given == nil {
		return nil
	}
	for _, i := range s.Issuers {
		if i.Cert().Equal(c.Root.Given.Chain[0]) {
			return nil
		}
	}
	return fmt.Errorf("the given authority %q is not the one in the state, %q: rotate-root changes it",
		c.Root.Given.Chain[0].Subject, s.Issuers[len(s.Issuers)-1].Cert().Subject)
}

// TrustDomain is that of every ID that a issues.
func (a *Authority) TrustDomain() spiffeid.TrustDomain { return a.td }

// plan is what the state says now.
func (a *Authority) plan() (Plan, error) {
	s, err := a.dir.load()
	if err != nil {
		return Plan{}, err
	}
	return s.Plan(time.Now()), nil
}

// Roots are the roots that are trusted now.
func (a *Authority) Roots() ([]*x509.Certificate, error) {
	p, err := a.plan()
	return p.Roots, err
}

// Order is a certificate to issue: a workload's, with ID, or a server's, with
// DNS and IPs.
type Order struct {
	ID     spiffeid.ID
	DNS    []string
	IPs    []net.IP
	Public crypto.PublicKey
	TTL    time.Duration
	// Caller says in the log how the caller was authenticated.
	Caller string
}

// Issued is a certificate with what its holder needs.
type Issued struct {
	Cert *x509.Certificate
	// Intermediates stand between Cert and its root.
	Intermediates []*x509.Certificate
	// Roots are all that are trusted now.
	Roots []*x509.Certificate
	// Issuer is Issuer.ID of what signed.
	Issuer string
	// Shortened says that the certificate ends early because the authority does.
	Shortened bool
}

// ErrExpired says that the authority's own certificate, or one above it, is
// out of its time.
var ErrExpired = errors.New("the authority's own certificate is out of its time")

// Issue signs a certificate, and records it before it is returned.
func (a *Authority) Issue(o Order) (*Issued, error) {
	plan, notAfter, err := a.promise(o.TTL)
	if err != nil {
		return nil, err
	}
	template := o.template()
	template.NotAfter = notAfter
	template.NotBefore = later(time.Now().Add(-Backdate), plan.Signer.begins())
	cert, err := plan.Signer.signer.Sign(template, o.Public)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	err = a.dir.record(Entry{
		Time: time.Now().UTC(), ID: o.name(), Serial: hex.EncodeToString(cert.SerialNumber.Bytes()),
		NotAfter: cert.NotAfter, Issuer: plan.Signer.ID(), Caller: o.Caller,
	})
	if err != nil {
		return nil, err
	}
	return &Issued{
		Cert: cert, Intermediates: plan.Signer.intermediates(), Roots: plan.Roots, Issuer: plan.Signer.ID(),
		Shortened: notAfter.Equal(plan.Signer.ends()),
	}, nil
}

// promise finds who signs a certificate of that life now, and until when it
// is valid, and sees to it that the state says that the signer has signed for
// so long. So a certificate's end is within the IssuedUntil of the state that
// it was made from, and a rotation, which waits for that, need not know whether
// some process still works from the state before it.
func (a *Authority) promise(ttl time.Duration) (Plan, time.Time, error) {
	s, err := a.dir.load()
	if err != nil {
		return Plan{}, time.Time{}, err
	}
	plan, notAfter, err := s.term(ttl)
	if err != nil || !notAfter.After(plan.Signer.IssuedUntil) {
		return plan, notAfter, err
	}
	_, err = a.dir.update(func(fresh *State) (*State, error) {
		if plan, notAfter, err = fresh.term(ttl); err != nil {
			return fresh, err
		}
		if !notAfter.After(plan.Signer.IssuedUntil) {
			return fresh, nil
		}
		return fresh.promised(plan.Signer, notAfter.Add(min(ttl/10, promiseSlack)).UTC()), nil
	})
	return plan, notAfter, err
}

// term is who signs now, and the end of a certificate of that life.
func (s *State) term(ttl time.Duration) (Plan, time.Time, error) {
	now := time.Now()
	plan := s.Plan(now)
	notAfter := earlier(now.Add(ttl), plan.Signer.ends()).Truncate(time.Second) // X.509 has whole seconds
	if !notAfter.After(now) {
		if plan.Signer.ends().After(now) {
			return plan, notAfter, fmt.Errorf("a life of %s is too short: certificates have whole seconds", ttl)
		}
		return plan, notAfter, fmt.Errorf("%w: it ended at %s", ErrExpired, plan.Signer.ends().UTC().Format(time.RFC3339))
	}
	return plan, notAfter, nil
}

// promised is s with a later IssuedUntil of one issuer.
func (s *State) promised(signer *Issuer, until time.Time) *State {
	out := *s
	out.Issuers = make([]*Issuer, len(s.Issuers))
	for n, i := range s.Issuers {
		if out.Issuers[n] = i; i == signer {
			raised := *i
			raised.IssuedUntil = until
			out.Issuers[n] = &raised
		}
	}
	return &out
}

func (o Order) template() *x509.Certificate {
	t := &x509.Certificate{
		BasicConstraintsValid: true, // and not an authority
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:              o.DNS, IPAddresses: o.IPs,
	}
	if !o.ID.IsZero() {
		t.URIs = []*url.URL{o.ID.URL()}
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	return t
}

// name is the order's ID or names, for the log.
func (o Order) name() string {
	if !o.ID.IsZero() {
		return o.ID.String()
	}
	return fmt.Sprint(o.DNS, o.IPs)
}

// chain is the certificate and its intermediates.
func (i *Issued) chain() []*x509.Certificate {
	return append([]*x509.Certificate{i.Cert}, i.Intermediates...)
}

// ChainPEM is the certificate and its intermediates, without the root.
func (i *Issued) ChainPEM() string { return PEM(i.chain()) }

// RootsPEM are all roots that are trusted now.
func (i *Issued) RootsPEM() string { return PEM(i.Roots) }

// upkeep forgets what a rotation that is over has left, and returns the state.
func (a *Authority) upkeep() (*State, error) {
	s, err := a.dir.load()
	if err != nil || s.pruned(time.Now()) == s {
		return s, err
	}
	return a.dir.update(func(fresh *State) (*State, error) { return fresh.pruned(time.Now()), nil })
}
