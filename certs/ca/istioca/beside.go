package istioca

import (
	"context"
	"crypto/tls"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TLSConfig is what another server needs that answers at the authority's
// address, with services beside this one. It asks for client certificates and
// verifies none.
func (s *Server) TLSConfig() *tls.Config { return s.tlsConfig() }

// Caller is who makes a request to another service at the authority's address,
// and how that was proved: by a client certificate before a token. ctx is the
// request's. Without either, or if neither is good, it is an error.
func (s *Server) Caller(ctx context.Context) (id spiffeid.ID, how string, err error) {
	callers, err := s.authenticate(ctx)
	if err != nil {
		return id, "", err
	}
	return callers[0].id, callers[0].how, nil
}
