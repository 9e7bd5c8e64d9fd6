package csr

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrider/certs/ca/istioca"
)

// TestMachineStartsWithATokenAndRenewsWithItsCertificate goes through the life
// of a VM: its token is good for the first request, and lost or expired
// afterwards.
func TestMachineStartsWithATokenAndRenewsWithItsCertificate(t *testing.T) {
	id := spiffeid.RequireFromString(workload)
	state := must[*istioca.Authority](t)(istioca.Open(filepath.Join(t.TempDir(), "ca"), istioca.Config{TrustDomain: id.TrustDomain()}))
	server := must[*istioca.Server](t)(istioca.NewServer(state, istioca.ServerConfig{Names: []string{"ca.vm.test"}, Log: slog.New(slog.DiscardHandler)}))
	var config net.ListenConfig
	l := must[net.Listener](t)(config.Listen(t.Context(), "tcp", "127.0.0.1:0"))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	t.Cleanup(func() { stop(); <-done })

	var pair *tls.Certificate
	token := writeFile(t, "", must[string](t)(state.Token(id, istioca.DefaultAudience, time.Minute)))
	c := must[*Client](t)(New(Options{
		Address: l.Addr().String(), ServerName: "ca.vm.test", TokenPath: token, ID: id, Lifetime: time.Hour,
		Trust:       Trust{Bundle: func() []*x509.Certificate { return must[[]*x509.Certificate](t)(state.Roots()) }},
		Certificate: func() (*tls.Certificate, error) { return pair, nil },
	}))
	for _, proof := range []string{"a token", "the certificate and an expired token", "the certificate"} {
		got, err := c.Issue(t.Context())
		if err != nil {
			t.Fatalf("with %s: %v", proof, err)
		}
		if got.KeyPair.ID != id || got.Clock.From != fromMillis || differ(got.Clock) {
			t.Errorf("with %s: ID %s, clock %+v", proof, got.KeyPair.ID, got.Clock)
		}
		pair = &got.KeyPair.TLS
		if proof == "a token" {
			writeFile(t, token, expiring(time.Now().Add(-time.Hour)))
		} else if err := os.RemoveAll(token); err != nil {
			t.Fatal(err)
		}
	}
}
