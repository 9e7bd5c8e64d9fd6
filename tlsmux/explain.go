package tlsmux

import (
	"crypto/x509"
	"net/url"
	"slices"
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
	// Matched is the matcher that let the peer in, "" if there is none.
	Matched string
	Roots   []string
	// ALPN is what would be negotiated, "" for nothing.
	ALPN  string
	State *State
}

// Explain says what a handshake with the described client would come to, by
// the code of real ones. The error is the refusal.
func (s *Server) Explain(q ExplainQuery) (ServerExplanation, error) {
	var x ServerExplanation
	for _, p := range q.ALPN {
		if slices.Contains(s.cfg.ALPN, p) {
			x.ALPN = p
			break
		}
	}
	if s.cfg.Validation != nil {
		x.Accepts = describeMatchers(s.cfg.Validation.SANs)
	}
	x.State = &State{SNI: q.SNI, ALPN: x.ALPN, Peer: q.Chain}
	m, err := s.material()
	if err != nil && q.Chain != nil {
		return x, &HandshakeError{Side: Downstream, Reason: ReasonNotReady, Err: err}
	}
	p := newPolicy(s.cfg.Validation, nil)
	if err == nil {
		p = m.policy
	}
	if p == nil {
		return x, nil
	}
	x.Accepts = describeMatchers(p.SANs)
	return x, s.explainPeer(&x, p, q)
}

func (s *Server) explainPeer(x *ServerExplanation, p *policy, q ExplainQuery) error {
	switch {
	case q.Chain != nil:
		x.Roots = p.describeRoots(q.Chain[0])
		if err := p.judge(q.Chain, Downstream); err != nil {
			return err
		}
	case q.PeerID != "":
		u, err := url.Parse(q.PeerID)
		if err != nil {
			return err
		}
		leaf := &x509.Certificate{URIs: []*url.URL{u}}
		x.Roots = p.describeRoots(leaf)
		x.State.Peer = []*x509.Certificate{leaf}
		if f := p.sans(leaf); f != nil {
			f.Side, f.Presented = Downstream, "URI "+q.PeerID
			return f
		}
	case s.cfg.RequireClientCertificate || p.DemandsCertificate():
		return &HandshakeError{Side: Downstream, Reason: ReasonNoCert, What: "presented no certificate, and one is required"}
	default:
		return nil
	}
	leaf := x.State.Peer[0]
	x.State.PeerID, x.State.PeerVerified = peerID(leaf), true
	for i, m := range p.SANs {
		if name, ok := matchSAN(m, leaf); ok {
			x.Matched = name + " by " + describeMatchers(p.SANs[i : i+1])[0]
			break
		}
	}
	return nil
}
