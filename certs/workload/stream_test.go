package workload

import (
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	pb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/certs/identity"
	"outrider/certs/workload/workloadtest"
)

func TestACertificateThatExpiresWithoutASuccessorIsToldOf(t *testing.T) {
	prod := root(t, "prod")
	v := shaped(t, prod, ca.Leaf{ID: one, NotAfter: time.Now().Add(2 * time.Second)})
	s := running(t, Options{}, answer(v))
	s.serves(identity.DefaultName, v)
	s.agent.Refuse(status.Error(codes.Unavailable, "no server"))
	s.logs.await(t, "level=ERROR", "the certificate has expired: peers refuse it", "no other one came", "no server")
	s.stillServes(v)
	next := svid(t, prod, one)
	s.agent.Answer(answer(next))
	s.serves(identity.DefaultName, next)
}

func TestDeniedIsSaidAndTriedUntilAllowed(t *testing.T) {
	s := newSite(t, Options{})
	s.listen()
	s.run()
	s.logs.await(t, "level=WARN", "no registration entry is for this process", "no identity issued")
	s.logs.await(t, "level=DEBUG", "no registration entry is for this process")
	if got := strings.Count(s.logs.String(), "level=WARN"); got != 1 {
		t.Errorf("the same reason was said loudly %d times, want once:\n%s", got, s.logs)
	}
	h, err := s.keeper.Handle(identity.DefaultName)
	if err != nil {
		t.Fatal(err)
	}
	if h.Planned().IsZero() {
		t.Error("the next try is not planned")
	}
	v := svid(t, root(t, "prod"), one)
	s.agent.Answer(answer(v))
	s.serves(identity.DefaultName, v)
}

func TestEveryEndOfTheStreamIsToldApartAndTriedAgain(t *testing.T) {
	prod := root(t, "prod")
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"invalid argument": {status.Error(codes.InvalidArgument, "bad"), "the agent refuses the request itself"},
		"canceled":         {status.Error(codes.Canceled, "bye"), "the stream has ended"},
		"unimplemented":    {status.Error(codes.Unimplemented, "what"), "does not serve the Workload API"},
		"denied":           {status.Error(codes.PermissionDenied, "no"), "no registration entry"},
		"internal":         {status.Error(codes.Internal, "oh"), "the stream has ended"},
		"without a reason": {nil, "the agent has closed the stream"},
	} {
		t.Run(name, func(t *testing.T) {
			v := svid(t, prod, one)
			s := running(t, Options{}, answer(v))
			s.serves(identity.DefaultName, v)
			s.agent.Refuse(c.err)
			s.logs.await(t, "level=WARN", c.want)
			s.logs.await(t, "level=DEBUG", c.want)
			s.stillServes(v)
			s.trusts(map[string][]*ca.CA{"prod": {prod}})
			next := svid(t, prod, one)
			s.agent.Answer(answer(next))
			s.serves(identity.DefaultName, next)
		})
	}
}

func TestAnAgentThatComesLateIsWaitedFor(t *testing.T) {
	s := newSite(t, Options{})
	s.run()
	s.logs.await(t, "level=WARN", "nobody answers there")
	v := svid(t, root(t, "prod"), one)
	s.agent.Answer(answer(v))
	s.listen()
	s.serves(identity.DefaultName, v)
}

func TestAnAgentsRestartIsSurvived(t *testing.T) {
	prod := root(t, "prod")
	v := svid(t, prod, one)
	s := running(t, Options{}, answer(v))
	s.serves(identity.DefaultName, v)
	for range 3 {
		s.stop()
		s.logs.await(t, "nobody answers there")
		s.stillServes(v)
		v = svid(t, prod, one)
		s.agent.Answer(answer(v))
		s.listen()
		s.serves(identity.DefaultName, v)
	}
}

