package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"outrider/certs/ca"
	"outrider/proxy/xds"
	"outrider/proxy/xds/xdstest"
)

// secretOf is a key pair as a resource, and its serial number.
func secretOf(t *testing.T, root *ca.CA, name string) (*tlsv3.Secret, string) {
	t.Helper()
	issued, err := root.Issue(ca.Leaf{ID: "spiffe://td/server"})
	if err != nil {
		t.Fatal(err)
	}
	inline := func(b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
	}
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(issued.ChainPEM), PrivateKey: inline(issued.KeyPEM),
	}}}, issued.Cert.SerialNumber.String()
}

// tlsEcho echoes over TLS, with a secret by ADS.
func tlsEcho(t *testing.T, secret string) *listenerv3.Listener {
	t.Helper()
	l := &listenerv3.Listener{}
	text := `{"name":"l","address":{"socket_address":{"address":"127.0.0.1","port_value":0}},"filter_chains":[{
		"filters":[{"name":"echo","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}}],
		"transport_socket":{"name":"tls","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
		"common_tls_context":{"tls_certificate_sds_secret_configs":[{"name":"` + secret + `","sds_config":{"resource_api_version":"V3","initial_fetch_timeout":"0.1s","ads":{}}}]}}}}]}`
	if err := protojson.Unmarshal([]byte(text), l); err != nil {
		t.Fatal(err)
	}
	return l
}

// presents is the serial number of the certificate that a listener presents.
func (r *running) presents(listener string) string {
	r.t.Helper()
	addrs := r.Listening(listener)
	if len(addrs) == 0 {
		return "nothing listens"
	}
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // whoever it is, is shown
	c, err := d.DialContext(r.t.Context(), "tcp", addrs[0].String())
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
}

func TestSecretsComeByTheAggregatedStream(t *testing.T) {
	for _, api := range []string{"GRPC", "DELTA_GRPC"} {
		t.Run(api, func(t *testing.T) {
			root := newRoot(t, "root")
			first, one := secretOf(t, root, "a")
			second, two := secretOf(t, root, "a")
			other, three := secretOf(t, root, "b")
			plane := xdstest.Listen(t, "test", "tcp", "127.0.0.1:0")
			push := func(l *listenerv3.Listener, secrets ...*tlsv3.Secret) {
				plane.Set(t, xdstest.Resources{xds.ClusterType: nil, xds.ListenerType: listOf(l), xds.SecretType: listOf(secrets...)})
			}
			push(tlsEcho(t, "a"), first)
			r := runOver(t, bootOver(plane.Address(), api, true), Options{DrainTime: time.Second})
			r.eventually("the first secret", func() bool { return r.presents("l") == one })
			push(tlsEcho(t, "a"), second)
			r.eventually("its rotation", func() bool { return r.presents("l") == two })

			// A version whose secret does not come never takes the place of one
			// that works, however long its initial_fetch_timeout is past.
			push(tlsEcho(t, "b"), second)
			r.eventually("the next version waits", func() bool { return strings.Contains(r.get("/config_dump"), "warming_state") })
			for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
				if got := r.presents("l"); got != two {
					t.Fatalf("the listener presents %s while the next version waits, want %s", got, two)
				}
			}
			push(tlsEcho(t, "b"), second, other)
			r.eventually("the next version", func() bool { return r.presents("l") == three })
		})
	}
}

// packed is a resource of a delta answer.
func packed(t *testing.T, name string, m proto.Message) *discoveryv3.Resource {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return &discoveryv3.Resource{Name: name, Version: "1", Resource: a}
}

func TestAServerThatDiesInMidPushCostsNoConnection(t *testing.T) {
	a, b := says(t, "a"), says(t, "b")
	var streams atomic.Int32
	script := &xdstest.Script{}
	script.OnDelta = func(s xdstest.Delta) error {
		n := streams.Add(1)
		send := func(url string, all ...*discoveryv3.Resource) {
			_ = s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, Nonce: fmt.Sprint(n), Resources: all})
		}
		to := b
		if n < 3 {
			to = a
		}
		endpoint := "c"
		if n > 1 {
			endpoint = "other" // the push changes where the endpoints come from
		}
		for {
			m, err := s.Recv()
			if err != nil {
				return nil
			}
			switch {
			case m.GetResponseNonce() != "":
			case m.GetTypeUrl() == xds.ClusterType:
				c := edsCluster(t, "c")
				c.EdsClusterConfig.ServiceName = endpoint
				send(xds.ClusterType, packed(t, "c", c))
			case m.GetTypeUrl() == xds.EndpointType && n == 2:
				return fmt.Errorf("dies with clusters sent and endpoints not")
			case m.GetTypeUrl() == xds.EndpointType:
				send(xds.EndpointType, packed(t, endpoint, assignmentOf(t, endpoint, to)))
			case m.GetTypeUrl() == xds.ListenerType:
				send(xds.ListenerType, packed(t, "l", proxyTo(t, "l", "c")))
				if n == 1 {
					return fmt.Errorf("dies with everything sent")
				}
			}
		}
	}
	r := runOver(t, bootOver(script.Serve(t), "DELTA_GRPC", true), Options{DrainTime: time.Second})
	r.eventually("the first push", func() bool { return r.hears("l") == "a" })
	ctx, stop := context.WithCancel(t.Context())
	var traffic sync.WaitGroup
	traffic.Go(func() {
		for ctx.Err() == nil {
			if got := r.hears("l"); got != "a" && got != "b" {
				t.Errorf("a connection failed: %q", got)
			}
		}
	})
	r.eventually("the third stream brings the rest", func() bool { return r.hears("l") == "b" })
	stop()
	traffic.Wait()
}

