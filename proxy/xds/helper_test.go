package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// wire is a Transport whose other end is the test.
type wire struct {
	opened chan *fakeStream // each open
	mu     sync.Mutex
	down   error // guarded by mu; why nothing opens
	opens  int   // guarded by mu
}

func newWire() *wire { return &wire{opened: make(chan *fakeStream, 100)} }

func (w *wire) Open(ctx context.Context, method string) (Stream, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opens++
	if w.down != nil {
		return nil, w.down
	}
	s := &fakeStream{method: method, requests: make(chan proto.Message, 1000), answers: make(chan proto.Message, 1000), end: make(chan struct{})}
	s.stop = context.AfterFunc(ctx, s.Close)
	w.opened <- s
	return s, nil
}

func (w *wire) setDown(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = err
}

type fakeStream struct {
	method   string
	requests chan proto.Message
	answers  chan proto.Message
	end      chan struct{}
	once     sync.Once
	stop     func() bool
	blocked  chan struct{} // not nil: SendMsg waits for it
}

func (s *fakeStream) SendMsg(m any) error {
	select {
	case <-s.end:
		return io.EOF
	default:
	}
	s.requests <- proto.Clone(m.(proto.Message))
	return nil
}

func (s *fakeStream) RecvMsg(m any) error {
	select {
	case a := <-s.answers:
		proto.Merge(m.(proto.Message), a)
		return nil
	case <-s.end:
		return errors.New("the stream is closed")
	}
}

func (s *fakeStream) Close() { s.once.Do(func() { close(s.end) }) }

// rig is a client in a synctest bubble, and the server's end of its streams.
type rig struct {
	t      *testing.T
	wire   *wire
	client *Client
	s      *fakeStream
	taken  map[string]*taker
}

// taker is what has arrived of one type.
type taker struct {
	mu      sync.Mutex // guards updates and have
	updates []Update
	have    map[string]string // name to version
	bad     map[string]error  // refused, by name
	then    func(Update)
}

func (k *taker) apply(u Update) map[string]error {
	k.mu.Lock()
	k.updates = append(k.updates, u)
	refused := map[string]error{}
	for _, r := range u.Updated {
		if err := k.bad[r.Name]; err != nil {
			refused[r.Name] = err
			continue
		}
		k.have[r.Name] = r.Version
	}
	for _, name := range u.Removed {
		delete(k.have, name)
	}
	k.mu.Unlock()
	if k.then != nil {
		k.then(u)
	}
	return refused
}

func (k *taker) names() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return fmt.Sprint(slices.Sorted(maps.Keys(k.have)))
}

// inBubble runs f with a client that has the types CDS and EDS, in virtual time.
func inBubble(t *testing.T, opts Options, f func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, opts)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.client.Run(ctx) }()
		f(r)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func newRig(t *testing.T, opts Options) *rig {
	r := &rig{t: t, wire: newWire(), taken: map[string]*taker{}}
	opts.Transport, opts.Server = r.wire, "xds"
	opts.Log = slog.New(slog.DiscardHandler)
	if opts.Node == nil {
		opts.Node = &corev3.Node{Id: "node-1"}
	}
	r.client = New(opts)
	for i, url := range []string{ClusterType, EndpointType} {
		k := &taker{have: map[string]string{}, bad: map[string]error{}}
		r.taken[url] = k
		ty := Type{URL: url, Apply: k.apply, Rank: i, Whole: url == ClusterType}
		if url == ClusterType {
			ty.Holds = []string{EndpointType}
		}
		r.client.Register(ty)
	}
	return r
}

func (r *rig) subscribe(url string, names ...string) {
	r.t.Helper()
	if err := r.client.Subscribe(url, names...); err != nil {
		r.t.Fatal(err)
	}
}

// stream waits for the next stream.
func (r *rig) stream() *fakeStream {
	r.t.Helper()
	select {
	case r.s = <-r.wire.opened:
		return r.s
	case <-time.After(time.Hour):
		r.t.Fatal("no stream was opened in an hour")
		return nil
	}
}

// request waits for the next request of either protocol.
func request[M proto.Message](r *rig) M {
	r.t.Helper()
	select {
	case m := <-r.s.requests:
		out, ok := m.(M)
		if !ok {
			r.t.Fatalf("request is a %T", m)
		}
		return out
	case <-time.After(time.Hour):
		r.t.Fatal("no request in an hour")
		panic("unreachable")
	}
}

// quiet fails if a request comes within d.
func (r *rig) quiet(d time.Duration) {
	r.t.Helper()
	select {
	case m := <-r.s.requests:
		r.t.Errorf("unwanted request: %v", m)
	case <-time.After(d):
	}
}

func (r *rig) answer(m proto.Message) {
	r.s.answers <- m
	synctest.Wait()
}

func pack(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func cluster(name, alt string) *clusterv3.Cluster {
	return &clusterv3.Cluster{Name: name, AltStatName: alt}
}

func endpoints(name string) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{ClusterName: name}
}

// whole is a state-of-the-world answer.
func whole(t *testing.T, url, version string, all ...proto.Message) *discoveryv3.DiscoveryResponse {
	out := &discoveryv3.DiscoveryResponse{TypeUrl: url, VersionInfo: version, Nonce: "n" + version}
	for _, m := range all {
		out.Resources = append(out.Resources, pack(t, m))
	}
	return out
}

// delta is an incremental answer; the resources' version is its own.
func delta(t *testing.T, url, version string, all ...proto.Message) *discoveryv3.DeltaDiscoveryResponse {
	out := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, SystemVersionInfo: version, Nonce: "n" + version}
	for _, m := range all {
		a := pack(t, m)
		name, err := firstField(a)
		if err != nil {
			t.Fatal(err)
		}
		out.Resources = append(out.Resources, &discoveryv3.Resource{Name: name, Version: version, Resource: a})
	}
	return out
}
