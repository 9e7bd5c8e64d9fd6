package sidecar

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Status serves what Istio's agent serves on :15020: readiness, the merged
// metrics, the application's health checks, and the words that end or drain
// the sidecar.
type Status struct {
	// Config is asked for at each request, for the file may change.
	Config func() *Config
	// Ready is nil, or why the sidecar is not ready.
	Ready func() error
	// Metrics writes the sidecar's own metrics in Prometheus' text format.
	Metrics func(w io.Writer) error
	// Quit ends the process in order; Drain has inbound listeners stop. Both
	// are asked for by POST, from this host only.
	Quit, Drain func()
	// App is where the application listens, for its health checks and
	// metrics; the zero address is 127.0.0.1.
	App netip.Addr
	// More are other pages, by pattern.
	More map[string]http.Handler
	Log  *slog.Logger

	unscraped atomic.Uint64 // scrapes of the application that failed
}

// statusTimeout bounds how long a request may take to come in.
const statusTimeout = 10 * time.Second

// Serve answers on ln until ctx ends.
func (s *Status) Serve(ctx context.Context, ln net.Listener) error {
	return s.serve(ctx, ln, s.handler())
}

// ServeHealth answers only whether the sidecar is ready, until ctx ends: for
// :15021, which callers from outside reach.
func (s *Status) ServeHealth(ctx context.Context, ln net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz/ready", s.ready)
	return s.serve(ctx, ln, mux)
}

// ServeMetrics answers with the sidecar's own metrics, until ctx ends: for
// :15090, which scrapers reach.
func (s *Status) ServeMetrics(ctx context.Context, ln net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats/prometheus", func(w http.ResponseWriter, _ *http.Request) { s.own(w) })
	return s.serve(ctx, ln, mux)
}

func (s *Status) serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: statusTimeout, ReadTimeout: statusTimeout, ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("status server: %w", err)
	}
	return nil
}

func (s *Status) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz/ready", s.ready)
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /stats/prometheus", s.metrics)
	mux.HandleFunc("POST /quitquitquit", s.local(func() { s.Quit() }))
	mux.HandleFunc("POST /drain", s.local(func() { s.Drain() }))
	mux.HandleFunc("GET /app-health/{name...}", s.appHealth)
	for pattern, h := range s.More {
		mux.Handle(pattern, h)
	}
	return mux
}

func (s *Status) ready(w http.ResponseWriter, _ *http.Request) {
	if err := s.Ready(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
}

// local does something for callers on this host. What the proxy passes on
// comes from addresses of its own, 127.0.0.6 and ::6: that is not from here.
func (s *Status) local(do func()) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if from, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || !slices.Contains([]string{"127.0.0.1", "::1"}, from.Addr().Unmap().String()) {
			http.Error(w, "only callers on this host may ask for that", http.StatusForbidden)
			return
		}
		s.Log.Info("asked by a caller on this host", "path", r.URL.Path)
		do()
	}
}

// metrics are the sidecar's, and after them the application's. Where those
// cannot be had, the sidecar's own come alone, and say so.
func (s *Status) metrics(w http.ResponseWriter, r *http.Request) {
	m := s.Config().Metrics
	if !s.own(w) || m == nil {
		return
	}
	text, err := s.scrape(r.Context(), m)
	if err != nil {
		s.unscraped.Add(1)
		s.Log.Warn("the application's metrics cannot be had", "reason", err)
	}
	fmt.Fprintf(w, "# TYPE outrider_application_scrape_failures_total counter\noutrider_application_scrape_failures_total %d\n", s.unscraped.Load())
	w.Write(text)
}

// own writes the sidecar's own metrics, and reports whether it could.
func (s *Status) own(w http.ResponseWriter) bool {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	err := s.Metrics(w)
	if err != nil {
		s.Log.Error("metrics cannot be written", "reason", err)
	}
	return err == nil
}

// What the application may send as metrics, and for how long.
const (
	maxMetrics    = 64 << 20
	scrapeTimeout = 5 * time.Second
)

func (s *Status) scrape(ctx context.Context, m *Metrics) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.app(m.Port)+"/"+strings.TrimPrefix(m.Path, "/"), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4")
	resp, err := appClient(false).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", req.URL, resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxMetrics+1))
	if err == nil && len(text) > maxMetrics {
		return nil, fmt.Errorf("%s answers more than %d bytes", req.URL, maxMetrics)
	}
	return text, err
}

func (s *Status) app(port uint16) string {
	host := s.App
	if !host.IsValid() {
		host = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.AddrPortFrom(host, port).String()
}

// appClient calls the application without following redirects, on a connection
// of its own. Certificates are not looked at, as the kubelet does not.
func appClient(https bool) *http.Client {
	transport := &http.Transport{DisableKeepAlives: true}
	if https {
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // a probe of our own workload, as the kubelet makes it
	}
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// appHealth makes one of the application's health checks.
func (s *Status) appHealth(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	probe, ok := s.Config().Probes[name]
	if !ok {
		http.Error(w, fmt.Sprintf("there is no probe %q", name), http.StatusNotFound)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), cmp.Or(probe.Timeout, time.Second))
	defer cancel()
	code, err := s.probe(ctx, probe, r.Header)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(code)
}

func (s *Status) probe(ctx context.Context, p Probe, headers http.Header) (int, error) {
	if p.GRPC != nil {
		return s.grpc(ctx, p.GRPC)
	}
	if p.TCPSocket != nil {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.app(p.TCPSocket.Port))
		if err != nil {
			return 0, err
		}
		return http.StatusOK, c.Close()
	}
	get := p.HTTPGet
	scheme := strings.ToLower(cmp.Or(get.Scheme, "http"))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+s.app(get.Port)+"/"+strings.TrimPrefix(get.Path, "/"), nil)
	if err != nil {
		return 0, err
	}
	req.Header = headers.Clone()
	req.Header.Del("Host")
	for k, v := range get.Headers {
		req.Header.Set(k, v)
	}
	req.Host = cmp.Or(get.Host, get.Headers["Host"], "localhost:"+strconv.Itoa(int(get.Port)))
	resp, err := appClient(scheme == "https").Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}
