package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"outrider/certs/ca"
	"outrider/proxy/config/decode"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
	"outrider/tlsmux"
)

// peerWorld is a server that demands certificates of roots in a file, and logs
// why connections end.
type peerWorld struct {
	*running
	root *ca.CA
	log  logBuffer
	last *x509.Certificate // of the last client
}

func newRoot(t *testing.T, name string) *ca.CA {
	t.Helper()
	root, err := ca.New(name)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func newPeerWorld(t *testing.T, o PeerOptions) *peerWorld {
	t.Helper()
	dir := t.TempDir()
	root := newRoot(t, "root")
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
        log_format: {text_format_source: {inline_string: "%%RESPONSE_FLAGS%% %%CONNECTION_TERMINATION_DETAILS%% %%DOWNSTREAM_LOCAL_CLOSE_REASON%%\n"}}
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
	s, err := New(boot, Options{Log: w.log.logger(), Peers: o, FlushInterval: 10 * time.Millisecond})
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

// legs are those that are watched for their bundle's sake.
func (w *peerWorld) legs() []*leg {
	w.peers.mu.Lock()
	defer w.peers.mu.Unlock()
	var out []*leg
	for _, b := range w.peers.bundles {
		out = slices.AppendSeq(out, maps.Keys(b.legs))
	}
	return out
}

// nextEnd is when the next connection is to end; zero for none.
func (w *peerWorld) nextEnd() time.Time {
	w.peers.mu.Lock()
	defer w.peers.mu.Unlock()
	if len(w.peers.due) == 0 {
		return time.Time{}
	}
	return w.peers.due[0].at
}

// forgotten waits until nothing is watched any more.
func (w *peerWorld) forgotten() {
	w.t.Helper()
	w.eventually("that nothing is watched", func() bool { return len(w.legs()) == 0 && w.nextEnd().IsZero() })
}

// revision waits for that version of the roots.
func (w *peerWorld) revision(n uint64) {
	w.t.Helper()
	w.eventually("the roots", func() bool { return w.secrets.Handles()[0].Revision() >= n })
}

// crl is the root's list.
func (w *peerWorld) crl(revoked ...*x509.Certificate) []byte {
	w.t.Helper()
	list, err := w.root.CRL(time.Now().Add(time.Hour), revoked...)
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// trust makes those the roots.
func (w *peerWorld) trust(roots ...*ca.CA) {
	w.t.Helper()
	w.publish(nil, roots...)
}

// publish makes those the roots, with a revocation list if it is not nil.
func (w *peerWorld) publish(crl []byte, roots ...*ca.CA) {
	w.t.Helper()
	var text strings.Builder
	for _, r := range roots {
		text.Write(r.PEM())
	}
	indent := func(pem string) string { return strings.ReplaceAll(strings.TrimSpace(pem), "\n", "\n        ") }
	list := ""
	if crl != nil {
		list = "    crl:\n      inline_string: |\n        " + indent(string(crl)) + "\n"
	}
	put(w.t, filepath.Join(w.dir, "roots.yaml"), `
resources:
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: roots
  validation_context:
    trusted_ca:
      inline_string: |
        `+indent(text.String())+"\n"+list)
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
	w.last = issued.Cert
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
	if got := w.ended(w.connect(2 * time.Second)); got != "LR "+detailsExpired+" "+detailsExpired {
		t.Errorf("access log %q", got)
	}
	if !echoes(long) {
		t.Error("a peer whose certificate is good is ended, too")
	}
}

func TestAConnectionEndsWhenItsPeersRootIsRemovedIfAsked(t *testing.T) {
	w := newPeerWorld(t, PeerOptions{RootRemoved: true})
	other := newRoot(t, "other")
	c := w.connect(time.Hour)
	w.trust(w.root, other)
	w.revision(2) // a change that concerns nobody
	for _, l := range w.legs() {
		if details, why := w.peers.standing(l); details != "" {
			t.Fatalf("a root more ends the connection: %v", why)
		}
	}
	if !echoes(c) {
		t.Fatal("a root more ends the connection")
	}
	w.trust(other)
	if got := w.ended(c); got != "LR "+detailsRootRemoved+" "+detailsRootRemoved {
		t.Errorf("access log %q", got)
	}
	if n := w.peers.ended[detailsRootRemoved].Value(); n != 1 {
		t.Errorf("counted %d times", n)
	}
	if !strings.Contains(w.log.String(), "downstream: the peer, who presented URI spiffe://td/client") {
		t.Errorf("the peer is not in the log:\n%s", w.log.String())
	}
	w.forgotten()
}

func TestAConnectionGoesOnIfItsPeersRootComesBackWithinTheGrace(t *testing.T) {
	w := newPeerWorld(t, PeerOptions{RootRemoved: true, Grace: time.Hour})
	c := w.connect(time.Hour)
	w.trust(newRoot(t, "other"))
	planned := func() bool { return !w.nextEnd().IsZero() }
	w.eventually("an end in an hour", planned)
	if left := time.Until(w.nextEnd()); left < 59*time.Minute || left > time.Hour {
		t.Errorf("it ends in %s, want the grace", left)
	}
	w.trust(w.root)
	w.eventually("no end any more", func() bool { return !planned() })
	if !echoes(c) {
		t.Error("the connection was ended")
	}
}

func TestAConnectionEndsWhenItsPeerIsRevokedIfAsked(t *testing.T) {
	w := newPeerWorld(t, PeerOptions{Revoked: true})
	c := w.connect(time.Hour)
	w.publish(w.crl(), w.root)
	w.revision(2)
	if !echoes(c) {
		t.Fatal("a list without the peer ends the connection")
	}
	w.publish(w.crl(w.last), w.root)
	if got := w.ended(c); got != "LR "+detailsRevoked+" "+detailsRevoked {
		t.Errorf("access log %q", got)
	}
}

func TestAPeerThatLostItsRootDuringTheHandshakeIsFound(t *testing.T) {
	w := newPeerWorld(t, PeerOptions{RootRemoved: true, Grace: time.Hour})
	w.connect(time.Hour)
	var state *tlsmux.State
	for _, l := range w.legs() {
		state = l.state
	}
	w.trust(newRoot(t, "other"))
	w.revision(2)
	late := newPeers(PeerOptions{RootRemoved: true, Grace: time.Hour}, stats.New())
	defer late.watch(t.Context(), &flow.Info{Downstream: state}).done()
	if len(late.due) != 1 {
		t.Error("a peer whose root is gone before it is watched is not to be ended")
	}
}

func TestNothingEndsForItsPeersSakeUnlessAsked(t *testing.T) {
	w := newPeerWorld(t, PeerOptions{})
	c := w.connect(time.Second)
	end := time.Now().Add(time.Second)
	w.trust(newRoot(t, "other"))
	w.revision(2)
	w.eventually("the end of the certificate", func() bool { return time.Now().After(end) })
	if !echoes(c) {
		t.Error("the connection was ended")
	}
	w.forgotten() // it costs nothing, either
}

// untilState is a handshake with a peer whose chain ends then.
func untilState(end time.Time) *tlsmux.State {
	return &tlsmux.State{Root: &x509.Certificate{}, PeerUntil: end}
}

func TestConnectionsEndInTheOrderOfTheirPeersCertificates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers(PeerOptions{Expired: true, Grace: 10 * time.Second}, stats.New())
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.run(ctx) }()
		synctest.Wait()
		begin := time.Now()
		var all []*connection
		for _, minutes := range []time.Duration{3, 1, 2, 5, 4} {
			all = append(all, p.watch(t.Context(), &flow.Info{Downstream: untilState(begin.Add(minutes * time.Minute))}))
		}
		forever := p.watch(t.Context(), &flow.Info{Downstream: untilState(time.Time{})})
		all[3].done() // it has ended by itself
		for i, want := range map[int]time.Duration{1: time.Minute, 2: 2 * time.Minute, 0: 3 * time.Minute, 4: 4 * time.Minute} {
			go func() {
				<-all[i].ctx.Done()
				var why *flow.EndError
				if got := time.Since(begin); got != want+10*time.Second || !errors.As(context.Cause(all[i].ctx), &why) || why.Details != detailsExpired {
					t.Errorf("connection %d ended after %s: %v; want it after %s and the grace", i, got, why, want)
				}
			}()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := p.ended[detailsExpired].Value(); n != 4 || len(p.due) != 0 {
			t.Errorf("%d have ended, %d are still to end, want 4 and 0", n, len(p.due))
		}
		if forever.ctx.Err() != nil {
			t.Error("a peer that may be expired is ended")
		}
		for _, c := range append(all, forever) {
			c.done()
		}
		stop()
		<-done
	})
}

