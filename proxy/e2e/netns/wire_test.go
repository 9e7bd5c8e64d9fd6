//go:build netns

package netns

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"testing"

	"outrider/iptables/netnstest"
)

const tlsHandshake = "\x16\x03\x01" // RFC 8446, section 5.1

// marker is a text that is nowhere else.
func marker(name string) string { return name + "-" + rand.Text() }

// has reports whether a frame on the wire has the text. What was sent before
// the call is seen by it: mark sends a last frame, and waits for it.
func has(t *testing.T, wire *netnstest.Capture, mark func(text string), text string) bool {
	t.Helper()
	last := marker("last")
	mark(last)
	if !wire.Wait(func(frame []byte) bool { return bytes.Contains(frame, []byte(last)) }) {
		t.Fatalf("the capture does not see what passes: %q", last)
	}
	for _, frame := range wire.Frames() {
		if bytes.Contains(frame, []byte(text)) {
			return true
		}
	}
	return false
}

// serverPorts are the modes of the server's ports.
func serverPorts() string {
	return fmt.Sprintf("ports:\n- {port: %d, mtls: STRICT}\n- {port: %d, mtls: DISABLE}\n- {port: %d, mtls: STRICT}\n- {port: %d, mtls: DISABLE}\n",
		strictPort, disabledPort, strictSMTP, disabledSMTP)
}

// serverService is what the client's short file says of the server: mTLS, and
// plaintext to the ports that have none.
func (w *world) serverService() string {
	text := "services:\n"
	for i, f := range families() {
		text += fmt.Sprintf("- {host: server%d.dev.svc.cluster.local, addresses: ['%s'], ports: [%d, %d, %d, %d], identities: ['%s']}\n",
			i, f.address(w.server), echoPort, strictPort, smtpPort, strictSMTP, id(w.server))
		text += fmt.Sprintf("- {host: legacy%d.dev.svc.cluster.local, addresses: ['%s'], ports: [%d, %d], mtls: false}\n",
			i, f.address(w.server), disabledPort, disabledSMTP)
	}
	return text
}

// pass has a frame with a text cross the server's cable, by a port that is
// redirected nowhere.
func (w *world) pass(t *testing.T, f family) func(text string) {
	return func(text string) { w.plain.reaches(t, f.at(w.server, excludedIn), text) }
}

func TestUnchangedApplicationsSpeakMutualTLSOnTheWire(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		applications(t, w.server)
		server := w.sidecar(w.server, serverPorts())
		w.sidecar(w.client, w.serverService())
		eachFamily(t, func(t *testing.T, f family) { w.hidesAllFromTheWire(t, f, server) })
	})
}

// hidesAllFromTheWire has the client call the server, and looks at the wire
// between them and at whom the server's sidecar has taken the caller for.
func (w *world) hidesAllFromTheWire(t *testing.T, f family, server *sidecar) {
	t.Helper()
	wire := w.router.Capture(t, "server")
	for _, port := range []int{echoPort, strictPort} {
		secret := marker("secret")
		w.client.reaches(t, f.at(w.server, port), secret)
		if has(t, wire, w.pass(t, f), secret) {
			t.Errorf("port %d: the wire has the plaintext", port)
		}
		server.logged(f.at(w.server, port), "peer="+id(w.client)+" ", "tls=TLSv1.3", fmt.Sprintf("rx=%d ", len(secret)+1))
	}
	if !wire.Wait(func(frame []byte) bool { return bytes.Contains(frame, []byte(tlsHandshake)) }) {
		t.Error("the wire has no TLS")
	}
}
