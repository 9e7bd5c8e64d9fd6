package xds

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

type whole1 = *discoveryv3.DiscoveryRequest

func TestSotWAcknowledgesWithVersionAndNonce(t *testing.T) {
	inBubble(t, Options{NodeOnce: true}, func(r *rig) {
		r.subscribe(ClusterType, Wildcard)
		r.stream()
		first := request[whole1](r)
		if first.GetNode().GetId() != "node-1" || first.GetVersionInfo() != "" || len(first.GetResourceNames()) != 0 {
			t.Errorf("first request: %v, want the node, no version, no names", first)
		}
		r.answer(whole(t, ClusterType, "1", cluster("a", ""), cluster("b", "")))
		ack := request[whole1](r)
		if ack.GetVersionInfo() != "1" || ack.GetResponseNonce() != "n1" || ack.GetErrorDetail() != nil || ack.GetNode() != nil {
			t.Errorf("ACK: %v, want version 1, nonce n1, no error, no node", ack)
		}
		if got := r.taken[ClusterType].names(); got != "[a b]" {
			t.Errorf("clusters: %s, want [a b]", got)
		}
	})
}

func TestSotWSendsTheNodeEachTimeUnlessToldNotTo(t *testing.T) {
	inBubble(t, Options{}, func(r *rig) {
		r.subscribe(ClusterType, Wildcard)
		r.stream()
		request[whole1](r)
		r.answer(whole(t, ClusterType, "1"))
		if ack := request[whole1](r); ack.GetNode().GetId() != "node-1" {
			t.Errorf("second request has node %v, want node-1", ack.GetNode())
		}
	})
}

func TestSotWAbsenceRemovesOnlyWholeTypes(t *testing.T) {
	inBubble(t, Options{}, func(r *rig) {
		r.subscribe(ClusterType, Wildcard)
		r.subscribe(EndpointType, "a", "b")
		r.stream()
		r.answer(whole(t, ClusterType, "1", cluster("a", ""), cluster("b", "")))
		r.answer(whole(t, ClusterType, "2", cluster("b", "")))
		if got := r.taken[ClusterType].names(); got != "[b]" {
			t.Errorf("clusters: %s, want [b]", got)
		}
		r.answer(whole(t, EndpointType, "1", endpoints("a"), endpoints("b")))
		r.answer(whole(t, EndpointType, "2", endpoints("b")))
		if got := r.taken[EndpointType].names(); got != "[a b]" {
			t.Errorf("endpoints: %s, want [a b]", got)
		}
	})
}

func TestNACKNamesEveryMistakeAndKeepsTheOldVersion(t *testing.T) {
	for _, isDelta := range []bool{false, true} {
		inBubble(t, Options{Delta: isDelta}, func(r *rig) {
			k := r.taken[ClusterType]
			k.bad["b"] = errors.New("lb_policy: 7 is not one\nname: too long")
			k.bad["c"] = errors.New("type: no")
			r.subscribe(ClusterType, Wildcard)
			r.stream()
			var detail, version, nonce string
			if isDelta {
				request[*discoveryv3.DeltaDiscoveryRequest](r)
				r.answer(delta(t, ClusterType, "1", cluster("a", ""), cluster("b", ""), cluster("c", "")))
				n := request[*discoveryv3.DeltaDiscoveryRequest](r)
				detail, nonce = n.GetErrorDetail().GetMessage(), n.GetResponseNonce()
			} else {
				request[whole1](r)
				r.answer(whole(t, ClusterType, "1", cluster("a", ""), cluster("b", ""), cluster("c", "")))
				n := request[whole1](r)
				detail, nonce, version = n.GetErrorDetail().GetMessage(), n.GetResponseNonce(), n.GetVersionInfo()
			}
			if want := "b: lb_policy: 7 is not one\nb: name: too long\nc: type: no"; detail != want {
				t.Errorf("delta %v: detail %q, want %q", isDelta, detail, want)
			}
			if version != "" || nonce != "n1" {
				t.Errorf("delta %v: NACK has version %q and nonce %q, want the accepted one, \"\", and n1", isDelta, version, nonce)
			}
			if got := k.names(); got != "[a]" {
				t.Errorf("delta %v: in use: %s, want [a]: the others stand for themselves", isDelta, got)
			}
			if refusals := r.client.Refusals(ClusterType); len(refusals) != 2 || refusals[0].Name != "b" || refusals[0].Version != "1" {
				t.Errorf("delta %v: refusals: %v", isDelta, refusals)
			}
		})
	}
}

