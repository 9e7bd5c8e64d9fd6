package tlsmux

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"time"

	"outrider/certs"
)

// Server terminates TLS as a DownstreamTlsContext says.
type Server struct {
	endpoint
	cfg  *ServerConfig
	keys *ticketKeys
}

// NewServer makes a server whose secrets come from store. It needs none of
// them yet.
func NewServer(cfg *ServerConfig, store *certs.Store) *Server {
	s := &Server{cfg: cfg, keys: newTicketKeys()}
	s.side, s.common, s.secrets = Downstream, &cfg.CommonConfig, cfg.CommonConfig.secrets(store)
	if cfg.TicketKeys != nil {
		s.secrets.tickets = store.Get(*cfg.TicketKeys)
	}
	return s
}

// Ready is nil if a handshake can succeed, else the *certs.NotReadyError of
// the secret that is missing.
func (s *Server) Ready() error { return s.secrets.ready() }

// Secrets are the handles that a handshake needs.
func (s *Server) Secrets() []*certs.Handle { return s.secrets.all() }

// Handshake takes c through a handshake, bounded by ctx. Its error is a
// *HandshakeError; c is left to the caller, who closes it. Where a secret is
// missing nothing is written.
func (s *Server) Handshake(ctx context.Context, c net.Conn) (*Conn, error) {
	m, err := s.material()
	if err != nil {
		return nil, &HandshakeError{Side: Downstream, Reason: ReasonNotReady, Err: err}
	}
	records := newRecords(c)
	return shake(ctx, tls.Server(records, m.config), records, Downstream, m)
}

// material is what is made from the secrets' current revision.
func (s *Server) material() (*material, error) {
	day := today()
	if m := s.current.Load(); m != nil && m.revision == s.secrets.revision() && m.day == day {
		return m, nil
	}
	s.build.Lock()
	defer s.build.Unlock()
	revision := s.secrets.revision() // before the secrets: a change between is seen next time
	if m := s.current.Load(); m != nil && m.revision == revision && m.day == day {
		return m, nil
	}
	cfg, policy, err := s.base()
	if err != nil {
		return nil, err
	}
	if len(cfg.Certificates) == 0 {
		return nil, errors.New("the context has no certificate")
	}
	m := &material{revision: revision, day: day, config: cfg, policy: policy}
	cfg.ClientAuth = s.clientAuth(policy)
	cfg.VerifyConnection = func(cs tls.ConnectionState) error { return s.verify(policy, &cs) }
	cfg.GetCertificate = choose(cfg.Certificates)
	cfg.SessionTicketsDisabled = s.cfg.DisableTickets
	if err := s.setTicketKeys(cfg, day); err != nil {
		return nil, err
	}
	m.noALPN = cfg.Clone()
	m.noALPN.NextProtos = nil
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) { return s.configFor(m, hello) }
	s.current.Store(m)
	return m, nil
}

func (s *Server) setTicketKeys(cfg *tls.Config, day int64) error {
	if s.secrets.tickets == nil {
		cfg.SetSessionTicketKeys(s.keys.of(day))
		return nil
	}
	secret, err := s.secrets.tickets.Current()
	if err != nil {
		return err
	}
	cfg.SetSessionTicketKeys(secret.TicketKeys)
	return nil
}

// clientAuth asks for a certificate where one could be verified, and leaves
// the judgement to verify.
func (s *Server) clientAuth(p *policy) tls.ClientAuthType {
	if s.cfg.RequireClientCertificate || p != nil && p.Verifies() {
		return tls.RequestClientCert
	}
	return tls.NoClientCert
}

// configFor goes on without ALPN where the client offers none of our
// protocols, as Envoy does; crypto/tls would abort. Istio's clients rely on it.
func (s *Server) configFor(m *material, hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if s.cfg.RequireSNI && hello.ServerName == "" {
		return nil, &HandshakeError{Reason: ReasonNoSNI, Err: errors.New("the client sent no server name, and require_sni is set")}
	}
	for _, p := range hello.SupportedProtos {
		if slices.Contains(m.config.NextProtos, p) {
			return nil, nil
		}
	}
	return m.noALPN, nil
}

// verify is the policy, on full and on resumed handshakes.
func (s *Server) verify(p *policy, cs *tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		if s.cfg.RequireClientCertificate || p != nil && p.DemandsCertificate() {
			return &HandshakeError{Reason: ReasonNoCert, What: "presented no certificate, and one is required"}
		}
		return nil
	}
	return p.judge(cs.PeerCertificates, Downstream)
}

// judge is verify with trust_chain_verification applied; its nil is a nil
// error.
func (p *policy) judge(chain []*x509.Certificate, side Side) error {
	if f := p.verify(chain, side, time.Now()); f != nil && !p.AcceptUntrusted {
		return f
	}
	return nil
}

// choose picks the certificate: the first that fits the server name and the
// client's algorithms, else the algorithms alone, else the first.
func choose(pairs []tls.Certificate) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if len(pairs) == 1 {
		return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pairs[0], nil }
	}
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		anyName := *hello
		anyName.ServerName = ""
		for _, h := range []*tls.ClientHelloInfo{hello, &anyName} {
			for i := range pairs {
				if h.SupportsCertificate(&pairs[i]) == nil {
					return &pairs[i], nil
				}
			}
		}
		return &pairs[0], nil
	}
}

// shake runs a handshake and gathers what it established.
func shake(ctx context.Context, t *tls.Conn, records *records, side Side, m *material) (*Conn, error) {
	if d, ok := ctx.Deadline(); ok {
		records.Conn.SetDeadline(d)
	}
	stop := context.AfterFunc(ctx, func() { records.Conn.SetDeadline(time.Unix(1, 0)) })
	err := t.Handshake()
	if !stop() && ctx.Err() != nil {
		return nil, failure(side, context.Cause(ctx))
	}
	if err != nil {
		return nil, failure(side, err)
	}
	records.Conn.SetDeadline(time.Time{})
	cs := t.ConnectionState()
	return &Conn{Conn: t, records: records, state: m.state(&cs, side)}, nil
}

// state is the lasting part of cs.
func (m *material) state(cs *tls.ConnectionState, side Side) *State {
	s := &State{
		Version: cs.Version, CipherSuite: cs.CipherSuite, Curve: cs.CurveID, SNI: cs.ServerName,
		ALPN: cs.NegotiatedProtocol, Resumed: cs.DidResume, Peer: cs.PeerCertificates,
	}
	if len(s.Peer) > 0 {
		s.PeerID = peerID(s.Peer[0])
		s.PeerVerified = m.policy != nil && m.policy.Verifies() &&
			(!m.policy.AcceptUntrusted || m.policy.verify(s.Peer, side, time.Now()) == nil)
	}
	if len(m.config.Certificates) > 0 {
		s.Local = m.config.Certificates[0].Leaf
	}
	return s
}
