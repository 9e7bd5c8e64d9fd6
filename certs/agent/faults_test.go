package agent_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrider/certs/agent"
	"outrider/certs/ca/istioca"
	"outrider/certs/csr"
	"outrider/certs/identity"
	"outrider/certs/sds/sdsserver"
)

// The texts here are quoted in docs/faults.md, whose table names the cases.

// A fault that keeps the first certificate away is in the log and in what
// /healthz/ready answers, in the same words.
func TestEachFaultThatKeepsTheCertificateAwayIsSaidInItsWords(t *testing.T) {
	otherKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stranger := newSigner(t, "a stranger")
	closed := closedAddress(t)
	for _, c := range []struct {
		name  string
		fault func(*authority, *csr.Options)
		says  []string
	}{
		{"authority unreachable", func(_ *authority, o *csr.Options) { o.Address = closed },
			[]string{`connection to authority "127.0.0.1:`, "connect: connection refused"}},
		{"authority of another name", func(_ *authority, o *csr.Options) { o.ServerName = "ca.other" },
			[]string{`the authority is not "ca.other"`, "x509: certificate is valid for ca.test, not ca.other"}},
		{"authority of another root", func(_ *authority, o *csr.Options) { o.Trust.RootFile = file(t, "root.pem", encode(stranger.cert)) },
			[]string{`the authority is not "ca.test"`, "x509: certificate signed by unknown authority", "; we trust ", "(1 root)", "and our clock says"}},
		{"root file missing", func(_ *authority, o *csr.Options) { o.Trust.RootFile = "/nowhere/root-cert.pem" },
			[]string{"request to authority", "/nowhere/root-cert.pem", "no such file or directory"}},
		{"token missing", func(a *authority, o *csr.Options) {
			a.answer, o.TokenPath = refuse(codes.Unauthenticated, "not authenticated"), "/nowhere/istio-token"
		}, []string{"Unauthenticated: ", "we sent no token (/nowhere/istio-token does not exist) and presented no client certificate"}},
		{"token expired", func(a *authority, o *csr.Options) {
			a.answer, o.TokenPath = refuse(codes.Unauthenticated, "not authenticated"), file(t, "istio-token", expired())
		}, []string{"Unauthenticated: ", "we sent the token of ", ", which expired at ", "by our clock"}},
		{"token refused", func(a *authority, o *csr.Options) {
			a.answer, o.TokenPath = refuse(codes.Unauthenticated, "not authenticated: no key of that name"), file(t, "istio-token", "a.b.c")
		}, []string{`Unauthenticated: "not authenticated: no key of that name"`, "; we sent the token of "}},
		{"identity refused", func(a *authority, _ *csr.Options) {
			a.answer = refuse(codes.PermissionDenied, "the request names another")
		},
			[]string{`PermissionDenied: "the request names another"`}},
		{"answer for another key", func(a *authority, _ *csr.Options) {
			a.answer = func(*x509.CertificateRequest) ([]string, error) {
				return []string{encode(a.root.leaf(t, otherKey.Public())), encode(a.root.cert)}, nil
			}
		}, []string{"answer of authority ", "is not for our key: we asked for ECDSA on P-256", ", and it has another"}},
		{"answer for another identity", func(a *authority, _ *csr.Options) {
			a.answer = a.edited(func(c *x509.Certificate) {
				c.URIs = []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/shop/sa/admin"}}
			})
		}, []string{"the certificate is for ", "/ns/shop/sa/admin", `, wanted is "spiffe://cluster.local/ns/shop/sa/cart": it is another's`}},
		{"answer that is not valid yet", func(a *authority, _ *csr.Options) {
			a.answer = a.edited(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) })
		}, []string{"is not valid for another ", ": it is valid from ", "our clock says ", "; the authority's clock is "}},
		{"answer that has expired", func(a *authority, _ *csr.Options) {
			a.answer = a.edited(func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = c.NotBefore.Add(-2*time.Hour), c.NotAfter.Add(-2*time.Hour)
			})
		}, []string{"has expired ", " ago: it is valid from ", "our clock says ", "; the authority's clock is "}},
		{"answer that leads to no root", func(a *authority, _ *csr.Options) {
			a.answer = func(r *x509.CertificateRequest) ([]string, error) {
				return []string{encode(a.root.leaf(t, r.PublicKey)), encode(stranger.cert)}, nil
			}
		}, []string{`issued by "CN=the mesh's root"`, `does not lead to "CN=a stranger"`}},
		{"answer that is none", func(a *authority, _ *csr.Options) {
			a.answer = func(*x509.CertificateRequest) ([]string, error) { return []string{"no PEM", "no PEM"}, nil }
		}, []string{"element 1 of the chain's 2: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAuthority(t)
			opts := a.options()
			c.fault(a, &opts)
			s := run(t, opts, nil)
			s.log.await(t, append(c.says, "no new certificate", "served=none")...)
			if err := s.Ready(); err == nil || !hasAll(err.Error(), c.says) {
				t.Errorf("ready says %v, want %q in it", err, c.says)
			}
		})
	}
}

// closedAddress is one where nobody listens.
func closedAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	return ln.Addr().String()
}

func refuse(code codes.Code, text string) func(*x509.CertificateRequest) ([]string, error) {
	return func(*x509.CertificateRequest) ([]string, error) { return nil, status.Error(code, text) }
}

// expired is a token whose time was over an hour ago.
func expired() string {
	part := func(json string) string { return base64.RawURLEncoding.EncodeToString([]byte(json)) }
	return part(`{"alg":"RS256"}`) + "." + part(fmt.Sprintf(`{"exp":%d}`, time.Now().Add(-time.Hour).Unix())) + "." + part("signature")
}

