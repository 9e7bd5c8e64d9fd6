// Package admin is Envoy's administration interface: its paths, its texts and
// its JSON. What it shows it is given as facts; it changes nothing but through
// the functions that it is given.
package admin

import (
	"log/slog"
	"net/http"
	"time"

	"google.golang.org/protobuf/proto"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/stats"
)

// Options are what the interface shows and does. Every function must be set.
type Options struct {
	Stats       *stats.Registry
	Bootstrap   *config.Bootstrap
	Version     string
	Start       time.Time
	CommandLine map[string]any
	LogLevel    *slog.LevelVar // nil: cannot be changed

	// State is Envoy's ServerInfo.State by name.
	State     func() string
	Refresh   func() // sets what is computed when somebody looks at stats
	Listeners func() []Listener
	Clusters  func() []Cluster
	Secrets   func() []*certs.Handle
	// Inline are the handles of inline secrets, for /certs.
	Inline func() []*certs.Handle
	// Drain stops the listeners (POST /drain_listeners).
	Drain func(DrainOptions)
	// Quit ends the server (POST /quitquitquit).
	Quit func()
	// Health is POST /healthcheck/fail (false) and /healthcheck/ok (true).
	Health func(ok bool)
	// ReopenLogs is POST /reopen_logs.
	ReopenLogs func() error
	// Handlers are further paths, listed in /help with the description.
	Handlers []Handler
}

// Handler is a path of the server's own.
type Handler struct {
	Path, Help string
	Handler    http.Handler
}

// DrainOptions are the parameters of /drain_listeners.
type DrainOptions struct {
	Graceful, InboundOnly, SkipExit bool
}

// Listener is one listener, or one dynamic listener of which only a refused
// update is known.
type Listener struct {
	Name      string
	Dynamic   bool
	Addresses []string // bound ones, as host:port or a path
	Active    *Version // nil: none
	Warming   *Version
	Draining  *Version
	Refused   *Refused
}

// Version is one version of a listener.
type Version struct {
	Info    string // version_info
	Source  proto.Message
	Updated time.Time
}

// Refused is an update that was not taken.
type Refused struct {
	Version string
	When    time.Time
	Details string
	Source  proto.Message // nil if it could not be decoded
}

// Cluster is one cluster with its hosts.
type Cluster struct {
	Name, ObservabilityName, EDSService string
	Dynamic                             bool
	Updated                             time.Time
	Source                              proto.Message
	// Assignment is the ClusterLoadAssignment in use; nil if there is none.
	Assignment proto.Message
	EDS        bool
	Thresholds [2]config.Thresholds
	Hosts      []Host
	// Success rate of outlier detection, -1 for none.
	SuccessRateAverage, SuccessRateThreshold float64
}

// Host is one endpoint.
type Host struct {
	Address, Hostname string
	IP                string // "" for a pipe
	Port              uint32
	Locality          config.Locality
	Weight, Priority  uint32
	// HealthFlags is "healthy", or Envoy's flags: "/failed_active_hc".
	HealthFlags   string
	EDSHealth     string // envoy.config.core.v3.HealthStatus
	FailedHC      bool
	FailedOutlier bool

	CxActive, CxConnectFail, CxTotal, RqActive, RqError, RqSuccess, RqTimeout, RqTotal uint64
	SuccessRate                                                                        float64 // -1: none
}
