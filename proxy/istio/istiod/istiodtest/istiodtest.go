// Package istiodtest is istiod's port 15012 for tests: certificates and
// configuration over TLS, for those who prove who they are with a token or a
// client certificate.
package istiodtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	security "istio.io/api/security/v1alpha1"

	"outrider/certs/ca/istioca"
	"outrider/proxy/xds/xdstest"
)

// Name is what istiod's certificate has.
const Name = "istiod.istio-system.svc"

// HealthType is the type of the reports that Reports has.
const HealthType = "type.googleapis.com/istio.v1.HealthInformation"

// Options are what an Istiod is made from. The zero value is good, but for
// Serves.
type Options struct {
	// Serves answers the streams of the workload whose node has that id.
	Serves func(node string) *xdstest.Script
	// TTL is the life of a workload's certificate; 0 is istioca's.
	TTL time.Duration
	// Listen opens the port; nil opens one of loopback.
	Listen func(address string) (net.Listener, error)
	// Address is where it listens; "" is a free port of loopback.
	Address string
}

// Istiod serves until the test ends.
type Istiod struct {
	opts      Options
	authority *istioca.Authority
	ca        *istioca.Server

	mu      sync.Mutex
	address string        // guarded by mu
	server  *grpc.Server  // guarded by mu; nil while stopped
	done    chan struct{} // guarded by mu
	streams []Stream      // guarded by mu
	reports []Report      // guarded by mu
}

// Stream is what is known of a stream that was accepted.
type Stream struct {
	ID  spiffeid.ID
	How string // "certificate SERIAL" or the token's issuer
	// Node is the node's id, "" before the first request. Have counts
	// initial_resource_versions of all its requests.
	Node string
	Have int
}

// Report is a report of a workload's health: "" is well.
type Report struct{ Node, Problem string }

// New makes an Istiod, which serves at once.
func New(t testing.TB, o Options) *Istiod {
	t.Helper()
	i := &Istiod{opts: o, address: o.Address}
	if i.address == "" {
		i.address = "127.0.0.1:0"
	}
	var err error
	if i.authority, err = istioca.Open(t.TempDir(), istioca.Config{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")}); err != nil {
		t.Fatal(err)
	}
	cfg := istioca.ServerConfig{Names: []string{Name}, DefaultTTL: o.TTL, MaxTTL: o.TTL, Log: slog.New(slog.DiscardHandler)}
	if i.ca, err = istioca.NewServer(i.authority, cfg); err != nil {
		t.Fatal(err)
	}
	i.Start(t)
	t.Cleanup(i.Stop)
	return i
}

// Start serves again, after Stop, at the same address.
func (i *Istiod) Start(t testing.TB) {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	listen := i.opts.Listen
	if listen == nil {
		listen = func(address string) (net.Listener, error) {
			return (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
		}
	}
	ln, err := listen(i.address)
	if err != nil {
		t.Fatal(err)
	}
	config, err := i.tls()
	if err != nil {
		t.Fatal(err)
	}
	i.address = ln.Addr().String()
	i.server, i.done = grpc.NewServer(grpc.Creds(credentials.NewTLS(config))), make(chan struct{})
	security.RegisterIstioCertificateServiceServer(i.server, i.ca)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(i.server, &xdstest.Script{OnDelta: i.delta})
	serve, done := i.server, i.done
	go func() {
		defer close(done)
		_ = serve.Serve(ln) // ends with Stop
	}()
}

// tls refuses client certificates that are not of this mesh in the handshake,
// as istiod does.
func (i *Istiod) tls() (*tls.Config, error) {
	roots, err := i.authority.Roots()
	if err != nil {
		return nil, err
	}
	c := i.ca.TLSConfig()
	c.ClientAuth, c.ClientCAs = tls.VerifyClientCertIfGiven, x509.NewCertPool()
	for _, r := range roots {
		c.ClientCAs.AddCert(r)
	}
	return c, nil
}

// Stop ends every stream and the listener.
func (i *Istiod) Stop() {
	i.mu.Lock()
	server, done := i.server, i.done
	i.server = nil
	i.mu.Unlock()
	if server != nil {
		server.Stop()
		<-done
	}
}

// Address is where it serves.
func (i *Istiod) Address() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.address
}

// Root writes the root to a file in dir, and returns its path.
func (i *Istiod) Root(t testing.TB, dir string) string {
	t.Helper()
	roots, err := i.authority.Roots()
	if err != nil {
		t.Fatal(err)
	}
	return Write(t, filepath.Join(dir, "root-cert.pem"), istioca.PEM(roots))
}

// Token writes a token for a workload to a file in dir, and returns its path.
func (i *Istiod) Token(t testing.TB, dir string, id spiffeid.ID) string {
	t.Helper()
	token, err := i.authority.Token(id, istioca.DefaultAudience, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return Write(t, filepath.Join(dir, "istio-token"), token)
}

// Write writes a file that everybody may read, and returns its path.
func Write(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Streams are those that were accepted so far.
func (i *Istiod) Streams() []Stream {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]Stream(nil), i.streams...)
}

// Reports are the reports of health so far.
func (i *Istiod) Reports() []Report {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]Report(nil), i.reports...)
}

// delta serves one stream.
func (i *Istiod) delta(d xdstest.Delta) error {
	id, how, err := i.ca.Caller(d.Context())
	if err != nil {
		return status.Error(codes.Unauthenticated, "authentication failure")
	}
	i.mu.Lock()
	n := len(i.streams)
	i.streams = append(i.streams, Stream{ID: id, How: how})
	i.mu.Unlock()
	s := &noting{Delta: d, istiod: i, stream: n}
	if s.first, err = s.Recv(); err != nil {
		return err
	}
	return i.opts.Serves(s.first.GetNode().GetId()).DeltaAggregatedResources(s)
}

// noting keeps reports of health to itself, which are not answered.
type noting struct {
	xdstest.Delta
	istiod *Istiod
	stream int
	first  *discoveryv3.DeltaDiscoveryRequest // nil when it has been handed on
}

// Recv implements the stream.
func (n *noting) Recv() (*discoveryv3.DeltaDiscoveryRequest, error) {
	if m := n.first; m != nil {
		n.first = nil
		return m, nil
	}
	for {
		m, err := n.Delta.Recv()
		if err != nil {
			return nil, err
		}
		if !n.istiod.note(n.stream, m) {
			return m, nil
		}
	}
}

// note keeps what a request says, and reports whether that was all.
func (i *Istiod) note(stream int, m *discoveryv3.DeltaDiscoveryRequest) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := &i.streams[stream]
	if m.GetNode() != nil {
		s.Node = m.GetNode().GetId()
	}
	s.Have += len(m.GetInitialResourceVersions())
	if m.GetTypeUrl() != HealthType {
		return false
	}
	i.reports = append(i.reports, Report{Node: s.Node, Problem: m.GetErrorDetail().GetMessage()})
	return true
}
