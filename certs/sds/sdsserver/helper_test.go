package sdsserver

import (
	"bytes"
	"context"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"go.uber.org/goleak"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/certs/identity"
)

const patience = 10 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// agent is a server whose secrets come from a keeper.
type agent struct {
	t      *testing.T
	server *Server
	keeper *identity.Keeper
	root   *ca.CA
	client secretv3.SecretDiscoveryServiceClient
	log    *logged
	path   string
	stop   func() // ends the server, and waits

	mu  sync.Mutex
	own map[string]*certs.Handle // guarded by mu; by name
}

// logged is a log that a test reads.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func start(t *testing.T) *agent {
	t.Helper()
	a := &agent{t: t, log: &logged{}}
	a.server = New(Options{Secret: a.lookup, Log: slog.New(slog.NewTextHandler(a.log, nil))})
	a.keeper = identity.NewKeeper(identity.Options{Settled: a.server.Settled})
	var err error
	if a.root, err = ca.New("root"); err != nil {
		t.Fatal(err)
	}
	a.path = filepath.Join(t.TempDir(), "s")
	ln, err := Listen(a.path, Access{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.server.Serve(ctx, ln) }()
	conn, err := grpc.NewClient("unix:"+a.path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	a.client = secretv3.NewSecretDiscoveryServiceClient(conn)
	a.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Lstat(a.path); err == nil {
			t.Error("the socket is still there")
		}
	})
	t.Cleanup(func() { conn.Close(); a.stop() })
	return a
}

// lookup finds what the test made itself first.
func (a *agent) lookup(name string) (*certs.Handle, error) {
	a.mu.Lock()
	h := a.own[name]
	a.mu.Unlock()
	if h != nil {
		return h, nil
	}
	return a.keeper.Handle(name)
}

// publish makes s a secret that the keeper does not know.
func (a *agent) publish(s *certs.Secret) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.own == nil {
		a.own = map[string]*certs.Handle{}
	}
	if a.own[s.Name] == nil {
		a.own[s.Name] = certs.NewHandle(certs.Ref{Name: s.Name})
	}
	a.own[s.Name].Publish(s)
}

// secret is what the server says of one secret of its only client.
func (a *agent) secret(name string) SecretStatus {
	for _, c := range a.server.Clients() {
		for _, s := range c.Secrets {
			if s.Name == name {
				return s
			}
		}
	}
	return SecretStatus{}
}

// settled tries Settled without waiting.
func (a *agent) settled(name string) bool {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return a.server.Settled(ctx, name) == nil
}

func (a *agent) trust(roots ...*ca.CA) {
	a.t.Helper()
	var certificates []*x509.Certificate
	for _, r := range roots {
		certificates = append(certificates, r.Cert)
	}
	leaf := a.issue(a.root)
	if err := a.keeper.Trust("test", identity.Bundle{TrustDomain: leaf.ID.TrustDomain(), Roots: certificates}); err != nil {
		a.t.Fatal(err)
	}
}

func (a *agent) issue(by *ca.CA) *certs.KeyPair {
	a.t.Helper()
	issued, err := by.Issue(ca.Leaf{ID: "spiffe://cluster.local/ns/dev/sa/web"})
	if err != nil {
		a.t.Fatal(err)
	}
	pair, err := certs.ParseKeyPair(issued.ChainPEM, issued.KeyPEM)
	if err != nil {
		a.t.Fatal(err)
	}
	return pair
}

func (a *agent) serve(by *ca.CA) *certs.KeyPair {
	a.t.Helper()
	pair := a.issue(by)
	if err := a.keeper.Serve(a.t.Context(), "test", time.Time{}, pair); err != nil {
		a.t.Fatal(err)
	}
	return pair
}

// other is one more root.
func (a *agent) other() *ca.CA {
	a.t.Helper()
	c, err := ca.New("other")
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// sotw is a raw client.
type sotw struct {
	t *testing.T
	secretv3.SecretDiscoveryService_StreamSecretsClient
}

func (a *agent) sotw() sotw {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	a.t.Cleanup(cancel)
	s, err := a.client.StreamSecrets(ctx)
	if err != nil {
		a.t.Fatal(err)
	}
	return sotw{a.t, s}
}

func (s sotw) ask(nonce, version, refusal string, names ...string) {
	s.t.Helper()
	r := &discoveryv3.DiscoveryRequest{TypeUrl: secretType, Node: &corev3.Node{Id: "n"}, ResourceNames: names, ResponseNonce: nonce, VersionInfo: version}
	if refusal != "" {
		r.ErrorDetail = &statuspb.Status{Code: 3, Message: refusal}
	}
	if err := s.Send(r); err != nil {
		s.t.Fatal(err)
	}
}

func (s sotw) hear() *discoveryv3.DiscoveryResponse {
	s.t.Helper()
	r, err := s.Recv()
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// delta is a raw client of the incremental protocol.
type delta struct {
	t *testing.T
	secretv3.SecretDiscoveryService_DeltaSecretsClient
}

func (a *agent) delta() delta {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	a.t.Cleanup(cancel)
	s, err := a.client.DeltaSecrets(ctx)
	if err != nil {
		a.t.Fatal(err)
	}
	return delta{a.t, s}
}

func (d delta) ask(r *discoveryv3.DeltaDiscoveryRequest) {
	d.t.Helper()
	r.TypeUrl = secretType
	if err := d.Send(r); err != nil {
		d.t.Fatal(err)
	}
}

// hear is the next answer, and the versions that it has by name.
func (d delta) hear() (*discoveryv3.DeltaDiscoveryResponse, map[string]string) {
	d.t.Helper()
	r, err := d.Recv()
	if err != nil {
		d.t.Fatal(err)
	}
	versions := map[string]string{}
	for _, one := range r.GetResources() {
		versions[one.GetName()] = one.GetVersion()
	}
	return r, versions
}

// names are the secrets of an answer.
func names(t *testing.T, r *discoveryv3.DiscoveryResponse) string {
	t.Helper()
	var out []string
	for _, packed := range r.GetResources() {
		m := &tlsv3.Secret{}
		if err := packed.UnmarshalTo(m); err != nil {
			t.Fatal(err)
		}
		out = append(out, m.GetName())
	}
	return strings.Join(out, " ")
}

// eventually polls, for the server's goroutines are its own.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}
