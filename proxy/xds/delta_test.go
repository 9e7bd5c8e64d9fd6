package xds

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

type delta1 = *discoveryv3.DeltaDiscoveryRequest

func TestDeltaSaysWhatItHasWhenItComesBack(t *testing.T) {
	inBubble(t, Options{Delta: true, NodeOnce: true}, func(r *rig) {
		r.subscribe(ClusterType, Wildcard)
		r.stream()
		if r.s.method != "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources" {
			t.Errorf("method %s", r.s.method)
		}
		if first := request[delta1](r); len(first.GetResourceNamesSubscribe()) != 0 || first.GetNode() == nil || len(first.GetInitialResourceVersions()) != 0 {
			t.Errorf("first request: %v, want the node and no names: the wildcard as Envoy asks for it", first)
		}
		r.answer(delta(t, ClusterType, "1", cluster("a", ""), cluster("b", "")))
		request[delta1](r)
		removal := delta(t, ClusterType, "2", cluster("c", ""))
		removal.RemovedResources = []string{"a"}
		r.answer(removal)
		request[delta1](r)
		r.s.Close()
		r.stream()
		first := request[delta1](r)
		if want := map[string]string{"b": "1", "c": "2"}; !maps.Equal(first.GetInitialResourceVersions(), want) {
			t.Errorf("initial_resource_versions %v, want %v", first.GetInitialResourceVersions(), want)
		}
		before := len(r.taken[ClusterType].updates)
		r.answer(delta(t, ClusterType, "3", cluster("b", ""), cluster("d", "")))
		updates := r.taken[ClusterType].updates[before:]
		if len(updates) != 1 || len(updates[0].Updated) != 1 || updates[0].Updated[0].Name != "d" {
			t.Errorf("applied after the reconnection: %v, want d alone", updates)
		}
		if got := r.taken[ClusterType].names(); got != "[b c d]" {
			t.Errorf("clusters: %s, want [b c d]", got)
		}
	})
}

func TestDeltaRefusedVersionsAreNotAmongWhatWeHave(t *testing.T) {
	inBubble(t, Options{Delta: true}, func(r *rig) {
		k := r.taken[ClusterType]
		r.subscribe(ClusterType, Wildcard)
		r.stream()
		request[delta1](r)
		r.answer(delta(t, ClusterType, "1", cluster("a", ""), cluster("b", "")))
		k.bad["a"] = errors.New("no")
		r.answer(delta(t, ClusterType, "2", cluster("a", "x"), cluster("b", "x")))
		r.s.Close()
		r.stream()
		if want, got := map[string]string{"a": "1", "b": "2"}, request[delta1](r).GetInitialResourceVersions(); !maps.Equal(got, want) {
			t.Errorf("initial_resource_versions %v, want %v", got, want)
		}
	})
}

func TestDeltaSubscriptionsAreSentAsChanges(t *testing.T) {
	inBubble(t, Options{Delta: true}, func(r *rig) {
		r.subscribe(EndpointType, "a", "b", "b")
		r.stream()
		if first := request[delta1](r); !slices.Equal(first.GetResourceNamesSubscribe(), []string{"a", "b"}) {
			t.Errorf("first request: %v", first)
		}
		r.answer(delta(t, EndpointType, "1", endpoints("a"), endpoints("b")))
		request[delta1](r)
		resume := r.client.Pause(EndpointType)
		r.subscribe(EndpointType, "c")
		r.client.Unsubscribe(EndpointType, "a", "b") // somebody else still wants b
		time.Sleep(time.Second)
		resume()
		change := request[delta1](r)
		if !slices.Equal(change.GetResourceNamesSubscribe(), []string{"c"}) || !slices.Equal(change.GetResourceNamesUnsubscribe(), []string{"a"}) || change.GetResponseNonce() != "" {
			t.Errorf("change: %v, want subscribe c, unsubscribe a, no nonce", change)
		}
		r.client.Unsubscribe(EndpointType, "b")
		r.subscribe(EndpointType, "b")
		if again := request[delta1](r); !slices.Equal(again.GetResourceNamesSubscribe(), []string{"b"}) && len(again.GetResourceNamesUnsubscribe()) != 1 {
			t.Errorf("b again: %v: it was forgotten, so it must be asked for", again)
		}
		r.s.Close()
		r.stream()
		if first := request[delta1](r); !slices.Equal(first.GetResourceNamesSubscribe(), []string{"b", "c"}) || len(first.GetInitialResourceVersions()) != 0 {
			t.Errorf("first request of the second stream: %v, want b and c, nothing known", first)
		}
	})
}

func TestDeltaEveryAnswerIsAcknowledged(t *testing.T) {
	inBubble(t, Options{Delta: true}, func(r *rig) {
		r.taken[ClusterType].then = func(Update) { time.Sleep(time.Minute) } // a slow consumer
		r.subscribe(ClusterType, Wildcard)
		r.stream()
		request[delta1](r)
		for _, v := range []string{"1", "2", "3"} {
			r.s.answers <- delta(t, ClusterType, v, cluster("a", v))
		}
		var nonces []string
		for range 3 {
			nonces = append(nonces, request[delta1](r).GetResponseNonce())
		}
		if want := []string{"n1", "n2", "n3"}; !slices.Equal(nonces, want) {
			t.Errorf("acknowledged %v, want %v", nonces, want)
		}
	})
}