func TestAServerThatRepeatsWhatWasRefusedIsAnsweredSlowlyAndWithoutWork(t *testing.T) {
	inBubble(t, Options{}, func(r *rig) {
		k := r.taken[ClusterType]
		k.bad["b"] = errors.New("no")
		r.subscribe(ClusterType, Wildcard)
		r.stream()
		request[whole1](r)
		begin := time.Now()
		for range 20 {
			r.answer(whole(t, ClusterType, "1", cluster("b", "")))
			if n := request[whole1](r); n.GetErrorDetail() == nil {
				t.Fatalf("accepted: %v", n)
			}
		}
		took := time.Since(begin)
		if took < 10*time.Second {
			t.Errorf("20 refusals took %s, want at least 10s", took)
		}
		decoded := 0
		for _, u := range k.updates {
			decoded += len(u.Updated)
		}
		if most := 1 + int(took/lookAgain); decoded > most {
			t.Errorf("the resource was looked at %d times in %s, want at most %d", decoded, took, most)
		}
		delete(k.bad, "b") // what was in its way is gone
		time.Sleep(lookAgain)
		r.answer(whole(t, ClusterType, "1", cluster("b", "")))
		if ack := request[whole1](r); ack.GetErrorDetail() != nil || ack.GetVersionInfo() != "1" {
			t.Errorf("the same bytes later: %v, want an ACK of 1", ack)
		}
		if left := r.client.Refusals(ClusterType); len(left) != 0 {
			t.Errorf("refusals: %v, want none", left)
		}
	})
}

func TestASubscriptionDoesNotWaitForARefusal(t *testing.T) {
	inBubble(t, Options{}, func(r *rig) {
		r.taken[EndpointType].bad["a"] = errors.New("no")
		r.subscribe(EndpointType, "a")
		r.stream()
		request[whole1](r)
		for range 10 { // the pause grows to its longest
			r.answer(whole(t, EndpointType, "1", endpoints("a")))
			request[whole1](r)
		}
		r.answer(whole(t, EndpointType, "1", endpoints("a")))
		begin := time.Now()
		r.subscribe(EndpointType, "b")
		n := request[whole1](r)
		if took := time.Since(begin); took != 0 {
			t.Errorf("the subscription waited %s", took)
		}
		if n.GetErrorDetail() == nil || !slices.Equal(n.GetResourceNames(), []string{"a", "b"}) {
			t.Errorf("request %v, want names a and b and the refusal", n)
		}
	})
}

func TestUnchangedResourcesAreNotAppliedAgain(t *testing.T) {
	inBubble(t, Options{}, func(r *rig) {
		r.subscribe(ClusterType, Wildcard)
		r.stream()
		r.answer(whole(t, ClusterType, "1", cluster("a", ""), cluster("b", "")))
		r.answer(whole(t, ClusterType, "1", cluster("a", ""), cluster("b", ""))) // a duplicate
		r.answer(whole(t, ClusterType, "2", cluster("a", ""), cluster("b", "x")))
		var got []string
		for _, u := range r.taken[ClusterType].updates {
			var names []string
			for _, one := range u.Updated {
				names = append(names, one.Name)
			}
			got = append(got, strings.Join(names, ","))
		}
		if want := []string{"a,b", "", "b"}; !slices.Equal(got, want) {
			t.Errorf("applied %q, want %q", got, want)
		}
	})
}

func TestSotWTellsTheAcceptedVersionToTheNextStream(t *testing.T) {
	inBubble(t, Options{}, func(r *rig) {
		r.subscribe(ClusterType, Wildcard)
		r.stream()
		request[whole1](r)
		r.answer(whole(t, ClusterType, "7", cluster("a", "")))
		request[whole1](r)
		r.s.Close()
		r.stream()
		if first := request[whole1](r); first.GetVersionInfo() != "7" || first.GetResponseNonce() != "" || first.GetNode() == nil {
			t.Errorf("first request of the second stream: %v, want version 7, no nonce, the node", first)
		}
	})
}

func TestRequestsOfDependentTypesWaitForTheWholeUpdate(t *testing.T) {
	inBubble(t, Options{}, func(r *rig) {
		r.taken[ClusterType].then = func(u Update) {
			for _, one := range u.Updated {
				r.subscribe(EndpointType, one.Name)
				time.Sleep(time.Second) // the sender has had its chance
			}
		}
		r.subscribe(ClusterType, Wildcard)
		r.stream()
		request[whole1](r)
		r.answer(whole(t, ClusterType, "1", cluster("a", ""), cluster("b", ""), cluster("c", "")))
		ack, eds := request[whole1](r), request[whole1](r)
		if ack.GetTypeUrl() != ClusterType || ack.GetVersionInfo() != "1" {
			t.Errorf("first comes %v, want the ACK of CDS", ack)
		}
		if eds.GetTypeUrl() != EndpointType || !slices.Equal(eds.GetResourceNames(), []string{"a", "b", "c"}) {
			t.Errorf("then comes %v, want EDS for a, b and c", eds)
		}
		r.quiet(time.Minute)
	})
}

