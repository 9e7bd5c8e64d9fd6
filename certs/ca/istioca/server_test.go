package istioca_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	security "istio.io/api/security/v1alpha1"

	"outrider/certs"
	"outrider/certs/ca/istioca"
)

const web = "spiffe://cluster.local/ns/dev/sa/web"

// logs is a writer for slog that a test reads.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func openAuthority(t *testing.T) (*istioca.Authority, string) {
	t.Helper()
	dir := t.TempDir() + "/state"
	a, err := istioca.Open(dir, istioca.Config{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")})
	if err != nil {
		t.Fatal(err)
	}
	return a, dir
}

// running is a server on a loopback socket.
type running struct {
	address string
	log     *logs
	stop    func() error
}

func serve(t *testing.T, a *istioca.Authority, c istioca.ServerConfig) *running {
	t.Helper()
	r := &running{log: &logs{}}
	c.Log = slog.New(slog.NewTextHandler(r.log, nil))
	if c.Names == nil {
		c.Names, c.IPs = []string{"istiod.istio-system.svc"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	s, err := istioca.NewServer(a, c)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return r
}

// ask is what a test's client sends.
type ask struct {
	token    string // with its prefix
	cert     *tls.Certificate
	csr      string
	seconds  int64
	metadata map[string]any
}

// reply is what came back.
type reply struct {
	chain   []string
	headers metadata.MD
	err     error
}

func (r *running) ask(t *testing.T, a *istioca.Authority, q ask) reply {
	t.Helper()
	conf := &tls.Config{RootCAs: pool(t, a), ServerName: "istiod.istio-system.svc"}
	if q.cert != nil {
		conf.Certificates = []tls.Certificate{*q.cert}
	}
	conn, err := grpc.NewClient(r.address, grpc.WithTransportCredentials(credentials.NewTLS(conf)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "ClusterID", "Kubernetes")
	if q.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", q.token)
	}
	req := &security.IstioCertificateRequest{Csr: q.csr, ValidityDuration: q.seconds}
	if q.metadata != nil {
		if req.Metadata, err = structpb.NewStruct(q.metadata); err != nil {
			t.Fatal(err)
		}
	}
	var out reply
	resp, err := security.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, req, grpc.Header(&out.headers))
	out.chain, out.err = resp.GetCertChain(), err
	return out
}

func pool(t *testing.T, a *istioca.Authority) *x509.CertPool {
	t.Helper()
	roots, err := a.Roots()
	if err != nil {
		t.Fatal(err)
	}
	p := x509.NewCertPool()
	for _, c := range roots {
		p.AddCert(c)
	}
	return p
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// csrFor asks for an ID; "" asks for none.
func csrFor(t *testing.T, key crypto.Signer, id string) string {
	t.Helper()
	template := &x509.CertificateRequest{}
	if id != "" {
		template.URIs = []*url.URL{spiffeid.RequireFromString(id).URL()}
	}
	return csrOf(t, key, template)
}

func csrOf(t *testing.T, key crypto.Signer, template *x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func ownToken(t *testing.T, a *istioca.Authority, id string) string {
	t.Helper()
	token, err := a.Token(spiffeid.RequireFromString(id), istioca.DefaultAudience, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + token
}

// leaf checks that the answer is a chain to the authority's roots, for key and
// ID, and returns its leaf.
func (r reply) leaf(t *testing.T, key crypto.Signer, id string) *x509.Certificate {
	t.Helper()
	if r.err != nil {
		t.Fatalf("CreateCertificate: %v", r.err)
	}
	if len(r.chain) < 2 {
		t.Fatalf("cert_chain has %d elements", len(r.chain))
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(r.chain[len(r.chain)-1])) {
		t.Fatalf("the last element has no root: %q", r.chain[len(r.chain)-1])
	}
	all, err := certs.ParseRoots([]byte(strings.Join(r.chain[:len(r.chain)-1], "")))
	if err != nil {
		t.Fatal(err)
	}
	between := x509.NewCertPool()
	for _, c := range all[1:] {
		between.AddCert(c)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := all[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Errorf("verify for usage %v: %v", usage, err)
		}
	}
	if !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(all[0].PublicKey) {
		t.Error("the certificate is for another key")
	}
	if len(all[0].URIs) != 1 || all[0].URIs[0].String() != id {
		t.Errorf("URIs: got %v, want %s", all[0].URIs, id)
	}
	return all[0]
}

// certificate makes the reply what a client presents.
func (r reply) certificate(key crypto.Signer) *tls.Certificate {
	out := &tls.Certificate{PrivateKey: key}
	for _, text := range r.chain[:len(r.chain)-1] {
		block, _ := pem.Decode([]byte(text))
		out.Certificate = append(out.Certificate, block.Bytes)
	}
	return out
}

func TestTokenBringsACertificateAndThatBringsTheNext(t *testing.T) {
	a, _ := openAuthority(t)
	r := serve(t, a, istioca.ServerConfig{})
	key := newKey(t)
	first := r.ask(t, a, ask{token: ownToken(t, a, web), csr: csrFor(t, key, web), seconds: 3600, metadata: map[string]any{"CertSigner": ""}})
	leaf := first.leaf(t, key, web)
	if left := time.Until(leaf.NotAfter); left > time.Hour || left < time.Hour-time.Minute {
		t.Errorf("life: got %s, want 1h", left)
	}
	if len(first.headers.Get("date")) != 1 || len(first.headers.Get(istioca.MillisHeader)) != 1 {
		t.Errorf("the answer has no time: %v", first.headers)
	}
	next := newKey(t)
	second := r.ask(t, a, ask{cert: first.certificate(key), csr: csrFor(t, next, "")})
	second.leaf(t, next, web)
	if !strings.Contains(r.log.String(), "caller=\"certificate ") {
		t.Errorf("the log does not say how the caller was authenticated:\n%s", r.log)
	}
}

func wantCode(t *testing.T, got reply, code codes.Code, text string) {
	t.Helper()
	if status.Code(got.err) != code || !strings.Contains(status.Convert(got.err).Message(), text) {
		t.Errorf("got %v, want %s with %q", got.err, code, text)
	}
}

func TestNobodyIsRefused(t *testing.T) {
	a, _ := openAuthority(t)
	r := serve(t, a, istioca.ServerConfig{})
	got := r.ask(t, a, ask{csr: csrFor(t, newKey(t), web)})
	wantCode(t, got, codes.Unauthenticated, "neither a client certificate nor a token")
	if len(got.headers.Get("date")) != 1 {
		t.Errorf("the refusal has no time: %v", got.headers)
	}
	if !strings.Contains(r.log.String(), "certificate refused") {
		t.Errorf("the refusal is not logged:\n%s", r.log)
	}
}
