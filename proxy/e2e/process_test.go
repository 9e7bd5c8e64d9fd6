//go:build envoy

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"outrider/certs/ca"
)

// longLife is that of certificates which nobody renews during a test.
const longLife = time.Hour

// The proxy keeps what it has while its agent is away, and takes what the next
// agent brings.
func TestAProxyOutlivesItsAgentAndTakesWhatTheNextOneBrings(t *testing.T) {
	for _, server := range kinds {
		for _, by := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			t.Run(strings.ToLower(fmt.Sprintf("%s, %s", server, by)), func(t *testing.T) {
				a := startAuthority(t, longLife)
				sdir, cdir := t.TempDir(), t.TempDir()
				first := a.agent(t, sdir, "uc")
				a.agent(t, cdir, "web")
				s := start(t, server, sdir, permissive(echo(t))).ready()
				c := start(t, outrider, cdir, outbound(s.addr("in"), "[istio]", ucID)).ready()
				l, stop := startLoad(t, c.addr("out"), 2)
				before := s.serial()

				first.end(by)
				if answers(filepath.Join(sdir, "sds")) {
					t.Fatal("somebody serves the socket of an agent that has ended")
				}
				_, err := os.Lstat(filepath.Join(sdir, "sds"))
				if left := err == nil; left != (by == syscall.SIGKILL) {
					t.Errorf("after %s the socket is there: %t", by, left)
				}
				l.round()
				if got := s.serial(); got != before {
					t.Errorf("without an agent the certificate is %s, want still %s", got, before)
				}

				a.agent(t, sdir, "uc")
				s.wait("certificate of the next agent", func() bool { got := s.serial(); return got != before && got != "" })
				l.round()
				stop()
			})
		}
	}
}

// A second agent at the same socket would take the first one's clients.
func TestASecondAgentAtTheSocketIsRefused(t *testing.T) {
	a := startAuthority(t, longLife)
	dir := t.TempDir()
	a.agent(t, dir, "uc")
	second := spawn(t, dir, "agent", "--sds-socket", "sds", "--status-address", "", "--ca-addr", a.addr, "--ca-root-cert", a.root)
	err := <-second.exited
	second.exited <- err
	if err == nil || !strings.Contains(second.log.String(), "another agent serves there") {
		t.Errorf("it ended with %v:\n%s", err, second.log)
	}
	if !answers(filepath.Join(dir, "sds")) {
		t.Error("the first agent's socket is gone")
	}
}

// mounted is a directory whose files are swapped at once, as the kubelet does
// it: links lead through ..data, which is replaced.
type mounted struct {
	t    *testing.T
	dir  string
	turn int
}

func (m *mounted) put(files map[string]string) {
	m.t.Helper()
	m.turn++
	version := fmt.Sprintf("..version_%d", m.turn)
	for name, text := range files {
		write(m.t, filepath.Join(m.dir, version, name), text)
	}
	data, tmp := filepath.Join(m.dir, "..data"), filepath.Join(m.dir, "..data_tmp")
	old, oldErr := os.Readlink(data)
	if err := os.Symlink(version, tmp); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(tmp, data); err != nil {
		m.t.Fatal(err)
	}
	for name := range files {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(m.dir, name)); err != nil && !os.IsExist(err) {
			m.t.Fatal(err)
		}
	}
	if oldErr == nil {
		if err := os.RemoveAll(filepath.Join(m.dir, old)); err != nil {
			m.t.Fatal(err)
		}
	}
}

// Both the workload's own certificate (--source files) and the names that say
// their files are of such a mount.
func TestFilesThatKubernetesSwapsReachTheProxy(t *testing.T) {
	for _, named := range []bool{false, true} {
		for _, server := range kinds {
			t.Run(strings.ToLower(fmt.Sprintf("%s, names of files %t", server, named)), func(t *testing.T) {
				w, dir := newWorld(t), t.TempDir()
				m := &mounted{t: t, dir: filepath.Join(dir, "certs")}
				put := func(roots ...*ca.CA) *ca.Issued {
					issued := mustIssue(t, w, ucID)
					files := map[string]string{"cert-chain.pem": string(issued.ChainPEM), "key.pem": string(issued.KeyPEM)}
					for _, r := range roots {
						files["root-cert.pem"] += string(r.RootPEM())
					}
					m.put(files)
					return issued
				}
				first := put(w.root)
				chain, key, roots := filepath.Join(m.dir, "cert-chain.pem"), filepath.Join(m.dir, "key.pem"), filepath.Join(m.dir, "root-cert.pem")
				a := spawn(t, dir, "agent", "--source", "files", "--cert-chain", chain, "--key", key, "--root-cert", roots, "--sds-socket", "sds",
					"--status-address", "", "--namespace", "dev", "--service-account", "uc", "--file-secrets-dir", m.dir)
				a.until("a socket", func() bool { return answers(filepath.Join(dir, "sds")) })
				bootstrap := permissive(echo(t))
				if named {
					bootstrap = strings.NewReplacer("name: default,", "name: 'file-cert:"+chain+"~"+key+"',", "name: ROOTCA,", "name: 'file-root:"+roots+"',").Replace(bootstrap)
				}
				s := start(t, server, dir, bootstrap).ready()
				s.uses(first.Cert)
				for range 3 {
					s.uses(put(w.root).Cert)
				}
				other := newWorld(t).root
				if err := handshake(s.addr("in"), issuePair(t, other, webID)); err == nil {
					t.Error("a foreign client is accepted")
				}
				s.uses(put(w.root, other).Cert)
				s.wait("the foreign root", func() bool { return handshake(s.addr("in"), issuePair(t, other, webID)) == nil })
				if strings.Contains(a.log.String(), "level=ERROR") {
					t.Errorf("the agent had errors:\n%s", a.log)
				}
			})
		}
	}
}

