//go:build netns

package netns

import (
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"outrider/iptables/netnstest"
)

// Envoy runs what `outrider sidecar --print-config` says, beside an `outrider
// agent`.
func TestRealEnvoyInTheServersPlaceDoesTheSame(t *testing.T) {
	if os.Getenv("ENVOY") == "" {
		netnstest.Missing(t, "real Envoy, which the environment variable ENVOY names")
	}
	program := binary(t, "ENVOY")
	everywhere(t, func(t *testing.T, w *world) {
		applications(t, w.server)
		w.sidecar(w.client, w.serverService())
		w.deliver(w.server)
		w.rules(w.server)
		w.agent(w.server)
		for _, mode := range []string{"PERMISSIVE", "STRICT", "DISABLE"} {
			t.Run(mode, func(t *testing.T) {
				server := w.envoy(program, w.server, serverPorts()+"mtls: "+mode+"\n")
				defer server.end(syscall.SIGKILL)
				eachFamily(t, func(t *testing.T, f family) {
					w.servesAs(t, f, mode)
					if mode != "DISABLE" {
						w.hidesAllFromTheWire(t, f, server)
					}
					if mode == "PERMISSIVE" {
						w.showsTheSource(t, f)
					}
				})
			})
		}
	})
}

// agent starts what keeps a host's certificates for Envoy.
func (w *world) agent(h *host) {
	w.t.Helper()
	a := &sidecar{program: h.start(w.t, proxyUser, append([]string{w.outrider, "agent"}, w.identity(h)...)...), w: w, host: h}
	a.ready()
}

// envoy starts Envoy with what the sidecar of a short file would run.
func (w *world) envoy(program string, h *host, more string) *sidecar {
	w.t.Helper()
	write(w.t, filepath.Join(h.dir, "sidecar.yaml"), w.config(h, more))
	write(w.t, filepath.Join(h.dir, "envoy.yaml"), output(w.t, w.outrider, "sidecar", "--config", filepath.Join(h.dir, "sidecar.yaml"), "--print-config"))
	if err := os.Remove(filepath.Join(h.dir, "access.log")); err != nil && !os.IsNotExist(err) { // of another run
		w.t.Fatal(err)
	}
	s := &sidecar{w: w, host: h, program: h.start(w.t, proxyUser, program, "-c", "envoy.yaml",
		"--disable-hot-restart", "--concurrency", "1", "--file-flush-interval-msec", "20", "-l", "warning")}
	s.until("readiness", func() bool {
		code, _, err := s.get("127.0.0.1:15000/ready")
		return err == nil && code == http.StatusOK
	})
	return s
}