func TestAVerifierTrustsWithoutServing(t *testing.T) {
	prod, other := root(t, "prod"), root(t, "other")
	s := newSite(t, Options{})
	s.agent.AnswerBundles(&pb.X509BundlesResponse{Bundles: map[string][]byte{
		"spiffe://prod": workloadtest.Bundle(prod.Cert), "spiffe://other": workloadtest.Bundle(other.Cert),
	}})
	s.listen()
	s.run()
	s.await(identity.RootsName, func(c *certs.Secret) bool { return len(c.Validation.TrustDomains) == 2 })
	s.logs.await(t, "level=WARN", "it verifies others with 2 bundles")
	s.trusts(map[string][]*ca.CA{"prod": {prod}, "other": {other}})
	if s.keeper.Pair() != nil {
		t.Error("a certificate is served")
	}

	young := root(t, "young")
	s.agent.AnswerBundles(&pb.X509BundlesResponse{Bundles: map[string][]byte{"spiffe://prod": workloadtest.Bundle(prod.Cert, young.Cert)}})
	s.await(identity.RootsName, func(c *certs.Secret) bool { return len(c.Validation.TrustDomains) == 1 })
	s.trusts(map[string][]*ca.CA{"prod": {prod, young}})

	s.agent.AnswerBundles(&pb.X509BundlesResponse{Bundles: map[string][]byte{"spiffe://prod": nil}})
	s.logs.await(t, "level=WARN", "its bundles are refused", "is empty")
	s.trusts(map[string][]*ca.CA{"prod": {prod, young}})
}

func TestDeniedWithACertificateKeepsTheFederatedRoots(t *testing.T) {
	prod, other := root(t, "prod"), root(t, "other")
	v := svid(t, prod, one)
	s := running(t, Options{}, federated(answer(v), "other", other.Cert))
	s.serves(identity.DefaultName, v)
	s.agent.AnswerBundles(&pb.X509BundlesResponse{Bundles: map[string][]byte{"spiffe://prod": workloadtest.Bundle(prod.Cert)}})
	s.agent.Refuse(status.Error(codes.PermissionDenied, "entry removed"))
	s.logs.await(t, "entry removed")
	s.logs.await(t, "entry removed")
	s.trusts(map[string][]*ca.CA{"prod": {prod}, "other": {other}})
}

func TestRunEndsWithItsContextWhateverItWaitsFor(t *testing.T) {
	t.Run("an update", func(t *testing.T) {
		v := svid(t, root(t, "prod"), one)
		s := running(t, Options{}, answer(v))
		s.serves(identity.DefaultName, v)
		s.end()
	})
	t.Run("the next try", func(t *testing.T) {
		s := newSite(t, Options{})
		s.source.first, s.source.most = time.Hour, time.Hour
		s.run()
		s.logs.await(t, "nobody answers there")
		s.end()
	})
	t.Run("the next try after InvalidArgument", func(t *testing.T) {
		s := newSite(t, Options{})
		s.source.first, s.source.most = time.Hour, time.Hour
		s.agent.Refuse(status.Error(codes.InvalidArgument, "bad"))
		s.listen()
		s.run()
		s.logs.await(t, "refuses the request itself")
		s.end()
	})
}

func TestWaitsGrowToTheLongestAndAreJittered(t *testing.T) {
	b := newBackoff(time.Second, 30*time.Second)
	seen := map[time.Duration]bool{}
	for range 3 {
		for i, step := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			step *= time.Second
			want := b.Upcoming()
			got := b.Next()
			if got != want || got < step/2 || got > step {
				t.Errorf("wait %d is %s, want the upcoming %s, from %s to %s", i, got, want, step/2, step)
			}
			seen[got] = true
		}
		b.Reset()
	}
	if len(seen) < 15 {
		t.Errorf("%d different waits of 21: they are not jittered", len(seen))
	}
}

// gRPC alone would wait up to two minutes between two looks at the socket.
func TestTheSocketIsTriedAsOftenAsWeWait(t *testing.T) {
	s := newSite(t, Options{})
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	calls := make(chan struct{})
	ended := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close() // not the Workload API
			select {
			case calls <- struct{}{}:
			case <-stopped:
			}
		}
	}()
	t.Cleanup(func() { close(stopped); l.Close(); <-ended })
	s.run()
	deadline := time.After(patience)
	for n := range 20 {
		select {
		case <-calls:
		case <-deadline:
			t.Fatalf("%d connections in %s, want 20", n, patience)
		}
	}
}

func TestPlaintextToAnotherHostIsToldOf(t *testing.T) {
	for address, want := range map[string]bool{
		"unix:///run/s": false, "tcp://127.0.0.1:1": false, "tcp://[::1]:1": false, "tcp://192.0.2.1:1": true,
	} {
		l := newLogs()
		if _, err := New(Options{Address: address, Log: slog.New(slog.NewTextHandler(l, nil))}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(l.String(), "private keys come over the network in plaintext"); got != want {
			t.Errorf("%s: told %v, want %v", address, got, want)
		}
	}
}
