package sdsserver

import (
	"strconv"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"

	"outrider/certs"
	"outrider/certs/ca"
)

func TestARefusalIsLoggedOnceWithItsTextAndNotSentAgain(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	s := a.sotw()
	s.ask("", "", "", "default")
	first := s.hear()
	for range 3 {
		s.ask(first.GetNonce(), "", "no such curve", "default")
	}
	eventually(t, "the refusal is kept", func() bool { return a.server.Clients()[0].Secrets[0].Refused == "no such curve" })
	a.serve(a.root)
	second := s.hear()
	if second.GetVersionInfo() == first.GetVersionInfo() {
		t.Error("what was refused is sent again")
	}
	s.ask(second.GetNonce(), second.GetVersionInfo(), "", "default")
	eventually(t, "the refusal is forgotten", func() bool {
		got := a.server.Clients()[0].Secrets[0]
		return got.Refused == "" && got.Acked == second.GetVersionInfo()
	})
	if n := strings.Count(a.log.String(), "no such curve"); n != 1 {
		t.Errorf("the refusal is logged %d times:\n%s", n, a.log)
	}
}

func TestSettledWaitsForEveryClientThatAsked(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	quick, slow, other := a.sotw(), a.sotw(), a.sotw()
	var last [2]*discoveryv3.DiscoveryResponse
	for i, s := range []sotw{quick, slow} {
		s.ask("", "", "", "ROOTCA")
		last[i] = s.hear()
	}
	other.ask("", "", "", "default")
	other.hear()
	settled := make(chan struct{})
	go func() {
		if err := a.server.Settled(t.Context(), "ROOTCA"); err != nil {
			t.Error(err)
		}
		close(settled)
	}()
	quick.ask(last[0].GetNonce(), last[0].GetVersionInfo(), "", "ROOTCA")
	eventually(t, "one has answered", func() bool {
		n := 0
		for _, c := range a.server.Clients() {
			for _, s := range c.Secrets {
				if s.Name == "ROOTCA" && s.Acked != "" {
					n++
				}
			}
		}
		return n == 1
	})
	select {
	case <-settled:
		t.Fatal("settled before the slow client has answered")
	default:
	}
	slow.ask(last[1].GetNonce(), "", "I refuse", "ROOTCA")
	select {
	case <-settled:
	case <-time.After(patience):
		t.Fatal("not settled after both have answered")
	}
}

func TestAClientThatNeverAnswersCostsNoMoreAndMoreMemory(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	pair := a.serve(a.root)
	s := a.sotw()
	a.publish(&certs.Secret{Name: "many", Version: "first", KeyPair: pair})
	s.ask("", "", "", "many")
	last := s.hear()
	for n := range 3 * maxPending {
		a.publish(&certs.Secret{Name: "many", Version: strconv.Itoa(n), KeyPair: pair})
		last = s.hear()
	}
	a.server.mu.Lock()
	for st := range a.server.streams {
		st.mu.Lock()
		if n := len(st.wanted["many"].pending); n != maxPending {
			t.Errorf("%d answers are remembered, want %d", n, maxPending)
		}
		st.mu.Unlock()
	}
	a.server.mu.Unlock()
	s.ask(last.GetNonce(), last.GetVersionInfo(), "", "many")
	eventually(t, "it has answered", func() bool { return a.secret("many").Acked == last.GetVersionInfo() })
}

func TestANewRootIsWithTheClientsBeforeItsFirstCertificate(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	roots, pairs := a.sotw(), a.sotw()
	roots.ask("", "", "", "ROOTCA")
	first := roots.hear()
	roots.ask(first.GetNonce(), first.GetVersionInfo(), "", "ROOTCA")
	pairs.ask("", "", "", "default")
	pairs.hear()
	eventually(t, "the roots are taken", func() bool {
		for _, c := range a.server.Clients() {
			if c.Secrets[0].Name == "ROOTCA" && c.Secrets[0].Acked != "" {
				return true
			}
		}
		return false
	})
	next, err := ca.New("next")
	if err != nil {
		t.Fatal(err)
	}
	a.trust(a.root, next)
	served := make(chan error, 1)
	go func() { served <- a.keeper.Serve(t.Context(), "test", time.Time{}, a.issue(next)) }()
	second := roots.hear()
	select {
	case <-served:
		t.Fatal("the certificate is served before the client has the new root")
	case <-time.After(50 * time.Millisecond):
	}
	roots.ask(second.GetNonce(), second.GetVersionInfo(), "", "ROOTCA")
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	if got := names(t, pairs.hear()); got != "default" {
		t.Errorf("then %q is sent", got)
	}
}

