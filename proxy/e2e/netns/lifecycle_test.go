//go:build netns

package netns

import (
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestOnSIGTERMInboundStopsAndOutboundGoesOnWhileConnectionsAreOpen(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		applications(t, w.server)
		applications(t, w.plain)
		server := w.sidecar(w.server, serverPorts(), "--minimum-drain-time-s", "0")
		w.sidecar(w.client, w.serverService())
		var open []*conversation
		for _, f := range families() {
			c, err := w.client.dial(appUser, f.at(w.server, echoPort))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			open = append(open, c)
			stillThere(t, c)
		}
		server.signal(syscall.SIGTERM)
		eachFamily(t, func(t *testing.T, f family) {
			server.until("end of inbound", func() bool { return !w.plain.knocks(f.at(w.server, echoPort)) })
			w.server.reaches(t, f.at(w.plain, echoPort), "outbound goes on")
		})
		for _, c := range open {
			stillThere(t, c)
		}
		if server.ended() {
			t.Error("the sidecar has ended while connections are open")
		}
		for _, c := range open {
			c.Close()
		}
		poll(t, "end of the sidecar", server.ended)
	})
}

func stillThere(t *testing.T, c *conversation) {
	t.Helper()
	if got, err := c.ask("still there"); err != nil {
		t.Errorf("the open connection: got %q %v", got, err)
	}
}

// knocks reports whether a connection is taken. Where nobody listens, TPROXY
// drops what arrives: no answer is a no.
func (h *host) knocks(address string) bool {
	err := h.Do(func() error {
		c, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err == nil {
			c.Close()
		}
		return err
	})
	return err == nil
}

func TestWithoutItsSidecarNobodyReachesTheApplication(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		applications(t, w.server)
		w.rules(w.server)
		eachFamily(t, func(t *testing.T, f family) {
			if w.plain.knocks(f.at(w.server, echoPort)) {
				t.Error("a port that is redirected takes a connection")
			}
			if !w.plain.knocks(f.at(w.server, excludedIn)) {
				t.Error("a port that is not redirected takes none")
			}
		})
	})
}

func TestConnectionsFromBeforeTheCertificateAreHeldAndServed(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		applications(t, w.server)
		applications(t, w.plain)
		late := map[*host]*sidecar{}
		for h, more := range map[*host]string{w.server: serverPorts(), w.client: w.serverService()} {
			write(t, filepath.Join(h.dir, "root.pem"), output(t, w.outrider, "ca", "root", "--state", w.state()))
			w.rules(h)
			late[h] = w.launch(h, more)
			late[h].until("admin interface", func() bool { _, _, err := late[h].get("127.0.0.1:15000/ready"); return err == nil })
		}
		var held []*conversation
		for _, f := range families() {
			w.client.reaches(t, f.at(w.plain, echoPort), "needs no certificate")
			w.plain.reaches(t, f.at(w.server, echoPort), "needs no certificate")
			c, err := w.client.dial(appUser, f.at(w.server, strictPort))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte("early\n")); err != nil {
				t.Error(err)
			}
			held = append(held, c)
		}
		late[w.client].until("held connections", func() bool { return late[w.client].count("outrider.", "connections_held") >= len(held) })
		w.token(w.client)
		late[w.server].until("connections held by the server", func() bool { return late[w.server].count("outrider.", "connections_held") >= len(held) })
		w.token(w.server)
		for i, c := range held {
			if got, err := c.hear(); err != nil {
				t.Errorf("held connection %d: got %q %v", i, got, err)
			}
			c.Close()
		}
		late[w.server].logged("peer="+id(w.client)+" ", "flags=- ")
	})
}
