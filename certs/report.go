package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// SecretStatus is what is to be known of one secret from outside; there is no
// key in it.
type SecretStatus struct {
	// Name is the resource name, "" for an inline secret.
	Name  string `json:"name"`
	Kind  Kind   `json:"kind,omitempty"` // "" as long as it has not come
	State State  `json:"state"`
	// Source is where the version in use came from, for people.
	Source  string    `json:"source,omitempty"`
	Version string    `json:"version,omitempty"`
	Updated time.Time `json:"updated,omitzero"`

	// Of a key pair.
	SPIFFEID string       `json:"spiffe_id,omitempty"`
	DNSNames []string     `json:"dns_names,omitempty"`
	Leaf     *Certificate `json:"leaf,omitempty"`
	// CA is the one of the chain that expires first, nil if there is none in
	// it.
	CA *Certificate `json:"ca,omitempty"`
	// Root is the one of the reported roots that signed the chain; nil if none
	// of them did: peers that trust the same ones will refuse it.
	Root *Certificate `json:"root,omitempty"`

	// Roots of a bundle, by trust domain.
	Roots []Certificate `json:"roots,omitempty"`

	// NextRotation is when the source means to renew, or to try again; zero if
	// it is told when there is something new.
	NextRotation time.Time `json:"next_rotation,omitzero"`
	Attempts     uint64    `json:"attempts"`
	Successes    uint64    `json:"successes"`
	Failures     uint64    `json:"failures"`
	Rejected     uint64    `json:"rejected"`
	// Rotations are versions that have replaced another.
	Rotations uint64 `json:"rotations"`
	// FailuresByReason has refused versions too; see FailureReason.
	FailuresByReason map[string]uint64 `json:"failures_by_reason,omitempty"`
	LastFailure      *Failure          `json:"last_failure,omitempty"`
	// Waiting is why there is no version, "" if there is one.
	Waiting string `json:"waiting,omitempty"`
}

// Certificate is what is to be known of one certificate.
type Certificate struct {
	Subject string `json:"subject"`
	Serial  string `json:"serial"` // hexadecimal
	// KeyID is the subject key identifier in hexadecimal, see KeyID.
	KeyID string `json:"ski"`
	// SHA256 is the digest of the certificate in hexadecimal.
	SHA256      string    `json:"sha256"`
	TrustDomain string    `json:"trust_domain,omitempty"` // of a root
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
}

// Kind is what a secret is.
type Kind string

const (
	KindKeyPair          Kind = "key pair"
	KindRoots            Kind = "roots"
	KindTrustDomainRoots Kind = "per-trust-domain roots"
	KindTicketKeys       Kind = "ticket keys"
)

// State is how good a secret is now.
type State string

const (
	StateOK State = "ok"
	// StateWaiting: it has never come.
	StateWaiting State = "waiting"
	// StateExpiring: less than a third of its life is left, and the last try to
	// renew it has failed.
	StateExpiring State = "expiring"
	// StateExpired: the certificate, or one of its chain, has ended; of roots,
	// all of one trust domain.
	StateExpired State = "expired"
	// StateNotYetValid: its time has not begun by our clock.
	StateNotYetValid State = "not yet valid"
)

// Bad reports whether the secret is of no use now.
func (s State) Bad() bool { return s == StateWaiting || s == StateExpired || s == StateNotYetValid }

// Report is the status of each secret at the time now, in the order of handles.
func Report(handles []*Handle, now time.Time) []SecretStatus {
	out := make([]SecretStatus, 0, len(handles))
	roots := rootsOf(handles)
	for _, h := range handles {
		s := statusOf(h, now)
		if secret, err := h.Current(); err == nil && secret.KeyPair != nil {
			s.Root = signerOf(secret.KeyPair, roots)
		}
		out = append(out, s)
	}
	return out
}

// rootsOf are all roots among the secrets.
func rootsOf(handles []*Handle) []*x509.Certificate {
	var out []*x509.Certificate
	for _, h := range handles {
		if secret, err := h.Current(); err == nil && secret.Validation != nil {
			out = append(out, secret.Validation.AllRoots()...)
		}
	}
	return out
}

