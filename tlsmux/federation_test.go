package tlsmux

import (
	"context"
	"crypto/x509"
	"path/filepath"
	"testing"
	"time"

	pb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"

	"outrider/certs"
	"outrider/certs/ca"
	"outrider/certs/identity"
	"outrider/certs/workload"
	"outrider/certs/workload/workloadtest"
)

// authority is a trust domain's, for tests that need the whole way of a bundle
// from the Workload API to a handshake.
type authority struct {
	*testing.T
	*ca.CA
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	c, err := ca.New(name)
	if err != nil {
		t.Fatal(err)
	}
	return authority{t, c}
}

// pair is a certificate of a in the configuration, whatever its ID says.
func (a authority) pair(id string) certs.Ref {
	a.Helper()
	issued, err := a.Issue(ca.Leaf{ID: id})
	if err != nil {
		a.Fatal(err)
	}
	pair, err := certs.ParseKeyPair(issued.ChainPEM, issued.KeyPEM)
	if err != nil {
		a.Fatal(err)
	}
	return certs.Ref{Inline: &certs.Secret{Version: pair.TLS.Leaf.SerialNumber.String(), KeyPair: pair}}
}

func (a authority) svid(id string) *pb.X509SVID {
	a.Helper()
	out, err := workloadtest.SVID(a.CA, ca.Leaf{ID: id}, a.Cert)
	if err != nil {
		a.Fatal(err)
	}
	return out
}

// attested is a workload that has its identity from the Workload API.
type attested struct {
	*testing.T
	agent  *workloadtest.Agent
	keeper *identity.Keeper
}

func attest(t *testing.T) *attested {
	t.Helper()
	a := &attested{T: t, agent: workloadtest.NewAgent(), keeper: identity.NewKeeper(identity.Options{})}
	socket := filepath.Join(t.TempDir(), "s")
	stop, err := a.agent.Listen(context.Background(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	source, err := workload.New(workload.Options{Address: "unix://" + socket})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- source.Run(ctx, a.keeper) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return a
}

// given answers r and waits until the certificate and that many trust domains
// are there. It returns a store with both, as a proxy has it.
func (a *attested) given(r *pb.X509SVIDResponse, domains int) *certs.Store {
	a.Helper()
	a.agent.Answer(r)
	deadline := time.After(20 * time.Second)
	trust, err := a.keeper.Handle(identity.RootsName)
	if err != nil {
		a.Fatal(err)
	}
	key, err := a.keeper.Handle(identity.DefaultName)
	if err != nil {
		a.Fatal(err)
	}
	for {
		trustChanged, keyChanged := trust.Changed(), key.Changed()
		bundles, trustErr := trust.Current()
		pair, keyErr := key.Current()
		if trustErr == nil && keyErr == nil && len(bundles.Validation.TrustDomains) == domains {
			store := noFeeds()
			store.SetStatic([]*certs.Secret{bundles, pair})
			return store
		}
		select {
		case <-trustChanged:
		case <-keyChanged:
		case <-deadline:
			a.Fatalf("after 20 s: roots %v, certificate %v", trustErr, keyErr)
		}
	}
}

// meetBothWays has the workload be the server of a client with that
// certificate, and the client of a server with it. The peer itself takes
// whatever certificate comes from roots.
func meetBothWays(t *testing.T, store *certs.Store, peer certs.Ref, roots []*x509.Certificate, want Reason) {
	t.Helper()
	trust := certs.Ref{Name: identity.RootsName}
	ours := CommonConfig{Certificates: []certs.Ref{{Name: identity.DefaultName}}, ValidationRef: &trust}
	theirs := CommonConfig{Certificates: []certs.Ref{peer}, Validation: &certs.Validation{Roots: roots}}

	asServer := shakeHands(t, NewClient(&ClientConfig{CommonConfig: theirs}, noFeeds()),
		NewServer(&ServerConfig{CommonConfig: ours, RequireClientCertificate: true}, store), ClientOptions{})
	if got := reasonOf(asServer.serverErr); got != want {
		t.Errorf("our server: %q (%v), want %q", got, asServer.serverErr, want)
	}
	asClient := shakeHands(t, NewClient(&ClientConfig{CommonConfig: ours}, store),
		NewServer(&ServerConfig{CommonConfig: theirs, RequireClientCertificate: true}, noFeeds()), ClientOptions{})
	if got := reasonOf(asClient.clientErr); got != want {
		t.Errorf("our client: %q (%v), want %q", got, asClient.clientErr, want)
	}
}

// SPIFFE's rule: an ID is verified with the bundle of its own trust domain,
// and with no other that happens to be known.
func TestAFederatedBundleVouchesForItsOwnTrustDomainOnly(t *testing.T) {
	prod, dev, stray := newAuthority(t, "prod"), newAuthority(t, "dev"), newAuthority(t, "stray")
	roots := []*x509.Certificate{prod.Cert}
	a := attest(t)
	us := prod.svid("spiffe://prod/us")
	alone := &pb.X509SVIDResponse{Svids: []*pb.X509SVID{us}}
	both := &pb.X509SVIDResponse{Svids: []*pb.X509SVID{us}, FederatedBundles: map[string][]byte{"spiffe://dev": workloadtest.Bundle(dev.Cert)}}
	for _, step := range []struct {
		name    string
		answer  *pb.X509SVIDResponse
		domains int
		devMay  Reason // what a member of dev comes to
	}{
		{"before federation", alone, 1, ReasonUnknownRoot},
		{"federated", both, 2, ""},
		{"after federation", alone, 1, ReasonUnknownRoot},
	} {
		store := a.given(step.answer, step.domains)
		for _, c := range []struct {
			name   string
			signer authority
			id     string
			want   Reason
		}{
			{"a member of our own domain", prod, "spiffe://prod/them", ""},
			{"a member of the other domain", dev, "spiffe://dev/them", step.devMay},
			{"our domain's ID from the other's authority", dev, "spiffe://prod/them", ReasonUnknownRoot},
			{"the other domain's ID from our authority", prod, "spiffe://dev/them", ReasonUnknownRoot},
			{"an unknown domain's ID from our authority", prod, "spiffe://elsewhere/them", ReasonUnknownRoot},
			{"an unknown domain's ID from the other's authority", dev, "spiffe://elsewhere/them", ReasonUnknownRoot},
			{"our domain's ID from nobody's authority", stray, "spiffe://prod/them", ReasonUnknownRoot},
		} {
			t.Run(step.name+"/"+c.name, func(t *testing.T) {
				meetBothWays(t, store, c.signer.pair(c.id), roots, c.want)
			})
		}
	}
}
