package tlsmux

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"outrider/certs"
)

// secrets are the handles that a context is made of.
type secrets struct {
	certificates []*certs.Handle
	validation   *certs.Handle // nil: the static one alone
	tickets      *certs.Handle // nil: our own keys
	// static has the roots that the context itself names, to be seen from
	// outside; nil for none.
	static *certs.Handle
}

func (c *CommonConfig) secrets(store *certs.Store) secrets {
	var s secrets
	for _, ref := range c.Certificates {
		s.certificates = append(s.certificates, store.Get(ref))
	}
	if c.ValidationRef != nil {
		s.validation = store.Get(*c.ValidationRef)
	}
	if v := c.Validation; v != nil && len(v.AllRoots()) > 0 {
		s.static = store.Get(certs.Ref{Inline: v.Inline()})
	}
	return s
}

// all are the handles, nil ones left out.
func (s *secrets) all() []*certs.Handle {
	out := s.certificates
	for _, h := range []*certs.Handle{s.validation, s.tickets} {
		if h != nil {
			out = append(out[:len(out):len(out)], h)
		}
	}
	return out
}

// Shown are the secrets with certificates, for the metrics: the key pairs, and
// the roots of the secret or, where there is none, of the context itself.
func (e *endpoint) Shown() []*certs.Handle {
	out := e.secrets.certificates
	roots := e.secrets.validation
	if roots == nil {
		roots = e.secrets.static
	}
	if roots != nil {
		out = append(out[:len(out):len(out)], roots)
	}
	return out
}

// ready is nil if every secret is there, else the first that is not.
func (s *secrets) ready() error {
	for _, h := range s.all() {
		if _, err := h.Current(); err != nil {
			return err
		}
	}
	return nil
}

// revision is the sum of all revisions: each only grows, so it changes when
// one does.
func (s *secrets) revision() uint64 {
	var sum uint64
	for _, h := range s.certificates {
		sum += h.Revision()
	}
	if s.validation != nil {
		sum += s.validation.Revision()
	}
	if s.tickets != nil {
		sum += s.tickets.Revision()
	}
	return sum
}

// pairs are the certificates with their keys.
func (s *secrets) pairs() ([]tls.Certificate, error) {
	var out []tls.Certificate
	for _, h := range s.certificates {
		secret, err := h.Current()
		if err != nil {
			return nil, err
		}
		if secret.KeyPair == nil {
			return nil, fmt.Errorf("secret %q is not a tls_certificate", secret.Name)
		}
		out = append(out, secret.KeyPair.TLS)
	}
	return out, nil
}

// policy is the validation context, merged with the secret's. A secret that is
// something else must not turn into a context that verifies nothing.
func (s *secrets) policy(static *certs.Validation) (*policy, error) {
	if s.validation == nil {
		return newPolicy(static, nil), nil
	}
	secret, err := s.validation.Current()
	if err != nil {
		return nil, err
	}
	if secret.Validation == nil {
		return nil, fmt.Errorf("secret %q is not a validation_context", secret.Name)
	}
	return newPolicy(static.Merge(secret.Validation), secret), nil
}

// material is what handshakes need, made from one revision of the secrets.
type material struct {
	endpoint *endpoint
	revision uint64
	day      int64 // of our own ticket keys
	config   *tls.Config
	policy   *policy
	local    *selector

	noALPN *tls.Config // of a server, for clients with whom it shares no protocol

	mu       sync.Mutex
	variants map[string]*tls.Config // guarded by mu; of a client, by SNI and ALPN
}

// maxVariants bounds what a client keeps of tls.Configs that differ in SNI or
// ALPN only; beyond, each handshake makes its own.
const maxVariants = 256

