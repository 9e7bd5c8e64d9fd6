//go:build netns

package netns

import "testing"

func TestWhatIsExcludedDoesNotPassTheSidecar(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		applications(t, w.server)
		applications(t, w.plain)
		server, client := w.sidecar(w.server, "mtls: STRICT\n"), w.sidecar(w.client, w.serverService())
		w.rules(w.client, "-o", "5432", "-x", "10.9.0.0/24,fd09::/64")
		eachFamily(t, func(t *testing.T, f family) {
			in, out := server.inbound(), client.outbound()
			w.plain.reaches(t, f.at(w.server, excludedIn), "inbound port")
			w.client.reaches(t, f.at(w.plain, excludedOut), "outbound port")
			w.client.reaches(t, at(f.far, echoPort), "outbound range")
			if n := server.inbound() - in; n != 0 {
				t.Errorf("%d inbound connections pass the sidecar", n)
			}
			if n := client.outbound() - out; n != 0 {
				t.Errorf("%d outbound connections pass the sidecar", n)
			}
			w.client.reaches(t, f.at(w.plain, echoPort), "what is not excluded")
			w.plain.isRefused(t, f.at(w.server, echoPort))
			if in, out := server.inbound()-in, client.outbound()-out; in != 1 || out != 1 {
				t.Errorf("of what is not excluded, %d inbound and %d outbound connections pass the sidecar, want 1 each", in, out)
			}
		})
	})
}

func TestUnknownDestinationsArePassedOnOrClosedAsConfigured(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		applications(t, w.server)
		applications(t, w.plain)
		w.sidecar(w.server, serverPorts())
		client := w.sidecar(w.client, w.serverService()+"outbound: ALLOW_ANY\n")
		eachFamily(t, func(t *testing.T, f family) {
			w.client.reaches(t, f.at(w.plain, echoPort), "unknown")
			greets(t, w.client, f.at(w.plain, smtpPort))
			client.logged(f.at(w.plain, echoPort), "cluster=PassthroughCluster")
		})
		client.change(w.serverService() + "outbound: REGISTRY_ONLY\n")
		eachFamily(t, func(t *testing.T, f family) {
			w.client.isRefused(t, f.at(w.plain, echoPort))
			w.client.reaches(t, f.at(w.server, echoPort), "known")
			client.logged(f.at(w.plain, echoPort), "cluster=BlackHoleCluster")
		})
	})
}

func TestAnApplicationThatRunsAsTheSidecarsUserPassesItBy(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		applications(t, w.server)
		serve(t, w.client.Listen(t, proxyUser, "[::]:7777", false), answer)
		server, client := w.sidecar(w.server, serverPorts()), w.sidecar(w.client, w.serverService())
		client.until("a warning of the application's port", func() bool { return client.says("level=WARN", "the sidecar's user", ":7777") })
		eachFamily(t, func(t *testing.T, f family) {
			in, out := server.inbound(), client.outbound()
			if got, err := w.client.callAs(proxyUser, f.at(w.server, echoPort), "x"); err != nil {
				t.Errorf("plaintext under PERMISSIVE: got %q %v", got, err)
			}
			if got, err := w.client.callAs(proxyUser, f.at(w.server, strictPort), "x"); err == nil {
				t.Errorf("plaintext under STRICT: got %q, want an end", got)
			}
			if in, out := server.inbound()-in, client.outbound()-out; in != 2 || out != 0 {
				t.Errorf("the server's sidecar takes %d connections, its own %d; want 2 and none", in, out)
			}
			// To its own host it is taken for the sidecar, whose calls are inbound there.
			in = client.inbound()
			if got, err := w.client.callAs(proxyUser, f.at(w.client, 7777), "x"); err != nil {
				t.Errorf("to its own host: got %q %v", got, err)
			}
			if n := client.inbound() - in; n != 1 {
				t.Errorf("to its own host %d connections come of it, want 1", n)
			}
		})
	})
}
