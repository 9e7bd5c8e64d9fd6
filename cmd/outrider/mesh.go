package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"outrider/examples"
)

// certificateLife is that of the demo's certificates: each is renewed after
// three seconds and a bit.
const certificateLife = 6 * time.Second

// mesh is the demo's: an authority, a workload that answers, and a sidecar with
// its agent for each side. Each is a process of this binary.
type mesh struct {
	dir            string
	authority      *process
	client, server *side
	app            net.Listener
	apps           sync.WaitGroup
}

// side is one workload: its proxy runs a bootstrap of examples, and its agent
// serves the certificates beside it.
type side struct {
	dir, admin, account string
	proxy, agent        *process
}

// process is a command of this binary that goes on until it is stopped.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    string // file
	exited chan error
}

// caAddress is where the authority answers.
const caAddress = "127.0.3.1:15012"

// startMesh starts everything but the agents.
func startMesh(ctx context.Context, dir string) (_ *mesh, err error) {
	m := &mesh{dir: dir}
	defer func() {
		if err != nil {
			m.stop()
		}
	}()
	if m.app, err = net.Listen("tcp", appAddress); err != nil {
		return nil, err
	}
	m.apps.Go(m.answer)
	if err := m.startAuthority(ctx); err != nil {
		return nil, err
	}
	for _, w := range []struct {
		where                **side
		name, account, admin string
	}{{&m.server, "server", "default", "127.0.2.1:15000"}, {&m.client, "client", "web", "127.0.1.1:15000"}} {
		*w.where = &side{dir: filepath.Join(dir, w.name), admin: w.admin, account: w.account}
		if err := (*w.where).startProxy(ctx, w.name+".yaml"); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// state is the authority's directory.
func (m *mesh) state() string { return filepath.Join(m.dir, "ca") }

func (m *mesh) startAuthority(ctx context.Context) (err error) {
	m.authority, err = spawn(m.dir, "ca", "serve", "--state", m.state(), "--listen", caAddress, "--san", "127.0.3.1", "--max-ttl", certificateLife.String())
	if err != nil {
		return err
	}
	return m.authority.until(ctx, func() bool {
		c, err := net.DialTimeout("tcp", caAddress, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// spawn starts a command of this binary in dir.
func spawn(dir string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{name: args[0], cmd: exec.Command(self, args...), log: filepath.Join(dir, args[0]+".log"), exited: make(chan error, 1)}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, log, log
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.exited <- p.cmd.Wait() }()
	return p, nil
}

// until waits until ok says so, the process ends, or ctx does.
func (p *process) until(ctx context.Context, ok func() bool) error {
	for !ok() {
		select {
		case err := <-p.exited:
			p.exited <- err
			text, _ := os.ReadFile(p.log) // for people; without it there is less to say
			return fmt.Errorf("outrider %s ended: %w\n%s", p.name, err, text)
		case <-ctx.Done():
			return fmt.Errorf("outrider %s does not come up: %w", p.name, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// stop ends the process, if there is one.
func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	p.exited <- nil
}

// admin runs a command of this binary to its end, and returns what it prints.
func (m *mesh) admin(ctx context.Context, args ...string) ([]byte, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Dir, cmd.Stderr = m.dir, &said
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("outrider %s: %w\n%s", strings.Join(args, " "), err, said.String())
	}
	return text, nil
}

// deliver gives each workload a token and the authority's root, and starts its
// agent.
func (m *mesh) deliver(ctx context.Context) error {
	for _, w := range []*side{m.client, m.server} {
		token, root := filepath.Join(w.dir, "istio-token"), filepath.Join(w.dir, "root-cert.pem")
		if _, err := m.admin(ctx, "ca", "token", "--state", m.state(), "--namespace", "dev", "--service-account", w.account, "--out", token); err != nil {
			return err
		}
		text, err := m.admin(ctx, "ca", "root", "--state", m.state())
		if err != nil {
			return err
		}
		if err := os.WriteFile(root, text, 0o644); err != nil {
			return err
		}
		w.agent, err = spawn(w.dir, "agent", "--ca-addr", caAddress, "--ca-root-cert", root, "--token-path", token,
			"--namespace", "dev", "--service-account", w.account, "--secret-ttl", certificateLife.String(), "--status-address", "")
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *side) startProxy(ctx context.Context, example string) error {
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		return err
	}
	bootstrap, err := examples.Files.ReadFile(example)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(w.dir, "bootstrap.yaml"), bootstrap, 0o644); err != nil {
		return err
	}
	if w.proxy, err = spawn(w.dir, "run", "-c", "bootstrap.yaml", "--drain-time-s", "1", "--file-flush-interval-msec", "50"); err != nil {
		return err
	}
	return w.proxy.until(ctx, func() bool {
		n, err := w.stat(ctx, "listener_manager.workers_started")
		return err == nil && n == 1
	})
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

// stop ends the processes that were started.
func (m *mesh) stop() {
	for _, w := range []*side{m.client, m.server} {
		if w != nil {
			w.proxy.stop()
			w.agent.stop()
		}
	}
	m.authority.stop()
	if m.app != nil {
		m.app.Close()
	}
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

// get asks the admin interface for a page.
func (w *side) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.admin+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// stat asks the admin interface for a counter.
func (w *side) stat(ctx context.Context, name string) (int, error) {
	text, err := w.get(ctx, "/stats")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, errors.New("there is no stat " + name)
}

// roots are the serials of the roots that the proxy trusts.
func (w *side) roots(ctx context.Context) ([]string, error) {
	text, err := w.get(ctx, "/certs")
	if err != nil {
		return nil, err
	}
	var page struct {
		Certificates []struct {
			CACert []struct {
				SerialNumber string `json:"serial_number"`
			} `json:"ca_cert"`
		}
	}
	if err := json.Unmarshal(text, &page); err != nil {
		return nil, err
	}
	var out []string
	for _, c := range page.Certificates {
		for _, root := range c.CACert {
			out = append(out, root.SerialNumber)
		}
	}
	slices.Sort(out)
	if out = slices.Compact(out); len(out) == 0 {
		return nil, errors.New("no root is trusted")
	}
	return out, nil
}

// accessLine waits for an access log line that has all of the words.
func (w *side) accessLine(ctx context.Context, words ...string) (string, error) {
	for range 100 {
		for _, line := range w.accessLog() {
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
func (w *side) accessLog() []string {
	text, err := os.ReadFile(filepath.Join(w.dir, "access.log"))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// peerSerials counts the different client certificates that were seen: the
// fourth word of the server's access log.
func (w *side) peerSerials(ctx context.Context) int {
	pause(ctx, 200*time.Millisecond) // one flush of the access log
	seen := map[string]bool{}
	for _, line := range w.accessLog() {
		if words := strings.Fields(line); len(words) > 3 && words[3] != "-" {
			seen[words[3]] = true
		}
	}
	return len(seen)
}
