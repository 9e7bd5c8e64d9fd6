package csr

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestIssueServesLeafAndIntermediatesAndGivesTheRoots(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	middle := newSigner(t, "middle", a.root)
	other := newRoot(t, "other root")
	a.answers(func(csr *x509.CertificateRequest) ([]string, error) {
		leaf := middle.leaf(t, csr.PublicKey, workload)
		// As istiod: elements with newlines, roots in the middle, many at the end.
		return []string{pemOf(leaf) + "\n", pemOf(middle.cert, a.root.cert) + "\n", pemOf(a.root.cert, other.cert) + "\n"}, nil
	})
	got, err := a.client().Issue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pair := got.KeyPair
	if n := len(pair.TLS.Certificate); n != 2 || string(pair.TLS.Certificate[1]) != string(middle.cert.Raw) {
		t.Errorf("%d certificates are served, want the leaf and its intermediate", n)
	}
	if pair.ID.String() != workload || pair.TLS.Leaf == nil || string(pair.TLS.Certificate[0]) != string(pair.TLS.Leaf.Raw) {
		t.Errorf("ID %s, leaf %v", pair.ID, pair.TLS.Leaf)
	}
	if len(got.Roots) != 2 || !got.Roots[0].Equal(a.root.cert) || !got.Roots[1].Equal(other.cert) {
		t.Errorf("%d roots, want the two that came", len(got.Roots))
	}
	if !a.last().csr.PublicKey.(*ecdsa.PublicKey).Equal(pair.TLS.Leaf.PublicKey) {
		t.Error("the certificate is not for the key that was sent")
	}
}

func TestEachRequestHasItsOwnKey(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	c := a.client()
	var keys []*ecdsa.PrivateKey
	for range 2 {
		got, err := c.Issue(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, got.KeyPair.TLS.PrivateKey.(*ecdsa.PrivateKey))
	}
	if keys[0].Equal(keys[1]) {
		t.Error("the same key was used twice")
	}
}

func TestRequestSaysWhatIstiodExpects(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	path := writeFile(t, "", "  jwt-one \n")
	c := a.client(func(o *Options) {
		o.TokenPath, o.ClusterID, o.CertSigner, o.Lifetime = path, "Kubernetes", "clusterissuers/x", 90*time.Minute
		o.Headers = map[string]string{"X-Team": "shop"}
		o.ID = spiffeid.RequireFromString(workload)
		o.ServerName = "istiod.istio-system.svc"
	})
	if _, err := c.Issue(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := a.last()
	for name, want := range map[string]string{"authorization": "Bearer jwt-one", "clusterid": "Kubernetes", "x-team": "shop"} {
		if got := s.md.Get(name); len(got) != 1 || got[0] != want {
			t.Errorf("header %s is %q, want %q", name, got, want)
		}
	}
	if got := s.req.GetMetadata().GetFields()["CertSigner"].GetStringValue(); got != "clusterissuers/x" {
		t.Errorf("CertSigner is %q", got)
	}
	if s.req.GetValidityDuration() != 5400 {
		t.Errorf("validity is %d, want 5400 seconds", s.req.GetValidityDuration())
	}
	if len(s.csr.URIs) != 1 || s.csr.URIs[0].String() != workload {
		t.Errorf("URIs of the request are %v", s.csr.URIs)
	}
	if o := s.csr.Subject.Organization; len(o) != 1 || o[0] != "" {
		t.Errorf("organisation of the request is %q, want one empty one", o)
	}
	if s.name != "istiod.istio-system.svc" {
		t.Errorf("SNI is %q", s.name)
	}
}

func TestRequestWithoutOptionsHasNoneOfTheHeaders(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	if _, err := a.client().Issue(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := a.last()
	if len(s.md.Get("authorization"))+len(s.md.Get("clusterid")) != 0 || len(s.csr.URIs) != 0 {
		t.Errorf("headers %v, URIs %v, want none", s.md, s.csr.URIs)
	}
	if v, ok := s.req.GetMetadata().GetFields()["CertSigner"]; !ok || v.GetStringValue() != "" {
		t.Error("there is no empty CertSigner")
	}
}

func TestKeysAreOfTheKindThatWasAskedFor(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	for _, c := range []struct {
		key  Key
		want string
	}{{"", "ECDSA on P-256"}, {P256, "ECDSA on P-256"}, {P384, "ECDSA on P-384"}, {RSA(2048), "RSA of 2048 bits"}, {RSA(3072), "RSA of 3072 bits"}} {
		t.Run("key "+string(c.key), func(t *testing.T) {
			got, err := a.client(func(o *Options) { o.Key = c.key }).Issue(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if kind := kindOf(got.KeyPair.TLS.Leaf.PublicKey); kind != c.want {
				t.Errorf("got %s, want %s", kind, c.want)
			}
		})
	}
}

func TestTimeAndCallersEndARequest(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	entered := make(chan struct{}, 10)
	a.mu.Lock()
	a.answer = func(ctx context.Context, _ *x509.CertificateRequest) ([]string, error) {
		entered <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	a.mu.Unlock()
	t.Run("no answer in time", func(t *testing.T) {
		_, err := a.client(func(o *Options) { o.Timeout = 200 * time.Millisecond }).Issue(t.Context())
		failed(t, err, StageRequest, Network, codes.DeadlineExceeded)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer within 200ms") {
			t.Errorf("got %v", err)
		}
		<-entered
	})
	t.Run("the caller gives up", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		mine := errors.New("shutting down")
		go func() { <-entered; cancel(mine) }()
		_, err := a.client().Issue(ctx)
		failed(t, err, StageRequest, Ours, codes.Canceled)
		if !errors.Is(err, mine) || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("closed while it waits, and before", func(t *testing.T) {
		c := a.client()
		go func() { <-entered; _ = c.Close() }()
		for range 2 {
			_, err := c.Issue(t.Context())
			var e *Error
			if !errors.Is(err, ErrClosed) || !errors.As(err, &e) || e.Code() != codes.Canceled {
				t.Errorf("got %v, want ErrClosed", err)
			}
		}
	})
}

func TestRefusalKeepsCodeAndWordsButNotTheToken(t *testing.T) {
	a := newAuthority(t, tls.NoClientCert)
	secret := "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjYXJ0In0.c2lnbmF0dXJlLW9mLWNhcnQ"
	path := writeFile(t, "", secret)
	for _, c := range []struct {
		code  codes.Code
		fault Fault
	}{
		{codes.Unauthenticated, Ours}, {codes.PermissionDenied, Ours}, {codes.InvalidArgument, Ours},
		{codes.Internal, Authority}, {codes.Unknown, Authority}, {codes.Unimplemented, Authority}, {codes.ResourceExhausted, Authority},
		{codes.Unavailable, Network},
	} {
		t.Run(c.code.String(), func(t *testing.T) {
			a.answers(func(*x509.CertificateRequest) ([]string, error) {
				return nil, status.Errorf(c.code, "will not have %s nor %s: %s", secret, secret[25:50], strings.Repeat("x", 10000))
			})
			_, err := a.client(func(o *Options) { o.TokenPath = path }).Issue(t.Context())
			e := failed(t, err, StageRequest, c.fault, c.code)
			if !strings.Contains(err.Error(), "will not have [token] nor [token]") || !strings.Contains(e.Proof, "sent the token of "+path) {
				t.Errorf("got %v", err)
			}
			if len(err.Error()) > 2000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			for err := error(e); err != nil; err = errors.Unwrap(err) {
				if strings.Contains(err.Error(), secret[25:50]) {
					t.Errorf("the token is in %v", err)
				}
			}
		})
	}
}
