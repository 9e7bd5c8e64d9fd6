package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outrider/certs/ca"
	"outrider/proxy/config/decode"
)

// peerWorld is a server that demands certificates of roots in a file, and logs
// why connections end.
type peerWorld struct {
	*running
	root *ca.CA
}

func newPeerWorld(t *testing.T, o PeerOptions) *peerWorld {
	t.Helper()
	dir := t.TempDir()
	root, err := ca.New("root")
	if err != nil {
		t.Fatal(err)
	}
	own, err := root.Issue(ca.Leaf{ID: "spiffe://td/server"})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"chain": own.ChainPEM, "key": own.KeyPEM} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := &peerWorld{root: root}
	w.running = &running{t: t, dir: dir, done: make(chan error, 1)}
	w.trust(root)
	boot, err := decode.Bootstrap([]byte(fmt.Sprintf(`
node: {id: test, cluster: test}
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    access_log:
    - name: file
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
        path: %[1]s/access.log
        log_format: {text_format_source: {inline_string: "%%CONNECTION_TERMINATION_DETAILS%%\n"}}
    filter_chains:
    - filters: [{name: echo, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_certificates: [{certificate_chain: {filename: %[1]s/chain}, private_key: {filename: %[1]s/key}}]
            validation_context_sds_secret_config: {name: roots, sds_config: {path_config_source: {path: %[1]s/roots.yaml}}}
`, dir)), decode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(boot, Options{Peers: o, FlushInterval: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	w.Server = s
	ctx, stop := context.WithCancel(context.Background())
	go func() { w.done <- s.Run(ctx) }()
	t.Cleanup(func() {
		s.Abort()
		stop()
		<-w.done
	})
	w.eventually("the roots", func() bool { return s.State() == "LIVE" })
	return w
}

// trust makes those the roots.
func (w *peerWorld) trust(roots ...*ca.CA) {
	w.t.Helper()
	var text strings.Builder
	for _, r := range roots {
		text.Write(r.PEM())
	}
	indented := strings.ReplaceAll(strings.TrimSpace(text.String()), "\n", "\n        ")
	put(w.t, filepath.Join(w.dir, "roots.yaml"), `
resources:
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: roots
  validation_context:
    trusted_ca:
      inline_string: |
        `+indented+"\n")
}

// connect is a client whose certificate is good for so long.
func (w *peerWorld) connect(life time.Duration) net.Conn {
	w.t.Helper()
	issued, err := w.root.Issue(ca.Leaf{ID: "spiffe://td/client", NotAfter: time.Now().Add(life)})
	if err != nil {
		w.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(issued.ChainPEM, issued.KeyPEM)
	if err != nil {
		w.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(w.root.Cert)
	c, err := tls.Dial("tcp", w.Listening("l")[0].String(), &tls.Config{
		Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true, //nolint:gosec // it is the server that is tested
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	if !echoes(c) {
		w.t.Fatal("the connection does not work")
	}
	return c
}

// ended waits for a connection's end, and tells what the access log says.
func (w *peerWorld) ended(c net.Conn) string {
	w.t.Helper()
	if _, err := io.ReadFull(c, make([]byte, 1)); err == nil {
		w.t.Fatal("the connection goes on")
	}
	var text []byte
	w.eventually("the access log", func() bool {
		text, _ = os.ReadFile(filepath.Join(w.dir, "access.log"))
		return len(text) > 0
	})
	return strings.TrimSpace(string(text))
}

func TestAConnectionEndsWhenItsPeersCertificateHasIfAsked(t *testing.T) {
	w := newPeerWorld(t, PeerOptions{Expired: true})
	long := w.connect(time.Hour)
	if got := w.ended(w.connect(2 * time.Second)); got != detailsExpired {
		t.Errorf("details %q, want %q", got, detailsExpired)
	}
	if !echoes(long) {
		t.Error("a peer whose certificate is good is ended, too")
	}
}

func TestAConnectionEndsWhenItsPeersRootIsRemovedIfAsked(t *testing.T) {
	w := newPeerWorld(t, PeerOptions{RootRemoved: true})
	other, err := ca.New("other")
	if err != nil {
		t.Fatal(err)
	}
	c := w.connect(time.Hour)
	w.trust(w.root, other)
	time.Sleep(2 * lookEvery) // a change that concerns nobody
	if !echoes(c) {
		t.Fatal("a root more ends the connection")
	}
	w.trust(other)
	if got := w.ended(c); got != detailsRootRemoved {
		t.Errorf("details %q, want %q", got, detailsRootRemoved)
	}
	if n := w.peers.ended[detailsRootRemoved].Value(); n != 1 {
		t.Errorf("counted %d times", n)
	}
}

func TestNothingEndsForItsPeersSakeUnlessAsked(t *testing.T) {
	w := newPeerWorld(t, PeerOptions{})
	c := w.connect(time.Second)
	other, err := ca.New("other")
	if err != nil {
		t.Fatal(err)
	}
	w.trust(other)
	time.Sleep(3 * lookEvery)
	if !echoes(c) {
		t.Error("the connection was ended")
	}
}

func TestGraceIsGiven(t *testing.T) {
	w := newPeerWorld(t, PeerOptions{Expired: true, Grace: time.Hour, Jitter: time.Minute})
	c := w.connect(time.Second)
	time.Sleep(3 * lookEvery)
	if !echoes(c) {
		t.Fatal("the connection was ended before its grace was over")
	}
	w.peers.look(time.Now().Add(2 * time.Hour))
	if got := w.ended(c); got != detailsExpired {
		t.Errorf("details %q", got)
	}
}
