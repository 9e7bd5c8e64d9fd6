package tlsmux

import (
	"context"
	"crypto/tls"
	"net"

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
	if c.cfg.AutoHostSNI && o.Host != "" {
		return o.Host
	}
	return c.cfg.SNI
}

// Handshake takes conn through a handshake, bounded by ctx. Its error is a
// *HandshakeError; conn is left to the caller, who closes it.
func (c *Client) Handshake(ctx context.Context, conn net.Conn, o ClientOptions) (*Conn, error) {
	m, err := c.material()
	if err != nil {
		return nil, &HandshakeError{Side: Upstream, Reason: ReasonNotReady, Err: err}
	}
	cfg := m.config
	if sni := c.SNI(o); sni != cfg.ServerName || o.ALPN != nil {
		cfg = cfg.Clone()
		cfg.ServerName = sni
		if o.ALPN != nil {
			cfg.NextProtos = o.ALPN
		}
	}
	records := newRecords(conn)
	return shake(ctx, tls.Client(records, cfg), records, Upstream, m)
}

// defaultCurves are Envoy's for a client. A post-quantum share, which
// crypto/tls would add, makes a ClientHello of two segments, and there are
// sniffers that read only one.
func defaultCurves() []tls.CurveID { return []tls.CurveID{tls.X25519, tls.CurveP256} }

func (c *Client) material() (*material, error) {
	if m := c.current.Load(); m != nil && m.revision == c.secrets.revision() {
		return m, nil
	}
	c.build.Lock()
	defer c.build.Unlock()
	revision := c.secrets.revision()
	if m := c.current.Load(); m != nil && m.revision == revision {
		return m, nil
	}
	cfg, policy, err := c.base()
	if err != nil {
		return nil, err
	}
	if cfg.CurvePreferences == nil {
		cfg.CurvePreferences = defaultCurves()
	}
	cfg.ServerName = c.cfg.SNI
	pairs := cfg.Certificates
	cfg.GetClientCertificate = func(req *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		for i := range pairs {
			if req.SupportsCertificate(&pairs[i]) == nil {
				return &pairs[i], nil
			}
		}
		if len(pairs) > 0 {
			return &pairs[0], nil // its issuer is not among those named: let the peer judge
		}
		return &tls.Certificate{}, nil
	}
	if c.cfg.MaxSessionKeys > 0 {
		// A new cache for each revision: sessions that were verified by an
		// older policy, or with an older certificate, are not resumed.
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(int(c.cfg.MaxSessionKeys))
	}
	cfg.VerifyConnection = func(cs tls.ConnectionState) error { return c.verify(policy, &cs) }
	m := &material{revision: revision, config: cfg, policy: policy}
	c.current.Store(m)
	return m, nil
}

// verify is the policy, on full and on resumed handshakes.
func (c *Client) verify(p *policy, cs *tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return &HandshakeError{Reason: ReasonNoCert, What: "presented no certificate"}
	}
	if p == nil {
		p = &policy{Validation: &certs.Validation{}}
	}
	if err := p.judge(cs.PeerCertificates, Upstream); err != nil {
		return err
	}
	if c.cfg.AutoSNISANValidation && cs.ServerName != "" {
		m := certs.SANMatcher{Type: certs.SANDNS, Match: certs.StringMatcher{Pattern: cs.ServerName}}
		if _, ok := matchSAN(m, cs.PeerCertificates[0]); !ok {
			return &HandshakeError{
				Reason: ReasonSAN, What: "is not who was asked for", Presented: describeCert(cs.PeerCertificates[0]),
				Expected: describeMatchers([]certs.SANMatcher{m}),
			}
		}
	}
	return nil
}
