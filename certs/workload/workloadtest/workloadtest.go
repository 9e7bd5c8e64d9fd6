// Package workloadtest is an agent of the SPIFFE Workload API for tests. It
// answers what it is told to, right or wrong.
package workloadtest

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrider/certs"
	"outrider/certs/ca"
)

// Agent answers every stream with the newest answer, and with each new one.
// Its zero value is not useful; NewAgent makes one.
type Agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer

	mu      sync.Mutex
	x509    answer        // guarded by mu
	bundles answer        // guarded by mu
	changed chan struct{} // guarded by mu; closed with each new answer
	streams int           // guarded by mu; opened so far
}

// answer is a message, or the end of the stream.
type answer struct {
	message any
	ends    bool
	err     error // nil ends it without a reason
}

// NewAgent makes an agent that denies everything.
func NewAgent() *Agent {
	denied := answer{ends: true, err: status.Error(codes.PermissionDenied, "no identity issued")}
	return &Agent{x509: denied, bundles: denied, changed: make(chan struct{})}
}

// Answer makes r the answer to FetchX509SVID.
func (a *Agent) Answer(r *workload.X509SVIDResponse) { a.set(func() { a.x509 = answer{message: r} }) }

// Refuse ends every FetchX509SVID with err, now and from now on; nil is an end
// without a reason.
func (a *Agent) Refuse(err error) { a.set(func() { a.x509 = answer{ends: true, err: err} }) }

// AnswerBundles makes r the answer to FetchX509Bundles.
func (a *Agent) AnswerBundles(r *workload.X509BundlesResponse) {
	a.set(func() { a.bundles = answer{message: r} })
}

// Streams is how many streams for certificates were opened so far.
func (a *Agent) Streams() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.streams
}

func (a *Agent) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.changed)
	a.changed = make(chan struct{})
}

// Listen serves on a unix socket at path until stop is called, which waits for
// the end and closes every stream.
func (a *Agent) Listen(ctx context.Context, path string) (stop func(), err error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, a)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // it ends by stop, or the test sees that nobody answers
	}()
	return func() { server.Stop(); <-done }, nil
}

// FetchX509SVID serves certificates.
func (a *Agent) FetchX509SVID(_ *workload.X509SVIDRequest, s grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	a.mu.Lock()
	a.streams++
	a.mu.Unlock()
	return stream(a, s, func() answer { return a.x509 })
}

// FetchX509Bundles serves bundles.
func (a *Agent) FetchX509Bundles(_ *workload.X509BundlesRequest, s grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	return stream(a, s, func() answer { return a.bundles })
}

// stream sends what current says, and again each time it is new. current is
// called with mu held.
func stream[M any](a *Agent, s grpc.ServerStreamingServer[M], current func() answer) error {
	if md, _ := metadata.FromIncomingContext(s.Context()); len(md.Get("workload.spiffe.io")) != 1 {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	var last any
	for {
		a.mu.Lock()
		now, changed := current(), a.changed
		a.mu.Unlock()
		if now.ends {
			return now.err
		}
		message, ok := now.message.(*M)
		if !ok {
			return errors.New("there is no answer")
		}
		if last != now.message {
			if err := s.Send(message); err != nil {
				return err
			}
			last = now.message
		}
		select {
		case <-changed:
		case <-s.Context().Done():
			return nil
		}
	}
}

// SVID is a certificate for id from authority as the agent sends it, with the
// bundle of the roots.
func SVID(authority *ca.CA, leaf ca.Leaf, roots ...*x509.Certificate) (*workload.X509SVID, error) {
	issued, err := authority.Issue(leaf)
	if err != nil {
		return nil, err
	}
	pair, err := certs.ParseKeyPair(issued.ChainPEM, issued.KeyPEM)
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(pair.TLS.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", leaf.ID, err)
	}
	out := &workload.X509SVID{SpiffeId: leaf.ID, X509SvidKey: key, Bundle: Bundle(roots...)}
	for _, der := range pair.TLS.Certificate {
		out.X509Svid = append(out.X509Svid, der...)
	}
	return out, nil
}

// Bundle is roots as the Workload API has them: DER, one after another.
func Bundle(roots ...*x509.Certificate) []byte {
	var out []byte
	for _, r := range roots {
		out = append(out, r.Raw...)
	}
	return out
}
