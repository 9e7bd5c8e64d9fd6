package tlsmux

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
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
// missing, or all our certificates have ended, nothing is written.
func (s *Server) Handshake(ctx context.Context, c net.Conn) (*Conn, error) {
	m, err := s.material()
	if err != nil {
		return nil, notReady(Downstream, err)
	}
	if err := m.anyPresentable(time.Now()); err != nil {
		return nil, err
	}
	r := newRecords(c)
	return m.shake(ctx, tls.Server, m.config, r, Downstream)
}

// material is what is made from the secrets' current revision.
func (s *Server) material() (*material, error) {
	day := today()
	if m := s.fresh(s.secrets.revision(), day); m != nil {
		return m, nil
	}
	s.build.Lock()
	defer s.build.Unlock()
	revision := s.secrets.revision() // before the secrets: a change between is seen next time
	if m := s.fresh(revision, day); m != nil {
		return m, nil
	}
	m, err := s.base()
	if err != nil {
		return nil, err
	}
	if m.local.first() == nil {
		return nil, errors.New("there is no certificate in it")
	}
	m.revision, m.day = revision, day
	if err := s.complete(m, day); err != nil {
		return nil, err
	}
	s.current.Store(m)
	return m, nil
}

// complete adds what only a server has.
func (s *Server) complete(m *material, day int64) error {
	cfg := m.config
	cfg.ClientAuth = s.clientAuth(m.policy)
	cfg.ClientCAs = m.policy.namedCAs()
	cfg.VerifyConnection = func(cs tls.ConnectionState) error { return s.verify(m.policy, &cs) }
	cfg.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		pair := m.local.forServer(hello, s.cfg.FullScanCertificates)
		return pair, m.presentable(pair, time.Now())
	}
	cfg.SessionTicketsDisabled = s.cfg.DisableTickets
	if !s.cfg.DisableTickets {
		keys, err := s.ticketKeys(day)
		if err != nil {
			return err
		}
		cfg.SetSessionTicketKeys(keys)
		lifetime := s.cfg.SessionTimeout
		if lifetime == 0 {
			lifetime = defaultSessionTimeout
		}
		bindSessions(cfg, s.sessionsOf(m), lifetime)
	}
	m.noALPN = cfg.Clone()
	m.noALPN.NextProtos = nil
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) { return s.configFor(m, hello) }
	return nil
}

// sessionsOf is what a session must have been made under to be resumed: the
// policy, and, where the ticket keys are our own, our certificate. Otherwise
// clients would go on with the certificate of before until it has expired, and
// be refused then. Keys that are given may be shared with other servers, whose
// certificates are their own.
func (s *Server) sessionsOf(m *material) [sha256.Size]byte {
	fingerprint := m.policy.fingerprint(s.cfg.RequireClientCertificate)
	if s.secrets.tickets != nil {
		return fingerprint
	}
	return sha256.Sum256(append(fingerprint[:], m.local.first().Certificate[0]...))
}

func (s *Server) ticketKeys(day int64) ([][32]byte, error) {
	if s.secrets.tickets == nil {
		return s.keys.of(day), nil
	}
	secret, err := s.secrets.tickets.Current()
	if err != nil {
		return nil, err
	}
	if len(secret.TicketKeys) == 0 {
		return nil, fmt.Errorf("secret %q is not session_ticket_keys", secret.Name)
	}
	return secret.TicketKeys, nil
}

// clientAuth asks for a certificate where one could be verified or is wanted
// unverified, and leaves the judgement to verify.
func (s *Server) clientAuth(p *policy) tls.ClientAuthType {
	if s.cfg.RequireClientCertificate || p.Verifies() || p.AcceptUntrusted {
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
	if a := attemptOf(hello.Context()); a != nil {
		a.local = m.local.forServer(hello, s.cfg.FullScanCertificates)
	}
	for _, p := range hello.SupportedProtos {
		if slices.Contains(m.config.NextProtos, p) {
			return nil, nil
		}
	}
	if a := attemptOf(hello.Context()); a != nil {
		return a.handover.config(m.noALPN), nil
	}
	return m.noALPN, nil
}

// demandsCertificate reports whether a client needs a certificate.
func (s *Server) demandsCertificate(p *policy) bool {
	return s.cfg.RequireClientCertificate || p.DemandsCertificate()
}

// verify is the policy, on full and on resumed handshakes.
func (s *Server) verify(p *policy, cs *tls.ConnectionState) error {
	if len(cs.PeerCertificates) > 0 {
		return p.judge(questionOf(cs, Downstream))
	}
	if s.demandsCertificate(p) {
		return &HandshakeError{Reason: ReasonNoCert}
	}
	return nil
}

func questionOf(cs *tls.ConnectionState, side Side) question {
	q := question{chain: cs.PeerCertificates, side: side, now: time.Now(), suite: cs.CipherSuite}
	if cs.DidResume && len(q.chain) > 0 {
		q.now = asOfStart(q.chain[0].NotAfter, q.now)
	}
	return q
}

// resumptionTime is how long a resumption may take between crypto/tls's look at
// the certificate's time, when the session is offered or accepted, and ours.
const resumptionTime = time.Second

// asOfStart is the time at which a resumed session is judged: a certificate
// that was good when the resumption began, and has ended since, is still good
// for it.
func asOfStart(notAfter, now time.Time) time.Time {
	if now.After(notAfter) && now.Sub(notAfter) < resumptionTime {
		return notAfter
	}
	return now
}

// attempt is what the callbacks of one handshake leave for its end. It travels
// in the handshake's context.
type attempt struct {
	local    *tls.Certificate
	handover handover
}

type attemptKey struct{}

func attemptOf(ctx context.Context) *attempt {
	a, _ := ctx.Value(attemptKey{}).(*attempt)
	return a
}

// shake runs a handshake and gathers what it established.
func (m *material) shake(ctx context.Context, begin func(net.Conn, *tls.Config) *tls.Conn, cfg *tls.Config, r *records, side Side) (*Conn, error) {
	a := &attempt{handover: handover{keyLog: cfg.KeyLogWriter}}
	t := begin(r, a.handover.config(cfg))
	if d, ok := ctx.Deadline(); ok {
		r.Conn.SetDeadline(d)
	}
	stop := context.AfterFunc(ctx, func() { r.Conn.SetDeadline(time.Unix(1, 0)) })
	err := t.HandshakeContext(context.WithValue(context.Background(), attemptKey{}, a))
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		r.drop()
		return nil, failure(side, err)
	}
	r.Conn.SetDeadline(time.Time{})
	cs := t.ConnectionState()
	if cs.DidResume && a.local == nil {
		a.local = m.local.first()
	}
	return &Conn{
		records: r, layer: a.handover.layer(t, &cs, r, side, cfg.ClientSessionCache != nil),
		side: side, state: m.state(&cs, questionOf(&cs, side), a.local),
	}, nil
}
