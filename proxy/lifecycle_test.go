package proxy

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"outrider/certs/ca"
	"outrider/proxy/config/decode"
)

// logBuffer is a log that a test may read while the server writes.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// starting is a bootstrap whose TLS secret and whose endpoints come from files
// in dir that have nothing yet.
func starting(dir, app string) string {
	host, port, _ := net.SplitHostPort(app)
	proxy := func(cluster string) string {
		return `{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: p, cluster: ` + cluster + `}}`
	}
	return fmt.Sprintf(`
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
node: {id: node, cluster: c}
static_resources:
  clusters:
  - {name: late, type: EDS, connect_timeout: 5s, eds_cluster_config: {eds_config: {path_config_source: {path: %[1]s/eds.yaml}, initial_fetch_timeout: 0s}}}
  - {name: app, type: STATIC, connect_timeout: 5s, load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[2]s, port_value: %[3]s}}}}]}]}}
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - name: tls
      filter_chain_match: {transport_protocol: tls}
      transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {tls_certificate_sds_secret_configs: [{name: server, sds_config: {path_config_source: {path: %[1]s/sds.yaml}, initial_fetch_timeout: 0s}}]}}}
      filters: [%[4]s]
    - name: plain
      filter_chain_match: {source_prefix_ranges: [{address_prefix: 127.0.0.1, prefix_len: 32}]}
      filters: [%[4]s]
    - name: late
      filter_chain_match: {source_prefix_ranges: [{address_prefix: 127.0.0.2, prefix_len: 32}]}
      filters: [%[5]s]
`, dir, host, port, proxy("app"), proxy("late"))
}

// putEDS and putSecret make what was missing.
func putEDS(t *testing.T, dir, app string) {
	t.Helper()
	host, port, _ := net.SplitHostPort(app)
	put(t, filepath.Join(dir, "eds.yaml"), fmt.Sprintf(`
resources:
- {"@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, cluster_name: late, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]}
`, host, port))
}

