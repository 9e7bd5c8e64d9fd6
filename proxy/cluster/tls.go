package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/relay"
	"outrider/proxy/stats"
	"outrider/tlsmux"
)

// socket is a living transport socket: how bytes go to an endpoint.
type socket struct {
	match string // name of the transport_socket_matches entry, "" for the cluster's own
	cfg   config.TransportSocket
	tls   bool
	// client originates TLS; nil for plaintext.
	client *tlsmux.Client
	// header goes before everything else; nil for none.
	header *proxyHeader
}

func (c *Cluster) newSocket(match string, cfg config.TransportSocket) (*socket, error) {
	s := &socket{match: match, cfg: cfg, tls: cfg.TLS != nil}
	if s.tls {
		context := *cfg.TLS
		context.AutoSNISANValidation = context.AutoSNISANValidation || c.cfg.HTTP.AutoSANValidation
		s.client = tlsmux.NewClient(&context, c.opts.Secrets)
	}
	var err error
	if s.header, err = c.newProxyHeader(cfg.ProxyProtocol); err != nil {
		return nil, fmt.Errorf("cluster %q: transport socket %q: %w", c.cfg.Name, cfg.Name, err)
	}
	return s, nil
}

// socketFor is the transport socket that ep is met with.
func (c *Cluster) socketFor(ep *config.Endpoint, l *config.LocalityEndpoints) *socket {
	return c.socketAt(MatchSocket(c.cfg.SocketMatches, ep.Metadata, l.Metadata, false).Index)
}

func (c *Cluster) socketAt(i int) *socket {
	if i < 0 {
		return c.fallback
	}
	return c.matches[i]
}

// Secrets are what connections to the cluster need, over all of its transport
// sockets.
func (c *Cluster) Secrets() []*certs.Handle {
	var out []*certs.Handle
	for _, s := range append([]*socket{c.fallback}, c.matches...) {
		if s.client != nil {
			out = append(out, s.client.Secrets()...)
		}
	}
	return out
}

// ShowExpiry sets the gauges of when the certificates end that connections to
// the cluster are made with, and the roots.
func (c *Cluster) ShowExpiry() {
	var secrets []*certs.Handle
	for _, s := range append([]*socket{c.fallback}, c.matches...) {
		if s.client != nil {
			secrets = append(secrets, s.client.Shown()...)
		}
	}
	if len(secrets) > 0 {
		stats.ShowExpiry(c.scope, secrets)
	}
}

// Ready reports whether the cluster has had its first endpoints, and has its
// secrets.
func (c *Cluster) Ready() bool {
	if !c.isWarm() {
		return false
	}
	for _, h := range c.Secrets() {
		if _, err := h.Current(); err != nil {
			return false
		}
	}
	return true
}

// handshake puts the transport socket on raw.
func (s *socket) handshake(ctx context.Context, raw net.Conn, o tlsmux.ClientOptions) (relay.Conn, *tlsmux.State, error) {
	if !s.tls {
		return relay.Plain(raw), nil, nil
	}
	conn, err := s.client.Handshake(ctx, raw, o)
	if err != nil {
		return nil, nil, err
	}
	return conn, conn.State(), nil
}

// tlsReason is %UPSTREAM_TRANSPORT_FAILURE_REASON%: the sentence of the
// refusal.
func tlsReason(err error) string { return err.Error() }

// countTLS counts a handshake with the cluster's ssl.* metrics, which are made
// at the first one.
func (c *Cluster) countTLS(state *tlsmux.State, err error) {
	c.tlsOnce.Do(func() { c.tlsStats = stats.NewTLS(c.scope) })
	if err != nil {
		c.tlsStats.Failed(err)
		var missing *certs.NotReadyError
		if errors.As(err, &missing) {
			c.scope.Scope("client_ssl_socket_factory").Counter("upstream_context_secrets_not_ready").Inc()
		}
		return
	}
	c.tlsStats.Handshake(state)
}
