package xdstest

import (
	"context"
	"net"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
)

// Delta and Whole are the server's ends of a stream of ADS.
type (
	Delta = discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	Whole = discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer
)

// Script is an aggregated service by hand. Each function is called for each
// stream, which ends when it returns; nil refuses the protocol.
type Script struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	OnDelta func(Delta) error
	OnWhole func(Whole) error
}

// DeltaAggregatedResources implements the service.
func (s *Script) DeltaAggregatedResources(d Delta) error {
	if s.OnDelta == nil {
		return s.UnimplementedAggregatedDiscoveryServiceServer.DeltaAggregatedResources(d)
	}
	return s.OnDelta(d)
}

// StreamAggregatedResources implements the service.
func (s *Script) StreamAggregatedResources(w Whole) error {
	if s.OnWhole == nil {
		return s.UnimplementedAggregatedDiscoveryServiceServer.StreamAggregatedResources(w)
	}
	return s.OnWhole(w)
}

// Serve serves the script on a free port of loopback until the test ends, and
// returns the address.
func (s *Script) Serve(t testing.TB) string {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(ln) // ends with Stop
	}()
	t.Cleanup(func() {
		g.Stop()
		<-done
	})
	return ln.Addr().String()
}
