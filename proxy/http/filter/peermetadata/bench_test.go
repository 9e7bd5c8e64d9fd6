package peermetadata_test

import (
	"testing"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/filter/filtertest"
	"outrider/proxy/http/filter/peermetadata"
	"outrider/proxy/http/message"
	"outrider/proxy/istio/peer"
	"outrider/proxy/stats"
)

// request is a stream of which only the Info is asked for.
type request struct {
	filter.Stream
	info *flow.Info
}

func (r *request) Info() *flow.Info { return r.info }

// serve has the filter see a request of a client that it knows, and the answer.
func serve(tb testing.TB) func() {
	tb.Helper()
	f, err := peermetadata.New(&config.HTTPFilter{Config: inbound()}, filtertest.Deps(stats.New()))
	if err != nil {
		tb.Fatal(err)
	}
	w := peer.Workload{Name: "client", Namespace: "ns", App: "a", Labels: `{"role":"front"}`}
	header, err := w.Header()
	if err != nil {
		tb.Fatal(err)
	}
	s := &request{info: (&flow.Info{}).NewRequest(time.Now())}
	head, answer := message.NewHead(), message.NewHead()
	return func() {
		s.info.DownstreamPeer = nil
		head.Fields, answer.Fields = head.Fields[:0], answer.Fields[:0]
		head.Fields.Add("x-envoy-peer-metadata", header)
		head.Fields.Add("x-envoy-peer-metadata-id", "sidecar~client")
		one := f.New(s)
		one.RequestHead(head, true)
		one.ResponseHead(answer, true)
		one.End()
		if s.info.DownstreamPeer == nil || len(head.Fields) != 0 || len(answer.Fields) != 2 {
			tb.Fatal("the peers did not speak")
		}
	}
}

func TestAKnownPeerTakesNoMemoryButTheFilter(t *testing.T) {
	if n := testing.AllocsPerRun(100, serve(t)); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRequestOfAKnownPeer(b *testing.B) {
	run := serve(b)
	b.ReportAllocs()
	for b.Loop() {
		run()
	}
}
