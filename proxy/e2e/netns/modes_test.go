//go:build netns

package netns

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// atOnce is far more than the 50 ms that a silent client is waited for, and far
// less than the 15 s of Envoy's listener_filters_timeout.
const atOnce = 3 * time.Second

func TestAHostWithoutASidecarIsServedAsEachModeSays(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		applications(t, w.server)
		server := w.sidecar(w.server, serverPorts())
		w.sidecar(w.client, w.serverService())
		for _, mode := range []string{"PERMISSIVE", "STRICT", "DISABLE"} {
			t.Run(mode, func(t *testing.T) {
				server.change(serverPorts() + "mtls: " + mode + "\n")
				eachFamily(t, func(t *testing.T, f family) { w.servesAs(t, f, mode) })
			})
		}
	})
}

// servesAs has everybody call the server, whose ports are as serverPorts has
// them and as mode says.
func (w *world) servesAs(t *testing.T, f family, mode string) {
	t.Helper()
	if mode == "STRICT" {
		w.plain.isRefused(t, f.at(w.server, echoPort))
	} else {
		w.plaintextIsOnTheWire(t, f, echoPort)
	}
	if mode != "DISABLE" { // there the bytes go to the application, and the client speaks TLS
		w.client.reaches(t, f.at(w.server, echoPort), "meshed")
	}
	w.plain.isRefused(t, f.at(w.server, strictPort))
	w.plain.isRefused(t, f.at(w.server, strictSMTP))
	w.client.reaches(t, f.at(w.server, strictPort), "meshed")
	w.plaintextIsOnTheWire(t, f, disabledPort)
	w.client.reaches(t, f.at(w.server, disabledPort), "meshed")
}

// plaintextIsOnTheWire has the host without a sidecar call a port of the
// server's, and the capture show what it said.
func (w *world) plaintextIsOnTheWire(t *testing.T, f family, port int) {
	t.Helper()
	wire := w.router.Capture(t, "server")
	open := marker("open")
	w.plain.reaches(t, f.at(w.server, port), open)
	if !wire.Wait(func(frame []byte) bool { return bytes.Contains(frame, []byte(open)) }) {
		t.Errorf("port %d: the wire lacks the plaintext", port)
	}
}

func TestAServerThatSpeaksFirstIsHeardAtOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		applications(t, w.server)
		server := w.sidecar(w.server, serverPorts())
		w.sidecar(w.client, w.serverService())
		eachFamily(t, func(t *testing.T, f family) {
			for _, c := range []struct {
				from *host
				port int
				peer string
			}{
				{w.client, smtpPort, id(w.client)}, {w.client, strictSMTP, id(w.client)}, {w.client, disabledSMTP, "-"},
				{w.plain, smtpPort, "-"}, {w.plain, disabledSMTP, "-"},
			} {
				greets(t, c.from, f.at(w.server, c.port))
				server.logged(f.address(c.from), f.at(w.server, c.port), "peer="+c.peer+" ")
			}
		})
	})
}

// greets fails the test unless a silent client is greeted at once, and answered
// then.
func greets(t *testing.T, from *host, address string) {
	t.Helper()
	began := time.Now()
	c, err := from.dial(appUser, address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := c.hear()
	if took := time.Since(began); err != nil || got != greeting || took > atOnce {
		t.Errorf("%s to %s: heard %q %v after %s", from.Name, address, got, err, took)
	}
	if got, err := c.ask("EHLO"); err != nil || !strings.HasSuffix(got, ": EHLO") {
		t.Errorf("%s to %s, after the greeting: got %q %v", from.Name, address, got, err)
	}
}

func TestTheApplicationSeesTheCallerWithTPROXYAndTheLoopbackSourceElse(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		applications(t, w.server)
		w.sidecar(w.server, serverPorts())
		w.sidecar(w.client, w.serverService())
		eachFamily(t, func(t *testing.T, f family) { w.showsTheSource(t, f) })
	})
}

// showsTheSource asks the applications whom they take their clients for.
func (w *world) showsTheSource(t *testing.T, f family) {
	t.Helper()
	for _, c := range []struct {
		from *host
		port int
	}{{w.client, echoPort}, {w.client, strictPort}, {w.plain, echoPort}, {w.plain, disabledPort}} {
		want := f.source
		if w.setup.mode == "TPROXY" {
			want = f.address(c.from)
		}
		const line = "whom do you see" // fewer than 5 bytes Envoy's tls_inspector holds back
		if got, err := c.from.call(f.at(w.server, c.port), line); err != nil || got != want+": "+line {
			t.Errorf("%s to port %d: the application answers %q %v, want it to see %s", c.from.Name, c.port, got, err, want)
		}
	}
}
