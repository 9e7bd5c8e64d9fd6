package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"outrider/certs/ca"
	"outrider/proxy/config/decode"
)

// A greeting as MySQL 8 sends it (protocol version 10), and one of SMTP.
const (
	mysqlGreeting = "\x4a\x00\x00\x00\x0a8.0.36\x00\x08\x00\x00\x00abcdefgh\x00\xff\xff\xff\x02\x00\xff\xdf\x15\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00ijklmnopqrst\x00mysql_native_password\x00"
	smtpGreeting  = "220 mail.example.com ESMTP\r\n"
)

// app is an application behind the proxy: it says its greeting, if it has one,
// then echoes.
type app struct {
	net.Listener
	accepted atomic.Int64
}

func newApp(t *testing.T, greeting string) *app {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveApp(t, ln, greeting)
}

func serveApp(t *testing.T, ln net.Listener, greeting string) *app {
	t.Helper()
	a := &app{Listener: ln}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			a.accepted.Add(1)
			go func() {
				defer c.Close()
				io.WriteString(c, greeting)
				io.Copy(c, c)
			}()
		}
	}()
	return a
}

// permissive is an inbound listener as for Istio's PERMISSIVE: one chain for
// TLS, one for plaintext, with the application behind both.
type permissive struct {
	app      string // address
	plain    string // the match of the plaintext chain; "" is transport_protocol: raw_buffer
	rbac     string // a filter before tcp_proxy
	listener string // more fields of the listener
	both     bool   // the chain for TLS takes plaintext as well, and fails
	socket   string // transport_socket of the cluster
}

func (p permissive) bootstrap(t *testing.T, dir string) string {
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
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	host, port, _ := net.SplitHostPort(p.app)
	plain, secure := p.plain, "transport_protocol: tls"
	if p.both {
		plain, secure = "destination_port: 1", ""
	}
	if plain == "" {
		plain = "transport_protocol: raw_buffer"
	}
	filters := p.rbac + `
      - {name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: p, cluster: app}}`
	return fmt.Sprintf(`
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  clusters:
  - {name: app, type: STATIC, connect_timeout: 60s, load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]}%s}
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    %s
    access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: %[5]s/access.log, log_format: {text_format_source: {inline_string: "%%FILTER_CHAIN_NAME%% %%UPSTREAM_HOST%% %%DYNAMIC_METADATA(outrider:server_first)%%\n"}}}}]
    filter_chains:
    - name: tls
      filter_chain_match: {%[8]s}
      transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {tls_certificates: [{certificate_chain: {filename: %[5]s/cert.pem}, private_key: {filename: %[5]s/key.pem}}]}}}
      filters:%[6]s
    - name: plain
      filter_chain_match: {%[7]s}
      filters:%[6]s
`, host, port, p.socket, p.listener, dir, filters, plain, secure)
}

// serve runs the proxy.
func (p permissive) serve(t *testing.T, o Options) *running {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	dir := t.TempDir()
	boot, err := decode.Bootstrap([]byte(p.bootstrap(t, dir)), decode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if o.FlushInterval == 0 {
		o.FlushInterval = 10 * time.Millisecond
	}
	s, err := New(boot, o)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, s, dir)
}

func (r *running) wantLog(want string) {
	r.t.Helper()
	r.eventually("access log "+want, func() bool {
		text, _ := os.ReadFile(filepath.Join(r.dir, "access.log"))
		return strings.Contains(string(text), want)
	})
}

func (r *running) counter(name string) uint64 {
	return r.registry.Scope("listener").Tagged("envoy_listener_address", "127.0.0.1_0").Counter(name).Value()
}

// greeted reads a greeting, and has a word echoed.
func greeted(t *testing.T, c net.Conn, greeting string) {
	t.Helper()
	b := make([]byte, len(greeting))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != greeting {
		t.Fatalf("got %q, %v, want the greeting", b, err)
	}
	if !echoes(c) {
		t.Error("the connection does not go on after the greeting")
	}
}

func (r *running) tlsConn(c net.Conn) *tls.Conn {
	r.t.Helper()
	pem, err := os.ReadFile(filepath.Join(r.dir, "root.pem"))
	if err != nil {
		r.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return tls.Client(c, &tls.Config{RootCAs: roots, ServerName: "server"})
}

// secureApp is newApp over TLS.
func secureApp(t *testing.T, greeting string) *app {
	t.Helper()
	authority, err := ca.New("app root")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := authority.Issue(ca.Leaf{DNS: []string{"app"}})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(leaf.ChainPEM, leaf.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp4", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	return serveApp(t, ln, greeting)
}

func setBacklog(t *testing.T, ln *net.TCPListener, n int) {
	t.Helper()
	raw, err := ln.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), n) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}