func TestNonsenseIsRefusedAndChangesNothing(t *testing.T) {
	a := says(t, "a")
	var mu sync.Mutex
	refused := 0
	script := &xdstest.Script{OnDelta: func(s xdstest.Delta) error {
		random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same each time
		urls := []string{xds.ClusterType, xds.EndpointType, xds.ListenerType, xds.RouteType, xds.SecretType, "", "type.googleapis.com/none"}
		send := func(url string, all ...*discoveryv3.Resource) {
			_ = s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, Nonce: "n", Resources: all})
		}
		good := packed(t, "l", proxyTo(t, "l", "c"))
		for {
			m, err := s.Recv()
			if err != nil {
				return nil
			}
			if m.GetErrorDetail() != nil {
				mu.Lock()
				refused++
				mu.Unlock()
			}
			switch {
			case m.GetResponseNonce() != "":
			case m.GetTypeUrl() == xds.ClusterType:
				send(xds.ClusterType, packed(t, "c", clusterTo(t, "c", a)))
			case m.GetTypeUrl() == xds.ListenerType:
				send(xds.ListenerType, good)
				for i := range 300 {
					body := make([]byte, random.IntN(200))
					for j := range body {
						body[j] = byte(random.Uint32())
					}
					if i%2 == 0 { // a good one with a wound
						body = append([]byte(nil), good.GetResource().GetValue()...)
						body[random.IntN(len(body))] ^= byte(1 + random.IntN(255))
					}
					url := urls[i%len(urls)]
					one := &discoveryv3.Resource{Name: fmt.Sprint(i), Resource: &anypb.Any{TypeUrl: url, Value: body}}
					if i%5 == 0 {
						one.Resource = nil
					}
					send(url, one, nil, one)
				}
			}
		}
	}}
	r := runOver(t, bootOver(script.Serve(t), "DELTA_GRPC", true), Options{DrainTime: time.Second})
	r.eventually("the good push", func() bool { return r.hears("l") == "a" })
	r.eventually("refusals", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return refused > 2
	})
	if got := r.hears("l"); got != "a" {
		t.Errorf("after the nonsense: %q, want a", got)
	}
}

func TestARefusalLoopDoesNotSpin(t *testing.T) {
	var nacks atomic.Int32
	wrong := clusterTo(t, "c", "127.0.0.1:1")
	wrong.LbPolicy = 99
	script := &xdstest.Script{OnWhole: func(s xdstest.Whole) error {
		for version := 0; ; version++ {
			m, err := s.Recv()
			if err != nil {
				return nil
			}
			if m.GetErrorDetail() != nil {
				nacks.Add(1)
			}
			out := &discoveryv3.DiscoveryResponse{TypeUrl: xds.ClusterType, VersionInfo: fmt.Sprint(version), Nonce: fmt.Sprint(version)}
			out.Resources = []*anypb.Any{packed(t, "c", wrong).GetResource()}
			if err := s.Send(out); err != nil {
				return nil
			}
		}
	}}
	r := runOver(t, bootOver(script.Serve(t), "GRPC", true), Options{DrainTime: time.Second})
	r.eventually("refusals", func() bool { return nacks.Load() >= 4 })
	begin, before := time.Now(), nacks.Load()
	r.eventually("two more", func() bool { return nacks.Load() >= before+2 })
	if took := time.Since(begin); took < 300*time.Millisecond {
		t.Errorf("two refusals within %s", took)
	}
}

func TestAServerThatNeverReadsIsReadStill(t *testing.T) {
	a, b := says(t, "a"), says(t, "b")
	script := &xdstest.Script{OnDelta: func(s xdstest.Delta) error {
		send := func(url, version string, all ...*discoveryv3.Resource) error {
			return s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, SystemVersionInfo: version, Nonce: strings.Repeat("n", 500), Resources: all})
		}
		for i := range 2000 { // as many acknowledgements as no window holds
			to := a
			if i == 1999 {
				to = b
			}
			c := clusterTo(t, "c", to)
			c.AltStatName = fmt.Sprint(i)
			if send(xds.ClusterType, fmt.Sprint(i), packed(t, "c", c)) != nil {
				return nil
			}
		}
		if send(xds.ListenerType, "1", packed(t, "l", proxyTo(t, "l", "c"))) != nil {
			return nil
		}
		<-s.Context().Done()
		return nil
	}}
	r := runOver(t, bootOver(script.Serve(t), "DELTA_GRPC", true), Options{DrainTime: time.Second})
	r.eventually("the last of all pushes", func() bool { return r.clusters.Get("c") != nil && hearsOf(r, "c") == "b" })
}

