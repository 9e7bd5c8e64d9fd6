package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"outrider/certs"
	"outrider/certs/agent"
	"outrider/proxy"
	"outrider/proxy/admin"
	"outrider/proxy/config/decode"
	"outrider/proxy/listener"
	"outrider/proxy/sidecar"
)

// sidecarFlags are the agent's flags, and how the proxy beside it is made.
type sidecarFlags struct {
	agent     agentFlags
	lifecycle lifecycleFlags
	istiod    istiodFlags

	configPath   string
	print        bool
	mtls         string
	outbound     string
	interception string
	accessLog    string
	logLevel     string
	drainTimeS   uint32
	flushMsec    uint32
	metricsPort  uint16
}

func newSidecarCommand() *cobra.Command {
	var f sidecarFlags
	c := &cobra.Command{
		Use:   "sidecar",
		Short: "Agent and proxy in one process, with Istio's ports: inbound :15006, outbound :15001",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			plane, err := f.plane(c.Flags())
			if err != nil {
				return err
			}
			if f.print {
				return f.printConfig(plane, c.OutOrStdout())
			}
			return f.run(c.Context(), plane, c.ErrOrStderr())
		},
	}
	f.agent.register(c)
	f.lifecycle.register(c)
	f.istiod.register(c)
	f.register(c)
	return c
}

// register declares the flags that are the sidecar's alone, and other defaults
// for some of the others.
func (f *sidecarFlags) register(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.configPath, "config", "", "the short file that says who the workload is and what it calls (docs/sidecar.md); watched")
	fs.BoolVar(&f.print, "print-config", false, "print the Envoy bootstrap of it all, and end")
	fs.StringVar(&f.mtls, "mtls", "", "PERMISSIVE, STRICT or DISABLE, where the file says nothing")
	fs.StringVar(&f.outbound, "outbound", "", "ALLOW_ANY or REGISTRY_ONLY, where the file says nothing")
	fs.StringVar(&f.interception, "interception", "", "REDIRECT or TPROXY, where the file says nothing")
	fs.StringVar(&f.accessLog, "access-log", "", "the access log's file, where the file says nothing")
	fs.Uint16Var(&f.metricsPort, "app-metrics-port", 0, "the application's port for metrics, where the file says nothing")
	fs.StringVarP(&f.logLevel, "log-level", "l", "info", "trace, debug, info, warning, error, critical or off")
	fs.Uint32Var(&f.drainTimeS, "drain-time-s", 45, "how long connections may go on after SIGTERM")
	fs.Uint32Var(&f.flushMsec, "file-flush-interval-msec", 1000, "how often access log files are written")
	// A sidecar takes everything of its workload: nothing is refused while it
	// starts, and what it does last may be a call. All that it takes was
	// redirected.
	for name, value := range map[string]string{"hold-until-ready-s": "30", "loop-guard": "true", "minimum-drain-time-s": "5"} {
		flag := fs.Lookup(name)
		flag.DefValue = value
		_ = flag.Value.Set(value) // a number and a truth value
	}
}

// base is what the flags and the environment say, for the file to say
// otherwise.
func (f *sidecarFlags) base() sidecar.Config {
	c := sidecar.Config{
		Workload: env("POD_NAME", ""), Namespace: f.agent.namespace, ServiceAccount: f.agent.account, TrustDomain: f.agent.trustDomain,
		MTLS: sidecar.Mode(f.mtls), Outbound: sidecar.OutboundPolicy(f.outbound), Interception: f.interception, AccessLog: f.accessLog,
	}
	if f.metricsPort != 0 {
		c.Metrics = &sidecar.Metrics{Port: f.metricsPort}
	}
	return c
}