// signerOf is the root that signed the chain of p, or a certificate of it; nil
// if it is not among roots.
func signerOf(p *KeyPair, roots []*x509.Certificate) *Certificate {
	for _, c := range append(p.Intermediates(), p.TLS.Leaf) {
		for _, r := range roots {
			if bytes.Equal(r.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(r) == nil {
				out := describe(r, spiffeid.TrustDomain{})
				return &out
			}
		}
	}
	return nil
}

func statusOf(h *Handle, now time.Time) SecretStatus {
	n := h.SourceStats()
	s := SecretStatus{
		Name: h.ref.Name, NextRotation: h.Planned(), Rotations: h.Rotations(),
		Attempts: n.Attempts, Successes: n.Successes, Failures: n.Failures, Rejected: n.Rejected,
	}
	s.LastFailure, s.FailuresByReason = h.Failures()
	secret, err := h.Current()
	if err != nil {
		s.State, s.Waiting = StateWaiting, err.Error()
		return s
	}
	s.Source, s.Version, s.Updated = secret.From, secret.Version, secret.Updated
	var lives []life
	switch {
	case secret.KeyPair != nil:
		lives = s.keyPair(secret.KeyPair)
	case secret.Validation != nil:
		lives = s.roots(secret.Validation)
	default:
		s.Kind = KindTicketKeys
	}
	failing := s.LastFailure != nil && !s.LastFailure.Over
	s.State = stateOf(lives, now, failing)
	return s
}

// keyPair fills in what is of a key pair. Every certificate of its chain must
// be in its time.
func (s *SecretStatus) keyPair(p *KeyPair) []life {
	s.Kind, s.DNSNames = KindKeyPair, p.TLS.Leaf.DNSNames
	if !p.ID.IsZero() {
		s.SPIFFEID = p.ID.String()
	}
	leaf := describe(p.TLS.Leaf, spiffeid.TrustDomain{})
	s.Leaf = &leaf
	lives := []life{lifeOf(p.TLS.Leaf)}
	for _, ca := range p.Intermediates() {
		lives = append(lives, lifeOf(ca))
		if s.CA == nil || ca.NotAfter.Before(s.CA.NotAfter) {
			one := describe(ca, spiffeid.TrustDomain{})
			s.CA = &one
		}
	}
	return lives
}

// roots fills in what is of a bundle. In each trust domain one root in its time
// is enough.
func (s *SecretStatus) roots(v *Validation) []life {
	s.Kind = KindRoots
	if v.TrustDomains == nil {
		return s.bundle(v.Roots, spiffeid.TrustDomain{})
	}
	s.Kind = KindTrustDomainRoots
	var lives []life
	for _, td := range slices.SortedFunc(maps.Keys(v.TrustDomains), spiffeid.TrustDomain.Compare) {
		lives = append(lives, s.bundle(v.TrustDomains[td], td)...)
	}
	return lives
}

// bundle adds the roots of one trust domain, and returns the life of the one
// that lasts longest.
func (s *SecretStatus) bundle(roots []*x509.Certificate, td spiffeid.TrustDomain) []life {
	var all []life
	for _, c := range roots {
		s.Roots = append(s.Roots, describe(c, td))
		all = append(all, lifeOf(c))
	}
	if len(all) == 0 {
		return nil
	}
	return []life{slices.MaxFunc(all, func(a, b life) int { return a.to.Compare(b.to) })}
}

// describe is c for people. A root that says by a URI whose it is needs no td.
func describe(c *x509.Certificate, td spiffeid.TrustDomain) Certificate {
	sum := sha256.Sum256(c.Raw)
	out := Certificate{
		Subject: c.Subject.String(), KeyID: KeyID(c), SHA256: hex.EncodeToString(sum[:]),
		TrustDomain: td.Name(), NotBefore: c.NotBefore, NotAfter: c.NotAfter,
	}
	if c.SerialNumber != nil {
		out.Serial = c.SerialNumber.Text(16)
	}
	for _, u := range c.URIs {
		if named, err := spiffeid.TrustDomainFromURI(u); err == nil && td.IsZero() && c.IsCA {
			out.TrustDomain = named.Name()
		}
	}
	return out
}

// KeyID tells the key of a certificate from others, in hexadecimal: its subject
// key identifier, or if it has none, the first 20 bytes of the SHA-256 of its
// SubjectPublicKeyInfo (RFC 7093, section 2, method 4, cut).
func KeyID(c *x509.Certificate) string {
	if len(c.SubjectKeyId) > 0 {
		return hex.EncodeToString(c.SubjectKeyId)
	}
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:20])
}

// Intermediates are the certificates that are sent along with the leaf.
func (p *KeyPair) Intermediates() []*x509.Certificate {
	var out []*x509.Certificate
	for _, der := range p.TLS.Certificate[min(1, len(p.TLS.Certificate)):] {
		if c, err := x509.ParseCertificate(der); err == nil { // it was parsed when it came
			out = append(out, c)
		}
	}
	return out
}

// AllRoots are all anchors of v, those of each trust domain too.
func (v *Validation) AllRoots() []*x509.Certificate {
	if v.TrustDomains == nil {
		return v.Roots
	}
	var out []*x509.Certificate
	for _, td := range slices.SortedFunc(maps.Keys(v.TrustDomains), spiffeid.TrustDomain.Compare) {
		out = append(out, v.TrustDomains[td]...)
	}
	return out
}

// Inline is v as a secret that stands in the configuration.
func (v *Validation) Inline() *Secret {
	sum := sha256.New()
	for _, c := range v.AllRoots() {
		sum.Write(c.Raw)
	}
	from := "inline"
	if v.RootsPath != "" && v.RootsPath != "<inline>" {
		from = "file " + v.RootsPath
	}
	return &Secret{Version: hex.EncodeToString(sum.Sum(nil)[:8]), From: from, Validation: v}
}

// life is when a certificate is good.
type life struct{ from, to time.Time }

func lifeOf(c *x509.Certificate) life { return life{c.NotBefore, c.NotAfter} }

// expiringShare is the share of a life that is left when a failure to renew
// becomes a worry: renewals are planned before two thirds are over, with their
// spread.
const expiringShare = 3

// stateOf is the worst of lives, all of which are needed.
func stateOf(lives []life, now time.Time, failing bool) State {
	state := StateOK
	for _, l := range lives {
		switch {
		case now.After(l.to):
			return StateExpired
		case now.Before(l.from):
			state = StateNotYetValid
		case state == StateOK && failing && l.to.Sub(now) < l.to.Sub(l.from)/expiringShare:
			state = StateExpiring
		}
	}
	return state
}
