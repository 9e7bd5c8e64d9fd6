package agent_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	security "istio.io/api/security/v1alpha1"

	"outrider/certs/agent"
	"outrider/certs/csr"
	"outrider/certs/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const cart = "spiffe://cluster.local/ns/shop/sa/cart"

// patience bounds every wait.
const patience = 10 * time.Second

// signer is an authority's certificate with its key.
type signer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

type edit func(*x509.Certificate)

func newSigner(t *testing.T, name string) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &signer{key: key}
	s.cert = &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	s.cert = s.sign(t, s.cert, key.Public())
	return s
}

func (s *signer) sign(t *testing.T, template *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	t.Helper()
	var err error
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.cert, public, s.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// leaf certifies a key for cart, but for what edits change.
func (s *signer) leaf(t *testing.T, public crypto.PublicKey, edits ...edit) *x509.Certificate {
	t.Helper()
	id, err := url.Parse(cart)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		NotBefore: time.Now().Add(-2 * time.Minute), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{id}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, e := range edits {
		e(c)
	}
	return s.sign(t, c, public)
}

func encode(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// authority is one whose answers the test makes. It is called ca.test.
type authority struct {
	security.UnimplementedIstioCertificateServiceServer
	t       *testing.T
	root    *signer
	address string
	file    string // with its root

	mu     sync.Mutex
	answer func(*x509.CertificateRequest) ([]string, error) // guarded by mu
	ahead  time.Duration                                    // guarded by mu; of its clock
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, root: newSigner(t, "the mesh's root")}
	a.answer = a.good
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own := a.root.leaf(t, key.Public(), func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"ca.test"} })
	creds := credentials.NewServerTLSFromCert(&tls.Certificate{Certificate: [][]byte{own.Raw}, PrivateKey: key})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.address, a.file = ln.Addr().String(), file(t, "root.pem", encode(a.root.cert))
	server := grpc.NewServer(grpc.Creds(creds))
	security.RegisterIstioCertificateServiceServer(server, a)
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return a
}

// CreateCertificate answers as the test says.
func (a *authority) CreateCertificate(ctx context.Context, r *security.IstioCertificateRequest) (*security.IstioCertificateResponse, error) {
	block, _ := pem.Decode([]byte(r.GetCsr()))
	if block == nil {
		return nil, status.Error(codes.InvalidArgument, "no PEM")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ahead != 0 {
		if err := grpc.SetHeader(ctx, metadata.Pairs("date", time.Now().Add(a.ahead).UTC().Format(http.TimeFormat))); err != nil {
			return nil, err
		}
	}
	chain, err := a.answer(request)
	return &security.IstioCertificateResponse{CertChain: chain}, err
}

func (a *authority) good(r *x509.CertificateRequest) ([]string, error) {
	return a.edited()(r)
}

// edited answers with a certificate that edits have changed.
func (a *authority) edited(edits ...edit) func(*x509.CertificateRequest) ([]string, error) {
	return func(r *x509.CertificateRequest) ([]string, error) {
		return []string{encode(a.root.leaf(a.t, r.PublicKey, edits...)), encode(a.root.cert)}, nil
	}
}

// options are a client's that has no reason to fail.
func (a *authority) options() csr.Options {
	return csr.Options{
		Address: a.address, ServerName: "ca.test", Trust: csr.Trust{RootFile: a.file}, ID: spiffeid.RequireFromString(cart),
		TokenPath: filepath.Join(filepath.Dir(a.file), "token"),
	}
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// journal is a log that can be waited for.
type journal struct {
	mu    sync.Mutex
	text  string        // guarded by mu; quotes as they are
	moved chan struct{} // guarded by mu; closed at the next line
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text += strings.ReplaceAll(string(b), `\"`, `"`)
	close(j.moved)
	j.moved = make(chan struct{})
	return len(b), nil
}

func (j *journal) now() (string, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text, j.moved
}

// await waits for a line that has all of the texts.
func (j *journal) await(t *testing.T, texts ...string) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		log, moved := j.now()
		for line := range strings.Lines(log) {
			if hasAll(line, texts) {
				return
			}
		}
		select {
		case <-moved:
		case <-deadline.C:
			t.Fatalf("no line of the log has all of %q:\n%s", texts, log)
		}
	}
}

func hasAll(text string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}

// standing is an agent that runs until the test ends.
type standing struct {
	*agent.Agent
	log *journal
}

// run runs an agent, whose source is an authority unless change says otherwise.
func run(t *testing.T, opts csr.Options, change func(*agent.Config, *identity.AuthorityOptions)) *standing {
	t.Helper()
	s := &standing{log: &journal{moved: make(chan struct{})}}
	log := slog.New(slog.NewTextHandler(s.log, nil))
	client, err := csr.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	from := identity.AuthorityOptions{Issuer: client, Name: "ca " + opts.Address, Log: log}
	cfg := agent.Config{Log: log, Identity: identity.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")}}
	if change != nil {
		change(&cfg, &from)
	}
	cfg.Source = func(*identity.Keeper) (identity.Source, error) { return identity.NewAuthority(from), nil }
	if s.Agent, err = agent.New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the agent: %v", err)
		}
		if err := client.Close(); err != nil {
			t.Errorf("the client: %v", err)
		}
	})
	return s
}
