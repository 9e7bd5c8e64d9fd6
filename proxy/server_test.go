package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outrider/proxy/config/decode"
)

// patience bounds every wait for another goroutine or process.
const patience = 10 * time.Second

// running is a server in this process, whose listeners come from a file.
type running struct {
	*Server
	t    *testing.T
	dir  string
	stop context.CancelFunc
	done chan error
}

// run starts a server with an LDS file. Admin is on a port of its own.
func run(t *testing.T, lds string, o Options) *running {
	t.Helper()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "lds.yaml"), lds)
	boot, err := decode.Bootstrap([]byte(fmt.Sprintf(`
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
node: {id: test, cluster: test}
dynamic_resources: {lds_config: {path_config_source: {path: %[1]s/lds.yaml}}}
static_resources:
  clusters:
  - {name: sds, type: STATIC, connect_timeout: 1s, load_assignment: {cluster_name: sds, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %[1]s/none}}}}]}]}}
`, dir)), decode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(boot, o)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, s, dir)
}

// start runs s to the end of the test.
func start(t *testing.T, s *Server, dir string) *running {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	r := &running{Server: s, t: t, dir: dir, stop: stop, done: make(chan error, 1)}
	go func() { r.done <- s.Run(ctx) }()
	t.Cleanup(func() {
		s.Abort()
		stop()
		select {
		case err := <-r.done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})
	return r
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// eventually polls, for the server's goroutines are its own.
func (r *running) eventually(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			r.t.Fatalf("%s: not within %s", what, patience)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (r *running) get(path string) string {
	r.t.Helper()
	resp, err := http.Get("http://" + r.adminListener.Addr().String() + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(body)
}

// dial opens a connection from a loopback address, by which the chains of the
// tests are told apart.
func (r *running) dial(from string) net.Conn {
	r.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
	c, err := d.Dial("tcp", r.Listening("l")[0].String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// echoes reports whether c still gets its bytes back.
func echoes(c net.Conn) bool {
	if _, err := c.Write([]byte("x")); err != nil {
		return false
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err == nil
}

// chain is a filter chain for clients from one address. It echoes; what is in
// name only makes it another chain.
func chain(name, from string) string {
	return fmt.Sprintf(`
  - name: %s
    filter_chain_match: {source_prefix_ranges: [{address_prefix: %s, prefix_len: 32}]}
    filters: [{name: echo, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]`, name, from)
}

// listenerOf is a discovery response with one listener.
func listenerOf(chains ...string) string {
	return `
version_info: "1"
resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: l
  address: {socket_address: {address: 127.0.0.1, port_value: 0}}
  filter_chains:` + strings.Join(chains, "")
}

func TestAnUpdateOfOneChainLeavesTheConnectionsOfAnother(t *testing.T) {
	r := run(t, listenerOf(chain("a", "127.0.0.1"), chain("b", "127.0.0.2")), Options{DrainTime: 300 * time.Millisecond})
	a, b := r.dial("127.0.0.1"), r.dial("127.0.0.2")
	if !echoes(a) || !echoes(b) {
		t.Fatal("no echo before the update")
	}
	put(t, filepath.Join(r.dir, "lds.yaml"), listenerOf(chain("a", "127.0.0.1"), chain("b-changed", "127.0.0.2")))
	r.eventually("the update", func() bool { return strings.Contains(r.get("/config_dump"), "b-changed") })
	if next := r.dial("127.0.0.2"); !echoes(next) {
		t.Error("the changed chain does not serve")
	}
	if !echoes(b) {
		t.Error("the connection of the old chain is cut before its drain time")
	}
	r.eventually("the end of the old chain's connection", func() bool { return !echoes(b) })
	if !echoes(a) {
		t.Error("the connection of the unchanged chain is cut")
	}
}

func TestABadUpdateIsShownAndTheOldListenerServes(t *testing.T) {
	r := run(t, listenerOf(chain("a", "127.0.0.1")), Options{})
	if !echoes(r.dial("127.0.0.1")) {
		t.Fatal("no echo before the update")
	}
	put(t, filepath.Join(r.dir, "lds.yaml"), strings.Replace(listenerOf(chain("a", "127.0.0.1")), "prefix_len: 32", "prefix_len: 33", 1))
	r.eventually("the error in /config_dump", func() bool {
		return strings.Contains(r.get("/config_dump"), "error_state")
	})
	if !strings.Contains(r.get("/config_dump"), "prefix_ranges") || !echoes(r.dial("127.0.0.1")) {
		t.Error("the error does not name the field, or the old version does not serve")
	}
}

func TestAListenerThatIsTakenOutStopsAccepting(t *testing.T) {
	r := run(t, listenerOf(chain("a", "127.0.0.1")), Options{DrainTime: time.Hour})
	open := r.dial("127.0.0.1")
	if !echoes(open) {
		t.Fatal("no echo")
	}
	addr := r.Listening("l")[0].String()
	put(t, filepath.Join(r.dir, "lds.yaml"), "version_info: \"2\"\nresources: []\n")
	r.eventually("the port to close", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if !echoes(open) {
		t.Error("the open connection is cut before the drain time")
	}
	const metric = "listener.127.0.0.1_0.downstream_cx_total"
	if !strings.Contains(r.get("/stats"), metric) {
		t.Errorf("%s is gone before the connection", metric)
	}
	open.Close()
	r.eventually("the end of the listener's metrics", func() bool { return !strings.Contains(r.get("/stats"), metric) })
}

// tlsChain needs a secret that never comes.
const tlsChain = `
  - name: tls
    filter_chain_match: {source_prefix_ranges: [{address_prefix: 127.0.0.1, prefix_len: 32}]}
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
        common_tls_context:
          tls_certificate_sds_secret_configs:
          - name: default
            sds_config: {api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: sds}}]}, initial_fetch_timeout: 0s, resource_api_version: V3}
    filters: [{name: echo, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]`

func TestAnUpdateWithoutItsSecretDoesNotRetireTheWorkingOne(t *testing.T) {
	r := run(t, listenerOf(chain("a", "127.0.0.1")), Options{})
	put(t, filepath.Join(r.dir, "lds.yaml"), listenerOf(tlsChain))
	r.eventually("a warming state", func() bool { return strings.Contains(r.get("/config_dump"), "warming_state") })
	if !echoes(r.dial("127.0.0.1")) {
		t.Error("the working version is retired for one that waits for its secret")
	}
}

func TestAListenerWithoutItsSecretRefusesAndIsNotReady(t *testing.T) {
	r := run(t, listenerOf(tlsChain, chain("b", "127.0.0.2")), Options{})
	r.eventually("INITIALIZING", func() bool { return r.State() == "INITIALIZING" })
	if echoes(r.dial("127.0.0.1")) {
		t.Error("the chain without its secret serves")
	}
	if !echoes(r.dial("127.0.0.2")) {
		t.Error("the chain that needs no secret does not serve")
	}
	x, err := r.Explain(Query{Listener: "l", Source: r.dial("127.0.0.1").LocalAddr().(*net.TCPAddr).AddrPort(), TLS: true})
	if err != nil || x.Chain != "tls" {
		t.Errorf("explain says chain %q, %v", x.Chain, err)
	}
}

func TestDrainingLetsConnectionsFinish(t *testing.T) {
	r := run(t, listenerOf(chain("a", "127.0.0.1")), Options{DrainTime: time.Hour})
	open := r.dial("127.0.0.1")
	if !echoes(open) {
		t.Fatal("no echo")
	}
	addr := r.Listening("l")[0].String()
	r.stop()
	r.eventually("the port to close", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if !echoes(open) {
		t.Error("the open connection is cut while draining")
	}
	if got := r.get("/ready"); got != "DRAINING\n" {
		t.Errorf("/ready says %q, want DRAINING", got)
	}
	open.Close()
	select {
	case err := <-r.done:
		r.done <- err
	case <-time.After(patience):
		t.Error("the server does not end with its last connection")
	}
}

// direct answers every connection with its name.
func direct(name string) string {
	return fmt.Sprintf(`[{filters: [{name: d, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config, response: {inline_string: %s}}}]}]`, name)
}

func TestARestoredDestinationIsHandedToTheListenerItBelongsTo(t *testing.T) {
	log := filepath.Join(t.TempDir(), "access.log")
	r := run(t, `
version_info: "1"
resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: l
  address: {socket_address: {address: 127.0.0.1, port_value: 0}}
  use_original_dst: true
  listener_filters: [{name: p, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}}]
  filter_chains: `+direct("passthrough")+`
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: exact
  address: {socket_address: {address: 10.9.9.9, port_value: 1234}}
  bind_to_port: false
  access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: `+log+`, log_format: {text_format_source: {inline_string: "%DOWNSTREAM_LOCAL_ADDRESS%\n"}}}}]
  filter_chains: `+direct("exact")+`
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: wildcard
  address: {socket_address: {address: 0.0.0.0, port_value: 1234}}
  bind_to_port: false
  filter_chains: `+direct("wildcard")+`
`, Options{FlushInterval: 10 * time.Millisecond})
	for destination, want := range map[string]string{
		"10.9.9.9 5 1234": "exact", "10.9.9.8 5 1234": "wildcard", "10.9.9.9 5 99": "passthrough",
	} {
		c := r.dial("127.0.0.1")
		fmt.Fprintf(c, "PROXY TCP4 192.0.2.1 %s\r\n", destination)
		if got, err := io.ReadAll(c); string(got) != want || err != nil {
			t.Errorf("destination %q is answered by %q %v, want %q", destination, got, err, want)
		}
		fields := strings.Fields(destination)
		x, err := r.Explain(Query{Listener: "l", Destination: netip.MustParseAddrPort(fields[0] + ":" + fields[2])})
		if err != nil || want != "passthrough" && x.Listener != want {
			t.Errorf("explain says listener %q, %v, want %q", x.Listener, err, want)
		}
	}
	r.eventually("the entry in the access log of the owner", func() bool {
		text, _ := os.ReadFile(log)
		return string(text) == "10.9.9.9:1234\n"
	})
}

func TestAPanicEndsItsConnectionAlone(t *testing.T) {
	r := run(t, listenerOf(chain("a", "127.0.0.1")), Options{})
	other := r.dial("127.0.0.1")
	broken := &liveListener{server: r.Server} // has no snapshot: serving panics
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	_, err := broken.guarded(t.Context(), near, r.newInfo(near), &tail{})
	if err == nil || !strings.Contains(err.Error(), "internal error") || r.stats.panics.Value() != 1 {
		t.Errorf("got %v and %d panics, want an error and one", err, r.stats.panics.Value())
	}
	if !echoes(other) {
		t.Error("another connection does not go on")
	}
}
