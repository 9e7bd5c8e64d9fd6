package flow

import (
	"testing"
	"time"

	"outrider/proxy/http/message"
	"outrider/proxy/istio/peer"
)

func TestAPeerIsInTheFilterStateUnderItsNames(t *testing.T) {
	down, up := peer.New(peer.Workload{Name: "d"}), peer.New(peer.Workload{Name: "u"})
	i := &Info{DownstreamPeer: down, UpstreamPeer: up}
	for name, want := range map[string]*peer.Peer{
		"downstream_peer": down, "downstream_peer_obj": down, "wasm.downstream_peer": down,
		"upstream_peer": up, "upstream_peer_obj": up, "wasm.upstream_peer": up,
		"downstream_peer_id": nil, "peer": nil, "": nil,
	} {
		text, ok := i.State(name)
		if i.PeerState(name) != want || ok != (want != nil) || want != nil && text != want.Text() {
			t.Errorf("%q is %q, %v", name, text, ok)
		}
	}
	i.SetState("downstream_peer", "set")
	if text, _ := i.State("downstream_peer"); text != "set" {
		t.Errorf("what was set is %q", text)
	}
	if _, ok := (&Info{}).State("downstream_peer"); ok {
		t.Error("there is a peer where there is none")
	}
}

func TestARequestHasThePeersOfItsConnection(t *testing.T) {
	i := &Info{DownstreamPeer: peer.New(peer.Workload{Name: "d"})}
	if r := i.NewRequest(time.Now()); r.DownstreamPeer != i.DownstreamPeer {
		t.Error("the request does not know the client")
	}
}

func TestTheStatusOfGRPC(t *testing.T) {
	for name, c := range map[string]struct {
		status        int
		head, trailer string
		want, own     int64
		none          bool
	}{
		"of the trailers":      {status: 200, head: "3", trailer: "5", want: 5, own: 5},
		"of the head":          {status: 200, head: "3", want: 3, own: 3},
		"of the HTTP status":   {status: 503, want: 14, own: 14},
		"of 400":               {status: 400, want: 13, own: 13},
		"of 401":               {status: 401, want: 16, own: 16},
		"of 403":               {status: 403, want: 7, own: 7},
		"of 404":               {status: 404, want: 12, own: 12},
		"of any other":         {status: 200, want: 2, own: 2},
		"no number":            {status: 200, trailer: "x", want: -1, own: -1},
		"none of gRPC's":       {status: 200, trailer: "17", want: 17, own: -1},
		"nothing was answered": {none: true},
	} {
		h := &HTTP{Status: c.status}
		if c.head != "" {
			h.Response = message.NewHead()
			h.Response.Fields.Add("grpc-status", c.head)
		}
		if c.trailer != "" {
			h.ResponseTrailers.Add("grpc-status", c.trailer)
		}
		got, ok := h.GRPCStatus()
		own, _ := h.OwnGRPCStatus()
		if ok == c.none || got != c.want || own != c.own {
			t.Errorf("%s: %d and %d, %v; want %d and %d", name, got, own, ok, c.want, c.own)
		}
	}
}

func TestFlagsAsANumberHaveEnvoysPlaces(t *testing.T) {
	for f, want := range map[ResponseFlags]int64{
		FailedLocalHealthCheck: 1, NoRouteFound: 1 << 8, UpstreamMaxStreamDurationReached: 1 << 19,
		NoFilterConfigFound: 1 << 21, DownstreamRemoteReset: 1 << 28, NoRouteFound | DurationTimeout: 1<<8 | 1<<22, 0: 0,
	} {
		if got := f.Bits(); got != want {
			t.Errorf("%s is %d, want %d", f, got, want)
		}
	}
}
