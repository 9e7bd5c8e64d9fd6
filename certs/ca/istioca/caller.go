package istioca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// caller is who asks, and how that is known.
type caller struct {
	id  spiffeid.ID
	how string
}

// authenticate is everybody that the caller has proved to be: by its client
// certificate, by its token, or by both. One that is bad does no harm to the
// other: a machine that comes back after its certificate has expired has a new
// token, and one whose token was used up long ago has a certificate. If neither
// is good, the error is an *authError.
func (s *Server) authenticate(ctx context.Context) ([]caller, error) {
	var callers []caller
	var refused []error
	byCert, err := s.byCertificate(ctx)
	switch {
	case err != nil:
		refused = append(refused, err)
	case byCert != nil:
		callers = append(callers, *byCert)
	}
	raw, err := bearer(ctx)
	if err == nil && raw != "" {
		var c caller
		if c.id, c.how, err = s.tokens.authenticate(ctx, raw); err == nil {
			callers = append(callers, c)
		}
	}
	if err != nil {
		refused = append(refused, err)
	}
	switch {
	case len(callers) > 0:
		return callers, nil
	case len(refused) > 0:
		return nil, joinAuth(refused)
	}
	return nil, &authError{"there is neither a client certificate nor a token", errors.New("nothing presented")}
}

// joinAuth makes one refusal of those of each way.
func joinAuth(refused []error) error {
	var texts []string
	for _, err := range refused {
		var auth *authError
		if errors.As(err, &auth) {
			texts = append(texts, auth.text)
		}
	}
	return &authError{strings.Join(texts, "; "), errors.Join(refused...)}
}

// byCertificate is whom the client certificate names; nil if there is none.
// The certificate is verified at each request, not at the handshake: it may
// expire while the connection lives, and roots change.
func (s *Server) byCertificate(ctx context.Context) (*caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return nil, nil
	}
	leaf := info.State.PeerCertificates[0]
	id, err := s.verifyClient(info.State)
	if err != nil {
		return nil, &authError{"the client certificate is not accepted", fmt.Errorf("serial %x, %q: %w", leaf.SerialNumber, leaf.URIs, err)}
	}
	return &caller{id, fmt.Sprintf("certificate %x", leaf.SerialNumber)}, nil
}

func (s *Server) verifyClient(state tls.ConnectionState) (spiffeid.ID, error) {
	var none spiffeid.ID
	trusted, err := s.authority.Roots()
	if err != nil {
		return none, err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range trusted {
		roots.AddCert(c)
	}
	for _, c := range state.PeerCertificates[1:] {
		between.AddCert(c)
	}
	leaf := state.PeerCertificates[0]
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: time.Now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return none, err
	}
	if leaf.IsCA {
		return none, errors.New("it is an authority's")
	}
	id, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return none, err
	}
	return id, s.authority.checkID(id)
}

// bearer is the token of the authorization header, with either of the prefixes
// that istiod takes; "" if there is no header.
func bearer(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	switch len(values) {
	case 0:
		return "", nil
	case 1:
	default:
		return "", &authError{"there are several authorization headers", fmt.Errorf("%d of them", len(values))}
	}
	for _, prefix := range []string{"Bearer ", "Istio "} {
		if len(values[0]) > len(prefix) && strings.EqualFold(values[0][:len(prefix)], prefix) {
			return strings.TrimSpace(values[0][len(prefix):]), nil
		}
	}
	return "", &authError{"the authorization header has no bearer token", errors.New("neither Bearer nor Istio")}
}

// remote is the caller's address without its port; "" if it has none.
func remote(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	if at, err := netip.ParseAddrPort(p.Addr.String()); err == nil {
		return at.Addr().Unmap().String()
	}
	return p.Addr.String()
}
