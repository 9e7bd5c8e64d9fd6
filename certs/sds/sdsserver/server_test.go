package sdsserver

import (
	"bytes"
	"context"
	"crypto/x509"
	"log/slog"
	"net"
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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

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
	log := slog.New(slog.NewTextHandler(a.log, nil))
	a.server = New(Options{Secret: func(name string) (*certs.Handle, error) { return a.keeper.Handle(name) }, Log: log})
	a.keeper = identity.NewKeeper(identity.Options{Settled: a.server.Settled})
	var err error
	if a.root, err = ca.New("root"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	ln, err := Listen(path, Access{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.server.Serve(ctx, ln) }()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	a.client = secretv3.NewSecretDiscoveryServiceClient(conn)
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Error("the socket is still there")
		}
	})
	return a
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

func TestASecretThatIsNotThereYetIsSentWhenItComes(t *testing.T) {
	a := start(t)
	s := a.sotw()
	s.ask("", "", "", "default")
	eventually(t, "the client is seen", func() bool { return len(a.server.Clients()) == 1 && len(a.server.Clients()[0].Secrets) == 1 })
	a.trust(a.root)
	a.serve(a.root)
	if got := names(t, s.hear()); got != "default" {
		t.Errorf("the first answer has %q", got)
	}
}

func TestEachChangeIsSentOnceAndStaleAnswersAreNotHeard(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	s := a.sotw()
	s.ask("", "", "", "default", "ROOTCA")
	first := s.hear()
	if got := names(t, first); got != "ROOTCA default" {
		t.Errorf("the first answer has %q", got)
	}
	s.ask(first.GetNonce(), first.GetVersionInfo(), "", "default", "ROOTCA")
	a.serve(a.root)
	second := s.hear()
	if got := names(t, second); got != "default" {
		t.Errorf("the second answer has %q, want only what changed", got)
	}
	s.ask(first.GetNonce(), first.GetVersionInfo(), "", "ROOTCA") // stale: it must not unsubscribe default
	s.ask(second.GetNonce(), second.GetVersionInfo(), "", "default", "ROOTCA")
	a.serve(a.root)
	third := s.hear()
	if names(t, third) != "default" || third.GetNonce() == second.GetNonce() || third.GetVersionInfo() == second.GetVersionInfo() {
		t.Errorf("the third answer has %q, nonce %s after %s, version %s after %s", names(t, third), third.GetNonce(), second.GetNonce(), third.GetVersionInfo(), second.GetVersionInfo())
	}
}

func TestWhatIsNotAskedForAnyMoreIsNotSent(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	s := a.sotw()
	s.ask("", "", "", "default", "ROOTCA")
	first := s.hear()
	s.ask(first.GetNonce(), first.GetVersionInfo(), "", "ROOTCA")
	eventually(t, "default is not asked for", func() bool { return len(a.server.Clients()[0].Secrets) == 1 })
	a.serve(a.root)
	other, err := ca.New("other")
	if err != nil {
		t.Fatal(err)
	}
	a.trust(a.root, other)
	if got := names(t, s.hear()); got != "ROOTCA" {
		t.Errorf("after default was given up: %q", got)
	}
}

func TestARefusalIsLoggedOnceWithItsTextAndNotSentAgain(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	s := a.sotw()
	s.ask("", "", "", "default")
	first := s.hear()
	for range 3 {
		s.ask(first.GetNonce(), "", "no such curve", "default")
	}
	eventually(t, "the refusal is kept", func() bool { return a.server.Clients()[0].Secrets[0].Refused == "no such curve" })
	a.serve(a.root)
	second := s.hear()
	if second.GetVersionInfo() == first.GetVersionInfo() {
		t.Error("what was refused is sent again")
	}
	s.ask(second.GetNonce(), second.GetVersionInfo(), "", "default")
	eventually(t, "the refusal is forgotten", func() bool {
		got := a.server.Clients()[0].Secrets[0]
		return got.Refused == "" && got.Acked == second.GetVersionInfo()
	})
	if n := strings.Count(a.log.String(), "no such curve"); n != 1 {
		t.Errorf("the refusal is logged %d times:\n%s", n, a.log)
	}
}

func TestSettledWaitsForEveryClientThatAsked(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	quick, slow, other := a.sotw(), a.sotw(), a.sotw()
	var last [2]*discoveryv3.DiscoveryResponse
	for i, s := range []sotw{quick, slow} {
		s.ask("", "", "", "ROOTCA")
		last[i] = s.hear()
	}
	other.ask("", "", "", "default")
	other.hear()
	settled := make(chan struct{})
	go func() {
		if err := a.server.Settled(t.Context(), "ROOTCA"); err != nil {
			t.Error(err)
		}
		close(settled)
	}()
	quick.ask(last[0].GetNonce(), last[0].GetVersionInfo(), "", "ROOTCA")
	eventually(t, "one has answered", func() bool {
		n := 0
		for _, c := range a.server.Clients() {
			for _, s := range c.Secrets {
				if s.Name == "ROOTCA" && s.Acked != "" {
					n++
				}
			}
		}
		return n == 1
	})
	select {
	case <-settled:
		t.Fatal("settled before the slow client has answered")
	default:
	}
	slow.ask(last[1].GetNonce(), "", "I refuse", "ROOTCA")
	select {
	case <-settled:
	case <-time.After(patience):
		t.Fatal("not settled after both have answered")
	}
}

