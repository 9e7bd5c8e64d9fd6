package sdsserver

import (
	"crypto"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrider/certs"
	"outrider/certs/ca"
)

func TestASecretThatIsNotThereYetIsSentWhenItComes(t *testing.T) {
	a := start(t)
	s := a.sotw()
	s.ask("", "", "", "default")
	eventually(t, "the client is seen", func() bool { return len(a.server.Clients()) == 1 && len(a.server.Clients()[0].Secrets) == 1 })
	a.trust(a.root)
	a.serve(a.root)
	if got := names(t, s.hear()); got != "default" {
		t.Errorf("the first answer has %q", got)
	}
}

func TestEachChangeIsSentOnceAndStaleAnswersAreNotHeard(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	s := a.sotw()
	s.ask("", "", "", "default", "ROOTCA")
	first := s.hear()
	if got := names(t, first); got != "ROOTCA default" {
		t.Errorf("the first answer has %q", got)
	}
	s.ask(first.GetNonce(), first.GetVersionInfo(), "", "default", "ROOTCA")
	a.serve(a.root)
	second := s.hear()
	if got := names(t, second); got != "default" {
		t.Errorf("the second answer has %q, want only what changed", got)
	}
	s.ask(first.GetNonce(), first.GetVersionInfo(), "", "ROOTCA") // stale: it must not unsubscribe default
	s.ask(second.GetNonce(), second.GetVersionInfo(), "", "default", "ROOTCA")
	eventually(t, "the second answer is acknowledged", func() bool { return a.secret("default").Acked == second.GetVersionInfo() })
	a.serve(a.root)
	third := s.hear()
	if names(t, third) != "default" || third.GetNonce() == second.GetNonce() || third.GetVersionInfo() == second.GetVersionInfo() {
		t.Errorf("the third answer has %q, nonce %s after %s, version %s after %s", names(t, third), third.GetNonce(), second.GetNonce(), third.GetVersionInfo(), second.GetVersionInfo())
	}
}

func TestWhatIsNotAskedForAnyMoreIsNotSent(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	s := a.sotw()
	s.ask("", "", "", "default", "ROOTCA")
	first := s.hear()
	s.ask(first.GetNonce(), first.GetVersionInfo(), "", "ROOTCA")
	eventually(t, "default is not asked for", func() bool { return len(a.server.Clients()[0].Secrets) == 1 })
	a.serve(a.root)
	other, err := ca.New("other")
	if err != nil {
		t.Fatal(err)
	}
	a.trust(a.root, other)
	if got := names(t, s.hear()); got != "ROOTCA" {
		t.Errorf("after default was given up: %q", got)
	}
}

func TestWrongRequestsEndTheStreamWithTheReason(t *testing.T) {
	a := start(t)
	for name, r := range map[string]*discoveryv3.DiscoveryRequest{
		"*":       {TypeUrl: secretType, ResourceNames: []string{"*"}},
		"cluster": {TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster", ResourceNames: []string{"default"}},
		"no secr": {TypeUrl: secretType},
		"nothing": {TypeUrl: secretType, ResourceNames: []string{"nothing"}},
		"by name": {TypeUrl: secretType, ResourceNames: []string{"default", "*"}},
	} {
		s := a.sotw()
		if err := s.Send(r); err != nil {
			t.Fatal(err)
		}
		_, err := s.Recv()
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(strings.ToLower(err.Error()), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestANameThatCannotBeDoesNotDisturbTheOthers(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	s := a.sotw()
	s.ask("", "", "", "nothing", "default")
	first := s.hear()
	s.ask(first.GetNonce(), first.GetVersionInfo(), "", "nothing", "default")
	a.serve(a.root)
	if got := names(t, s.hear()); got != "default" {
		t.Errorf("%q", got)
	}
	for range 3 { // as Envoy does it, whose stream for that name ends again and again
		alone := a.sotw()
		alone.ask("", "", "", "nothing")
		if _, err := alone.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("alone: %v", err)
		}
	}
	if n := strings.Count(a.log.String(), "secret is not served"); n != 1 {
		t.Errorf("said %d times:\n%s", n, a.log)
	}
}

func TestANewStreamGetsWhatItSaysItHas(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	s := a.sotw()
	s.ask("", "", "", "default")
	first := s.hear()
	again := a.sotw()
	again.ask("", first.GetVersionInfo(), "", "default")
	if got := again.hear(); got.GetVersionInfo() != first.GetVersionInfo() {
		t.Errorf("version %s, want %s", got.GetVersionInfo(), first.GetVersionInfo())
	}
	confused := a.sotw() // whose nonce is of its stream before
	confused.ask("17", first.GetVersionInfo(), "", "default")
	if got := names(t, confused.hear()); got != "default" {
		t.Errorf("%q", got)
	}
}

func TestWhatIsAskedForAgainIsSentAgain(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	s := a.sotw()
	s.ask("", "", "", "default", "ROOTCA")
	first := s.hear()
	s.ask(first.GetNonce(), first.GetVersionInfo(), "", "ROOTCA")
	s.ask(first.GetNonce(), first.GetVersionInfo(), "", "ROOTCA", "default")
	if got := names(t, s.hear()); got != "default" {
		t.Errorf("%q", got)
	}
	s.ask("2", "", "")
	eventually(t, "nothing is asked for", func() bool { c := a.server.Clients(); return len(c) == 1 && len(c[0].Secrets) == 0 })
}

func TestASecretThatCannotBeSentHoldsUpNoOther(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	pair := *a.serve(a.root)
	pair.TLS.PrivateKey = struct{ crypto.Signer }{pair.TLS.PrivateKey.(crypto.Signer)} // in hardware, as it were
	a.publish(&certs.Secret{Name: "hsm", Version: "1", KeyPair: &pair})
	s := a.sotw()
	s.ask("", "", "", "hsm", "default")
	first := s.hear()
	if got := names(t, first); got != "default" {
		t.Errorf("%q", got)
	}
	s.ask(first.GetNonce(), first.GetVersionInfo(), "", "hsm", "default")
	eventually(t, "the status says why", func() bool { return strings.Contains(a.secret("hsm").Unsent, "private key") })
	if !a.settled("hsm") {
		t.Error("what is not sent is waited for")
	}
	a.publish(&certs.Secret{Name: "hsm", Version: "2", KeyPair: a.issue(a.root)})
	if got := names(t, s.hear()); got != "hsm" {
		t.Errorf("when it can be sent: %q", got)
	}
	if got := a.secret("hsm"); got.Unsent != "" || got.Sent != "2" {
		t.Errorf("status %+v", got)
	}
	if n := strings.Count(a.log.String(), "secret cannot be sent"); n != 1 {
		t.Errorf("said %d times:\n%s", n, a.log)
	}
}

func TestFetchAnswersOnce(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	r, err := a.client.FetchSecrets(t.Context(), &discoveryv3.DiscoveryRequest{ResourceNames: []string{"ROOTCA", "default"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(t, r); got != "ROOTCA default" {
		t.Errorf("%q", got)
	}
	if _, err := a.client.FetchSecrets(t.Context(), &discoveryv3.DiscoveryRequest{ResourceNames: []string{"no"}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a name that cannot be: %v", err)
	}
}
