//go:build envoy

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// program is a process of the outrider binary that is not a proxy.
type program struct {
	t      *testing.T
	name   string
	log    *lockedBuffer
	cmd    *exec.Cmd
	exited chan error // has the end, once it came
}

// spawn runs a command of the outrider binary in dir until the test ends.
func spawn(t *testing.T, dir string, args ...string) *program {
	t.Helper()
	p := &program{t: t, name: strings.Join(args[:min(2, len(args))], " "), log: &lockedBuffer{}, exited: make(chan error, 1)}
	p.cmd = exec.Command(binary(t, outrider), args...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("outrider %s: %v", p.name, err)
	}
	go func() { p.exited <- p.cmd.Wait() }()
	t.Cleanup(func() {
		p.end(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("outrider %s said:\n%s", p.name, tail(p.log.String(), 40))
		}
	})
	return p
}

// end sends a signal and waits for the process's end.
func (p *program) end(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // it may have ended already
	p.exited <- <-p.exited
}

// until polls until ok; the end of the process fails the test.
func (p *program) until(what string, ok func() bool) {
	p.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case err := <-p.exited:
			p.exited <- err
			p.t.Fatalf("outrider %s ended before %s: %v\n%s", p.name, what, err, p.log)
		case <-deadline.C:
			p.t.Fatalf("outrider %s: no %s within %s\n%s", p.name, what, patience, tail(p.log.String(), 40))
		case <-tick.C:
		}
	}
}

// output runs a command of the outrider binary to its end, in a directory of
// its own.
func output(t *testing.T, args ...string) string {
	t.Helper()
	var said strings.Builder
	cmd := exec.CommandContext(t.Context(), binary(t, outrider), args...)
	cmd.Dir, cmd.Stderr = t.TempDir(), &said
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("outrider %s: %v\n%s", strings.Join(args, " "), err, &said)
	}
	return string(text)
}

// authority is an `outrider ca serve` process whose certificates are short.
type authority struct {
	*program
	addr, state, root string // host:port, directory, file
	life              time.Duration
}

func startAuthority(t *testing.T, life time.Duration) *authority {
	t.Helper()
	a := &authority{addr: freePort(t), state: filepath.Join(t.TempDir(), "ca"), life: life}
	a.program = spawn(t, t.TempDir(), "ca", "serve", "--state", a.state, "--listen", a.addr, "--max-ttl", life.String())
	a.until("a connection", func() bool {
		c, err := net.Dial("tcp", a.addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	a.root = filepath.Join(t.TempDir(), "root-cert.pem")
	write(t, a.root, output(t, "ca", "root", "--state", a.state))
	return a
}

// freePort is an address of loopback that nobody used a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// agent runs the agent of spiffe://cluster.local/ns/dev/sa/ACCOUNT in dir,
// where the configurations look for its socket, and returns when that is there.
func (a *authority) agent(t *testing.T, dir, account string, flags ...string) *program {
	t.Helper()
	token := filepath.Join(dir, "token")
	output(t, "ca", "token", "--state", a.state, "--namespace", "dev", "--service-account", account, "--out", token)
	p := spawn(t, dir, append([]string{"agent", "--sds-socket", "sds", "--status-address", "", "--ca-addr", a.addr, "--ca-root-cert", a.root,
		"--token-path", token, "--namespace", "dev", "--service-account", account, "--secret-ttl", a.life.String()}, flags...)...)
	p.until("a socket", func() bool { return answers(filepath.Join(dir, "sds")) })
	return p
}

// answers reports whether somebody accepts connections on a unix socket, whose
// path may be longer than such a name can be.
func answers(path string) bool {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return false
	}
	defer dir.Close()
	c, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
	if err == nil {
		c.Close()
	}
	return err == nil
}