// hearsOf is what a cluster's endpoint says.
func hearsOf(r *running, name string) string {
	c, err := r.discovery.dial(r.t.Context(), name)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err.Error()
	}
	text, _ := io.ReadAll(c)
	return string(text)
}

func TestPushesUnderTrafficFailNoConnection(t *testing.T) {
	a, b := says(t, "a"), says(t, "b")
	plane := xdstest.Listen(t, "test", "tcp", "127.0.0.1:0")
	push := func(i int) {
		c := edsCluster(t, "c")
		c.AltStatName = fmt.Sprint("c", i/3) // another cluster each third time
		l := proxyTo(t, "l", "c")
		l.FilterChains[0].Name = fmt.Sprint(i / 5)
		plane.Set(t, xdstest.Resources{
			xds.ClusterType:  listOf(c, clusterTo(t, fmt.Sprint("other", i), a)),
			xds.EndpointType: listOf(assignmentOf(t, "c", []string{a, b}[i%2])),
			xds.ListenerType: listOf(l),
		})
	}
	push(0)
	r := runOver(t, bootOver(plane.Address(), "DELTA_GRPC", true), Options{DrainTime: patience})
	r.eventually("the first push", func() bool { return r.hears("l") == "a" })
	ctx, stop := context.WithCancel(t.Context())
	var traffic sync.WaitGroup
	var calls atomic.Int32
	for range 2 {
		traffic.Go(func() {
			for ctx.Err() == nil {
				if got := r.hears("l"); got != "a" && got != "b" {
					t.Errorf("a connection failed: %q", got)
				}
				calls.Add(1)
			}
		})
	}
	for i := range 200 {
		push(i)
		for enough := calls.Load() + 2; calls.Load() < enough; {
			time.Sleep(time.Millisecond)
		}
	}
	r.eventually("the last push", func() bool { return r.clusters.Get("other199") != nil && r.hears("l") == "b" })
	stop()
	traffic.Wait()
	if n := plane.Nacks(); len(n) > 0 {
		t.Errorf("refused: %q", n)
	}
}

func TestAChangeBackEndsTheWaitOfTheOther(t *testing.T) {
	root := newRoot(t, "root")
	first, one := secretOf(t, root, "a")
	other, _ := secretOf(t, root, "b")
	plane := xdstest.Listen(t, "test", "tcp", "127.0.0.1:0")
	push := func(l *listenerv3.Listener, secrets ...*tlsv3.Secret) {
		plane.Set(t, xdstest.Resources{xds.ClusterType: nil, xds.ListenerType: listOf(l), xds.SecretType: listOf(secrets...)})
	}
	push(tlsEcho(t, "a"), first)
	r := runOver(t, bootOver(plane.Address(), "DELTA_GRPC", true), Options{DrainTime: time.Second})
	r.eventually("the first version", func() bool { return r.presents("l") == one })
	warming := func() bool { return strings.Contains(r.get("/config_dump"), "warming_state") }
	push(tlsEcho(t, "b"), first)
	r.eventually("the second waits", warming)
	push(tlsEcho(t, "a"), first)
	r.eventually("the first again", func() bool { return !warming() })
	push(tlsEcho(t, "a"), first, other) // what the second waited for
	r.eventually("the secret is there", func() bool {
		for _, h := range r.secrets.Handles() {
			if _, err := h.Current(); h.Ref().Name == "b" && err == nil {
				return true
			}
		}
		return false
	})
	if got := r.presents("l"); got != one {
		t.Errorf("the listener presents %s, want %s", got, one)
	}
}

func TestAControlPlaneCannotChangeWhatIsStatic(t *testing.T) {
	plane := xdstest.Listen(t, "test", "tcp", "127.0.0.1:0")
	static := `
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains: [{filters: [{name: echo, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]}]
`
	plane.Set(t, xdstest.Resources{
		xds.ClusterType:  listOf(clusterTo(t, "plane", "127.0.0.1:1"), clusterTo(t, "c", "127.0.0.1:1")),
		xds.ListenerType: listOf(proxyTo(t, "l", "c")),
	})
	r := runOver(t, bootOver(plane.Address(), "GRPC", true)+static, Options{DrainTime: time.Second})
	r.eventually("both refusals", func() bool {
		told := strings.Join(plane.Nacks(), "\n")
		return strings.Contains(told, `plane: cluster "plane" is static`) && strings.Contains(told, `l: listener "l" is static`)
	})
	plane.Set(t, xdstest.Resources{xds.ClusterType: nil, xds.ListenerType: nil})
	r.eventually("the removal of what is dynamic", func() bool { return r.clusters.Get("c") == nil })
	if r.clusters.Get("plane") == nil || !echoes(r.dial("127.0.0.1")) {
		t.Error("what is static is gone")
	}
}