func TestEndsAreSpreadOverTheJitter(t *testing.T) {
	p := newPeers(PeerOptions{Expired: true, Grace: time.Minute, Jitter: time.Minute}, stats.New())
	end := time.Now().Add(time.Hour)
	for range 200 {
		defer p.watch(t.Context(), &flow.Info{Downstream: untilState(end), Upstream: untilState(end)}).done()
	}
	first, last := p.due[0].at, p.due[0].at
	for _, l := range p.due {
		if l.at.After(last) {
			last = l.at
		}
	}
	if first.Before(end.Add(time.Minute)) || last.After(end.Add(2*time.Minute)) || last.Sub(first) < 30*time.Second {
		t.Errorf("the first ends after %s, the last after %s", first.Sub(end), last.Sub(end))
	}
}

func TestTheUpstreamsPeerIsWatchedToo(t *testing.T) {
	p := newPeers(PeerOptions{Expired: true}, stats.New())
	info := &flow.Info{}
	c := p.watch(t.Context(), info)
	info.Upstream = untilState(time.Now().Add(-time.Second))
	c.upstream()
	p.endDue()
	if err := context.Cause(c.ctx); err == nil || !strings.Contains(err.Error(), "upstream: the peer") {
		t.Errorf("ended by %v", err)
	}
	c.done()
	if len(p.due) != 0 {
		t.Error("it is watched after its end")
	}
}
