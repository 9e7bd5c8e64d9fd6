package cluster

import (
	"strings"
	"sync/atomic"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// Host is one living endpoint. It keeps its identity, which is its address,
// through updates of weight, metadata and health. Its methods may be called by
// many goroutines.
type Host struct {
	key   string
	spec  atomic.Pointer[hostSpec]
	flags atomic.Uint32
	count hostCounts
	eject ejection
	conns connSet
	// checked says that the first active health check has had its result.
	checked atomic.Bool
	// healthyAt is when the host entered slow start: nanoseconds since the cluster
	// was added, 0 is never.
	healthyAt atomic.Int64
	gone      atomic.Bool
}

// hostSpec is what configuration says of a host: immutable, replaced whole.
type hostSpec struct {
	address    config.Address
	additional []config.Address
	hostname   string
	locality   *config.LocalityEndpoints
	endpoint   *config.Endpoint
	socket     *socket
}

func (s *hostSpec) weight() float64  { return float64(max(1, s.endpoint.Weight)) }
func (s *hostSpec) priority() uint32 { return s.locality.Priority }

// hostCounts are Envoy's host statistics.
type hostCounts struct {
	cxTotal, cxConnectFail        atomic.Uint64
	cxActive                      atomic.Int64
	rqTotal                       atomic.Uint64
	rqActive                      atomic.Int64
	rqSuccess, rqError, rqTimeout atomic.Uint64
}

// hostFlag is one of Envoy's health flags (HealthFlag).
type hostFlag uint32

const (
	failedActiveHC hostFlag = 1 << iota
	failedOutlier
	failedEDS
	degradedActiveHC
	degradedEDS
	pendingRemoval
	pendingActiveHC
	excludedByHC
	activeHCTimeout
	edsDraining
)

var hostFlagNames = []string{
	"/failed_active_hc", "/failed_outlier_check", "/failed_eds_health", "/degraded_active_hc",
	"/degraded_eds_health", "/pending_dynamic_removal", "/pending_active_hc",
	"/excluded_via_immediate_hc_fail", "/active_hc_timeout", "/eds_status_draining",
}

const (
	unhealthyFlags = failedActiveHC | failedOutlier | failedEDS | edsDraining
	degradedFlags  = degradedActiveHC | degradedEDS
	excludedFlags  = pendingActiveHC | excludedByHC
	edsFlags       = failedEDS | degradedEDS | edsDraining
)

func (h *Host) has(f hostFlag) bool { return hostFlag(h.flags.Load())&f != 0 }

// set and clear report whether that changed anything.
func (h *Host) set(f hostFlag) bool   { return hostFlag(h.flags.Or(uint32(f)))&f != f }
func (h *Host) clear(f hostFlag) bool { return hostFlag(h.flags.And(^uint32(f)))&f != 0 }

// Health is the host's coarse health.
type Health int

// A host is Unhealthy if any check says so, else Degraded if any says so.
const (
	HealthyHost Health = iota
	DegradedHost
	UnhealthyHost
)

// Health is what load balancing sees.
func (h *Host) Health() Health {
	switch {
	case h.has(unhealthyFlags):
		return UnhealthyHost
	case h.has(degradedFlags):
		return DegradedHost
	default:
		return HealthyHost
	}
}

// Gone reports whether the host is no endpoint any more. It is true before
// Options.Gone is told.
func (h *Host) Gone() bool { return h.gone.Load() }

// Flags are the health flags as /clusters prints them: "healthy", or
// "/failed_active_hc/failed_eds_health".
func (h *Host) Flags() string {
	flags := h.flags.Load()
	if flags == 0 {
		return "healthy"
	}
	var b strings.Builder
	for i, name := range hostFlagNames {
		if flags&(1<<i) != 0 {
			b.WriteString(name)
		}
	}
	return b.String()
}

// Address is the address that connections go to.
func (h *Host) Address() flow.Addr { return flowAddr(h.spec.Load().address) }

// Hostname is the endpoint's host name, "" if it has none.
func (h *Host) Hostname() string { return h.spec.Load().hostname }

// Locality is where the host is.
func (h *Host) Locality() config.Locality { return h.spec.Load().locality.Locality }

// Metadata is the endpoint's, by namespace; nil if none.
func (h *Host) Metadata() map[string]*structpb.Struct { return h.spec.Load().endpoint.Metadata }

// String is the address.
func (h *Host) String() string { return h.Address().String() }

// canary says that the endpoint's metadata call it one (Envoy: envoy.lb).
func (h *Host) canary() bool { return h.Metadata()["envoy.lb"].GetFields()["canary"].GetBoolValue() }

func (h *Host) setEDSHealth(status config.HealthStatus) bool {
	want := hostFlag(0)
	switch status {
	case config.Unhealthy, config.HealthTimeout:
		want = failedEDS
	case config.Draining:
		want = edsDraining
	case config.Degraded:
		want = degradedEDS
	case config.HealthUnknown, config.Healthy:
	}
	cleared := h.clear(edsFlags &^ want)
	return h.set(want) || cleared
}

func flowAddr(a config.Address) flow.Addr {
	if a.Pipe != "" {
		return flow.Addr{Path: a.Pipe}
	}
	return flow.Addr{AddrPort: a.AddrPort}
}
