package filter

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/istio/peer"
	"outrider/proxy/relay"
	"outrider/proxy/stats"
)

const exchangeALPN = "istio-peer-exchange"

func node(t testing.TB) *config.Node {
	t.Helper()
	metadata, err := structpb.NewStruct(map[string]any{
		"NAME": "pod-1", "NAMESPACE": "ns", "WORKLOAD_NAME": "w", "CLUSTER_ID": "k1", "MESH_ID": "m",
		"OWNER":         "kubernetes://apis/apps/v1/namespaces/ns/deployments/w",
		"INSTANCE_IPS":  "10.0.0.1",
		"LABELS":        map[string]any{"app": "a", "app.kubernetes.io/version": "v2", "version": "v1", "other": "o", "asked": "yes", "service.istio.io/canonical-name": "cn"},
		"PROXY_CONFIG":  map[string]any{"secret": "not sent"},
		"ISTIO_VERSION": "1.30",
	})
	if err != nil {
		t.Fatal(err)
	}
	return &config.Node{ID: "sidecar~10.0.0.1~pod.ns~ns.svc.cluster.local", Metadata: metadata, Locality: config.Locality{Region: "r1", Zone: "z1"}}
}

func exchangeFilter() *config.NetworkFilter {
	return &config.NetworkFilter{Name: "mx", MetadataExchange: &config.MetadataExchange{Protocol: exchangeALPN, AdditionalLabels: []string{"asked"}}}
}

// frameWith is a frame of any header and body.
func frameWith(magic, size uint32, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, magic)
	return append(binary.BigEndian.AppendUint32(b, size), body...)
}

