//go:build netns

package netns

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"outrider/iptables/netnstest"
)

// patience bounds every wait: what needs longer is broken.
const patience = 20 * time.Second

// binary is a copy of the program that the environment variable names, where any
// user may run it. A missing one fails the test. It is not for tests that run
// beside others: what those start would hold the file open for writing.
func binary(t *testing.T, name string) string {
	t.Helper()
	path := os.Getenv(name)
	if path == "" {
		t.Fatalf("%s is not set: run `make test`", name)
	}
	from, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	copied := filepath.Join(openDir(t), strings.ToLower(name))
	to, err := os.OpenFile(copied, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return copied
}

// openDir is a directory of the test's own that everybody may enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// said is what a program has printed.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// program is a process in a host.
type program struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	said   *said
	exited chan error // has the end, once it came
}

// start runs a program in a host's directory as u until the test ends. It may
// do to its host's network what it likes: a sidecar needs that for TPROXY.
func (h *host) start(t *testing.T, u netnstest.User, args ...string) *program {
	t.Helper()
	p := &program{t: t, name: h.Name + ": " + filepath.Base(args[0]), said: &said{}, exited: make(chan error, 1)}
	p.cmd = exec.Command(args[0], args[1:]...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = h.dir, p.said, p.said
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: u.UID, Gid: u.GID}, AmbientCaps: []uintptr{unix.CAP_NET_ADMIN},
		Pdeathsig: syscall.SIGKILL, // of the thread below, which waits for it
	}
	started := make(chan error, 1)
	go func() {
		p.exited <- h.Do(func() error {
			err := p.cmd.Start()
			started <- err
			if err != nil {
				return err
			}
			return p.cmd.Wait()
		})
	}()
	if err := <-started; err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	t.Cleanup(func() {
		p.end(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("%s said:\n%s", p.name, tail(p.said.String(), 40))
		}
	})
	return p
}

// signal sends a signal, to a process that may have ended.
func (p *program) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// end sends a signal and waits for the process's end.
func (p *program) end(s syscall.Signal) {
	p.signal(s)
	p.exited <- <-p.exited
}

// ended reports whether the process has ended.
func (p *program) ended() bool {
	select {
	case err := <-p.exited:
		p.exited <- err
		return true
	default:
		return false
	}
}

// until polls until ok; the end of the process fails the test.
func (p *program) until(what string, ok func() bool) {
	p.t.Helper()
	poll(p.t, p.name+": "+what, func() bool {
		if ok() {
			return true
		}
		if p.ended() {
			p.t.Fatalf("%s ended before %s:\n%s", p.name, what, tail(p.said.String(), 40))
		}
		return false
	})
}

// poll waits until ok, for processes are watched from outside.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("no %s within %s", what, patience)
		case <-tick.C:
		}
	}
}

// output runs a program on this machine to its end.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	text, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, text)
	}
	return string(text)
}

func tail(s string, lines int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// write replaces a file, which everybody may read, in one step.
func write(t *testing.T, path, text string) {
	t.Helper()
	tmp := fmt.Sprintf("%s.tmp", path)
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}
