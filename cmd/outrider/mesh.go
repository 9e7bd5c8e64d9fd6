package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"outrider/certs/ca"
	"outrider/certs/sds/sdstest"
	"outrider/examples"
)

// The identities of the two workloads, as in examples/*.yaml.
const (
	clientID = "spiffe://cluster.local/ns/dev/sa/web"
	serverID = "spiffe://cluster.local/ns/dev/sa/default"
)

// mesh is the demo's: an authority, a workload that answers, and a sidecar for
// each side, run by this binary from the bootstraps in examples.
type mesh struct {
	authority      *ca.CA
	client, server *sidecar
	app            net.Listener
	apps           sync.WaitGroup
}

// sidecar is one proxy process, with the agent that serves its secrets.
type sidecar struct {
	dir, admin, id string
	agent          *sdstest.Server
	cmd            *exec.Cmd
	log            bytes.Buffer
	exited         chan error
}

// startMesh starts everything; the agents have no secrets yet.
func startMesh(ctx context.Context, dir string) (*mesh, error) {
	authority, err := ca.New("demo root")
	if err != nil {
		return nil, err
	}
	m := &mesh{authority: authority}
	if m.app, err = net.Listen("tcp", appAddress); err != nil {
		return nil, err
	}
	m.apps.Go(m.answer)
	for _, s := range []struct {
		side           **sidecar
		name, id, addr string
	}{{&m.server, "server", serverID, "127.0.2.1:15000"}, {&m.client, "client", clientID, "127.0.1.1:15000"}} {
		if *s.side, err = startSidecar(ctx, filepath.Join(dir, s.name), s.name+".yaml", s.id, s.addr); err != nil {
			m.stop()
			return nil, err
		}
	}
	return m, nil
}

// answer is the workload: it sends back each line.
func (m *mesh) answer() {
	for {
		c, err := m.app.Accept()
		if err != nil {
			return
		}
		m.apps.Go(func() {
			defer c.Close()
			io.Copy(c, c)
		})
	}
}

func startSidecar(ctx context.Context, dir, example, id, admin string) (*sidecar, error) {
	s := &sidecar{dir: dir, admin: admin, id: id, exited: make(chan error, 1)}
	socket := filepath.Join(dir, "var/run/secrets/workload-spiffe-uds/socket")
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	bootstrap, err := examples.Files.ReadFile(example)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "bootstrap.yaml"), bootstrap, 0o644); err != nil {
		return nil, err
	}
	if s.agent, err = sdstest.Listen(socket); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s.cmd = exec.Command(self, "run", "-c", "bootstrap.yaml", "--drain-time-s", "1", "--file-flush-interval-msec", "50")
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = dir, &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		s.agent.Stop()
		return nil, err
	}
	go func() { s.exited <- s.cmd.Wait() }()
	return s, s.up(ctx)
}

// up waits until the sidecar accepts connections.
func (s *sidecar) up(ctx context.Context) error {
	for ctx.Err() == nil {
		if n, err := s.stat(ctx, "listener_manager.workers_started"); err == nil && n == 1 {
			return nil
		}
		select {
		case err := <-s.exited:
			s.exited <- err
			return fmt.Errorf("the sidecar of %s ended: %w\n%s", s.id, err, s.log.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("the sidecar of %s does not accept connections", s.id)
}

// deliver gives both agents their secrets.
func (m *mesh) deliver() error { return m.rotate() }

// rotate makes new certificates, and has the agents push them.
func (m *mesh) rotate() error {
	for _, s := range []*sidecar{m.client, m.server} {
		issued, err := m.authority.Issue(ca.Leaf{ID: s.id, NotAfter: time.Now().Add(time.Minute)})
		if err != nil {
			return err
		}
		secrets := []*tlsv3.Secret{
			sdstest.KeyPair("default", issued.ChainPEM, issued.KeyPEM), sdstest.Roots("ROOTCA", m.authority.RootPEM()),
		}
		if err := s.agent.Set(secrets...); err != nil {
			return err
		}
	}
	return nil
}

// stop ends the processes that startMesh started.
func (m *mesh) stop() {
	for _, s := range []*sidecar{m.client, m.server} {
		if s == nil {
			continue
		}
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-s.exited:
		case <-time.After(5 * time.Second):
			_ = s.cmd.Process.Kill()
			<-s.exited
		}
		s.agent.Stop()
	}
	m.app.Close()
	m.apps.Wait()
}

// exchange is one call of a workload: a new connection, a line and its answer.
func exchange(ctx context.Context, addr string) (string, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	const line = "hello from user-web\n"
	if _, err := io.WriteString(c, line); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return "", err
	}
	if answer != line {
		return answer, fmt.Errorf("the answer is %q", answer)
	}
	return answer, nil
}

// stat asks the admin interface for a counter.
func (s *sidecar) stat(ctx context.Context, name string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.admin+"/stats", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), name+": "); ok {
			var n int
			_, err := fmt.Sscan(v, &n)
			return n, err
		}
	}
	return 0, errors.New("there is no stat " + name)
}

// accessLine waits for an access log line that has all of the words.
func (s *sidecar) accessLine(ctx context.Context, words ...string) (string, error) {
	for range 100 {
		for _, line := range s.accessLog() {
			found := true
			for _, w := range words {
				found = found && strings.Contains(line, w)
			}
			if found {
				return line, nil
			}
		}
		pause(ctx, 20*time.Millisecond)
	}
	return "", fmt.Errorf("no access log line has %q", words)
}

// accessLog is what is written so far, a line each.
func (s *sidecar) accessLog() []string {
	text, err := os.ReadFile(filepath.Join(s.dir, "access.log"))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// peerSerials counts the different client certificates that were seen: the
// fourth word of the server's access log.
func (s *sidecar) peerSerials(ctx context.Context) int {
	pause(ctx, 200*time.Millisecond) // one flush of the access log
	seen := map[string]bool{}
	for _, line := range s.accessLog() {
		if words := strings.Fields(line); len(words) > 3 && words[3] != "-" {
			seen[words[3]] = true
		}
	}
	return len(seen)
}
