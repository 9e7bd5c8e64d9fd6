package workload

import (
	"bytes"
	"context"
	"crypto/x509"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/certs/identity"
	"outrider/certs/workload/workloadtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long something that must happen may take.
const patience = 20 * time.Second

// site is a workload beside an agent.
type site struct {
	*testing.T
	agent  *workloadtest.Agent
	socket string
	stop   func() // of the agent
	source *Source
	keeper *identity.Keeper
	logs   *logs
	end    func() // of Run
}

// newSite has the socket but nobody who listens there.
func newSite(t *testing.T, opts Options) *site {
	t.Helper()
	s := &site{T: t, agent: workloadtest.NewAgent(), socket: filepath.Join(t.TempDir(), "s"), logs: newLogs()}
	opts.Address, opts.Log = "unix://"+s.socket, slog.New(slog.NewTextHandler(s.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if s.source, err = New(opts); err != nil {
		t.Fatal(err)
	}
	s.source.first, s.source.most = 2*time.Millisecond, 20*time.Millisecond
	s.keeper = identity.NewKeeper(identity.Options{Log: opts.Log})
	return s
}

func (s *site) run() {
	s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.source.Run(ctx, s.keeper) }()
	s.end = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				s.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			s.Error("Run did not end with its context")
		}
	})
	s.Cleanup(func() { s.end() })
}

func (s *site) listen() {
	s.Helper()
	stop, err := s.agent.Listen(context.Background(), s.socket)
	if err != nil {
		s.Fatal(err)
	}
	s.stop = sync.OnceFunc(stop)
	s.Cleanup(s.stop)
}

// running is a site whose agent answers r.
func running(t *testing.T, opts Options, r *pb.X509SVIDResponse) *site {
	t.Helper()
	s := newSite(t, opts)
	s.agent.Answer(r)
	s.listen()
	s.run()
	return s
}

// await waits until the named secret is as ok wants it.
func (s *site) await(name string, ok func(*certs.Secret) bool) *certs.Secret {
	s.Helper()
	h, err := s.keeper.Handle(name)
	if err != nil {
		s.Fatal(err)
	}
	deadline := time.After(patience)
	for {
		changed := h.Changed()
		current, err := h.Current()
		if err == nil && ok(current) {
			return current
		}
		select {
		case <-changed:
		case <-deadline:
			s.Fatalf("secret %q is %+v (%v); log:\n%s", name, current, err, s.logs)
		}
	}
}

func serial(c *pb.X509SVID) string {
	certificates, err := x509.ParseCertificates(c.GetX509Svid())
	if err != nil {
		return err.Error()
	}
	return certificates[0].SerialNumber.String()
}

// serves waits until the named certificate is that one.
func (s *site) serves(name string, want *pb.X509SVID) {
	s.Helper()
	s.await(name, func(c *certs.Secret) bool { return c.KeyPair.TLS.Leaf.SerialNumber.String() == serial(want) })
}

// stillServes says that nothing has taken that certificate's place.
func (s *site) stillServes(want *pb.X509SVID) {
	s.Helper()
	if got := s.keeper.Pair(); got == nil || got.TLS.Leaf.SerialNumber.String() != serial(want) {
		s.Errorf("the default certificate is %v, want that with serial number %s", got, serial(want))
	}
}

// trusts compares all roots that are trusted, by trust domain.
func (s *site) trusts(want map[string][]*ca.CA) {
	s.Helper()
	got := map[string]map[string]bool{}
	for _, r := range s.keeper.Roots() {
		if got[r.TrustDomain.Name()] == nil {
			got[r.TrustDomain.Name()] = map[string]bool{}
		}
		got[r.TrustDomain.Name()][string(r.Cert.Raw)] = true
	}
	if len(got) != len(want) {
		s.Errorf("%d trust domains are trusted, want %d: %v", len(got), len(want), s.keeper.Roots())
	}
	for td, roots := range want {
		if len(got[td]) != len(roots) {
			s.Errorf("trust domain %q has %d roots, want %d", td, len(got[td]), len(roots))
		}
		for _, r := range roots {
			if !got[td][string(r.Cert.Raw)] {
				s.Errorf("root %q of trust domain %q is not trusted", r.Cert.Subject, td)
			}
		}
	}
}

func root(t *testing.T, name string) *ca.CA {
	t.Helper()
	c, err := ca.New(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// svid is a certificate for id with its own authority as the bundle.
func svid(t *testing.T, authority *ca.CA, id string) *pb.X509SVID {
	t.Helper()
	return shaped(t, authority, ca.Leaf{ID: id})
}

func shaped(t *testing.T, authority *ca.CA, leaf ca.Leaf) *pb.X509SVID {
	t.Helper()
	out, err := workloadtest.SVID(authority, leaf, authority.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func hinted(v *pb.X509SVID, hint string) *pb.X509SVID {
	v.Hint = hint
	return v
}

func answer(svids ...*pb.X509SVID) *pb.X509SVIDResponse { return &pb.X509SVIDResponse{Svids: svids} }

func federated(r *pb.X509SVIDResponse, td string, roots ...*x509.Certificate) *pb.X509SVIDResponse {
	if r.FederatedBundles == nil {
		r.FederatedBundles = map[string][]byte{}
	}
	r.FederatedBundles[spiffeid.RequireTrustDomainFromString(td).IDString()] = workloadtest.Bundle(roots...)
	return r
}

// logs keeps what was logged, to be waited for.
type logs struct {
	mu    sync.Mutex
	text  bytes.Buffer  // guarded by mu
	more  chan struct{} // guarded by mu; closed with the next line
	taken int           // guarded by mu; what await has gone past
}

func newLogs() *logs { return &logs{more: make(chan struct{})} }

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.more)
	l.more = make(chan struct{})
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()[:min(l.text.Len(), 4000)]
}

// await waits for a line with all of parts, after the one that the last await
// found, and returns it.
func (l *logs) await(t *testing.T, parts ...string) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		l.mu.Lock()
		more := l.more
		for line := range strings.Lines(l.text.String()[l.taken:]) {
			l.taken += len(line)
			if containsAll(line, parts) {
				l.mu.Unlock()
				return line
			}
		}
		l.mu.Unlock()
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("no line has %q; log:\n%s", parts, l)
		}
	}
}

func containsAll(line string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(line, p) {
			return false
		}
	}
	return true
}
