package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"outrider/proxy"
	"outrider/proxy/accesslog"
	"outrider/proxy/config"
	"outrider/proxy/config/decode"
	"outrider/proxy/dns"
)

// runFlags are Envoy's command line options, under Envoy's names.
type runFlags struct {
	configPath, configYAML             string
	serviceNode, serviceCluster, zone  string
	logLevel, componentLevel           string
	logFormat, logPath                 string
	drainTimeS, parentShutdownS        uint32
	drainStrategy, ipVersion, mode     string
	concurrency                        uint32
	flushIntervalMsec, flushMinKB      uint32
	restartEpoch, baseID               uint32
	disableHotRestart                  bool
	allowUnknownStatic                 bool
	rejectUnknownDynamic               bool
	ignoreUnknownDynamic, skipDeprec   bool
	adminAddressPath                   string
	cpusetThreads, useDynamicBaseID    bool
	logFormatEscaped, fineGrainLogging bool
	xdsCache                           string
	dnsListen                          []string
	dnsResolvConf, dnsDomain           string
	lifecycle                          lifecycleFlags
	envoy                              envoyFlags
}

func newRunCommand() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run -c FILE",
		Short: "Run the proxy from an Envoy bootstrap (YAML or JSON); takes Envoy's flags",
		RunE: func(c *cobra.Command, _ []string) error {
			return runProxy(c.Context(), f, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	c.Version = version()
	f.register(c)
	return c
}

// register declares the flags. Those that have no meaning here say so, and
// still are checked.
func (f *runFlags) register(c *cobra.Command) {
	fs := c.Flags()
	f.registerConfig(c)
	fs.StringVarP(&f.logLevel, "log-level", "l", "info", "trace, debug, info, warning, error, critical, off")
	fs.StringVar(&f.componentLevel, "component-log-level", "", "accepted; there is one level for all components")
	fs.StringVar(&f.logFormat, "log-format", "", "a format that begins with { gives JSON lines, any other logfmt")
	fs.BoolVar(&f.logFormatEscaped, "log-format-escaped", false, "accepted; log lines are always escaped")
	fs.BoolVar(&f.fineGrainLogging, "enable-fine-grain-logging", false, "accepted; see --component-log-level")
	fs.StringVar(&f.logPath, "log-path", "", "file to log to, in place of standard error")
	fs.Uint32Var(&f.drainTimeS, "drain-time-s", 600, "seconds that connections may go on after their listener, filter chain or the server ends")
	fs.Uint32Var(&f.parentShutdownS, "parent-shutdown-time-s", 900, "accepted; there is no hot restart")
	fs.StringVar(&f.drainStrategy, "drain-strategy", "gradual", "gradual or immediate; TCP connections drain alike")
	fs.StringVar(&f.ipVersion, "local-address-ip-version", "v4", "v4 or v6; accepted")
	fs.Uint32Var(&f.concurrency, "concurrency", 0, "threads that run connections; 0 is one for each core")
	fs.Uint32Var(&f.flushIntervalMsec, "file-flush-interval-msec", 10000, "how often access log files are written")
	fs.Uint32Var(&f.flushMinKB, "file-flush-min-size-kb", 64, "KiB of an access log file that are put aside before they are written without waiting")
	fs.StringVar(&f.mode, "mode", "serve", "serve or validate")
	fs.StringVar(&f.adminAddressPath, "admin-address-path", "", "file to write the admin interface's address to")
	fs.Uint32Var(&f.restartEpoch, "restart-epoch", 0, "must be 0: there is no hot restart")
	fs.Uint32Var(&f.baseID, "base-id", 0, "accepted; there is no shared memory")
	fs.BoolVar(&f.useDynamicBaseID, "use-dynamic-base-id", false, "accepted; there is no shared memory")
	fs.BoolVar(&f.disableHotRestart, "disable-hot-restart", false, "accepted; there is no hot restart")
	fs.BoolVar(&f.cpusetThreads, "cpuset-threads", false, "accepted; the cpuset always counts")
	fs.BoolVar(&f.skipDeprec, "skip-deprecated-logs", false, "accepted")
	fs.StringSliceVar(&f.dnsListen, "dns-listen", nil, "answer DNS here, host:port over UDP and TCP, with Istio's table of names; localhost is both loopback addresses (docs/dns.md)")
	fs.StringVar(&f.dnsResolvConf, "dns-resolv-conf", "/etc/resolv.conf", "the servers for all other names, and the search domains; read again when it changes")
	fs.StringVar(&f.dnsDomain, "dns-domain", "", "the workload's DNS domain, NAMESPACE.svc.cluster.local: whose short names are answered")
	fs.StringVar(&f.xdsCache, "xds-cache", "", "directory that keeps the last good configuration of the control plane, for a start without it")
	f.lifecycle.register(c)
	f.envoy.register(fs)
}

// registerConfig declares the flags that validate and explain have too.
func (f *runFlags) registerConfig(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVarP(&f.configPath, "config-path", "c", "", "the bootstrap: YAML or JSON")
	fs.StringVar(&f.configYAML, "config-yaml", "", "bootstrap YAML, merged over the file's")
	fs.StringVar(&f.serviceNode, "service-node", "", "node.id")
	fs.StringVar(&f.serviceCluster, "service-cluster", "", "node.cluster")
	fs.StringVar(&f.zone, "service-zone", "", "node.locality.zone")
	fs.BoolVar(&f.allowUnknownStatic, "allow-unknown-static-fields", false, "unknown fields in the bootstrap are warnings")
	fs.BoolVar(&f.allowUnknownStatic, "allow-unknown-fields", false, "the old name of --allow-unknown-static-fields")
	fs.BoolVar(&f.rejectUnknownDynamic, "reject-unknown-dynamic-fields", false, "accepted; unknown fields in dynamic configuration are always refused")
	fs.BoolVar(&f.ignoreUnknownDynamic, "ignore-unknown-dynamic-fields", false, "accepted; unknown fields in dynamic configuration are always refused")
}

// load reads the bootstrap, and reports every mistake in it.
func (f *runFlags) load() (*config.Bootstrap, error) {
	if f.configPath == "" && f.configYAML == "" {
		return nil, &usageError{errors.New("either --config-path (-c) or --config-yaml is needed")}
	}
	opts := decode.Options{
		ConfigYAML: f.configYAML, AllowUnknownStatic: f.allowUnknownStatic,
		ServiceNode: f.serviceNode, ServiceCluster: f.serviceCluster, ServiceZone: f.zone,
		CheckFormat: accesslog.Check,
	}
	if f.configPath == "" {
		return decode.Bootstrap(nil, opts)
	}
	return decode.BootstrapFile(f.configPath, opts)
}

func (f *runFlags) check() error {
	switch {
	case f.mode != "serve" && f.mode != "validate" && f.mode != "init_only":
		return &usageError{fmt.Errorf("--mode %q: it is serve or validate", f.mode)}
	case f.mode == "init_only":
		return &usageError{errors.New("--mode init_only is not supported")}
	case f.drainStrategy != "gradual" && f.drainStrategy != "immediate":
		return &usageError{fmt.Errorf("--drain-strategy %q: it is gradual or immediate", f.drainStrategy)}
	case f.ipVersion != "v4" && f.ipVersion != "v6":
		return &usageError{fmt.Errorf("--local-address-ip-version %q: it is v4 or v6", f.ipVersion)}
	case f.dnsDomain != "" && len(f.dnsListen) == 0:
		return &usageError{fmt.Errorf("--dns-domain %q is for --dns-listen", f.dnsDomain)}
	case f.flushMinKB == 0 || f.flushMinKB > maxFlushKB:
		return &usageError{fmt.Errorf("--file-flush-min-size-kb %d: it is 1 to %d", f.flushMinKB, maxFlushKB)}
	case f.restartEpoch != 0:
		return &usageError{fmt.Errorf("--restart-epoch %d: there is no hot restart", f.restartEpoch)}
	}
	if err := f.envoy.check(); err != nil {
		return err
	}
	if err := f.lifecycle.check(); err != nil {
		return err
	}
	_, err := parseLevel(f.logLevel)
	return err
}

func runProxy(ctx context.Context, f runFlags, stdout, stderr io.Writer) error {
	if err := f.check(); err != nil {
		return err
	}
	if f.envoy.hotRestartVersion {
		_, err := fmt.Fprintln(stdout, "disabled")
		return err
	}
	if f.mode == "validate" {
		return validate(f, stdout, stderr)
	}
	boot, err := f.load()
	if err != nil {
		return refuse(f, err, stderr)
	}
	log, level, closeLog, err := f.logger(stderr)
	if err != nil {
		return err
	}
	defer closeLog()
	f.setConcurrency()
	server, err := proxy.New(boot, f.serverOptions(log, level))
	if err != nil {
		return refuse(f, err, stderr)
	}
	return serveUntilSignal(ctx, server, log)
}

func (f *runFlags) serverOptions(log *slog.Logger, level *slog.LevelVar) proxy.Options {
	o := proxy.Options{
		Log: log, LogLevel: level,
		DrainTime:     time.Duration(f.drainTimeS) * time.Second,
		FlushInterval: time.Duration(f.flushIntervalMsec) * time.Millisecond,
		FlushSize:     int(f.flushMinKB) << 10,
		Concurrency:   int(f.concurrency), Version: version(),
		AdminAddressPath: f.adminAddressPath,
		CommandLine:      f.commandLine(),
		XDSCache:         f.xdsCache,
	}
	f.lifecycle.apply(&o)
	o.DNS = f.dns()
	return o
}

// dns is how DNS is answered, nil if it is not. On port 53 there is no other
// resolver: names are forwarded before the first table is there.
func (f *runFlags) dns() *dns.Options {
	if len(f.dnsListen) == 0 {
		return nil
	}
	namespace, _, _ := strings.Cut(f.dnsDomain, ".")
	o := &dns.Options{Listen: f.dnsListen, ResolvConf: f.dnsResolvConf, Namespace: namespace, Domain: f.dnsDomain}
	for _, address := range f.dnsListen {
		o.ForwardBeforeTable = o.ForwardBeforeTable || strings.HasSuffix(address, ":53")
	}
	return o
}

// serveUntilSignal runs the server. The first SIGTERM or SIGINT begins the end,
// each further one skips the stage that it is in.
func serveUntilSignal(ctx context.Context, server *proxy.Server, log *slog.Logger) error {
	ctx, drain := context.WithCancel(ctx)
	defer drain()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	done := make(chan struct{})
	defer close(done)
	go func() {
		for n := 0; ; n++ {
			select {
			case sig := <-signals:
				log.Info("signal received", "signal", sig.String())
				if n > 0 {
					server.Skip()
				}
				drain()
			case <-done:
				return
			}
		}
	}()
	defer keepMemory(log)()
	return server.Run(ctx)
}

// logger logs to stderr or --log-path at the level of -l.
func (f *runFlags) logger(stderr io.Writer) (*slog.Logger, *slog.LevelVar, func(), error) {
	level := &slog.LevelVar{}
	l, err := parseLevel(f.logLevel)
	if err != nil {
		return nil, nil, nil, err
	}
	level.Set(l)
	out, closeLog := stderr, func() {}
	if f.logPath != "" {
		file, err := os.OpenFile(f.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("--log-path: %w", err)
		}
		out, closeLog = file, func() { file.Close() }
	}
	opts := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(out, opts)
	if strings.HasPrefix(strings.TrimSpace(f.logFormat), "{") {
		h = slog.NewJSONHandler(out, opts)
	}
	return slog.New(h), level, closeLog, nil
}

// parseLevel is an Envoy log level as slog's.
func parseLevel(name string) (slog.Level, error) {
	if level, ok := proxy.LogLevel(name); ok {
		return level, nil
	}
	return 0, &usageError{fmt.Errorf("--log-level %q: it is trace, debug, info, warning, error, critical or off", name)}
}

// refuse prints every mistake of a configuration.
func refuse(f runFlags, err error, stderr io.Writer) error {
	var usage *usageError
	if errors.As(err, &usage) {
		return err
	}
	where := f.configPath
	if where == "" {
		where = "--config-yaml"
	}
	fmt.Fprintf(stderr, "outrider: %s is refused:\n", where)
	for _, line := range strings.Split(err.Error(), "\n") {
		fmt.Fprintf(stderr, "  %s\n", line)
	}
	return silentError{}
}
