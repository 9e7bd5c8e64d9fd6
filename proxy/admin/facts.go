// Package admin is Envoy's administration interface: its paths, its texts and
// its JSON. What it shows it is given as facts; it changes nothing but through
// the functions that it is given.
package admin

import (
	"log/slog"
	"net/http"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/stats"
)

// Options are what the interface shows and does. Every function must be set
// where nothing else is said.
type Options struct {
	Stats       *stats.Registry
	Bootstrap   *config.Bootstrap
	Version     string
	Node        *corev3.Node // as requests have it; nil: the bootstrap's
	Start       time.Time
	CommandLine map[string]any
	Types       MessageTypes   // what a TypedStruct may hold; nil: what is linked in
	LogLevel    *slog.LevelVar // nil: cannot be changed

	// State is Envoy's ServerInfo.State by name.
	State     func() string
	Refresh   func() // sets what is computed when somebody looks at stats
	Listeners func() []Listener
	Clusters  func() []Cluster
	// ListenersVersion and ClustersVersion are version_info of the last LDS and
	// CDS update; nil or "" if there was none.
	ListenersVersion, ClustersVersion func() string
	// Routes are the route configurations, inline ones too; nil for none.
	Routes func() []Route
	// Extensions are the configurations of filters that come by discovery; nil for
	// none.
	Extensions func() []Extension
	Secrets    func() []*certs.Handle
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

// Handler is a path of the server's own; Help is its line in /help.
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

// Route is one route configuration. A dynamic one without a Source has not come
// yet, or was refused.
type Route struct {
	Name    string
	Dynamic bool
	Version string // version_info of a dynamic one
	Updated time.Time
	Source  proto.Message
	Refused *Refused // nil: the last update was taken
}

// Extension is the configuration of one filter. One without a Source has been
// refused.
type Extension struct {
	Name    string
	Version string // version_info
	Updated time.Time
	Source  proto.Message
	Refused *Refused // nil: the last update was taken
}

// Cluster is one cluster with its hosts, or one dynamic cluster of which only a
// refused update is known.
type Cluster struct {
	Name, ObservabilityName, EDSService string
	// Dynamic is added_via_api; Version is the version_info of that update.
	Dynamic bool
	Version string
	// Warming says that it is not in use yet.
	Warming bool
	Updated time.Time
	Source  proto.Message // nil: only Refused is known
	Refused *Refused      // nil: the last update was taken
	// Overprovisioning is overprovisioning_factor in percent; 0 is the default, 140.
	Overprovisioning uint32
	Thresholds       [2]config.Thresholds // DEFAULT, HIGH
	Hosts            []Host
	// Outlier says that there is outlier detection; its rates are -1 for none.
	Outlier                                     bool
	SuccessRateAverage, SuccessRateThreshold    float64
	LocalSuccessRateAverage, LocalRateThreshold float64
}

// Host is one endpoint.
type Host struct {
	Address  string // host:port or a path
	Hostname string
	Locality config.Locality
	// LocalityWeight is the load_balancing_weight of the locality; 0: unset.
	LocalityWeight   uint32
	Weight, Priority uint32
	Canary           bool
	Metadata         map[string]*structpb.Struct // filter_metadata
	// Health is HEALTHY, UNHEALTHY or DEGRADED, over all that is known; "" is
	// taken from HealthFlags.
	Health string
	// HealthFlags is "healthy", or Envoy's flags: "/failed_active_hc".
	HealthFlags string
	EDSHealth   string // envoy.config.core.v3.HealthStatus

	FailedHC, FailedOutlier, FailedDegraded, PendingRemoval bool
	PendingActiveHC, ExcludedByHC, HCTimeout                bool

	CxActive, CxConnectFail, CxTotal                                  uint64
	RqActive, RqPendingActive, RqError, RqSuccess, RqTimeout, RqTotal uint64
	SuccessRate, LocalOriginSuccessRate                               float64 // -1: none
}
