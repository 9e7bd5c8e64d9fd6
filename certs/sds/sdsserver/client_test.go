package sdsserver

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"golang.org/x/net/http2"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/certs"
	"outrider/certs/sds"
	"outrider/proxy/config/decode"
)

// subscribe is our own client, as the proxy has it.
func (a *agent) subscribe(delta bool, names ...string) []*certs.Handle {
	a.t.Helper()
	client := sds.NewClient(sds.Options{
		Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", a.path)
		},
		Node: &corev3.Node{Id: "ours"},
		Decode: func(packed *anypb.Any, version, from string) (*certs.Secret, error) {
			m := &tlsv3.Secret{}
			if err := packed.UnmarshalTo(m); err != nil {
				return nil, err
			}
			return decode.Secret(m, from, version, decode.Options{})
		},
	})
	store := certs.NewStore(certs.Feeds{GRPC: client.Feed})
	var out []*certs.Handle
	for _, name := range names {
		out = append(out, store.Get(certs.Ref{Name: name, Source: &certs.Source{Cluster: "sds-grpc", Delta: delta}}))
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	a.t.Cleanup(func() { stop(); <-done })
	return out
}

func TestOurOwnClientFollowsARotationFromOldRootToNew(t *testing.T) {
	for _, delta := range []bool{false, true} {
		t.Run(fmt.Sprintf("delta %v", delta), func(t *testing.T) {
			a := start(t)
			next := a.other()
			h := a.subscribe(delta, "default", "ROOTCA")
			has := func(what string, pair *certs.KeyPair, roots int) {
				t.Helper()
				eventually(t, what, func() bool {
					p, err1 := h[0].Current()
					v, err2 := h[1].Current()
					return err1 == nil && err2 == nil && p.KeyPair.TLS.Leaf.Equal(pair.TLS.Leaf) && len(v.Validation.Roots) == roots
				})
				eventually(t, what+", settled", func() bool { return a.settled("default") && a.settled("ROOTCA") })
			}
			eventually(t, "both are asked for", func() bool { return len(a.server.Clients()) == 2 })
			a.trust(a.root)
			has("the old root", a.serve(a.root), 1)
			a.trust(a.root, next)
			has("both", a.serve(next), 2)
			a.trust(next)
			has("the new root", a.serve(next), 1)
			for _, one := range h {
				if s := one.Stats(); s.Rejected != 0 || s.Failures != 0 {
					t.Errorf("%s: %+v", one.Ref().Name, s)
				}
			}
			for _, c := range a.server.Clients() {
				if c.Node != "ours" || c.Delta != delta {
					t.Errorf("client %+v", c)
				}
			}
		})
	}
}

func TestOurOwnClientComesBackAfterTheServerDid(t *testing.T) {
	a := start(t)
	a.trust(a.root)
	pair := a.serve(a.root)
	h := a.subscribe(false, "default")[0]
	eventually(t, "the first certificate", func() bool { _, err := h.Current(); return err == nil })
	a.stop()
	again := New(Options{Secret: a.lookup})
	ln, err := Listen(a.path, Access{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- again.Serve(ctx, ln) }()
	defer func() { cancel(); <-done }()
	eventually(t, "the client is back", func() bool { return len(again.Clients()) == 1 })
	if s, err := h.Current(); err != nil || !s.KeyPair.TLS.Leaf.Equal(pair.TLS.Leaf) {
		t.Errorf("meanwhile it has lost its certificate: %v", err)
	}
	next := a.serve(a.root)
	eventually(t, "the next certificate", func() bool { s, err := h.Current(); return err == nil && s.KeyPair.TLS.Leaf.Equal(next.TLS.Leaf) })
}

// Envoy pings where its cluster has a connection_keepalive; gRPC ends the
// connection of who does so more often than each 5 minutes, unless told.
func TestAClientMayPing(t *testing.T) {
	a := start(t)
	c, err := net.Dial("unix", a.path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(c, c)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(minPing + minPing/5)
	defer tick.Stop()
	for n := byte(0); n < 6; n++ { // two would be forgiven
		<-tick.C
		if err := f.WritePing(false, [8]byte{n}); err != nil {
			t.Fatal(err)
		}
		for answered := false; !answered; {
			frame, err := f.ReadFrame()
			if err != nil {
				t.Fatalf("ping %d: %v", n, err)
			}
			switch frame := frame.(type) {
			case *http2.GoAwayFrame:
				t.Fatalf("ping %d: the server ends the connection: %s", n, frame.DebugData())
			case *http2.PingFrame:
				answered = frame.IsAck()
			}
		}
	}
}
