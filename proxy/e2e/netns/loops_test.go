//go:build netns

package netns

import (
	"fmt"
	"testing"
)

func TestACallToTheSidecarsOwnPortsEnds(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		applications(t, w.server)
		server, client := w.sidecar(w.server, serverPorts()), w.sidecar(w.client, w.serverService())
		eachFamily(t, func(t *testing.T, f family) {
			for _, port := range []int{15001, 15006} {
				isLoop(t, server, w.plain, f.at(w.server, port))
				isLoop(t, client, w.client, at(f.loopback, port))
				isLoop(t, client, w.client, f.at(w.client, port))
				// Those of another host never leave this one.
				before := server.taken()
				w.client.isRefused(t, f.at(w.server, port))
				client.logged(f.at(w.server, port), "cluster=BlackHoleCluster")
				if n := server.taken() - before; n != 0 {
					t.Errorf("%d connections to port %d reach the other host's sidecar", n, port)
				}
			}
		})
	})
}

// isLoop has an application call what would come back to a sidecar, and looks
// for an end, for the reason, and for what came of it.
func isLoop(t *testing.T, s *sidecar, from *host, address string) {
	t.Helper()
	taken, refused := s.taken(), s.loops()
	from.isRefused(t, address)
	if n := s.loops() - refused; n != 1 {
		t.Errorf("%s to %s: %d loops are counted, want 1", from.Name, address, n)
	}
	if n := s.taken() - taken; n > few {
		t.Errorf("%s to %s: %d connections come of it", from.Name, address, n)
	}
	if !s.says("stage=loop", address) {
		t.Errorf("%s to %s: the log does not say why", from.Name, address)
	}
}

// few is how many connections a refused one may come to: into the sidecar, and
// once through it.
const few = 2

// The redirection leaves another user alone than the sidecar's, as if it had
// been installed for another proxy.
func TestASidecarWhoseOwnConnectionsAreRedirectedRefusesThem(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		w.deliver(w.client)
		w.rules(w.client, "-u", "4711", "-g", "4711", "-x", "10.4.0.0/24")
		client := w.launch(w.client, w.serverService())
		client.ready()
		eachFamily(t, func(t *testing.T, f family) {
			isLoop(t, client, w.client, f.at(w.plain, echoPort))
			isLoop(t, client, w.client, f.at(w.server, echoPort))
			isLoop(t, client, w.client, f.at(w.server, disabledPort))
		})
	})
}

// selfService is a service by a virtual address, whose only endpoint is own.
func selfService(own string) string {
	return fmt.Sprintf("services:\n- {host: self.dev.svc.cluster.local, addresses: ['10.96.0.1', 'fd96::1'], ports: [%d], endpoints: [{address: '%s'}]}\n", echoPort, own)
}

func TestAnApplicationReachesItself(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		applications(t, w.client)
		client := w.sidecar(w.client, "")
		eachFamily(t, func(t *testing.T, f family) {
			client.change(selfService(f.address(w.client)))
			virtual := map[string]string{"IPv4": "10.96.0.1", "IPv6": "fd96::1"}[f.name]
			for address, passes := range map[string][2]int{
				at(f.loopback, echoPort): {0, 0},
				f.at(w.client, echoPort): {0, 0},
				at(virtual, echoPort):    {1, 1},
			} {
				in, out := client.inbound(), client.outbound()
				w.client.reaches(t, address, "myself")
				if got := [2]int{client.inbound() - in, client.outbound() - out}; got != passes {
					t.Errorf("to %s: %d inbound and %d outbound connections pass the sidecar, want %v", address, got[0], got[1], passes)
				}
			}
			client.logged("peer="+id(w.client)+" ", "tls=TLSv1.3", f.at(w.client, echoPort))
		})
	})
}

func (s *sidecar) taken() int { return s.inbound() + s.outbound() }

func (s *sidecar) loops() int { return s.count("listener.", "loop_refused") }
