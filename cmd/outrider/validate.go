package main

import (
	"fmt"
	"io"
	"log/slog"
	"runtime"

	"github.com/spf13/cobra"

	"outrider/proxy"
)

func newValidateCommand() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "validate -c FILE",
		Short: "Check a bootstrap: exit 0, or 1 with every mistake and its field path",
		RunE: func(c *cobra.Command, _ []string) error {
			return validate(f, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f.registerConfig(c)
	return c
}

// validate decodes the bootstrap and compiles all of it, without a socket.
func validate(f runFlags, stdout, stderr io.Writer) error {
	boot, err := f.load()
	if err != nil {
		return refuse(f, err, stderr)
	}
	if _, err := proxy.New(boot, proxy.Options{Log: slog.New(slog.DiscardHandler), NoSockets: true}); err != nil {
		return refuse(f, err, stderr)
	}
	fmt.Fprintf(stdout, "OK: %d listeners, %d clusters, %d secrets\n", len(boot.Listeners), len(boot.Clusters), len(boot.Secrets))
	return nil
}

// setConcurrency makes --concurrency the number of threads that run Go code.
func (f *runFlags) setConcurrency() {
	if f.concurrency > 0 {
		runtime.GOMAXPROCS(int(f.concurrency))
	}
	f.concurrency = uint32(runtime.GOMAXPROCS(0))
}

// commandLine is what /server_info shows (envoy.admin.v3.CommandLineOptions),
// by its field names.
func (f *runFlags) commandLine() map[string]any {
	return map[string]any{
		"concurrency": f.concurrency, "config_path": f.configPath, "config_yaml": f.configYAML,
		"allow_unknown_static_fields": f.allowUnknownStatic, "log_level": f.logLevel,
		"log_path": f.logPath, "service_cluster": f.serviceCluster, "service_node": f.serviceNode,
		"service_zone": f.zone, "drain_time_s": f.drainTimeS, "drain_strategy": f.drainStrategy,
		"mode": f.mode, "disable_hot_restart": true, "file_flush_interval_msec": f.flushIntervalMsec,
		"parent_shutdown_time_s": f.parentShutdownS, "component_log_level": f.componentLevel, "log_format": f.logFormat,
		"admin_address_path": f.adminAddressPath, "reject_unknown_dynamic_fields": f.rejectUnknownDynamic,
		"ignore_unknown_dynamic_fields": f.ignoreUnknownDynamic,
	}
}