func peerFrame(t testing.TB) []byte {
	t.Helper()
	b, err := frameOf(node(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFrameCarriesTheWorkload(t *testing.T) {
	frame, err := frameOf(node(t), []string{"asked"})
	if err != nil {
		t.Fatal(err)
	}
	again, _ := frameOf(node(t), []string{"asked"})
	if !bytes.Equal(frame, again) {
		t.Error("the frame is another one each time")
	}
	if got, want := hex.EncodeToString(frame[:4]), "3d230467"; got != want {
		t.Errorf("magic %s, want %s", got, want)
	}
	if got, want := binary.BigEndian.Uint32(frame[4:8]), uint32(len(frame)-8); got != want {
		t.Errorf("size %d, want %d", got, want)
	}
	var a anypb.Any
	if err := proto.Unmarshal(frame[8:], &a); err != nil || a.TypeUrl != "type.googleapis.com/google.protobuf.Struct" {
		t.Fatal(err, a.TypeUrl)
	}
	var s structpb.Struct
	if err := proto.Unmarshal(a.Value, &s); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"x-envoy-peer-metadata-id": "sidecar~10.0.0.1~pod.ns~ns.svc.cluster.local",
		"x-envoy-peer-metadata": map[string]any{
			"NAME": "pod-1", "NAMESPACE": "ns", "WORKLOAD_NAME": "w", "CLUSTER_ID": "k1",
			"OWNER":  "kubernetes://apis/apps/v1/namespaces/ns/deployments/w",
			"LABELS": map[string]any{"app": "a", "version": "v2", "service.istio.io/canonical-name": "cn", "asked": "yes"},
			"REGION": "r1", "AVAILABILITY_ZONE": "z1",
		},
	}
	if diff := cmp.Diff(want, s.AsMap()); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
}

// exchangeCase is what a peer sends and what must come of it.
type exchangeCase struct {
	send []byte
	app  string // what the application receives
	stat string // the counter that says why there is no metadata; "" found
}

func exchangeCases(t *testing.T) map[string]exchangeCase {
	good := peerFrame(t)
	wrongAny, err := proto.Marshal(&anypb.Any{TypeUrl: "type.googleapis.com/google.protobuf.Empty"})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]exchangeCase{
		"a frame and data":           {send: append(bytes.Clone(good), "hello"...), app: "hello"},
		"a frame alone":              {send: good},
		"wrong magic":                {send: []byte("GET / HTTP/1.1\r\n\r\n"), app: "GET / HTTP/1.1\r\n\r\n", stat: "initial_header_not_found"},
		"magic of the other order":   {send: []byte{0x67, 0x04, 0x23, 0x3d, 1, 2, 3, 4, 5}, app: "\x67\x04\x23\x3d\x01\x02\x03\x04\x05", stat: "initial_header_not_found"},
		"a frame of another magic":   {send: append(frameWith(frameMagic+1, uint32(len(good)-8), good[8:]), "hello"...), app: string(frameWith(frameMagic+1, uint32(len(good)-8), good[8:])) + "hello", stat: "initial_header_not_found"},
		"one byte of the magic only": {send: []byte("="), app: "=", stat: "initial_header_not_found"},
		"an end at once":             {send: nil, stat: "initial_header_not_found"},
		"half a header":              {send: good[:6], app: string(good[:6]), stat: "initial_header_not_found"},
		"half a frame":               {send: good[:20], stat: "header_not_found"},
		"a frame that is too large":  {send: frameWith(frameMagic, maxFrame+1, []byte("data")), app: string(frameWith(frameMagic, maxFrame+1, []byte("data"))), stat: "initial_header_not_found"},
		"the largest size there is":  {send: frameWith(frameMagic, 1<<32-1, []byte("data")), app: string(frameWith(frameMagic, 1<<32-1, []byte("data"))), stat: "initial_header_not_found"},
		"a body that is no message":  {send: frameWith(frameMagic, 3, []byte("\xff\xff\xffdata")), app: "\xff\xff\xffdata", stat: "header_not_found"},
		"a message of another type":  {send: frameWith(frameMagic, uint32(len(wrongAny)), wrongAny), app: string(wrongAny), stat: "header_not_found"},
		"an empty body":              {send: frameWith(frameMagic, 0, []byte("data")), app: "data", stat: "header_not_found"},
	}
}

func exchangeStat(reg *stats.Registry, name string) uint64 {
	return reg.Scope("metadata_exchange").Counter(name).Value()
}

// peerFacts is what a frame of node leaves in the filter state.
const peerFacts = `{"app":"a","availability_zone":"z1","cluster":"k1","name":"pod-1","namespace":"ns","region":"r1","service":"cn","type":"deployment","version":"v2","workload":"w"}`

func checkExchanged(t *testing.T, reg *stats.Registry, info *flow.Info, side string, c exchangeCase) {
	t.Helper()
	var want map[string]string
	if side == downstreamSide {
		want = map[string]string{"peer_not_found": "true"}
	}
	if c.stat == "" {
		want = map[string]string{"wasm." + side + "_peer_id": node(t).ID}
		for _, name := range []string{side + "_peer", "wasm." + side + "_peer", side + "_peer_obj"} {
			if got, ok := info.State(name); !ok || got != peerFacts {
				t.Errorf("filter state %q is %s, want %s", name, got, peerFacts)
			}
		}
	} else if n := exchangeStat(reg, c.stat); n != 1 {
		t.Errorf("%s is %d, want 1", c.stat, n)
	}
	if none := side == upstreamSide && c.stat != ""; info.NoUpstreamPeer != none {
		t.Errorf("that there is no peer upstream is %v", info.NoUpstreamPeer)
	}
	if diff := cmp.Diff(want, info.FilterState); diff != "" {
		t.Errorf("filter state (-want +got):\n%s", diff)
	}
	if found, added := exchangeStat(reg, "alpn_protocol_found"), exchangeStat(reg, "metadata_added"); found != 1 || added != 1 {
		t.Errorf("alpn_protocol_found %d, metadata_added %d, want 1 and 1", found, added)
	}
}

// takeFrame reads our frame off a connection.
func takeFrame(t *testing.T, c net.Conn) {
	t.Helper()
	want := frameOfUs(t)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the frame is %x, %v; want %x", got, err, want)
	}
}

func frameOfUs(t *testing.T) []byte {
	t.Helper()
	b, err := frameOf(node(t), []string{"asked"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestExchangeWithTheClient(t *testing.T) {
	for name, c := range exchangeCases(t) {
		for _, bytewise := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				reg := stats.New()
				app := make(chan string, 1)
				address := backend(t, func(b *net.TCPConn) {
					got, _ := io.ReadAll(b)
					app <- string(got)
					_, _ = io.WriteString(b, "bye")
				})
				set := clusterSet(t, reg, map[string][]string{"app": {address}}, nil)
				ch := mustChain(t, Deps{Stats: reg, Clusters: set, Node: node(t)}, exchangeFilter(), tcp("app", nil))
				s := serve(t, ch, func(i *flow.Info) { i.Downstream = withALPN(exchangeALPN) })
				takeFrame(t, s.client) // ours comes before the client has said anything
				sendAll(t, s.client, c.send, bytewise)
				s.expect("bye")
				if got := <-app; got != c.app {
					t.Errorf("the application received %q, want %q", got, c.app)
				}
				if err := s.end(); err != nil {
					t.Error(err)
				}
				checkExchanged(t, reg, s.info, "downstream", c)
				if got := s.info.Received.Load(); got != uint64(len(c.app)) {
					t.Errorf("%d bytes received, want %d: those of the application", got, len(c.app))
				}
			})
		}
	}
}

