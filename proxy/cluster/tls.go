package cluster

import (
	"context"
	"errors"
	"net"

	"outrider/proxy/config"
	"outrider/proxy/relay"
	"outrider/tlsmux"
)

// socket is a living transport socket: how bytes go to an endpoint.
type socket struct {
	match string // name of the transport_socket_matches entry, "" for the cluster's own
	cfg   config.TransportSocket
	tls   bool
}

func (c *Cluster) newSocket(match string, cfg config.TransportSocket) *socket {
	return &socket{match: match, cfg: cfg, tls: cfg.TLS != nil}
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

// handshake puts the transport socket on raw. hostname is the endpoint's; ALPN,
// if not nil, replaces the configured protocols.
func (s *socket) handshake(_ context.Context, raw net.Conn, _ string, _ []string) (relay.Conn, *tlsmux.State, error) {
	if !s.tls {
		return relay.Plain(raw), nil, nil
	}
	return nil, nil, errors.New("TLS is not there yet")
}