// load reads the file and the probes of the environment. Without a file, what
// the flags say is all.
func (f *sidecarFlags) load() (*sidecar.Config, error) {
	var text []byte
	if f.configPath != "" {
		var err error
		if text, err = os.ReadFile(f.configPath); err != nil {
			return nil, err
		}
	}
	c, err := sidecar.ParseOver(f.base(), text)
	if err != nil {
		return nil, err
	}
	if said := os.Getenv("ISTIO_PROMETHEUS_ANNOTATIONS"); said != "" && c.Metrics == nil {
		if c.Metrics, err = sidecar.ParseScrape(said); err != nil {
			return nil, fmt.Errorf("ISTIO_PROMETHEUS_ANNOTATIONS: %w", err)
		}
	}
	if probers := os.Getenv("ISTIO_KUBE_APP_PROBERS"); probers != "" && len(c.Probes) == 0 {
		if c.Probes, err = sidecar.ParseProbers(probers); err != nil {
			return nil, fmt.Errorf("ISTIO_KUBE_APP_PROBERS: %w", err)
		}
	}
	return c, nil
}

func (f *sidecarFlags) printConfig(plane *controlPlane, out io.Writer) error {
	c, err := f.load()
	if err != nil {
		return f.refused(err)
	}
	boot, err := plane.bootstrapOr(c, true)
	if err != nil {
		return err
	}
	text, err := sidecar.YAML(boot)
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}

func (f *sidecarFlags) refused(err error) error {
	if f.configPath == "" {
		return &usageError{err}
	}
	return fmt.Errorf("%s is refused:\n%w", f.configPath, err)
}

// running is a sidecar while it runs.
type running struct {
	flags  *sidecarFlags
	log    *slog.Logger
	agent  *agent.Agent
	plane  *controlPlane // nil: the short file says it all
	server *proxy.Server
	now    atomic.Pointer[sidecar.Config] // what is in force
	quit   context.CancelFunc             // as SIGTERM
	pages  []net.Listener                 // :15020, :15021, and under istiod :15090
}

// run makes the sidecar and runs it until a signal has ended it.
func (f *sidecarFlags) run(ctx context.Context, plane *controlPlane, stderr io.Writer) error {
	level := &slog.LevelVar{}
	l, err := parseLevel(f.logLevel)
	if err != nil {
		return err
	}
	level.Set(l)
	if err := f.lifecycle.check(); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	cfg, err := f.load()
	if err != nil {
		return f.refused(err)
	}
	s := &running{flags: f, log: log, plane: plane}
	s.now.Store(cfg)
	id, err := cfg.ID()
	if s.agent, err = f.agent.agent(id, err, log); err != nil {
		return err
	}
	if plane != nil {
		if err := plane.connect(&f.agent, s.agent, cfg); err != nil {
			return err
		}
	}
	if err := s.makeProxy(cfg, level); err != nil {
		return err
	}
	for _, port := range s.pagePorts() {
		page, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		defer page.Close() // closed by then, if it was served
		s.pages = append(s.pages, page)
	}
	return s.serve(ctx)
}

// makeProxy makes the proxy, whose sockets are open when it returns.
func (s *running) makeProxy(cfg *sidecar.Config, level *slog.LevelVar) error {
	boot, err := s.plane.bootstrapOr(cfg, false)
	if err != nil {
		return err
	}
	text, err := sidecar.YAML(boot)
	if err != nil {
		return err
	}
	decoded, err := decode.Bootstrap(text, decode.Options{})
	if err != nil {
		return err
	}
	inherited, err := listener.Inherit(activation.Files(true))
	if err != nil {
		return err
	}
	opts := proxy.Options{
		Log: s.log, LogLevel: level, Version: version(), Secrets: s.agent.Feed, Inherited: inherited,
		DrainTime:     time.Duration(s.flags.drainTimeS) * time.Second,
		FlushInterval: time.Duration(s.flags.flushMsec) * time.Millisecond,
	}
	s.flags.lifecycle.apply(&opts)
	if s.plane != nil {
		opts.ADS, opts.XDSCache = s.plane.stream, s.plane.flags.cache
		if opts.DNS, err = s.plane.dnsOptions(); err != nil {
			return err
		}
	}
	if s.server, err = proxy.New(decoded, opts); err != nil || s.plane != nil {
		return err
	}
	return s.apply(cfg)
}

// apply makes cfg the configuration in force.
func (s *running) apply(cfg *sidecar.Config) error {
	r, err := cfg.Resources()
	if err != nil {
		return err
	}
	if err := s.server.Update(proxy.Update{Version: time.Now().UTC().Format(time.RFC3339Nano), Clusters: r.Clusters, Listeners: r.Listeners}); err != nil {
		return err
	}
	s.now.Store(cfg)
	return nil
}

