//go:build netns

package netns

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"outrider/iptables/netnstest"
)

// sidecar is a proxy beside an application: outrider, or Envoy with its agent.
type sidecar struct {
	*program
	w    *world
	host *host
}

// config is a short file for h; more is what is special about it.
func (w *world) config(h *host, more string) string {
	return fmt.Sprintf("workload: %[1]s\nnamespace: dev\nserviceAccount: %[1]s\ninterception: %[2]s\naccessLog: access.log\n%[3]s", h.Name, w.setup.mode, more)
}

// identity are the flags that say where a sidecar or agent gets its
// certificates.
func (w *world) identity(h *host) []string {
	return []string{"--ca-addr", "10.4.0.1:15012", "--ca-root-cert", "root.pem", "--token-path", "token", "--namespace", "dev", "--service-account", h.Name}
}

// launch starts a sidecar, whatever is there of what it needs.
func (w *world) launch(h *host, more string, flags ...string) *sidecar {
	w.t.Helper()
	write(w.t, filepath.Join(h.dir, "sidecar.yaml"), w.config(h, more))
	args := append([]string{w.outrider, "sidecar", "--config", "sidecar.yaml", "--file-flush-interval-msec", "20", "-l", "debug"}, w.identity(h)...)
	s := &sidecar{program: h.start(w.t, proxyUser, append(args, flags...)...), w: w, host: h}
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("%s: access log:\n%s", h.Name, tail(s.accessLog(), 40))
		}
	})
	return s
}

// sidecar starts a sidecar behind the redirection, and waits until it is ready.
func (w *world) sidecar(h *host, more string, flags ...string) *sidecar {
	w.t.Helper()
	w.deliver(h)
	w.rules(h)
	s := w.launch(h, more, flags...)
	s.ready()
	return s
}

func (s *sidecar) ready() {
	s.t.Helper()
	s.until("readiness", func() bool {
		code, _, err := s.get("127.0.0.1:15020/healthz/ready")
		return err == nil && code == http.StatusOK
	})
}

// change replaces the short file, and waits until it is applied.
func (s *sidecar) change(more string) {
	s.t.Helper()
	applied := func() int { return strings.Count(s.said.String(), "the file is applied") }
	before := applied()
	write(s.t, filepath.Join(s.host.dir, "sidecar.yaml"), s.w.config(s.host, more))
	s.until("application of the new file", func() bool { return applied() > before })
}

// get asks for a page from the host itself.
func (s *sidecar) get(url string) (int, string, error) {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			return s.host.Connect(netnstest.Dial{User: appUser}, address)
		},
	}}
	resp, err := client.Get("http://" + url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// count is the sum of the statistics whose name begins and ends so.
func (s *sidecar) count(prefix, suffix string) int {
	s.t.Helper()
	code, text, err := s.get("127.0.0.1:15000/stats")
	if err != nil || code != http.StatusOK {
		s.t.Fatalf("%s: statistics: %d %v", s.name, code, err)
	}
	sum := 0
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.Atoi(value); err == nil && strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix) {
			sum += n
		}
	}
	return sum
}

// inbound and outbound count the connections that the sidecar has taken.
func (s *sidecar) inbound() int  { return s.count("listener.[__]_15006.", "downstream_cx_total") }
func (s *sidecar) outbound() int { return s.count("listener.[__]_15001.", "downstream_cx_total") }

func (s *sidecar) accessLog() string {
	text, err := os.ReadFile(filepath.Join(s.host.dir, "access.log"))
	if err != nil {
		return ""
	}
	return string(text)
}

// logged waits for a line of the access log that has all the words.
func (s *sidecar) logged(words ...string) {
	s.t.Helper()
	s.until(fmt.Sprintf("line with %q in the access log", words), func() bool { return hasLine(s.accessLog(), words) })
}

// says reports whether a line of the log has all the words.
func (s *sidecar) says(words ...string) bool { return hasLine(s.said.String(), words) }

func hasLine(text string, words []string) bool {
	for line := range strings.Lines(text) {
		found := true
		for _, w := range words {
			found = found && strings.Contains(line, w)
		}
		if found {
			return true
		}
	}
	return false
}
