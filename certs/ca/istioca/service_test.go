package istioca_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	security "istio.io/api/security/v1alpha1"

	"outrider/certs/ca"
	"outrider/certs/ca/istioca"
)

// filesFor writes a certificate as `outrider ca issue` does, and loads it.
func filesFor(t *testing.T, a *istioca.Authority, id string, ttl time.Duration) *tls.Certificate {
	t.Helper()
	dir := t.TempDir()
	if _, err := a.IssueFiles(dir, spiffeid.RequireFromString(id), ttl); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert-chain.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

func TestFilesOfAMachineRenewThemselves(t *testing.T) {
	a, _ := openAuthority(t)
	r := serve(t, a, istioca.ServerConfig{})
	const id = "spiffe://cluster.local/vm/db-1" // not of Kubernetes' form
	key := newKey(t)
	r.ask(t, a, ask{cert: filesFor(t, a, id, time.Hour), csr: csrFor(t, key, id)}).leaf(t, key, id)
}

func TestFilesOfAMachineAreItsOwn(t *testing.T) {
	a, _ := openAuthority(t)
	dir := filepath.Join(t.TempDir(), "out")
	for range 2 { // the second time over those of the first
		issued, err := a.IssueFiles(dir, spiffeid.RequireFromString(web), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert-chain.pem"), filepath.Join(dir, "key.pem"))
		if err != nil || !pair.Leaf.Equal(issued.Cert) {
			t.Errorf("got another certificate, %v", err)
		}
		root, err := os.ReadFile(filepath.Join(dir, "root-cert.pem"))
		if err != nil || string(root) != issued.RootsPEM() {
			t.Errorf("root-cert.pem: %q, %v", root, err)
		}
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 3 {
		t.Errorf("got %v, %v, want three files", list, err)
	}
	for _, e := range list {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v, want 0600", e.Name(), info.Mode(), err)
		}
	}
}

func TestCallerIsRefused(t *testing.T) {
	a, _ := openAuthority(t)
	r := serve(t, a, istioca.ServerConfig{})
	foreign, err := ca.New("foreign")
	if err != nil {
		t.Fatal(err)
	}
	fake, err := foreign.Issue(ca.Leaf{ID: web})
	if err != nil {
		t.Fatal(err)
	}
	fakePair, err := tls.X509KeyPair(fake.ChainPEM, fake.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	token := ownToken(t, a, web)
	const admin = "spiffe://cluster.local/ns/dev/sa/admin"
	for name, c := range map[string]struct {
		ask  ask
		code codes.Code
		text string
		log  string
	}{
		"a certificate of another root": {ask{cert: &fakePair}, codes.Unauthenticated, "the client certificate is not accepted", "signed by unknown authority"},
		"no bearer":                     {ask{token: "Basic YTpi"}, codes.Unauthenticated, "no bearer token", "neither Bearer nor Istio"},
		"both bad":                      {ask{cert: &fakePair, token: "Bearer x"}, codes.Unauthenticated, "the client certificate is not accepted; the token cannot be read", "unknown authority"},
		"another's name, by token":      {ask{token: token, csr: csrFor(t, newKey(t), admin)}, codes.PermissionDenied, "the request names " + admin + ", and the caller is " + web, "token of outrider-ca://cluster.local"},
		"another's name, by certificate": {ask{cert: filesFor(t, a, web, time.Hour), csr: csrFor(t, newKey(t), admin)}, codes.PermissionDenied,
			"the request names " + admin + ", and the caller is " + web, "certificate "},
		"impersonation":       {ask{token: token, metadata: map[string]any{"ImpersonatedIdentity": admin}}, codes.Unauthenticated, "nobody may ask for the identity of another", admin},
		"odd impersonation":   {ask{token: token, metadata: map[string]any{"ImpersonatedIdentity": []any{admin}}}, codes.Unauthenticated, "nobody may ask", web},
		"a weak key":          {ask{token: token, csr: csrOf(t, weakKey(t), &x509.CertificateRequest{})}, codes.InvalidArgument, "an RSA key of 1024 bits", web},
		"no signing request":  {ask{token: token, csr: "x"}, codes.InvalidArgument, "it is not PEM", web},
		"a DNS name":          {ask{token: token, csr: csrOf(t, newKey(t), &x509.CertificateRequest{DNSNames: []string{"x"}})}, codes.InvalidArgument, "a workload gets its SPIFFE ID only", web},
		"a message too large": {ask{token: token, csr: strings.Repeat("x", 65<<10)}, codes.ResourceExhausted, "larger than max", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if c.ask.csr == "" {
				c.ask.csr = csrFor(t, newKey(t), "")
			}
			before := len(r.log.String())
			got := r.ask(t, a, c.ask)
			wantCode(t, got, c.code, c.text)
			if len(got.chain) > 0 {
				t.Error("there is a certificate in the refusal")
			}
			if said := r.log.String()[before:]; !strings.Contains(said, c.log) {
				t.Errorf("the log does not have %q:\n%s", c.log, said)
			}
		})
	}
}

func weakKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A certificate that has expired is no hindrance to who has a token, nor the
// other way round.
func TestOneGoodProofIsEnough(t *testing.T) {
	a, _ := openAuthority(t)
	r := serve(t, a, istioca.ServerConfig{})
	foreign, err := ca.New("foreign")
	if err != nil {
		t.Fatal(err)
	}
	fake, err := foreign.Issue(ca.Leaf{ID: web})
	if err != nil {
		t.Fatal(err)
	}
	bad, err := tls.X509KeyPair(fake.ChainPEM, fake.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	const db = "spiffe://cluster.local/ns/dev/sa/db"
	for name, c := range map[string]struct {
		ask  ask
		want string
	}{
		"a good token and a bad certificate":    {ask{cert: &bad, token: ownToken(t, a, web)}, web},
		"a good certificate and a bad token":    {ask{cert: filesFor(t, a, web, time.Hour), token: "Bearer x"}, web},
		"Istio's prefix":                        {ask{token: strings.Replace(ownToken(t, a, web), "Bearer ", "Istio ", 1)}, web},
		"both, and the request names the token": {ask{cert: filesFor(t, a, web, time.Hour), token: ownToken(t, a, db), csr: db}, db},
		"both, and the request names neither":   {ask{cert: filesFor(t, a, web, time.Hour), token: ownToken(t, a, db)}, web},
	} {
		t.Run(name, func(t *testing.T) {
			key := newKey(t)
			c.ask.csr = csrFor(t, key, c.ask.csr)
			r.ask(t, a, c.ask).leaf(t, key, c.want)
		})
	}
}

// The serving certificate is below the same root, and names no workload.
func TestServingCertificateIsNoIdentity(t *testing.T) {
	a, _ := openAuthority(t)
	r := serve(t, a, istioca.ServerConfig{})
	var serving *x509.Certificate
	conn, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: pool(t, a), ServerName: "127.0.0.1", NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	serving = conn.ConnectionState().PeerCertificates[0]
	if len(serving.URIs) != 0 || len(serving.ExtKeyUsage) != 1 || serving.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth {
		t.Errorf("got URIs %v, usages %v, want none, server only", serving.URIs, serving.ExtKeyUsage)
	}
}

func TestLifeIsWithinTheLimits(t *testing.T) {
	a, _ := openAuthority(t)
	r := serve(t, a, istioca.ServerConfig{DefaultTTL: time.Hour, MaxTTL: 2 * time.Hour})
	for name, c := range map[string]struct {
		seconds int64
		want    time.Duration
	}{
		"none asked": {0, time.Hour}, "less than none": {-5, time.Hour}, "five seconds": {5, 5 * time.Second},
		"the longest": {7200, 2 * time.Hour}, "too long": {7201, 2 * time.Hour}, "as long as can be": {1<<63 - 1, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			key, before := newKey(t), time.Now()
			leaf := r.ask(t, a, ask{token: ownToken(t, a, web), csr: csrFor(t, key, web), seconds: c.seconds}).leaf(t, key, web)
			if left := leaf.NotAfter.Sub(before); left > c.want+time.Since(before) || left < c.want-time.Second {
				t.Errorf("life: got %s, want %s", left, c.want)
			}
			if back := before.Sub(leaf.NotBefore); back < istioca.Backdate-2*time.Second || back > istioca.Backdate+2*time.Second {
				t.Errorf("begins %s before now, want %s", back, istioca.Backdate)
			}
		})
	}
	if log := r.log.String(); !strings.Contains(log, "asked_seconds=7201 shortened=true") || !strings.Contains(log, "asked_seconds=7200 shortened=false") {
		t.Errorf("the log does not say what was shortened:\n%s", log)
	}
}

func TestServerConfigIsRefused(t *testing.T) {
	a, _ := openAuthority(t)
	names := []string{"ca"}
	for want, c := range map[string]istioca.ServerConfig{
		"it is longer than the longest":             {Names: names, DefaultTTL: 2 * time.Hour, MaxTTL: time.Hour},
		"certificates have whole seconds":           {Names: names, DefaultTTL: time.Millisecond},
		"needs a DNS name or an IP address":         {},
		`token issuer "": it must be there`:         {Names: names, Issuers: []istioca.TokenIssuer{{}}},
		`token issuer "a": it must be there, once`:  {Names: names, Issuers: []istioca.TokenIssuer{{Issuer: "a"}, {Issuer: "a"}}},
		"outrider-ca://cluster.local":               {Names: names, Issuers: []istioca.TokenIssuer{{Issuer: "outrider-ca://cluster.local"}}},
		"rate -1, burst 200: they must not be nega": {Names: names, Rate: -1},
	} {
		if _, err := istioca.NewServer(a, c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestCallerThatAsksTooOftenIsToldToWait(t *testing.T) {
	a, _ := openAuthority(t)
	r := serve(t, a, istioca.ServerConfig{Rate: 0.001, Burst: 2})
	for n, want := range []codes.Code{codes.OK, codes.OK, codes.ResourceExhausted} {
		wantCode(t, r.ask(t, a, ask{token: ownToken(t, a, web), csr: csrFor(t, newKey(t), web)}), want, "")
		wantCode(t, r.ask(t, a, ask{token: "Bearer x", csr: "x"}), []codes.Code{codes.Unauthenticated, codes.Unauthenticated, codes.ResourceExhausted}[n], "")
	}
	key := newKey(t)
	const db = "spiffe://cluster.local/ns/dev/sa/db"
	r.ask(t, a, ask{token: ownToken(t, a, db), csr: csrFor(t, key, db)}).leaf(t, key, db)
}

// A running server follows what commands do to its state.
func TestServerFollowsARotationByAnotherProcess(t *testing.T) {
	a, dir := openAuthority(t)
	r := serve(t, a, istioca.ServerConfig{DefaultTTL: time.Minute, MaxTTL: time.Minute})
	key := newKey(t)
	first := r.ask(t, a, ask{token: ownToken(t, a, web), csr: csrFor(t, key, web)})
	first.leaf(t, key, web)
	other, err := istioca.OpenExisting(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.RotateRoot(istioca.Root{}, 0); err != nil {
		t.Fatal(err)
	}
	second := r.ask(t, a, ask{cert: first.certificate(key), csr: csrFor(t, key, web)})
	second.leaf(t, key, web)
	roots := second.chain[len(second.chain)-1]
	if n := strings.Count(roots, "BEGIN CERTIFICATE"); n != 2 {
		t.Errorf("the answer after rotate-root has %d roots, want 2", n)
	}
}

func TestServerAnswersAgainAfterARestart(t *testing.T) {
	a, dir := openAuthority(t)
	first := serve(t, a, istioca.ServerConfig{})
	key := newKey(t)
	had := first.ask(t, a, ask{token: ownToken(t, a, web), csr: csrFor(t, key, web)})
	had.leaf(t, key, web)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	b, err := istioca.OpenExisting(dir)
	if err != nil {
		t.Fatal(err)
	}
	second := serve(t, b, istioca.ServerConfig{})
	second.ask(t, a, ask{cert: had.certificate(key), csr: csrFor(t, key, web)}).leaf(t, key, web) // a's roots: from before
}

// rawCodec sends the bytes that it is given.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(b []byte, v any) error    { *v.(*[]byte) = b; return nil }
func (rawCodec) Name() string                       { return "proto" }
func field(n protowire.Number, b []byte) (o []byte) { return appendField(o, n, b) }
func appendField(o []byte, n protowire.Number, b []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(o, n, protowire.BytesType), b)
}

// istioCall is, byte by byte, what istio's citadel client of pilot-agent sends:
// the request with CertSigner, present and empty, in its metadata, the header
// ClusterID, and the token as per-call credentials.
func istioCall(csr string) []byte {
	value := field(3, nil)                                              // google.protobuf.Value.string_value = ""
	entry := appendField(field(1, []byte("CertSigner")), 2, value)      // Struct.FieldsEntry
	out := field(1, []byte(csr))                                        // csr
	out = protowire.AppendTag(out, 3, protowire.VarintType)             // validity_duration
	out = protowire.AppendVarint(out, uint64(24*time.Hour/time.Second)) // SECRET_TTL
	return appendField(out, 4, field(1, entry))                         // metadata
}

type istioToken string

func (i istioToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": string(i)}, nil
}
func (istioToken) RequireTransportSecurity() bool { return true }

func TestPilotAgentsRequestIsAnswered(t *testing.T) {
	a, _ := openAuthority(t)
	r := serve(t, a, istioca.ServerConfig{})
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	uri, err := url.Parse(web)
	if err != nil {
		t.Fatal(err)
	}
	csr := csrOf(t, key, &x509.CertificateRequest{Subject: pkix.Name{Organization: []string{""}}, URIs: []*url.URL{uri}})
	conn, err := grpc.NewClient(r.address, grpc.WithPerRPCCredentials(istioToken(ownToken(t, a, web))),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool(t, a), ServerName: "istiod.istio-system.svc", MinVersion: tls.VersionTLS12})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.NewOutgoingContext(t.Context(), metadata.Pairs("ClusterID", "Kubernetes"))
	sent, got := istioCall(csr), []byte(nil)
	if err := conn.Invoke(ctx, security.IstioCertificateService_CreateCertificate_FullMethodName, &sent, &got, grpc.ForceCodec(rawCodec{})); err != nil {
		t.Fatal(err)
	}
	var answer reply
	for len(got) > 0 {
		number, _, n := protowire.ConsumeTag(got)
		value, m := protowire.ConsumeBytes(got[max(n, 0):])
		if number != 1 || n < 0 || m < 0 {
			t.Fatalf("field %d of the answer: %v", number, protowire.ParseError(min(n, m)))
		}
		answer.chain = append(answer.chain, string(value))
		got = got[n+m:]
	}
	leaf := answer.leaf(t, key, web)
	if left := time.Until(leaf.NotAfter); left < 24*time.Hour-time.Minute || left > 24*time.Hour {
		t.Errorf("life: got %s, want 24h", left)
	}
}

func TestAnswerHasTheAuthoritysTime(t *testing.T) {
	a, _ := openAuthority(t)
	r := serve(t, a, istioca.ServerConfig{})
	before := time.Now().Truncate(time.Second)
	got := r.ask(t, a, ask{token: "Bearer x", csr: "x"})
	date, err := http.ParseTime(fmt.Sprint(strings.Join(got.headers.Get("date"), "")))
	if err != nil || date.Before(before) || date.After(time.Now()) {
		t.Errorf("date: got %v, %v, want now, %s", got.headers.Get("date"), err, before)
	}
}