func TestANewRootIsWithTheClientsBeforeItsFirstCertificate(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	roots, pairs := a.sotw(), a.sotw()
	roots.ask("", "", "", "ROOTCA")
	first := roots.hear()
	roots.ask(first.GetNonce(), first.GetVersionInfo(), "", "ROOTCA")
	pairs.ask("", "", "", "default")
	pairs.hear()
	eventually(t, "the roots are taken", func() bool {
		for _, c := range a.server.Clients() {
			if c.Secrets[0].Name == "ROOTCA" && c.Secrets[0].Acked != "" {
				return true
			}
		}
		return false
	})
	next, err := ca.New("next")
	if err != nil {
		t.Fatal(err)
	}
	a.trust(a.root, next)
	served := make(chan error, 1)
	go func() { served <- a.keeper.Serve(t.Context(), "test", time.Time{}, a.issue(next)) }()
	second := roots.hear()
	select {
	case <-served:
		t.Fatal("the certificate is served before the client has the new root")
	case <-time.After(50 * time.Millisecond):
	}
	roots.ask(second.GetNonce(), second.GetVersionInfo(), "", "ROOTCA")
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	if got := names(t, pairs.hear()); got != "default" {
		t.Errorf("then %q is sent", got)
	}
}

func TestWrongRequestsEndTheStreamWithTheReason(t *testing.T) {
	a := start(t)
	for name, r := range map[string]*discoveryv3.DiscoveryRequest{
		"*":       {TypeUrl: secretType, ResourceNames: []string{"*"}},
		"cluster": {TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster", ResourceNames: []string{"default"}},
		"no secr": {TypeUrl: secretType},
		"nothing": {TypeUrl: secretType, ResourceNames: []string{"nothing"}},
	} {
		s := a.sotw()
		if err := s.Send(r); err != nil {
			t.Fatal(err)
		}
		_, err := s.Recv()
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(strings.ToLower(err.Error()), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestANameThatCannotBeDoesNotDisturbTheOthers(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	s := a.sotw()
	s.ask("", "", "", "default", "nothing")
	first := s.hear()
	s.ask(first.GetNonce(), first.GetVersionInfo(), "", "default", "nothing")
	a.serve(a.root)
	if got := names(t, s.hear()); got != "default" {
		t.Errorf("%q", got)
	}
	if n := strings.Count(a.log.String(), "secret is not served"); n != 1 {
		t.Errorf("said %d times:\n%s", n, a.log)
	}
}

func TestDeltaClientsGetWhatTheyDoNotHave(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	open := func(known map[string]string, names ...string) secretv3.SecretDiscoveryService_DeltaSecretsClient {
		t.Helper()
		s, err := a.client.DeltaSecrets(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResourceNamesSubscribe: names, InitialResourceVersions: known}); err != nil {
			t.Fatal(err)
		}
		return s
	}
	hear := func(s secretv3.SecretDiscoveryService_DeltaSecretsClient) *discoveryv3.DeltaDiscoveryResponse {
		t.Helper()
		r, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	s := open(nil, "default", "ROOTCA")
	first := hear(s)
	versions := map[string]string{}
	for _, r := range first.GetResources() {
		versions[r.GetName()] = r.GetVersion()
	}
	if len(versions) != 2 {
		t.Fatalf("the first answer has %v", versions)
	}
	again := open(versions, "default", "ROOTCA")
	eventually(t, "the second stream is seen", func() bool { return len(a.server.Clients()) == 2 })
	a.serve(a.root)
	if r := hear(again); len(r.GetResources()) != 1 || r.GetResources()[0].GetName() != "default" {
		t.Errorf("a client that has it all gets %v", r.GetResources())
	}
	if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResponseNonce: first.GetNonce(), ResourceNamesUnsubscribe: []string{"ROOTCA"}}); err != nil {
		t.Fatal(err)
	}
	if r := hear(s); len(r.GetResources()) != 1 || r.GetResources()[0].GetName() != "default" {
		t.Errorf("after the change: %v", r.GetResources())
	}
}

func TestFetchAnswersOnce(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	r, err := a.client.FetchSecrets(t.Context(), &discoveryv3.DiscoveryRequest{ResourceNames: []string{"ROOTCA", "default"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(t, r); got != "ROOTCA default" {
		t.Errorf("%q", got)
	}
	if _, err := a.client.FetchSecrets(t.Context(), &discoveryv3.DiscoveryRequest{ResourceNames: []string{"no"}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a name that cannot be: %v", err)
	}
}

func TestTheSocketHasItsModeAndALiveOneIsNotTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "socket")
	ln, err := Listen(path, Access{Mode: 0o600})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("beside the socket: %v, %v", left, err)
	}
	if _, err := Listen(path, Access{}); err == nil || !strings.Contains(err.Error(), "another agent serves there") {
		t.Errorf("a live socket: %v", err)
	}
	ln.Close()
	if _, err := os.Lstat(path); err == nil {
		t.Error("a closed socket is still there")
	}
}

func TestAStaleSocketIsReplacedAndANewerOneIsLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	ln, err := Listen(path, Access{})
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	newer, err := Listen(path, Access{})
	if err != nil {
		t.Fatal(err)
	}
	defer newer.Close()
	ln.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Error("closing the older listener took the newer one's socket away")
	}
}

func TestWhatIsNoSocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, Access{}); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("%v", err)
	}
	if _, err := Listen(filepath.Join(t.TempDir(), strings.Repeat("x", 100)), Access{}); err == nil || !strings.Contains(err.Error(), "relative") {
		t.Errorf("a name that is too long: %v", err)
	}
}
