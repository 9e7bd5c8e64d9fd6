package sidecar

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

// status is a status server's answer to one request from a caller there.
func (s *Status) answers(method, path, from string) (int, string) {
	req := httptest.NewRequest(method, path, nil)
	req.RemoteAddr = from
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, req)
	return w.Code, w.Body.String()
}

const here, elsewhere = "127.0.0.1:1", "10.0.0.1:1"

func newStatus(c *Config) *Status {
	return &Status{
		Config: func() *Config { return c }, Ready: func() error { return nil }, Log: slog.New(slog.DiscardHandler),
		Metrics: func(w io.Writer) error { _, err := io.WriteString(w, "envoy_server_live 1\n"); return err },
	}
}

func application(t *testing.T, h http.HandlerFunc) uint16 {
	t.Helper()
	app := httptest.NewServer(h)
	t.Cleanup(app.Close)
	_, port, err := net.SplitHostPort(app.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}

func TestReadinessSaysWhyNot(t *testing.T) {
	s := newStatus(Default())
	if code, _ := s.answers("GET", "/healthz/ready", elsewhere); code != 200 {
		t.Errorf("ready: %d", code)
	}
	s.Ready = func() error { return errors.New("secret default is not there") }
	if code, text := s.answers("GET", "/healthz/ready", elsewhere); code != 503 || !strings.Contains(text, "secret default") {
		t.Errorf("not ready: %d %q", code, text)
	}
}

func TestMetricsAreOursAndTheApplications(t *testing.T) {
	c := Default()
	c.Metrics = &Metrics{Path: "/m", Port: application(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/m" {
			io.WriteString(w, "app_requests 7\n")
		}
	})}
	_, text := newStatus(c).answers("GET", "/stats/prometheus", elsewhere)
	for _, want := range []string{"envoy_server_live 1\n", "app_requests 7\n", "outrider_application_scrape_failures_total 0\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %q", want, text)
		}
	}
}

func TestMetricsSayThatTheApplicationsCannotBeHad(t *testing.T) {
	c := Default()
	c.Metrics = &Metrics{Path: "/", Port: application(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })}
	code, text := newStatus(c).answers("GET", "/metrics", elsewhere)
	if code != 200 || !strings.Contains(text, "envoy_server_live 1\n") || !strings.Contains(text, "outrider_application_scrape_failures_total 1\n") {
		t.Errorf("%d %q", code, text)
	}
}

func TestOnlyThisHostMayEndTheSidecar(t *testing.T) {
	for path, hook := range map[string]func(*Status, func()){
		"/quitquitquit": func(s *Status, f func()) { s.Quit = f },
		"/drain":        func(s *Status, f func()) { s.Drain = f },
	} {
		s, asked := newStatus(Default()), 0
		hook(s, func() { asked++ })
		for _, from := range []string{elsewhere, "127.0.0.6:1", "[::6]:1"} {
			if code, _ := s.answers("POST", path, from); code != 403 || asked != 0 {
				t.Errorf("%s from %s: %d, done %d times", path, from, code, asked)
			}
		}
		if code, _ := s.answers("GET", path, here); code == 200 || asked != 0 {
			t.Errorf("%s by GET: %d, done %d times", path, code, asked)
		}
		if code, _ := s.answers("POST", path, here); code != 200 || asked != 1 {
			t.Errorf("%s from here: %d, done %d times", path, code, asked)
		}
	}
}

func TestAProbeIsMadeAsItIsConfigured(t *testing.T) {
	var seen *http.Request
	port := application(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
			return
		}
		w.WriteHeader(http.StatusTeapot)
	})
	c, err := Parse([]byte("probes:\n  a: {httpGet: {path: /healthz, port: " + strconv.Itoa(int(port)) + ", host: web, headers: {x-a: b}}}\n" +
		"  moved: {httpGet: {path: /moved, port: " + strconv.Itoa(int(port)) + "}}\n" +
		"  up: {tcpSocket: {port: " + strconv.Itoa(int(port)) + "}}\n  down: {tcpSocket: {port: 1}}\n  app/two: {tcpSocket: {port: " + strconv.Itoa(int(port)) + "}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	s := newStatus(c)
	s.App = netip.MustParseAddr("127.0.0.1")
	for name, want := range map[string]int{"moved": 302, "up": 200, "down": 503, "none": 404, "app/two": 200, "a": 418} {
		if code, text := s.answers("GET", "/app-health/"+name, elsewhere); code != want {
			t.Errorf("%s: %d %q, want %d", name, code, text, want)
		}
	}
	s.answers("GET", "/app-health/a", elsewhere)
	if seen.Host != "web" || seen.Header.Get("x-a") != "b" || seen.URL.Path != "/healthz" {
		t.Errorf("the probe is %s %s %v", seen.Host, seen.URL, seen.Header)
	}
}

func TestAProbeThatHangsFails(t *testing.T) {
	end := make(chan struct{})
	port := application(t, func(http.ResponseWriter, *http.Request) { <-end })
	t.Cleanup(func() { close(end) })
	c := Default()
	p := Probe{Timeout: 50 * time.Millisecond, HTTPGet: &HTTPGet{Port: port}}
	c.Probes = map[string]Probe{"slow": p}
	if code, _ := newStatus(c).answers("GET", "/app-health/slow", elsewhere); code != 503 {
		t.Errorf("a probe that hangs: %d", code)
	}
}