// What a certificate in use meets: it goes on, and the fault is said.
func TestAClockThatIsNotTheAuthoritysIsSaid(t *testing.T) {
	a := newAuthority(t)
	a.ahead = time.Hour
	s := run(t, a.options(), nil)
	s.log.await(t, "level=WARN", "the clocks differ (the authority's clock is ", " ahead of ours, by its date header)")
	s.log.await(t, "certificate is renewed")
}

func TestAnExpiredCertificateIsSaidWithWhyThereIsNoOther(t *testing.T) {
	a := newAuthority(t)
	answered := false
	a.answer = func(r *x509.CertificateRequest) ([]string, error) {
		if answered {
			return nil, status.Error(codes.Unavailable, "it is being repaired")
		}
		answered = true
		return a.edited(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(3 * time.Second) })(r)
	}
	s := run(t, a.options(), nil)
	s.log.await(t, "certificate is renewed")
	if err := s.Ready(); err != nil {
		t.Errorf("before it expires: %v", err)
	}
	s.log.await(t, "level=ERROR", "the certificate has expired: peers refuse it", "the certificate of spiffe://cluster.local/ns/shop/sa/cart expired ", "; no other one came: ", "it is being repaired")
	if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "; no other one came: ") {
		t.Errorf("ready says %v", err)
	}
}

func TestARootThatGoesWhileItsCertificateIsInUseIsSaid(t *testing.T) {
	a := newAuthority(t)
	s := run(t, a.options(), nil)
	s.log.await(t, "certificate is renewed")
	next := identity.Bundle{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"), Roots: []*x509.Certificate{newSigner(t, "the next root").cert}}
	if err := s.Keeper().Trust("ca "+a.address, next); err != nil {
		t.Fatal(err)
	}
	s.log.await(t, "level=WARN", "our own certificate is not of the roots that are trusted now", "x509: certificate signed by unknown authority")
}

func TestADiskCopyThatIsBrokenIsPassedOver(t *testing.T) {
	a := newAuthority(t)
	dir := t.TempDir()
	for _, name := range []string{"cert-chain.pem", "key.pem", "root-cert.pem"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half of a f"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := run(t, a.options(), func(_ *agent.Config, o *identity.AuthorityOptions) { o.Disk = &identity.Disk{Dir: dir} })
	s.log.await(t, "level=WARN", "the certificate on disk is passed over", "there is no certificate in it")
	s.log.await(t, "certificate is renewed")
}

func TestADiskThatCannotBeWrittenIsSaid(t *testing.T) {
	a := newAuthority(t)
	dir := filepath.Join(file(t, "a-file", ""), "certs")
	s := run(t, a.options(), func(_ *agent.Config, o *identity.AuthorityOptions) { o.Disk = &identity.Disk{Dir: dir} })
	s.log.await(t, "level=ERROR", "the certificate cannot be kept on disk", "not a directory")
	if err := s.Ready(); err != nil {
		t.Errorf("it is served all the same: %v", err)
	}
}

func TestABundleFileOfAPartnerThatIsBrokenIsSaid(t *testing.T) {
	a := newAuthority(t)
	partner := file(t, "partner.pem", "half of a f")
	s := run(t, a.options(), func(c *agent.Config, _ *identity.AuthorityOptions) {
		files := map[spiffeid.TrustDomain]string{spiffeid.RequireTrustDomainFromString("partner.example"): partner}
		c.Roots = append(c.Roots, identity.NewBundleFiles(files, c.Log))
	})
	s.log.await(t, "level=WARN", "bundle file is refused, and what it said before stays", "bundle file "+partner+": ", "there is no certificate in it")
	s.log.await(t, "certificate is renewed")
}

func TestASocketThatAnotherAgentServesIsRefused(t *testing.T) {
	dir, err := os.MkdirTemp("", "sds") // t.TempDir's name is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "socket")
	a := newAuthority(t)
	s := run(t, a.options(), func(c *agent.Config, _ *identity.AuthorityOptions) { c.Socket = socket })
	s.log.await(t, "certificate is renewed")
	_, err = agent.New(agent.Config{
		Socket: socket, SocketAccess: sdsserver.Access{}, Log: slog.New(slog.DiscardHandler),
		Source: func(*identity.Keeper) (identity.Source, error) { return nil, nil },
	})
	if err == nil || !strings.Contains(err.Error(), "another agent serves there: stop it, or use its secrets") || !strings.Contains(err.Error(), "agent: SDS socket ") {
		t.Errorf("got %v", err)
	}
}

// Our own authority, which lets an identity ask once.
func TestAnAuthorityThatIsAskedTooOftenIsSaid(t *testing.T) {
	state, err := istioca.Open(filepath.Join(t.TempDir(), "ca"), istioca.Config{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")})
	if err != nil {
		t.Fatal(err)
	}
	server, err := istioca.NewServer(state, istioca.ServerConfig{Names: []string{"ca.test"}, Rate: 0.001, Burst: 1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the authority: %v", err)
		}
	})
	roots, err := state.Roots()
	if err != nil {
		t.Fatal(err)
	}
	id := spiffeid.RequireFromString(cart)
	token, err := state.Token(id, istioca.DefaultAudience, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	opts := csr.Options{
		Address: ln.Addr().String(), ServerName: "ca.test", ID: id, TokenPath: file(t, "token", token),
		Trust: csr.Trust{RootFile: file(t, "root.pem", istioca.PEM(roots))},
	}
	first := run(t, opts, nil)
	first.log.await(t, "certificate is renewed")
	second := run(t, opts, nil)
	second.log.await(t, "no new certificate", `ResourceExhausted: "too many requests"`)
}
