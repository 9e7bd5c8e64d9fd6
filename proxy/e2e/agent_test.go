//go:build envoy

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// shortLife is that of the certificates here: each is renewed after a half to
// six tenths of it.
const shortLife = 4 * time.Second

// withAgents starts a server and a client in front of app, each with an agent
// that gets its certificates by request.
func withAgents(t *testing.T, a *authority, client, server kind, app string) (c, s *running) {
	t.Helper()
	sdir, cdir := t.TempDir(), t.TempDir()
	a.agent(t, sdir, "uc")
	a.agent(t, cdir, "web")
	s = start(t, server, sdir, withSerials(permissive(app))).ready()
	c = start(t, client, cdir, withSerials(outbound(s.addr("in"), "[istio]", ucID))).ready()
	return c, s
}

// withSerials has the access log begin with the serials of both peers, and end
// with what went wrong.
func withSerials(bootstrap string) string {
	return strings.NewReplacer(
		`inline_string: "`, `inline_string: "%DOWNSTREAM_PEER_SERIAL% `,
		`%BYTES_SENT%\n`, `%BYTES_SENT% %DOWNSTREAM_TRANSPORT_FAILURE_REASON% %UPSTREAM_TRANSPORT_FAILURE_REASON% %CONNECTION_TERMINATION_DETAILS%\n`,
	).Replace(bootstrap)
}

// callers make exchanges without pause, each on a connection of its own.
type callers struct {
	done  atomic.Bool
	calls atomic.Int64
	wait  sync.WaitGroup

	mu     sync.Mutex
	failed []string // guarded by mu
}

// startCallers starts n callers of addr.
func startCallers(addr string, n int) *callers {
	l := &callers{}
	for range n {
		l.wait.Go(func() {
			for !l.done.Load() {
				began := time.Now()
				got, err := call(addr, "x")
				l.calls.Add(1)
				if got != "x" || err != nil {
					l.mu.Lock()
					l.failed = append(l.failed, fmt.Sprintf("%s, after %s: %q %v", began.Format(time.StampMilli), time.Since(began), got, err))
					l.mu.Unlock()
				}
			}
		})
	}
	return l
}

// stop ends the callers, and fails the test if one exchange failed or there
// were fewer than least.
func (l *callers) stop(t *testing.T, least int64) {
	t.Helper()
	l.done.Store(true)
	l.wait.Wait()
	if len(l.failed) > 0 {
		t.Errorf("%d of %d exchanges failed, the first:\n%s", len(l.failed), l.calls.Load(), strings.Join(l.failed[:min(5, len(l.failed))], "\n"))
	}
	if n := l.calls.Load(); n < least {
		t.Errorf("only %d exchanges: the test says little", n)
	}
}

// peerSerials are the serials of clients that the server's access log has, in
// the order in which they came.
func (r *running) peerSerials() []string {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.dir, "access.log"))
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		if serial, _, _ := strings.Cut(line, " "); serial != "-" && !slices.Contains(out, serial) {
			out = append(out, serial)
		}
	}
	return out
}

// certificates are the serials that /certs shows: of roots and of our own.
func (r *running) certificates() (roots, own []string) {
	r.t.Helper()
	code, text := r.get("/certs")
	if code != 200 {
		return nil, nil
	}
	type certificate struct {
		Serial string `json:"serial_number"`
	}
	var page struct {
		Certificates []struct {
			Roots []certificate `json:"ca_cert"`
			Chain []certificate `json:"cert_chain"`
		}
	}
	if err := json.Unmarshal([]byte(text), &page); err != nil {
		r.t.Fatalf("%s /certs: %v\n%s", r.kind, err, text)
	}
	for _, c := range page.Certificates {
		for _, root := range c.Roots {
			roots = append(roots, root.Serial)
		}
		for _, leaf := range c.Chain {
			own = append(own, leaf.Serial)
		}
	}
	slices.Sort(roots)
	return slices.Compact(roots), own
}

// Neither side's certificate lives longer than four seconds; meanwhile the
// authority gets another root and forgets the first.
func TestRotationByRequestUnderLoadLosesNothing(t *testing.T) {
	pairs(t, func(t *testing.T, client, server kind) {
		a := startAuthority(t, shortLife)
		c, s := withAgents(t, a, client, server, echo(t))
		addr := c.addr("out")
		open, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer open.Close()
		load := startCallers(addr, 3)
		served := map[string]bool{} // by the server
		s.wait("second certificate of the client", func() bool { return len(s.peerSerials()) >= 2 })
		before, _ := s.certificates()
		if len(before) != 1 {
			t.Fatalf("the roots before are %q, want one", before)
		}
		output(t, "ca", "rotate-root", "--state", a.state, "--overlap", "1s")
		for _, r := range []*running{c, s} {
			r.wait("new root alone", func() bool {
				roots, _ := r.certificates()
				return len(roots) == 1 && roots[0] != before[0]
			})
		}
		s.wait("five certificates of the client, and two of the server since", func() bool {
			served[s.serial()] = true
			return len(s.peerSerials()) >= 5 && len(served) >= 2
		})
		open.SetDeadline(time.Now().Add(patience))
		if _, err := open.Write([]byte("y")); err != nil {
			t.Errorf("the connection from before: %v", err)
		}
		if _, err := io.ReadFull(open, make([]byte, 1)); err != nil {
			t.Errorf("the connection from before: %v", err)
		}
		load.stop(t, 200)
		t.Logf("%d exchanges, %d client certificates, %d sessions resumed", load.calls.Load(), len(s.peerSerials()), c.stat("cluster.uc.ssl.session_reused"))
		for _, r := range []*running{c, s} {
			if text, _ := os.ReadFile(filepath.Join(r.dir, "access.log")); strings.Contains(string(text), "UF") {
				t.Errorf("%s: the access log has failures:\n%s", r.kind, tail(string(text), 20))
			}
		}
	})
}
