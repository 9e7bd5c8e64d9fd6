//go:build envoy

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
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
	"testing"
	"time"
)

// kind is one of the two proxies.
type kind string

const (
	envoy    kind = "ENVOY"
	outrider kind = "OUTRIDER"
)

var kinds = []kind{envoy, outrider}

// patience bounds every wait: a proxy that needs longer is broken.
const patience = 20 * time.Second

// running is a proxy process.
type running struct {
	t     *testing.T
	kind  kind
	dir   string // its working directory
	admin string // host:port
	log   *lockedBuffer
	cmd   *exec.Cmd
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// binary is the proxy's program; a missing one fails the test, for a
// comparison with nothing proves nothing.
func binary(t *testing.T, k kind) string {
	t.Helper()
	path := os.Getenv(string(k))
	if path == "" {
		t.Fatalf("%s is not set: run `make test`", k)
	}
	return path
}

// start runs a proxy on a bootstrap in a directory of its own, and returns
// when its admin interface answers. The admin address is added to the
// bootstrap. Both proxies take the same flags.
func start(t *testing.T, k kind, dir, bootstrap string, flags ...string) *running {
	t.Helper()
	file, admin := filepath.Join(dir, "bootstrap.yaml"), filepath.Join(dir, "admin-address")
	write(t, file, "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}\n"+bootstrap)
	return launch(t, k, dir, file, append([]string{"--admin-address-path", admin}, flags...)...)
}

// startExample runs a proxy on a file as it is, and returns when it is LIVE.
func startExample(t *testing.T, k kind, dir, file string) *running {
	t.Helper()
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	return launch(t, k, dir, path, "--admin-address-path", filepath.Join(dir, "admin-address")).ready()
}

// launch starts the process, and waits for its admin address.
func launch(t *testing.T, k kind, dir, file string, flags ...string) *running {
	t.Helper()
	admin := filepath.Join(dir, "admin-address")
	args := append([]string{"-c", file, "--disable-hot-restart",
		"--file-flush-interval-msec", "100", "--drain-time-s", "2", "-l", "warning",
		"--service-node", "node", "--service-cluster", "cluster"}, flags...)
	r := &running{t: t, kind: k, dir: dir, log: &lockedBuffer{}}
	r.cmd = exec.Command(binary(t, k), args...)
	r.cmd.Dir, r.cmd.Stdout, r.cmd.Stderr = dir, r.log, r.log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", k, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- r.cmd.Wait() }()
	t.Cleanup(func() {
		r.cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("%s said:\n%s", k, tail(r.log.String(), 60))
		}
	})
	r.wait("an admin address", func() bool {
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("%s ended: %v\n%s", k, err, r.log)
		default:
		}
		text, err := os.ReadFile(admin)
		r.admin = strings.TrimSpace(string(text))
		return err == nil && r.admin != ""
	})
	return r
}

// wait polls until ok, for processes are watched from outside.
func (r *running) wait(what string, ok func() bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			text, _ := os.ReadFile(filepath.Join(r.dir, "access.log"))
			r.t.Fatalf("%s: no %s within %s\naccess log:\n%s\nlog:\n%s", r.kind, what, patience, tail(string(text), 40), tail(r.log.String(), 40))
		case <-tick.C:
		}
	}
}

// get asks the admin interface.
func (r *running) get(path string) (int, string) {
	r.t.Helper()
	resp, err := http.Get("http://" + r.admin + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("%s %s: %v", r.kind, path, err)
	}
	return resp.StatusCode, string(body)
}

// ready waits until the proxy says LIVE.
func (r *running) ready() *running {
	r.t.Helper()
	r.wait("LIVE", func() bool { code, _ := r.get("/ready"); return code == 200 })
	return r
}

// addr is where a listener is bound.
func (r *running) addr(name string) string {
	r.t.Helper()
	var found string
	r.wait("listener "+name, func() bool {
		code, body := r.get("/listeners?format=json")
		if code != 200 {
			return false
		}
		var out struct {
			Listeners []struct {
				Name  string `json:"name"`
				Local struct {
					Socket struct {
						Address string `json:"address"`
						Port    int    `json:"port_value"`
					} `json:"socket_address"`
				} `json:"local_address"`
			} `json:"listener_statuses"`
		}
		if err := json.Unmarshal([]byte(body), &out); err != nil {
			r.t.Fatalf("%s /listeners: %v\n%s", r.kind, err, body)
		}
		for _, l := range out.Listeners {
			if l.Name == name {
				found = net.JoinHostPort(l.Local.Socket.Address, fmt.Sprint(l.Local.Socket.Port))
				return true
			}
		}
		return false
	})
	return found
}

// stat is one counter or gauge; -1 if there is none of that name.
func (r *running) stat(name string) int {
	r.t.Helper()
	_, body := r.get("/stats?filter=" + "^" + strings.NewReplacer(".", `\.`, "|", `\|`).Replace(name) + "$")
	n := -1
	fmt.Sscanf(strings.TrimPrefix(body, name+": "), "%d", &n)
	return n
}

// file waits for a file in the proxy's directory to contain text.
func (r *running) file(name, want string) string {
	r.t.Helper()
	var text []byte
	r.wait(name+" with "+want, func() bool {
		text, _ = os.ReadFile(filepath.Join(r.dir, name))
		return strings.Contains(string(text), want)
	})
	return string(text)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

func tail(s string, lines int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// echo answers every connection with its own bytes until their end, then ends
// its own direction. It returns its address.
func echo(t *testing.T) string {
	t.Helper()
	return serve(t, repeat)
}

// repeat sends a connection's bytes back until their end.
func repeat(c net.Conn) { io.Copy(c, c); c.(*net.TCPConn).CloseWrite() }

// serve handles each connection on a loopback port of its own.
func serve(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	ln := serveAt(t, "127.0.0.1:0", handle)
	return ln.Addr().String()
}

// serveAt handles each connection on addr, until it is closed.
func serveAt(t *testing.T, addr string, handle func(net.Conn)) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); handle(c) }()
		}
	}()
	return ln
}

// call sends text and its end, and returns all that comes back.
func call(addr, text string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	out, err := io.ReadAll(c)
	return string(out), err
}

// ask sends text and returns as many bytes as it has, without ending its own
// direction first.
func ask(addr, text string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	out := make([]byte, len(text))
	n, err := io.ReadFull(c, out)
	return string(out[:n]), err
}