func TestWhatCannotBeReadIsRefusedByItsPlace(t *testing.T) {
	nonsense := &anypb.Any{TypeUrl: ClusterType, Value: []byte{0xff, 0xff}}
	nameless := &anypb.Any{TypeUrl: ClusterType}
	alien := &anypb.Any{TypeUrl: EndpointType}
	inBubble(t, Options{}, func(r *rig) {
		r.subscribe(ClusterType, Wildcard)
		r.stream()
		request[whole1](r)
		r.answer(whole(t, ClusterType, "0", cluster("kept", "")))
		request[whole1](r)
		a := whole(t, ClusterType, "1", cluster("a", ""), cluster("twice", "1"), cluster("twice", "2"))
		a.Resources = append(a.Resources, nonsense, nameless, alien)
		r.answer(a)
		detail := request[whole1](r).GetErrorDetail().GetMessage()
		for _, want := range []string{
			"resources[3]: ", "resources[4]: the resource has no name",
			`resources[5]: "` + EndpointType + `" is not the answer's type_url, "` + ClusterType + `"`,
			"twice: the answer has two resources of that name",
		} {
			if !strings.Contains(detail, want) {
				t.Errorf("detail %q lacks %q", detail, want)
			}
		}
		if got := r.taken[ClusterType].names(); got != "[a kept]" {
			t.Errorf("clusters: %s, want [a kept]: nobody knows what a broken answer leaves out", got)
		}
		r.answer(whole(t, ClusterType, "2", cluster("a", "")))
		if left := r.client.Refusals(ClusterType); len(left) != 0 {
			t.Errorf("refusals after a good answer: %v", left)
		}
		if got := r.taken[ClusterType].names(); got != "[a]" {
			t.Errorf("clusters: %s, want [a]", got)
		}
	})
}

func TestAnAnswerThatNobodyAskedForIsIgnored(t *testing.T) {
	inBubble(t, Options{}, func(r *rig) {
		r.subscribe(ClusterType, Wildcard)
		r.subscribe(EndpointType, "a")
		r.stream()
		request[whole1](r)
		request[whole1](r)
		r.answer(whole(t, ListenerType, "1"))
		r.quiet(time.Minute)
		r.answer(whole(t, EndpointType, "1", endpoints("stranger"), endpoints("a")))
		if got := r.taken[EndpointType].names(); got != "[a]" {
			t.Errorf("endpoints: %s, want [a]", got)
		}
	})
}

func TestAResourceGoesWhenItsTTLHasPassed(t *testing.T) {
	withTTL := func(version string, body *anypb.Any) *discoveryv3.DiscoveryResponse {
		a := whole(t, EndpointType, version, &discoveryv3.Resource{Name: "a", Resource: body, Ttl: durationpb.New(10 * time.Second)})
		a.TypeUrl = EndpointType
		return a
	}
	inBubble(t, Options{}, func(r *rig) {
		r.subscribe(EndpointType, "a")
		r.stream()
		r.answer(withTTL("1", pack(t, endpoints("a"))))
		time.Sleep(8 * time.Second)
		r.answer(withTTL("1", nil)) // a heartbeat
		time.Sleep(8 * time.Second)
		synctest.Wait()
		if got := r.taken[EndpointType].names(); got != "[a]" {
			t.Errorf("8s after the heartbeat: %s, want [a]", got)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if got := r.taken[EndpointType].names(); got != "[]" {
			t.Errorf("11s after the heartbeat: %s, want none", got)
		}
	})
}

func TestATTLThatIsNoneIsRefused(t *testing.T) {
	for _, ttl := range []time.Duration{0, -time.Second} {
		inBubble(t, Options{Delta: true}, func(r *rig) {
			r.subscribe(EndpointType, "a")
			r.stream()
			request[*discoveryv3.DeltaDiscoveryRequest](r)
			d := delta(t, EndpointType, "1", endpoints("a"))
			d.Resources[0].Ttl = durationpb.New(ttl)
			r.answer(d)
			if got := request[*discoveryv3.DeltaDiscoveryRequest](r).GetErrorDetail().GetMessage(); !strings.HasPrefix(got, "a: ttl: ") {
				t.Errorf("ttl %s: detail %q, want the refusal", ttl, got)
			}
		})
	}
}

func TestARefusalWithoutANameGoesWithTheNextAnswer(t *testing.T) {
	inBubble(t, Options{Delta: true}, func(r *rig) {
		r.subscribe(ClusterType, Wildcard)
		r.stream()
		d := delta(t, ClusterType, "1", cluster("a", ""))
		d.Resources = append(d.Resources, &discoveryv3.Resource{})
		r.answer(d)
		if got := r.client.Refusals(ClusterType); len(got) != 1 || got[0].Name != "resources[1]" {
			t.Errorf("refusals: %v, want that of resources[1]", got)
		}
		r.answer(delta(t, ClusterType, "2", cluster("b", "")))
		if got := r.client.Refusals(ClusterType); len(got) != 0 {
			t.Errorf("refusals after a good answer: %v", got)
		}
	})
}