// serve runs everything. The agent outlives the proxy, whose last connections
// may still need its secrets.
func (s *running) serve(ctx context.Context) error {
	serving, quit := context.WithCancel(ctx)
	s.quit = quit
	defer quit()
	rest, stopRest := context.WithCancel(context.WithoutCancel(ctx))
	group, rest := errgroup.WithContext(rest)
	group.Go(func() error { return s.agent.Run(rest) })
	group.Go(func() error { return s.status(rest) })
	group.Go(func() error { return s.watch(rest) })
	group.Go(func() error { s.notify(rest); return nil })
	if s.plane != nil {
		group.Go(func() error { s.plane.run(rest, s.log); return nil })
	}
	group.Go(func() error { sidecar.WatchSameUser(rest, s.log); return nil })
	group.Go(func() error { // without the agent or the status pages it is no sidecar
		<-rest.Done()
		quit()
		return nil
	})
	group.Go(func() error {
		defer stopRest()
		err := serveUntilSignal(serving, s.server, s.log)
		daemon.SdNotify(false, daemon.SdNotifyStopping) //nolint:errcheck // nobody may be listening
		return err
	})
	return group.Wait()
}

// ready is nil, or why the sidecar is not ready.
func (s *running) ready() error {
	if state := s.server.State(); state != "LIVE" {
		return fmt.Errorf("the proxy is %s", state)
	}
	return s.agent.Ready()
}

// notifyEvery is how often readiness is looked at, until it is there.
const notifyEvery = 100 * time.Millisecond

// notify tells systemd when the sidecar is ready.
func (s *running) notify(ctx context.Context) {
	tick := time.NewTicker(notifyEvery)
	defer tick.Stop()
	for {
		if s.ready() == nil {
			s.log.Info("the sidecar is ready")
			daemon.SdNotify(false, daemon.SdNotifyReady) //nolint:errcheck // nobody may be listening
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// watch applies the file whenever it changes. One that is refused leaves
// everything as it was.
func (s *running) watch(ctx context.Context) error {
	path := s.flags.configPath
	if path == "" {
		return nil
	}
	last, err := os.ReadFile(path)
	if err != nil {
		last = nil
	}
	return certs.Watch(ctx, []string{filepath.Dir(path)}, func() {
		text, err := os.ReadFile(path)
		if err == nil && string(text) == string(last) {
			return
		}
		if err != nil && last == nil {
			return
		}
		last = text
		if err == nil {
			err = s.change()
		}
		if err != nil {
			s.log.Error("the file is refused, what was before goes on", "file", path, "reason", err)
			return
		}
		s.log.Info("the file is applied", "file", path)
	})
}

// change applies the file as it is now. Who the workload is cannot change while
// it runs.
func (s *running) change() error {
	cfg, err := s.flags.load()
	if err != nil {
		return err
	}
	before, err := s.now.Load().ID()
	if err != nil {
		return err
	}
	after, err := cfg.ID()
	if err != nil {
		return err
	}
	if before != after {
		return fmt.Errorf("the workload is %s, and cannot become %s while it runs: restart it", before, after)
	}
	return s.apply(cfg)
}

// status serves the pages.
func (s *running) status(ctx context.Context) error {
	st := &sidecar.Status{
		Config: s.now.Load, Ready: s.ready, Metrics: s.server.WritePrometheus, Log: s.log,
		Quit: s.quit, Drain: s.server.DrainInbound,
		More: map[string]http.Handler{"GET /certs/status": admin.CertsStatusHandler(s.agent.Handles)},
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return st.Serve(ctx, s.pages[0]) })
	group.Go(func() error { return st.ServeHealth(ctx, s.pages[1]) })
	if len(s.pages) > 2 {
		group.Go(func() error { return st.ServeMetrics(ctx, s.pages[2]) })
	}
	return group.Wait()
}

// pagePorts are the ports of the pages.
func (s *running) pagePorts() []int {
	ports := []int{sidecar.StatusPort, sidecar.HealthPort}
	if s.plane != nil {
		ports = append(ports, sidecar.PrometheusPort)
	}
	return ports
}