func TestDeltaOrderedAnswersOfManyTypesEndInTheSameState(t *testing.T) {
	// Endpoints before the cluster that wants them, and everything twice.
	inBubble(t, Options{Delta: true}, func(r *rig) {
		r.taken[ClusterType].then = func(u Update) {
			for _, one := range u.Updated {
				r.subscribe(EndpointType, one.Name)
			}
		}
		r.subscribe(ClusterType, Wildcard)
		r.stream()
		r.answer(delta(t, EndpointType, "1", endpoints("a")))
		r.answer(delta(t, ClusterType, "1", cluster("a", "")))
		r.answer(delta(t, EndpointType, "1", endpoints("a")))
		r.answer(delta(t, ClusterType, "1", cluster("a", "")))
		r.answer(delta(t, EndpointType, "1", endpoints("a")))
		if c, e := r.taken[ClusterType].names(), r.taken[EndpointType].names(); c != "[a]" || e != "[a]" {
			t.Errorf("clusters %s, endpoints %s, want [a] and [a]", c, e)
		}
	})
}

func TestReconnectionBacksOffWithFullJitterAndForgetsItAfterAnAnswer(t *testing.T) {
	inBubble(t, Options{}, func(r *rig) {
		r.wire.setDown(errors.New("refused"))
		r.subscribe(ClusterType, Wildcard)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		r.wire.mu.Lock()
		opens := r.wire.opens
		r.wire.mu.Unlock()
		// On average every 15 s once the wait is at its longest.
		if opens < 20 || opens > 90 {
			t.Errorf("%d tries in 10 minutes, want some 40", opens)
		}
		r.wire.setDown(nil)
		r.stream()
		request[whole1](r)
		r.answer(whole(t, ClusterType, "1"))
		begin := time.Now()
		r.s.Close()
		r.stream()
		if took := time.Since(begin); took > firstWait {
			t.Errorf("after a good stream the next came after %s, want at most %s", took, firstWait)
		}
	})
}

func TestFirstEndsWithAnAnswerOrItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.client.Register(Type{URL: ListenerType, Apply: func(Update) map[string]error { return nil }, FetchTimeout: 15 * time.Second})
		begin := time.Now()
		go func() { _ = r.client.Run(t.Context()) }() // the bubble waits for it
		synctest.Wait()
		r.subscribe(ListenerType, Wildcard)
		r.subscribe(ClusterType, Wildcard)
		<-r.client.First(ListenerType)
		if took := time.Since(begin); took != 15*time.Second {
			t.Errorf("First ended after %s, want 15s", took)
		}
		r.stream()
		select {
		case <-r.client.First(ClusterType):
			t.Error("without a timeout First ended without an answer")
		case <-time.After(time.Hour):
		}
		r.taken[ClusterType].bad["a"] = errors.New("no")
		r.answer(whole(t, ClusterType, "1", cluster("a", "")))
		select {
		case <-r.client.First(ClusterType):
		default:
			t.Error("First did not end with a refused answer")
		}
	})
}

func TestRateHoldsRequestsBack(t *testing.T) {
	inBubble(t, Options{Delta: true, Rate: &Rate{Tokens: 2, PerSecond: 0.5}}, func(r *rig) {
		r.subscribe(ClusterType, Wildcard)
		r.stream()
		request[delta1](r)
		begin := time.Now()
		for _, v := range []string{"1", "2", "3"} {
			r.answer(delta(t, ClusterType, v, cluster("a", v)))
			request[delta1](r)
		}
		if took := time.Since(begin); took < 3900*time.Millisecond || took > 4100*time.Millisecond {
			t.Errorf("4 requests with 2 tokens and one more each 2s took %s, want 4s", took)
		}
	})
}

func TestDeltaAnswersAskForNothing(t *testing.T) {
	inBubble(t, Options{Delta: true}, func(r *rig) {
		r.taken[EndpointType].bad["a"] = errors.New("no")
		r.subscribe(EndpointType, "a")
		r.stream()
		request[delta1](r)
		r.s.answers <- delta(t, EndpointType, "1", endpoints("a"))
		synctest.Wait()
		begin := time.Now()
		r.subscribe(EndpointType, "b")
		ask, nack := request[delta1](r), request[delta1](r)
		if ask.GetResponseNonce() != "" || ask.GetErrorDetail() != nil || !slices.Equal(ask.GetResourceNamesSubscribe(), []string{"b"}) {
			t.Errorf("first %v, want b asked for alone", ask)
		}
		if nack.GetResponseNonce() != "n1" || nack.GetErrorDetail() == nil || len(nack.GetResourceNamesSubscribe()) != 0 {
			t.Errorf("then %v, want the refusal alone", nack)
		}
		if took := time.Since(begin); took != firstPause {
			t.Errorf("the refusal came after %s, want %s", took, firstPause)
		}
		resume := r.client.Pause(EndpointType)
		r.s.answers <- delta(t, EndpointType, "2", endpoints("b"))
		synctest.Wait()
		r.subscribe(EndpointType, "c")
		resume()
		ack, ask := request[delta1](r), request[delta1](r)
		if ack.GetResponseNonce() != "n2" || len(ack.GetResourceNamesSubscribe()) != 0 || ask.GetResponseNonce() != "" || len(ask.GetResourceNamesSubscribe()) != 1 {
			t.Errorf("got %v and %v, want an acknowledgement, then c asked for", ack, ask)
		}
	})
}
