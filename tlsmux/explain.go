package tlsmux

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs"
)

// ExplainQuery describes a client to a Server.
type ExplainQuery struct {
	ALPN []string
	SNI  string
	// Chain is what the client presents, leaf first; nil for nothing.
	Chain []*x509.Certificate
	// PeerID, if Chain is nil, stands for a chain that verifies and has this
	// URI SAN.
	PeerID string
}

// ServerExplanation is what a Server demands, and what it makes of a client.
type ServerExplanation struct {
	// Accepts are the names that are accepted; nil for any.
	Accepts []string
	// Matched is the matcher that let the peer in, "" if there is none; Failed
	// are those before it that did not.
	Matched string
	Failed  []string
	Roots   []string
	// ALPN is what would be negotiated, "" for nothing.
	ALPN  string
	State *State
}

// Explain says what a handshake with the described client would come to, by
// the code of real ones. The error is the refusal.
func (s *Server) Explain(q ExplainQuery) (ServerExplanation, error) {
	var x ServerExplanation
	for _, p := range s.cfg.ALPN {
		if slices.Contains(q.ALPN, p) {
			x.ALPN = p
			break
		}
	}
	x.State = &State{SNI: q.SNI, ALPN: x.ALPN, Peer: q.Chain}
	m, err := s.material()
	if err != nil && q.Chain != nil {
		return x, notReady(Downstream, err)
	}
	p := newPolicy(s.cfg.Validation, nil)
	if err == nil {
		p = m.policy
	}
	x.Accepts = describeMatchers(p.SANs)
	return x, s.explainPeer(&x, p, q)
}

func (s *Server) explainPeer(x *ServerExplanation, p *policy, q ExplainQuery) error {
	switch {
	case q.Chain != nil:
		return explainChain(x, p, q.Chain)
	case q.PeerID != "":
		return explainID(x, p, q.PeerID)
	case s.demandsCertificate(p):
		return &HandshakeError{Side: Downstream, Reason: ReasonNoCert}
	}
	return nil
}

func explainChain(x *ServerExplanation, p *policy, chain []*x509.Certificate) error {
	leaf := chain[0]
	x.State.PeerID = peerID(leaf)
	x.Roots = p.describeRoots(x.State.PeerID.TrustDomain())
	if err := p.judge(question{chain: chain, side: Downstream, now: time.Now()}); err != nil {
		return err
	}
	x.State.PeerVerified = p.Verifies()
	x.match(p.SANs, altNames(leaf))
	return nil
}

// explainID is for a name alone: everything but the name is taken for good.
func explainID(x *ServerExplanation, p *policy, text string) error {
	id, err := spiffeid.FromString(text)
	if err != nil {
		return fmt.Errorf("peer %q: %w", text, err)
	}
	leaf := &x509.Certificate{URIs: []*url.URL{id.URL()}}
	x.State.Peer, x.State.PeerID = []*x509.Certificate{leaf}, id
	x.Roots = p.describeRoots(id.TrustDomain())
	names := []altName{{kind: certs.SANURI, text: text}}
	x.match(p.SANs, names)
	f := sansFailure(p.SANs, names)
	if f == nil && p.bundles != nil && !p.bundles.Has(id.TrustDomain()) {
		f = &HandshakeError{Reason: ReasonUnknownRoot, What: fmt.Sprintf("is of trust domain %q, for which there is no bundle", id.TrustDomain().Name())}
	}
	if f != nil && !p.AcceptsAny() {
		f.Side, f.Peer, f.Roots = Downstream, &PeerFacts{SANs: []string{"URI " + text}}, x.Roots
		return f
	}
	x.State.PeerVerified = f == nil && p.Verifies()
	return nil
}

// match notes which matchers failed and which matched.
func (x *ServerExplanation) match(matchers []certs.SANMatcher, names []altName) {
	for i, text := range describeMatchers(matchers) {
		if n, ok := matchSAN(matchers[i], names); ok {
			x.Matched = n.String() + " by " + text
			return
		}
		x.Failed = append(x.Failed, text)
	}
}
