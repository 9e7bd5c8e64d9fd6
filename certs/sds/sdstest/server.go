// Package sdstest serves any secrets over SDS, right ones and wrong ones, with
// go-control-plane: for tests.
package sdstest

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Server serves the same secrets to every client.
type Server struct {
	cache *cache.LinearCache
	grpc  *grpc.Server
	done  chan struct{}

	mu      sync.Mutex
	refused []string // guarded by mu; texts of NACKs
	acked   int      // guarded by mu
}

// Listen serves on a unix socket, taking the place of a stale one.
func Listen(path string) (*Server, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return Serve(ln), nil
}

// Serve serves on ln until Stop.
func Serve(ln net.Listener) *Server {
	s := &Server{cache: cache.NewLinearCache(resource.SecretType), grpc: grpc.NewServer(), done: make(chan struct{})}
	watched := server.CallbackFuncs{
		StreamRequestFunc: func(_ int64, r *discoveryv3.DiscoveryRequest) error {
			s.note(r.GetResponseNonce(), r.GetErrorDetail().GetMessage())
			return nil
		},
		StreamDeltaRequestFunc: func(_ int64, r *discoveryv3.DeltaDiscoveryRequest) error {
			s.note(r.GetResponseNonce(), r.GetErrorDetail().GetMessage())
			return nil
		},
	}
	xds := server.NewServer(context.Background(), s.cache, watched)
	secretv3.RegisterSecretDiscoveryServiceServer(s.grpc, xds)
	go func() {
		defer close(s.done)
		s.grpc.Serve(ln)
	}()
	return s
}

func (s *Server) note(nonce, refusal string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case refusal != "":
		s.refused = append(s.refused, refusal)
	case nonce != "":
		s.acked++
	}
}

// Refused are the texts of all NACKs so far.
func (s *Server) Refused() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.refused...)
}

// Acked counts the ACKs so far.
func (s *Server) Acked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// Set adds or replaces secrets; clients that asked for them are told at once.
func (s *Server) Set(secrets ...*tlsv3.Secret) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, secret := range secrets {
		if err := s.cache.UpdateResource(secret.GetName(), types.Resource(proto.Clone(secret))); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends every stream and closes the socket.
func (s *Server) Stop() {
	s.grpc.Stop()
	<-s.done
}

// KeyPair is a tls_certificate secret.
func KeyPair(name string, chainPEM, keyPEM []byte) *tlsv3.Secret {
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(chainPEM), PrivateKey: inline(keyPEM),
	}}}
}

// Roots is a validation_context secret.
func Roots(name string, rootsPEM []byte) *tlsv3.Secret {
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
		TrustedCa: inline(rootsPEM),
	}}}
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}
