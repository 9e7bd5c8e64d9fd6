package tlsmux

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"outrider/certs"
)

// Client originates TLS as an UpstreamTlsContext says.
type Client struct {
	endpoint
	cfg *ClientConfig
}

// ClientOptions are what differs from one connection to the next.
type ClientOptions struct {
	// Host is the endpoint's host name, for auto_host_sni; "" if it has none.
	Host string
	// ALPN replaces the context's protocols if it is not nil.
	ALPN []string
	// ServerName replaces the context's sni if it is not "" (auto_sni).
	ServerName string
}

// NewClient makes a client whose secrets come from store. It needs none of
// them yet.
func NewClient(cfg *ClientConfig, store *certs.Store) *Client {
	c := &Client{cfg: cfg}
	c.side, c.common, c.secrets = Upstream, &cfg.CommonConfig, cfg.CommonConfig.secrets(store)
	return c
}

// Ready is nil if a handshake can succeed, else the *certs.NotReadyError of
// the secret that is missing.
func (c *Client) Ready() error { return c.secrets.ready() }

// Secrets are the handles that a handshake needs.
func (c *Client) Secrets() []*certs.Handle { return c.secrets.all() }

// SNI is the server name that goes out to an endpoint.
func (c *Client) SNI(o ClientOptions) string {
	if o.ServerName != "" {
		return o.ServerName
	}
	if c.cfg.AutoHostSNI && o.Host != "" {
		return o.Host
	}
	return c.cfg.SNI
}

// Handshake takes conn through a handshake, bounded by ctx. Its error is a
// *HandshakeError; conn is left to the caller, who closes it. Where a secret is
// missing nothing is written.
func (c *Client) Handshake(ctx context.Context, conn net.Conn, o ClientOptions) (*Conn, error) {
	m, err := c.material()
	if err != nil {
		return nil, notReady(Upstream, err)
	}
	r := newRecords(conn)
	return m.shake(ctx, tls.Client, m.variant(c.SNI(o), o.ALPN), r, Upstream)
}

// defaultCurves are Envoy's for a client. A post-quantum share, which
// crypto/tls would add, makes a ClientHello of two segments, and there are
// sniffers that read only one.
func defaultCurves() []tls.CurveID { return []tls.CurveID{tls.X25519, tls.CurveP256} }

// material is what is made from the secrets' current revision.
func (c *Client) material() (*material, error) {
	if m := c.fresh(c.secrets.revision(), 0); m != nil {
		return m, nil
	}
	c.build.Lock()
	defer c.build.Unlock()
	revision := c.secrets.revision()
	if m := c.fresh(revision, 0); m != nil {
		return m, nil
	}
	m, err := c.base()
	if err != nil {
		return nil, err
	}
	m.revision = revision
	c.complete(m)
	c.current.Store(m)
	return m, nil
}

// complete adds what only a client has.
func (c *Client) complete(m *material) {
	cfg := m.config
	if cfg.CurvePreferences == nil {
		cfg.CurvePreferences = defaultCurves()
	}
	cfg.ServerName = c.cfg.SNI
	cfg.GetClientCertificate = func(req *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair := m.local.forClient(req)
		if pair == nil {
			return &tls.Certificate{}, nil // none
		}
		if err := m.presentable(pair, time.Now()); err != nil {
			return nil, err
		}
		if a := attemptOf(req.Context()); a != nil {
			a.local = pair
		}
		return pair, nil
	}
	if c.cfg.MaxSessionKeys > 0 {
		// A new cache for each revision: sessions that were verified by an
		// older policy, or with an older certificate, are not resumed.
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(int(min(c.cfg.MaxSessionKeys, maxSessions)))
	}
	cfg.VerifyConnection = func(cs tls.ConnectionState) error { return c.verify(m.policy, &cs) }
}

// maxSessions bounds max_session_keys, which has no bound of its own.
const maxSessions = 1 << 16

// verify is the policy, on full and on resumed handshakes.
func (c *Client) verify(p *policy, cs *tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return &HandshakeError{Reason: ReasonNoCert}
	}
	q := questionOf(cs, Upstream)
	if c.cfg.AutoSNISANValidation && cs.ServerName != "" {
		q.sans = sniMatcher(cs.ServerName)
	}
	return p.judge(q)
}

// sniMatcher is what auto_sni_san_validation has in place of the context's own
// matchers: the name that was sent, among the DNS names.
func sniMatcher(sni string) []certs.SANMatcher {
	return []certs.SANMatcher{{Type: certs.SANDNS, Match: certs.StringMatcher{Pattern: sni}}}
}
