package sdsserver

import (
	"maps"
	"slices"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestDeltaClientsGetWhatTheyDoNotHave(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	d := a.delta()
	d.ask(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"default", "ROOTCA"}})
	_, versions := d.hear()
	if len(versions) != 2 {
		t.Fatalf("the first answer has %v", versions)
	}
	again := a.delta()
	again.ask(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"default", "ROOTCA"}, InitialResourceVersions: versions})
	eventually(t, "the second stream is seen", func() bool { c := a.server.Clients(); return len(c) == 2 && len(c[1].Secrets) == 2 })
	if got := a.server.Clients()[1].Secrets[0]; got.Acked != versions["ROOTCA"] {
		t.Errorf("what it had is said to be %+v", got)
	}
	a.serve(a.root)
	if _, got := again.hear(); len(got) != 1 || got["default"] == "" || got["default"] == versions["default"] {
		t.Errorf("a client that had %v gets %v", versions, got)
	}
	behind := a.delta()
	behind.ask(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"default", "ROOTCA"}, InitialResourceVersions: versions})
	if _, got := behind.hear(); len(got) != 1 || got["default"] == "" {
		t.Errorf("a client that missed a version gets %v", got)
	}
}

func TestDeltaClientsAreSentWhatTheyAskForAgain(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	d := a.delta()
	d.ask(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"default", "ROOTCA"}})
	first, _ := d.hear()
	d.ask(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: first.GetNonce(), ResourceNamesSubscribe: []string{"ROOTCA"}})
	if _, got := d.hear(); !slices.Equal(slices.Collect(maps.Keys(got)), []string{"ROOTCA"}) {
		t.Errorf("asked for again: %v", got)
	}
	d.ask(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesUnsubscribe: []string{"ROOTCA"}, InitialResourceVersions: map[string]string{"default": "not the first request"}})
	eventually(t, "it is given up", func() bool { c := a.server.Clients(); return len(c[0].Secrets) == 1 })
	if got := a.secret("default"); got.Sent == "not the first request" {
		t.Error("the versions of a later request are believed")
	}
	d.ask(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"ROOTCA"}})
	if _, got := d.hear(); got["ROOTCA"] == "" {
		t.Errorf("asked for after it was given up: %v", got)
	}
}

func TestARefusalOfWhatWasAskedForAgainIsLoggedOnce(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	d := a.delta()
	r := &discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"default"}}
	for range 3 {
		d.ask(r)
		answer, _ := d.hear()
		r = &discoveryv3.DeltaDiscoveryRequest{ResponseNonce: answer.GetNonce(), ErrorDetail: &statuspb.Status{Code: 3, Message: "no such curve"}, ResourceNamesSubscribe: []string{"default"}}
	}
	d.ask(r)
	last, _ := d.hear()
	if n := strings.Count(a.log.String(), "no such curve"); n != 1 {
		t.Errorf("the refusal is logged %d times:\n%s", n, a.log)
	}
	d.ask(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: last.GetNonce()})
	eventually(t, "the refusal is forgotten", func() bool {
		got := a.secret("default")
		return got.Acked != "" && got.Acked == got.Sent && got.Refused == "" && got.RefusedAt.IsZero()
	})
}

func TestDeltaClientsAreNotSentWhatTheyGaveUp(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	a.serve(a.root)
	d := a.delta()
	d.ask(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"default", "ROOTCA"}})
	first, _ := d.hear()
	d.ask(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: first.GetNonce(), ResourceNamesUnsubscribe: []string{"default"}})
	eventually(t, "it is given up", func() bool { c := a.server.Clients(); return len(c[0].Secrets) == 1 })
	a.serve(a.root)
	a.trust(a.root, a.other())
	if _, got := d.hear(); len(got) != 1 || got["ROOTCA"] == "" {
		t.Errorf("then it gets %v", got)
	}
}

// Each answer has an acknowledgement of its own, also those that cross.
func TestEachDeltaAnswerIsAcknowledgedOnItsOwn(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	d := a.delta()
	d.ask(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"default", "ROOTCA"}})
	roots, _ := d.hear()
	a.serve(a.root)
	pair, versions := d.hear()
	if len(versions) != 1 || roots.GetNonce() == pair.GetNonce() {
		t.Fatalf("the second answer has %v, nonce %s after %s", versions, pair.GetNonce(), roots.GetNonce())
	}
	for _, r := range []*discoveryv3.DeltaDiscoveryResponse{roots, pair} {
		d.ask(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: r.GetNonce()})
	}
	eventually(t, "both are settled", func() bool { return a.settled("ROOTCA") && a.settled("default") })
}

func TestWrongDeltaRequestsEndTheStream(t *testing.T) {
	a := start(t)
	for _, r := range []*discoveryv3.DeltaDiscoveryRequest{
		{},
		{ResourceNamesSubscribe: []string{"*"}},
		{ResourceNamesSubscribe: []string{"nothing"}},
	} {
		d := a.delta()
		d.ask(r)
		if _, err := d.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", r, err)
		}
	}
	d := a.delta()
	d.ask(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: slices.Repeat([]string{"default"}, maxNames+1)})
	if _, err := d.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("too many names: %v", err)
	}
}