func TestAnAnswerThatCrossesTheNextIsStillHeard(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	old := a.serve(a.root)
	s := a.sotw()
	s.ask("", "", "", "default", "ROOTCA")
	first := s.hear()
	a.serve(a.root)
	second := s.hear()
	s.ask(first.GetNonce(), first.GetVersionInfo(), "", "default", "ROOTCA")
	eventually(t, "the roots are acknowledged", func() bool { return a.secret("ROOTCA").Acked != "" })
	got := a.secret("default")
	if got.Acked == "" || got.Acked == got.Sent {
		t.Errorf("the certificate of serial %s is said to be %+v", old.TLS.Leaf.SerialNumber, got)
	}
	if !a.settled("ROOTCA") || a.settled("default") {
		t.Errorf("roots settled %v, want true; certificate settled %v, want false", a.settled("ROOTCA"), a.settled("default"))
	}
	s.ask(second.GetNonce(), "", "too new", "default", "ROOTCA")
	eventually(t, "the certificate is refused", func() bool { return a.secret("default").Refused == "too new" })
	if !a.settled("default") {
		t.Error("a refusal does not settle")
	}
	if a.secret("ROOTCA").Refused != "" {
		t.Error("the refusal of one secret is said of the other")
	}
}

func TestARefusalOfWhatWasReplacedMeanwhileIsLogged(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	s := a.sotw()
	s.ask("", "", "", "default")
	first := s.hear()
	a.serve(a.root)
	s.hear()
	s.ask(first.GetNonce(), "", "no such curve", "default")
	eventually(t, "the refusal is logged", func() bool {
		said := a.log.String()
		return strings.Contains(said, "no such curve") && strings.Contains(said, "version="+first.GetVersionInfo()) && strings.Contains(said, "node=n")
	})
	if a.settled("default") {
		t.Error("the refusal of the version before settles the current one")
	}
}

func TestClientsAreListedWithWhatTheyHave(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	before := time.Now()
	s, d := a.sotw(), a.delta()
	s.ask("", "", "", "ROOTCA")
	got := s.hear()
	s.ask(got.GetNonce(), got.GetVersionInfo(), "", "ROOTCA")
	d.ask(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "d"}, ResourceNamesSubscribe: []string{"default", "ALL"}})
	r, _ := d.hear()
	d.ask(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: r.GetNonce(), ErrorDetail: &statuspb.Status{Code: 3}})
	eventually(t, "both have answered", func() bool { return a.settled("default") && a.settled("ROOTCA") && a.settled("ALL") })
	clients := a.server.Clients()
	if len(clients) != 2 {
		t.Fatalf("%d clients, want 2", len(clients))
	}
	for i := range clients {
		if c := &clients[i]; c.Since.Before(before) {
			t.Errorf("since %s, before it was opened", c.Since)
		}
		clients[i].Since = time.Time{}
		for j := range clients[i].Secrets {
			clients[i].Secrets[j].RefusedAt, clients[i].Secrets[j].Sent = time.Time{}, "v"
			if clients[i].Secrets[j].Acked != "" {
				clients[i].Secrets[j].Acked = "v"
			}
		}
	}
	refused := "without a reason (InvalidArgument)"
	want := []ClientStatus{
		{Node: "d", Delta: true, Secrets: []SecretStatus{{Name: "ALL", Sent: "v", Refused: refused}, {Name: "default", Sent: "v", Refused: refused}}},
		{Node: "n", Secrets: []SecretStatus{{Name: "ROOTCA", Sent: "v", Acked: "v"}}},
	}
	if diff := cmp.Diff(want, clients); diff != "" {
		t.Error(diff)
	}
}

func TestTheEndOfServeEndsStreamsThatHang(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	s := a.sotw()
	s.ask("", "", "", "default")
	eventually(t, "the stream is open", func() bool { return a.secret("default").Sent != "" })
	a.stop() // which waits
	if n := len(a.server.Clients()); n != 0 {
		t.Errorf("%d streams are left", n)
	}
	if _, err := s.Recv(); err == nil {
		_, err = s.Recv()
		if err == nil {
			t.Error("the client's stream goes on")
		}
	}
}