func putSecret(t *testing.T, dir string) {
	t.Helper()
	authority, err := ca.New("root")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := authority.Issue(ca.Leaf{DNS: []string{"server"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"cert.pem": leaf.ChainPEM, "key.pem": leaf.KeyPEM, "root.pem": authority.RootPEM()} {
		put(t, filepath.Join(dir, name), string(text))
	}
	put(t, filepath.Join(dir, "sds.yaml"), fmt.Sprintf(`
resources:
- {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret, name: server, tls_certificate: {certificate_chain: {filename: %[1]s/cert.pem}, private_key: {filename: %[1]s/key.pem}}}
`, dir))
}

func serveStarting(t *testing.T, o Options) (*running, *app) {
	t.Helper()
	a, dir := newApp(t, ""), t.TempDir()
	put(t, filepath.Join(dir, "eds.yaml"), "resources: []\n")
	put(t, filepath.Join(dir, "sds.yaml"), "resources: []\n")
	boot, err := decode.Bootstrap([]byte(starting(dir, a.Addr().String())), decode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(boot, o)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, s, dir), a
}

func TestHeldConnectionGoesOnWhenWhatItNeedsIsThere(t *testing.T) {
	r, a := serveStarting(t, Options{Hold: time.Hour})
	late, secure, plain := r.dial("127.0.0.2"), r.dial("127.0.0.1"), r.dial("127.0.0.1")
	if !echoes(plain) {
		t.Error("a connection that needs nothing is held")
	}
	got := make(chan bool, 2)
	go func() { got <- echoes(late) }()
	go func() { got <- echoes(r.tlsAny(secure)) }()
	r.eventually("two connections to be held", func() bool { return r.stats.held.Value() == 2 })
	if state := r.State(); state != "PRE_INITIALIZING" {
		t.Errorf("the server is %s while clusters are missing", state)
	}
	putSecret(t, r.dir)
	putEDS(t, r.dir, a.Addr().String())
	for range 2 {
		if !<-got {
			t.Error("a held connection does not go on")
		}
	}
	r.eventually("LIVE", func() bool { return r.State() == "LIVE" })
}

// tlsAny is TLS that trusts everybody.
func (r *running) tlsAny(c net.Conn) *tls.Conn {
	return tls.Client(c, &tls.Config{InsecureSkipVerify: true})
}

func (r *running) post(path string) {
	r.t.Helper()
	resp, err := http.Post("http://"+r.adminListener.Addr().String()+path, "", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	resp.Body.Close()
}

func TestHeldConnectionIsClosedAtTheLimit(t *testing.T) {
	var log logBuffer
	r, _ := serveStarting(t, Options{Hold: 300 * time.Millisecond, Log: log.logger()})
	for _, want := range []string{`late\": its endpoints are not known yet`} {
		c := r.dial("127.0.0.2")
		io.WriteString(c, "x")
		if b, _ := io.ReadAll(c); len(b) > 0 {
			t.Errorf("got %q", b)
		}
		r.eventually("the reason in the log: "+want, func() bool {
			return strings.Contains(log.String(), "stage=hold") && strings.Contains(log.String(), want)
		})
	}
	if n := r.stats.holdExpired.Value(); n != 1 {
		t.Errorf("connections_hold_expired is %d, want 1", n)
	}
}

// directions is a listener for each direction, both to an echo.
func directions() string {
	var b strings.Builder
	b.WriteString("\nversion_info: \"1\"\nresources:")
	for _, d := range []string{"INBOUND", "OUTBOUND", "UNSPECIFIED"} {
		fmt.Fprintf(&b, `
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: %s
  traffic_direction: %s
  address: {socket_address: {address: 127.0.0.1, port_value: 0}}
  filter_chains: [{filters: [{name: echo, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]}]`, d, d)
	}
	return b.String()
}

func (r *running) accepts(address string) bool {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	defer c.Close()
	return echoes(c)
}

// addresses of the listeners of directions, which are gone when they stop.
func (r *running) directions() (in, out, none string) {
	return r.Listening("INBOUND")[0].String(), r.Listening("OUTBOUND")[0].String(), r.Listening("UNSPECIFIED")[0].String()
}

func (r *running) ended() bool {
	select {
	case err := <-r.done:
		r.done <- err
		return true
	default:
		return false
	}
}

func TestOutboundGoesOnWhileTheServerEnds(t *testing.T) {
	r := run(t, directions(), Options{DrainTime: time.Hour})
	in, out, none := r.directions()
	r.eventually("accepting", func() bool { return r.accepts(in) })
	open, err := net.Dial("tcp", in)
	if err != nil || !echoes(open) {
		t.Fatal(err)
	}
	defer open.Close()
	r.stop()
	r.eventually("the end of accepting inbound", func() bool { return !r.accepts(in) && !r.accepts(none) })
	if !r.accepts(out) {
		t.Error("outbound does not go on")
	}
	if !echoes(open) {
		t.Error("the open connection is cut")
	}
	open.Close()
	r.eventually("the end", r.ended)
	if r.accepts(out) {
		t.Error("outbound goes on after the end")
	}
}

func TestSkipEndsAStageAtATime(t *testing.T) {
	r := run(t, directions(), Options{DrainTime: time.Hour})
	in, out, _ := r.directions()
	r.eventually("accepting", func() bool { return r.accepts(out) })
	open, err := net.Dial("tcp", out)
	if err != nil || !echoes(open) {
		t.Fatal(err)
	}
	defer open.Close()
	r.stop()
	r.eventually("the end of accepting inbound", func() bool { return !r.accepts(in) })
	r.Skip()
	r.eventually("the end of accepting outbound", func() bool { return !r.accepts(out) })
	if !echoes(open) {
		t.Error("the first skip cuts connections")
	}
	r.Skip()
	r.eventually("the end", r.ended)
}

func TestOutboundGoesOnWithoutConnections(t *testing.T) {
	for name, o := range map[string]Options{
		"for the minimum":          {DrainTime: time.Hour, MinDrainTime: 300 * time.Millisecond},
		"for the whole drain time": {DrainTime: 300 * time.Millisecond, DrainFully: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := run(t, directions(), o)
			in, out, _ := r.directions()
			r.eventually("accepting", func() bool { return r.accepts(out) })
			begin := time.Now()
			r.stop()
			r.eventually("the end of accepting inbound", func() bool { return !r.accepts(in) })
			if !r.accepts(out) {
				t.Error("outbound does not go on")
			}
			r.eventually("the end", r.ended)
			if took := time.Since(begin); took < 300*time.Millisecond {
				t.Errorf("the server ended after %s", took)
			}
		})
	}
}

func TestServerWithoutOutboundListenersEndsWithItsLastConnection(t *testing.T) {
	r := run(t, listenerOf(chain("a", "127.0.0.1")), Options{DrainTime: time.Hour, MinDrainTime: time.Hour, DrainFully: true})
	r.eventually("accepting", func() bool { return echoes(r.dial("127.0.0.1")) })
	r.eventually("no connection", func() bool { return r.stats.connections.Value() >= 0 })
	r.stop()
	r.Skip()
	r.eventually("the end", r.ended)
}

func TestDrainedDirectionTakesNoUpdates(t *testing.T) {
	r := run(t, directions(), Options{DrainTime: time.Hour})
	in, out, none := r.directions()
	r.eventually("accepting", func() bool { return r.accepts(in) && r.accepts(out) })
	r.post("/drain_listeners?inboundonly")
	r.eventually("the end of accepting inbound", func() bool { return !r.accepts(in) })
	if !r.accepts(out) || !r.accepts(none) {
		t.Error("inboundonly stops another direction")
	}
	put(t, filepath.Join(r.dir, "lds.yaml"), strings.ReplaceAll(directions(), "name: echo", "name: other"))
	r.eventually("the refusal", func() bool { return strings.Contains(r.get("/config_dump"), "the server is draining") })
	r.eventually("the update of outbound", func() bool {
		return r.listeners.get("OUTBOUND").current().cfg.Chains[0].Filters[0].Name == "other"
	})
	if got := r.listeners.get("INBOUND").current().cfg.Chains[0].Filters[0].Name; got != "echo" {
		t.Errorf("inbound is updated to %q while it is drained", got)
	}
}

// intercepting is a listener that takes restored destinations, from a PROXY
// header in place of the kernel.
const intercepting = `
version_info: "1"
resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: l
  address: {socket_address: {address: 0.0.0.0, port_value: 0}}
  listener_filters:
  - {name: o, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}
  - {name: p, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, allow_requests_without_proxy_protocol: true}}
  filter_chains: `

func TestCallToTheListenerItselfIsRefused(t *testing.T) {
	var log logBuffer
	r := run(t, intercepting+direct("served"), Options{LoopGuard: true, Log: log.logger()})
	port := r.Listening("l")[0].(*net.TCPAddr).Port
	own := "127.0.0.1"
	if list, err := net.InterfaceAddrs(); err == nil {
		for _, a := range list {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
				own = p.Addr().String()
			}
		}
	}
	for name, c := range map[string]struct{ header, want, reason string }{
		"not redirected":          {"GET / HTTP/1.0\r\n\r\n", "", "was called itself"},
		"restored to itself":      {fmt.Sprintf("PROXY TCP4 192.0.2.1 127.0.0.1 5 %d\r\n", port), "", "was called itself"},
		"restored to our address": {fmt.Sprintf("PROXY TCP4 192.0.2.1 %s 5 %d\r\n", own, port), "", "is the address of listener"},
		"another machine's port":  {fmt.Sprintf("PROXY TCP4 192.0.2.1 203.0.113.77 5 %d\r\n", port), "served", ""},
		"another port":            {"PROXY TCP4 192.0.2.1 127.0.0.1 5 9\r\n", "served", ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := r.loops()
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, c.header)
			if b, _ := io.ReadAll(conn); string(b) != c.want {
				t.Errorf("got %q, want %q", b, c.want)
			}
			if refused := c.want == ""; refused != (r.loops() == before+1) {
				t.Errorf("loop_refused went from %d to %d", before, r.loops())
			}
			r.eventually("the log to say "+c.reason, func() bool { return strings.Contains(log.String(), c.reason) })
		})
	}
	for destination, want := range map[string]string{"": "was called itself", fmt.Sprintf("127.0.0.1:%d", port): "is the address of listener", "127.0.0.1:9": ""} {
		q := Query{Listener: "l"}
		if destination != "" {
			q.Destination = netip.MustParseAddrPort(destination)
		}
		if x, err := r.Explain(q); err != nil || !strings.Contains(x.Refused, want) || want == "" && x.Refused != "" {
			t.Errorf("explain of %q says %q, %v, want %q", destination, x.Refused, err, want)
		}
	}
}

func (r *running) loops() uint64 {
	return r.registry.Scope("listener").Tagged("envoy_listener_address", "0.0.0.0_0").Counter("loop_refused").Value()
}

func TestCallToTheListenerItselfIsServedWithoutTheGuard(t *testing.T) {
	r := run(t, intercepting+direct("served"), Options{})
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.Listening("l")[0].(*net.TCPAddr).Port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "x")
	if b, _ := io.ReadAll(conn); string(b) != "served" {
		t.Errorf("got %q: as Envoy serves it", b)
	}
}