// variant is the config with another SNI or, if alpn is not nil, another ALPN.
func (m *material) variant(sni string, alpn []string) *tls.Config {
	if sni == m.config.ServerName && alpn == nil {
		return m.config
	}
	if alpn == nil {
		alpn = m.config.NextProtos
	}
	key := sni + "\x00" + strings.Join(alpn, "\x00")
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.variants[key]; c != nil {
		return c
	}
	c := m.config.Clone()
	c.ServerName, c.NextProtos = sni, alpn
	if len(m.variants) < maxVariants {
		if m.variants == nil {
			m.variants = map[string]*tls.Config{}
		}
		m.variants[key] = c
	}
	return c
}

// endpoint is what a server and a client share.
type endpoint struct {
	side    Side
	common  *CommonConfig
	secrets secrets
	current atomic.Pointer[material]
	build   sync.Mutex
	keyLog  io.Writer // guarded by build; opened with the first material
	// standing is the policy that State.Standing asks where current is of an
	// older revision.
	standing atomic.Pointer[revised]
}

// fresh is the material if it is of that revision and day, else nil.
func (e *endpoint) fresh(revision uint64, day int64) *material {
	if m := e.current.Load(); m != nil && m.revision == revision && m.day == day {
		return m
	}
	return nil
}

// base is the material of both sides, without what only one has; build is held.
func (e *endpoint) base() (*material, error) {
	pairs, err := e.secrets.pairs()
	if err != nil {
		return nil, err
	}
	policy, err := e.secrets.policy(e.common.Validation)
	if err != nil {
		return nil, err
	}
	if err := e.openKeyLog(); err != nil {
		return nil, err
	}
	c := e.common
	cfg := &tls.Config{
		MinVersion: c.MinVersion, MaxVersion: c.MaxVersion, CipherSuites: c.CipherSuites,
		CurvePreferences: c.Curves, NextProtos: c.ALPN, KeyLogWriter: e.keyLog,
		DynamicRecordSizingDisabled: true,
		InsecureSkipVerify:          true, // VerifyConnection does it, on resumed sessions too
	}
	if cfg.MinVersion == 0 {
		cfg.MinVersion = tls.VersionTLS12
	}
	if cfg.CipherSuites == nil {
		cfg.CipherSuites = defaultCipherSuites()
	}
	return &material{endpoint: e, config: cfg, policy: policy, local: newSelector(pairs)}, nil
}

// defaultCipherSuites are Envoy's: no suite without forward secrecy or
// authenticated encryption (cipher_suites of TlsParameters).
func defaultCipherSuites() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	}
}

// openKeyLog opens key_log.path for appending, if there is one.
func (e *endpoint) openKeyLog() error {
	if e.common.KeyLogPath == "" || e.keyLog != nil {
		return nil
	}
	f, err := os.OpenFile(e.common.KeyLogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("key_log: %w", err)
	}
	e.keyLog = f
	return nil
}

// state is the lasting part of a finished handshake.
func (m *material) state(cs *tls.ConnectionState, q question, local *tls.Certificate) *State {
	s := &State{
		Version: cs.Version, CipherSuite: cs.CipherSuite, Curve: cs.CurveID, SNI: cs.ServerName,
		ALPN: cs.NegotiatedProtocol, Resumed: cs.DidResume, Peer: cs.PeerCertificates,
		endpoint: m.endpoint,
	}
	if local != nil {
		s.Local = local.Leaf
	}
	if len(q.chain) == 0 {
		return s
	}
	s.PeerID = peerID(q.chain[0])
	s.PeerVerified = m.policy.Verifies()
	if s.PeerVerified && m.policy.AcceptsAny() {
		if f := m.policy.verify(q); f != nil {
			m.policy.describe(f, q)
			s.PeerVerified, s.Unverified = false, f
		}
	}
	if s.PeerVerified {
		if v, f := m.policy.chain(q); f == nil { // it has just been found good
			s.Root, s.PeerUntil = v.root, v.until
			if v.peer != nil {
				s.Peer, s.PeerID = v.peer, v.id
			}
		}
	}
	return s
}

// leafOf is the certificate that pair presents.
func leafOf(pair *tls.Certificate) *x509.Certificate {
	if pair.Leaf != nil {
		return pair.Leaf
	}
	c, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return &x509.Certificate{}
	}
	return c
}