func sendAll(t *testing.T, c *net.TCPConn, b []byte, bytewise bool) {
	t.Helper()
	step := max(len(b), 1)
	if bytewise {
		step = max(len(b)/7, 1)
	}
	for len(b) > 0 {
		n := min(step, len(b))
		if _, err := c.Write(b[:n]); err != nil {
			t.Fatal(err)
		}
		b = b[n:]
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

func TestExchangeWithTheUpstream(t *testing.T) {
	for name, c := range exchangeCases(t) {
		t.Run(name, func(t *testing.T) {
			reg := stats.New()
			ours := frameOfUs(t)
			address := backend(t, func(b *net.TCPConn) {
				got := make([]byte, len(ours))
				_, _ = io.ReadFull(b, got)
				if !bytes.Equal(got, ours) {
					t.Errorf("the upstream received %q before all else, want our frame", got)
				}
				_, _ = b.Write(c.send)
				_ = b.CloseWrite()
				_, _ = io.Copy(io.Discard, b)
			})
			ch := mustChain(t, Deps{Stats: reg, Node: node(t)}, tcp("app", nil))
			fake := &fakeUpstream{upstreamFilters: []*config.NetworkFilter{exchangeFilter()}, dial: func(ctx context.Context, n int) (*leg, error) {
				return dialLeg(t, address, withLegALPN(exchangeALPN))
			}}
			ch.terminal.(*tcpProxy).clusters = fake.get
			s := serve(t, ch, nil)
			s.client.CloseWrite()
			s.expect(c.app)
			if err := s.end(); err != nil {
				t.Error(err)
			}
			checkExchanged(t, reg, s.info, "upstream", c)
		})
	}
}

func TestNoExchangeWhereItWasNotNegotiated(t *testing.T) {
	reg := stats.New()
	for _, alpn := range []string{"", "h2", "istio"} {
		ch := mustChain(t, Deps{Stats: reg, Node: node(t)}, exchangeFilter(), echoFilter())
		s := serve(t, ch, func(i *flow.Info) {
			if alpn != "" {
				i.Downstream = withALPN(alpn)
			}
		})
		frame := string(peerFrame(t))
		s.send(frame)
		s.client.CloseWrite()
		s.expect(frame)
		if err := s.end(); err != nil {
			t.Error(err)
		}
	}
	if got := exchangeStat(reg, "alpn_protocol_not_found"); got != 3 {
		t.Errorf("alpn_protocol_not_found is %d, want 3", got)
	}
}

func TestServerThatSpeaksFirstIsHeardBeforeTheClientsFrame(t *testing.T) {
	address := backend(t, func(b *net.TCPConn) {
		_, _ = io.WriteString(b, "220 ready\r\n")
		_, _ = io.Copy(io.Discard, b)
	})
	reg := stats.New()
	set := clusterSet(t, reg, map[string][]string{"app": {address}}, nil)
	ch := mustChain(t, Deps{Stats: reg, Clusters: set, Node: node(t)}, exchangeFilter(), tcp("app", nil))
	s := serve(t, ch, func(i *flow.Info) { i.Downstream = withALPN(exchangeALPN) })
	takeFrame(t, s.client)
	got := make([]byte, 11)
	if _, err := io.ReadFull(s.client, got); err != nil || string(got) != "220 ready\r\n" {
		t.Fatalf("received %q, %v", got, err)
	}
	if _, err := s.client.Write(peerFrame(t)); err != nil {
		t.Fatal(err)
	}
	s.client.CloseWrite()
	s.expect("")
	if err := s.end(); err != nil {
		t.Error(err)
	}
}

func TestEchoAlsoTakesTheFrameAway(t *testing.T) {
	ch := mustChain(t, Deps{Node: node(t)}, exchangeFilter(), echoFilter())
	s := serve(t, ch, func(i *flow.Info) { i.Downstream = withALPN(exchangeALPN) })
	takeFrame(t, s.client)
	s.send(string(peerFrame(t)) + "hi")
	s.client.CloseWrite()
	s.expect("hi")
	if err := s.end(); err != nil {
		t.Error(err)
	}
}

func TestClientThatSendsLessThanAHeaderAndWaitsIsServed(t *testing.T) {
	ch := mustChain(t, Deps{Node: node(t)}, exchangeFilter(), echoFilter())
	s := serve(t, ch, func(i *flow.Info) { i.Downstream = withALPN(exchangeALPN) })
	takeFrame(t, s.client)
	s.send("hi\n")
	got := make([]byte, 3)
	if _, err := io.ReadFull(s.client, got); err != nil || string(got) != "hi\n" {
		t.Errorf("received %q, %v", got, err)
	}
	s.client.CloseWrite()
	s.expect("")
	if err := s.end(); err != nil {
		t.Error(err)
	}
}

func TestOnlyOneExchangeOnASide(t *testing.T) {
	_, err := NewChain([]*config.NetworkFilter{exchangeFilter(), exchangeFilter(), echoFilter()}, Deps{})
	if err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("the error is %v, want a refusal of the second", err)
	}
}

func TestOtherUpstreamFiltersEndTheConnection(t *testing.T) {
	address := backend(t, echoes)
	ch := mustChain(t, Deps{}, tcp("app", nil))
	fake := &fakeUpstream{upstreamFilters: []*config.NetworkFilter{echoFilter()}, dial: func(context.Context, int) (*leg, error) { return dialLeg(t, address) }}
	ch.terminal.(*tcpProxy).clusters = fake.get
	s := serve(t, ch, nil)
	if err := s.end(); err == nil || !strings.Contains(err.Error(), "cannot be an upstream filter") {
		t.Errorf("it ended with %v, want a refusal", err)
	}
}

// stream is a Conn that gives its bytes in pieces of a size, and then ends.
type stream struct {
	relay.Conn
	left []byte
	step int
	read int
}

func (s *stream) WaitReadable() error { return nil }

func (s *stream) Read(p []byte) (int, error) {
	if len(s.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.left[:min(s.step, len(s.left))])
	s.left, s.read = s.left[n:], s.read+n
	return n, nil
}

// FuzzMetadataExchange: whatever a peer sends, in whatever pieces: no panic, no
// byte lost or made up, none read beyond the frame, bounded memory, and the
// outcome does not depend on the pieces.
func FuzzMetadataExchange(f *testing.F) {
	good := peerFrame(f)
	f.Add(append(bytes.Clone(good), "hello"...), 1)
	f.Add([]byte("GET / HTTP/1.1"), 3)
	f.Add(frameWith(frameMagic, 0xffffffff, nil), 8)
	f.Add(frameWith(frameMagic, 3, []byte("\xff\xff\xff")), 2)
	f.Add(good[:len(good)-1], 100)
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		whole := &stream{left: bytes.Clone(b), step: len(b) + 1}
		pieces := &stream{left: bytes.Clone(b), step: 1 + int(uint(step)%4096)}
		got, err := receiveFrame(pieces)
		if err != nil {
			t.Fatalf("error %v, and the connection has not failed", err)
		}
		if again, _ := receiveFrame(whole); again.state != got.state || got.state != noFrame && !bytes.Equal(again.pass, got.pass) {
			t.Errorf("in pieces of %d: %v, %q; in one: %v, %q", pieces.step, got.state, got.pass, again.state, again.pass)
		}
		if rest := append(bytes.Clone(got.pass), pieces.left...); got.state == noFrame && !bytes.Equal(rest, b) {
			t.Errorf("%q became %q", b, rest)
		}
		if pieces.read > frameHeader+maxFrame {
			t.Errorf("%d bytes were read", pieces.read)
		}
		if got.state == frameFound {
			size := int(binary.BigEndian.Uint32(b[4:8]))
			if pieces.read != frameHeader+size || got.pass != nil {
				t.Errorf("%d bytes read of a frame of %d, %d passed on", pieces.read, size, len(got.pass))
			}
			_ = peer.New(peer.FromStruct(got.values.GetFields()[peer.MetadataHeader].GetStructValue(), nil)).Text()
		}
	})
}

// fakeUpstream is a cluster whose connections a test makes.
type fakeUpstream struct {
	dial            func(ctx context.Context, attempt int) (*leg, error)
	upstreamFilters []*config.NetworkFilter
	attempts        int
	requests        []cluster.Request
	exceeded        int
}

func (f *fakeUpstream) get(string) upstream              { return f }
func (f *fakeUpstream) name() string                     { return "fake" }
func (f *fakeUpstream) filters() []*config.NetworkFilter { return f.upstreamFilters }
func (f *fakeUpstream) attemptsExceeded()                { f.exceeded++ }
func (f *fakeUpstream) connect(ctx context.Context, req cluster.Request) (*leg, error) {
	f.attempts++
	f.requests = append(f.requests, req)
	return f.dial(ctx, f.attempts)
}

func withLegALPN(alpn string) func(*leg) { return func(l *leg) { l.state = withALPN(alpn) } }

// dialLeg connects to a backend.
func dialLeg(t *testing.T, address string, change ...func(*leg)) (*leg, error) {
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	l := &leg{Conn: relay.Plain(c), account: func(uint64, uint64) {}, ended: func() {}, close: func() { c.Close() }}
	for _, f := range change {
		f(l)
	}
	return l, nil
}
