package main

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"
)

// maxFlushKB bounds what an access log file keeps in memory: half of what may
// wait for a slow file.
const maxFlushKB = 2 << 10

// envoyFlags are options of Envoy's command line that change nothing here, and
// those that are refused because something would be missing without them. Agents
// that start Envoy hand them over.
type envoyFlags struct {
	coreDump, mutexTracing, oneEntry bool
	noParent, parentStats            bool
	hotRestartVersion                bool
	socketPath, socketMode           string
	baseIDPath, disabled             string
	tags                             []string
}

func (f *envoyFlags) register(fs *pflag.FlagSet) {
	fs.BoolVar(&f.coreDump, "enable-core-dump", false, "accepted; GOTRACEBACK=crash and the limit of core files decide")
	fs.BoolVar(&f.mutexTracing, "enable-mutex-tracing", false, "accepted; /contention says nothing")
	fs.BoolVar(&f.oneEntry, "log-stacktrace-single-entry", false, "accepted; a stack is one entry")
	fs.BoolVar(&f.noParent, "skip-hot-restart-on-no-parent", false, "accepted; there is no hot restart")
	fs.BoolVar(&f.parentStats, "skip-hot-restart-parent-stats", false, "accepted; there is no hot restart")
	fs.StringVar(&f.socketPath, "socket-path", "@envoy_domain_socket", "accepted; it is for hot restart")
	fs.StringVar(&f.socketMode, "socket-mode", "600", "accepted; it is for hot restart")
	fs.BoolVar(&f.hotRestartVersion, "hot-restart-version", false, "print the version of hot restart, disabled, and end")
	fs.StringVar(&f.baseIDPath, "base-id-path", "", "refused: there is no base id that could be written")
	fs.StringVar(&f.disabled, "disable-extensions", "", "refused: what the configuration does not name is not there")
	fs.StringArrayVar(&f.tags, "stats-tag", nil, "refused: use stats_config.stats_tags with a fixed_value")
}

// check refuses the options that somebody would wait for in vain.
func (f *envoyFlags) check() error {
	switch {
	case f.baseIDPath != "":
		return &usageError{fmt.Errorf("--base-id-path %q: there is no base id, for there is no hot restart", f.baseIDPath)}
	case f.disabled != "":
		return &usageError{fmt.Errorf("--disable-extensions %q is not supported: leave them out of the configuration", f.disabled)}
	case len(f.tags) > 0:
		return &usageError{errors.New("--stats-tag " + f.tags[0] + " is not supported: use stats_config.stats_tags with a fixed_value")}
	}
	return nil
}
