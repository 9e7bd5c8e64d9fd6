package tlsmux

import (
	"time"

	"outrider/certs"
)

// Loss is what has become of the trust in the peer of a living connection.
type Loss int

const (
	// NoLoss: a handshake would still find a root for it.
	NoLoss Loss = iota
	// RootRemoved: its chain leads to none of the roots of now.
	RootRemoved
	// Revoked: it, or one of its chain, is on a revocation list of now.
	Revoked
)

// Bundle is the secret that the peer's certificate was verified with; nil if no
// chain was verified, or if the roots stand in the context itself.
func (s *State) Bundle() *certs.Handle {
	if s.Root == nil || s.endpoint == nil {
		return nil
	}
	return s.endpoint.secrets.validation
}

// PeerName is the peer as a person would name it: by its names, else by its
// subject; and who signed it. "" if it presented no certificate.
func (s *State) PeerName() string {
	if len(s.Peer) == 0 {
		return ""
	}
	return factsOf(s.Peer[0]).String()
}

// Standing holds the chain that the handshake verified against the roots and
// the lists of now. The error says what is wrong, nil with NoLoss. The peer's
// time is not looked at, which is for PeerUntil to tell, nor are its names.
//
// Where nothing can be said (no chain was verified, the bundle is not usable,
// a list is missing or too old), nothing is lost.
func (s *State) Standing(now time.Time) (Loss, *HandshakeError) {
	if s.Root == nil || s.endpoint == nil {
		return NoLoss, nil
	}
	p, err := s.endpoint.policyNow()
	if err != nil || p.AcceptsAny() {
		return NoLoss, nil
	}
	q := question{chain: s.Peer, side: s.endpoint.side, now: now, suite: s.CipherSuite}
	late := !s.PeerUntil.IsZero() && now.After(s.PeerUntil)
	if late {
		q.now = s.PeerUntil
	}
	f := p.withoutRoots()
	if f == nil {
		_, f = p.chain(q)
	}
	switch {
	case f == nil:
		return NoLoss, nil
	case f.Reason == ReasonCRL && f.envoy != crlPhrase+revokedPhrase:
		return NoLoss, nil
	case late && f.Reason != ReasonUnknownRoot && f.Reason != ReasonCRL: // it is the time
		return NoLoss, nil
	}
	p.describe(f, q)
	if f.Reason == ReasonCRL {
		return Revoked, f
	}
	return RootRemoved, f
}

// withoutRoots is nil unless there is no root at all, with which chain would
// find nothing wrong.
func (p *policy) withoutRoots() *HandshakeError {
	if len(p.Roots) > 0 || p.bundles != nil {
		return nil
	}
	return &HandshakeError{Reason: ReasonUnknownRoot, What: "cannot be verified any more: there are no roots"}
}

// revised is the policy of one revision of the secrets.
type revised struct {
	revision uint64
	policy   *policy
}

// policyNow is the policy of the secrets' current revision, made once for it.
func (e *endpoint) policyNow() (*policy, error) {
	revision := e.secrets.revision() // before the secrets: a change between is seen next time
	if m := e.current.Load(); m != nil && m.revision == revision {
		return m.policy, nil
	}
	if r := e.standing.Load(); r != nil && r.revision == revision {
		return r.policy, nil
	}
	p, err := e.secrets.policy(e.common.Validation)
	if err != nil {
		return nil, err
	}
	e.standing.Store(&revised{revision, p})
	return p, nil
}
