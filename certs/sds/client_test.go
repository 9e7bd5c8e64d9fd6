package sds_test

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/certs/sds"
	"outrider/certs/sds/sdstest"
)

const patience = 20 * time.Second

// subscribed is a handle that a client feeds from a server on a socket.
type subscribed struct {
	*certs.Handle
	t    *testing.T
	path string
	root *ca.CA
}

func subscribe(t *testing.T, delta bool) *subscribed {
	t.Helper()
	root, err := ca.New("root")
	if err != nil {
		t.Fatal(err)
	}
	s := &subscribed{t: t, path: filepath.Join(t.TempDir(), "s"), root: root}
	client := sds.NewClient(sds.Options{
		Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", s.path)
		},
		Node: &corev3.Node{Id: "n"}, Decode: decode,
	})
	store := certs.NewStore(certs.Feeds{GRPC: client.Feed})
	s.Handle = store.Get(certs.Ref{Name: "default", Source: &certs.Source{Cluster: "sds", Delta: delta}})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	return s
}

// decode reads a key pair, as the proxy's decoder does with more care.
func decode(packed *anypb.Any, version, from string) (*certs.Secret, error) {
	m := &tlsv3.Secret{}
	if err := packed.UnmarshalTo(m); err != nil {
		return nil, err
	}
	c := m.GetTlsCertificate()
	pair, err := certs.ParseKeyPair(c.GetCertificateChain().GetInlineBytes(), c.GetPrivateKey().GetInlineBytes())
	if err != nil {
		return nil, err
	}
	return &certs.Secret{Name: m.GetName(), Version: version + pair.TLS.Leaf.SerialNumber.String(), From: from, KeyPair: pair}, nil
}

func (s *subscribed) listen() *sdstest.Server {
	s.t.Helper()
	server, err := sdstest.Listen(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(server.Stop)
	return server
}

func (s *subscribed) issue() *ca.Issued {
	s.t.Helper()
	issued, err := s.root.Issue(ca.Leaf{ID: "spiffe://td/x"})
	if err != nil {
		s.t.Fatal(err)
	}
	return issued
}

func (s *subscribed) serve(server *sdstest.Server, name string, chain, key *ca.Issued) {
	s.t.Helper()
	if err := server.Set(sdstest.KeyPair(name, chain.ChainPEM, key.KeyPEM)); err != nil {
		s.t.Fatal(err)
	}
}

// eventually polls, for gRPC has goroutines of its own.
func (s *subscribed) eventually(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			err, _ := s.LastFailure()
			s.t.Fatalf("%s: not within %s; the last failure is %v", what, patience, err)
		}
	}
}

func (s *subscribed) has(want *ca.Issued) func() bool {
	return func() bool {
		secret, err := s.Current()
		return err == nil && secret.KeyPair.TLS.Leaf.Equal(want.Cert)
	}
}

func both(t *testing.T, f func(t *testing.T, delta bool)) {
	t.Run("state of the world", func(t *testing.T) { f(t, false) })
	t.Run("delta", func(t *testing.T) { f(t, true) })
}

func TestSecretsArriveRotateAndAreAcknowledged(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := subscribe(t, delta)
		if _, err := s.Current(); err == nil || !strings.Contains(err.Error(), `secret "default" is not supplied by SDS`) {
			t.Fatalf("before any: %v", err)
		}
		server := s.listen()
		a, b := s.issue(), s.issue()
		s.serve(server, "default", a, a)
		s.eventually("the first", s.has(a))
		revision := s.Revision()
		s.serve(server, "default", b, b)
		s.eventually("the second", s.has(b))
		s.eventually("two ACKs", func() bool { return server.Acked() >= 2 })
		if got := s.Revision(); got != revision+1 || len(server.Refused()) != 0 {
			t.Errorf("revision %d after %d, refused %q", got, revision, server.Refused())
		}
	})
}

func TestABadSecretIsRefusedWithItsReasonAndTheOldOneStays(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := subscribe(t, delta)
		server := s.listen()
		a, b := s.issue(), s.issue()
		s.serve(server, "default", a, a)
		s.eventually("the first", s.has(a))
		s.serve(server, "default", b, a) // the key does not fit
		s.eventually("a NACK", func() bool { return len(server.Refused()) > 0 })
		if got := server.Refused()[0]; !strings.Contains(got, "does not fit the certificate") {
			t.Errorf("the NACK says %q", got)
		}
		if !s.has(a)() || s.Stats().Rejected != 1 {
			t.Errorf("the old secret is gone, or rejected is %d, want 1", s.Stats().Rejected)
		}
		s.serve(server, "default", b, b)
		s.eventually("recovery", s.has(b))
	})
}

func TestTheStreamComesBackAfterTheServerDoes(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := subscribe(t, delta)
		first := s.listen()
		a, b := s.issue(), s.issue()
		s.serve(first, "default", a, a)
		s.eventually("the first", s.has(a))
		first.Stop()
		s.eventually("a failure", func() bool { return s.Stats().Failures > 0 })
		if !s.has(a)() {
			t.Fatal("the secret is gone with its server")
		}
		second := s.listen()
		s.serve(second, "default", b, b)
		s.eventually("the second server's", s.has(b))
	})
}
