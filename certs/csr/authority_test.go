package csr

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	security "istio.io/api/security/v1alpha1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// signer is a certificate with its key: one that signs others.
type signer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// edit changes a certificate before it is signed.
type edit func(*x509.Certificate)

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newKey(t testing.TB) crypto.Signer {
	return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

func newSerial(t testing.TB) *big.Int {
	return must[*big.Int](t)(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)))
}

// sign certifies public by issuer.
func sign(t testing.TB, template *x509.Certificate, issuer *signer, public crypto.PublicKey) *x509.Certificate {
	t.Helper()
	template.SerialNumber = newSerial(t)
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, issuer.cert, public, issuer.key))
	return must[*x509.Certificate](t)(x509.ParseCertificate(der))
}

func newRoot(t testing.TB, name string, edits ...edit) *signer {
	return newSigner(t, name, nil, edits...)
}

// newSigner makes an authority below another one, or a root.
func newSigner(t testing.TB, name string, above *signer, edits ...edit) *signer {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour * 1000),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	for _, e := range edits {
		e(template)
	}
	if above == nil {
		above = &signer{template, key}
	}
	return &signer{sign(t, template, above, key.Public()), key}
}

// leaf certifies a key for a workload as istiod does.
func (s *signer) leaf(t testing.TB, public crypto.PublicKey, id string, edits ...edit) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		NotBefore: time.Now().Add(-2 * time.Minute), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if id != "" {
		template.URIs = []*url.URL{must[*url.URL](t)(url.Parse(id))}
	}
	for _, e := range edits {
		e(template)
	}
	return sign(t, template, s, public)
}

// server is a TLS certificate of those names.
func (s *signer) server(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	c := s.leaf(t, key.Public(), "", func(c *x509.Certificate) {
		for _, n := range names {
			if ip := net.ParseIP(n); ip != nil {
				c.IPAddresses = append(c.IPAddresses, ip)
			} else {
				c.DNSNames = append(c.DNSNames, n)
			}
		}
	})
	return tls.Certificate{Certificate: [][]byte{c.Raw, s.cert.Raw}, PrivateKey: key, Leaf: c}
}

// client is a TLS certificate of a workload.
func (s *signer) client(t testing.TB, id string, edits ...edit) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	c := s.leaf(t, key.Public(), id, edits...)
	return &tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}
}

func pemOf(all ...*x509.Certificate) string {
	var b bytes.Buffer
	for _, c := range all {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return b.String()
}

const workload = "spiffe://cluster.local/ns/shop/sa/cart"

// authority is a fake one over real TLS on loopback.
type authority struct {
	security.UnimplementedIstioCertificateServiceServer
	t       testing.TB
	root    *signer
	address string

	mu       sync.Mutex
	answer   func(ctx context.Context, csr *x509.CertificateRequest) ([]string, error) // guarded by mu
	date     func() string                                                             // guarded by mu; "" sends none
	requests []seen                                                                    // guarded by mu
	cert     tls.Certificate                                                           // guarded by mu
}

// seen is a request as the authority saw it.
type seen struct {
	md      metadata.MD
	req     *security.IstioCertificateRequest
	csr     *x509.CertificateRequest
	clients []*x509.Certificate
	name    string // SNI
}

// newAuthority serves at a loopback address until the test ends. clientAuth is
// what it demands of client certificates, which its root signs.
func newAuthority(t testing.TB, clientAuth tls.ClientAuthType) *authority {
	t.Helper()
	a := &authority{t: t, root: newRoot(t, "mesh root")}
	a.cert = a.root.server(t, "127.0.0.1", "istiod.istio-system.svc")
	config := &tls.Config{
		ClientAuth: clientAuth, ClientCAs: pool([]*x509.Certificate{a.root.cert}), NextProtos: []string{"h2"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			return &a.cert, nil
		},
	}
	a.address = a.serve(credentials.NewTLS(config), "tcp", "127.0.0.1:0")
	return a
}

func (a *authority) serve(creds credentials.TransportCredentials, network, at string) string {
	a.t.Helper()
	var config net.ListenConfig
	l := must[net.Listener](a.t)(config.Listen(a.t.Context(), network, at))
	var opts []grpc.ServerOption
	if creds != nil {
		opts = append(opts, grpc.Creds(creds))
	}
	server := grpc.NewServer(opts...)
	security.RegisterIstioCertificateServiceServer(server, a)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	a.t.Cleanup(func() { server.Stop(); <-done })
	return l.Addr().String()
}

func (a *authority) CreateCertificate(ctx context.Context, req *security.IstioCertificateRequest) (*security.IstioCertificateResponse, error) {
	s := seen{req: req}
	s.md, _ = metadata.FromIncomingContext(ctx)
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			s.clients, s.name = info.State.PeerCertificates, info.State.ServerName
		}
	}
	block, _ := pem.Decode([]byte(req.GetCsr()))
	if block == nil {
		return nil, status.Error(codes.InvalidArgument, "no PEM")
	}
	var err error
	if s.csr, err = x509.ParseCertificateRequest(block.Bytes); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := s.csr.CheckSignature(); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	a.mu.Lock()
	a.requests = append(a.requests, s)
	answer, date := a.answer, a.date
	a.mu.Unlock()
	if date != nil {
		_ = grpc.SetHeader(ctx, metadata.Pairs("date", date()))
	}
	if answer == nil {
		answer = a.good
	}
	chain, err := answer(ctx, s.csr)
	return &security.IstioCertificateResponse{CertChain: chain}, err
}

func (a *authority) good(_ context.Context, csr *x509.CertificateRequest) ([]string, error) {
	return []string{pemOf(a.root.leaf(a.t, csr.PublicKey, workload)), pemOf(a.root.cert)}, nil
}

// answers makes the next answers f's.
func (a *authority) answers(f func(csr *x509.CertificateRequest) ([]string, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = func(_ context.Context, csr *x509.CertificateRequest) ([]string, error) { return f(csr) }
}

// last is the newest request.
func (a *authority) last() seen {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.requests) == 0 {
		a.t.Fatal("there was no request")
	}
	return a.requests[len(a.requests)-1]
}

// count is how many requests came.
func (a *authority) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.requests)
}

// dates makes the next answers carry f's date header.
func (a *authority) dates(f func() string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.date = f
}

// bundle is the authority's root, as Trust wants it.
func (a *authority) bundle() []*x509.Certificate { return []*x509.Certificate{a.root.cert} }

// client is a client of the authority that knows its root; edits change its
// options.
func (a *authority) client(edits ...func(*Options)) *Client {
	a.t.Helper()
	opts := Options{Address: a.address, Trust: Trust{Bundle: a.bundle}}
	for _, e := range edits {
		e(&opts)
	}
	c := must[*Client](a.t)(New(opts))
	a.t.Cleanup(func() { _ = c.Close() })
	return c
}

func writeFile(t testing.TB, path, text string) string {
	t.Helper()
	if path == "" {
		path = filepath.Join(t.TempDir(), "file")
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// failed is err as an *Error with that stage, fault and code.
func failed(t testing.TB, err error, stage Stage, fault Fault, code codes.Code) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *Error", err)
	}
	if e.Stage != stage || e.Fault != fault || e.Code() != code || status.Code(err) != code {
		t.Errorf("got stage %s, fault %s, code %s (%s), want %s, %s, %s; %v", e.Stage, e.Fault, e.Code(), status.Code(err), stage, fault, code, err)
	}
	return e
}