// Each domain's members need a certificate of that domain's own root.
func TestAFederatedAgentLetsNoDomainVouchForAnother(t *testing.T) {
	for _, server := range kinds {
		t.Run(strings.ToLower(string(server)), func(t *testing.T) {
			ours, theirs, dir := newWorld(t), newWorld(t), t.TempDir()
			file := func(name string, text []byte) string {
				path := filepath.Join(dir, name)
				write(t, path, string(text))
				return path
			}
			uc := mustIssue(t, ours, ucID)
			partner := file("partner.pem", theirs.root.RootPEM())
			a := spawn(t, dir, "agent", "--source", "files", "--cert-chain", file("chain.pem", uc.ChainPEM), "--key", file("key.pem", uc.KeyPEM),
				"--root-cert", file("root.pem", ours.root.RootPEM()), "--federation", "partner.example="+partner,
				"--sds-socket", "sds", "--status-address", "", "--namespace", "dev", "--service-account", "uc")
			a.until("a socket", func() bool { return answers(filepath.Join(dir, "sds")) })
			s := start(t, server, dir, strings.ReplaceAll(permissive(echo(t)), `{prefix: "spiffe://cluster.local/"}`, `{prefix: "spiffe://"}`)).ready()
			const partnerID, strangerID = "spiffe://partner.example/ns/dev/sa/web", "spiffe://other.example/ns/dev/sa/web"
			s.wait("the partner's root", func() bool { return handshake(s.addr("in"), issuePair(t, theirs.root, partnerID)) == nil })
			for _, c := range []struct {
				name, id string
				root     *ca.CA
				accepted bool
			}{
				{"ours, of our root", webID, ours.root, true},
				{"the partner's, of its root", partnerID, theirs.root, true},
				{"the partner's, of our root", partnerID, ours.root, false},
				{"ours, of the partner's root", webID, theirs.root, false},
				{"a stranger's, of our root", strangerID, ours.root, false},
				{"one without a SPIFFE ID, of our root", "https://cluster.local/web", ours.root, false},
			} {
				if err := handshake(s.addr("in"), issuePair(t, c.root, c.id)); (err == nil) != c.accepted {
					t.Errorf("%s: %v, accepted must be %t", c.name, err, c.accepted)
				}
			}
			later := newWorld(t) // the partner's root changes
			write(t, partner, string(later.root.RootPEM()))
			s.wait("the partner's new root", func() bool { return handshake(s.addr("in"), issuePair(t, later.root, partnerID)) == nil })
			if err := handshake(s.addr("in"), issuePair(t, theirs.root, partnerID)); err == nil {
				t.Error("the partner's old root still vouches")
			}
		})
	}
}

// A proxy that starts before its agent has no identity, and nothing in its
// place: outrider says for what it waits.
func TestAProxyWithoutAnAgentWaitsAndSaysSo(t *testing.T) {
	for _, server := range kinds {
		t.Run(strings.ToLower(string(server)), func(t *testing.T) {
			a, w, dir := startAuthority(t, longLife), newWorld(t), t.TempDir()
			s := start(t, server, dir, permissive(echo(t)))
			if server == outrider {
				s.wait("sentence", func() bool { return strings.Contains(s.log.String(), "is not supplied by SDS, waiting since ") })
				if err := handshake(s.addr("in"), issuePair(t, w.root, webID)); err == nil {
					t.Error("a client is served before there is anything to verify it with")
				}
			}
			if got := s.serial(); got != "" {
				t.Errorf("there is a certificate, %s", got)
			}
			a.agent(t, dir, "uc")
			s.ready()
			s.wait("a certificate", func() bool { return s.serial() != "" })
			if err := handshake(s.addr("in"), issuePair(t, w.root, webID)); err == nil {
				t.Error("a client of another root is served")
			}
		})
	}
}
