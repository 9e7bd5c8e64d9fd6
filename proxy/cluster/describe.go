package cluster

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// Description is a cluster at one moment, for the admin interface's /clusters.
type Description struct {
	Name string
	// ObservabilityName is alt_stat_name, or the name.
	ObservabilityName string
	EDSServiceName    string // "" if not EDS
	AddedViaAPI       bool
	Added             time.Time
	Warm              bool
	Thresholds        [2]config.Thresholds // DEFAULT, HIGH
	// Outlier says that there is outlier detection; the rates are -1 where
	// there were too few hosts.
	Outlier                                           bool
	SuccessRateAverage, SuccessRateThreshold          float64
	LocalSuccessRateAverage, LocalSuccessRateEjection float64
	Config                                            *config.Cluster
	Hosts                                             []HostDescription
}

// HostDescription is a host at one moment.
type HostDescription struct {
	Address    flow.Addr
	Additional []flow.Addr
	Hostname   string
	Locality   config.Locality
	// LocalityWeight is the weight of the locality; 0: unset.
	LocalityWeight uint32
	Weight         uint32
	Priority       uint32
	Canary         bool
	Metadata       map[string]*structpb.Struct // filter_metadata; not to be changed
	Health         Health
	// HealthFlags are as /clusters prints them: "healthy" or
	// "/failed_active_hc...". EDSStatus is the configured one.
	HealthFlags string
	EDSStatus   config.HealthStatus
	Failed      FailedChecks

	CxActive, CxConnectFail, CxTotal uint64
	// The request counts; a TCP connection is one request, neither an error nor
	// a success in HTTP terms.
	RqSuccess, RqError, RqTimeout       uint64
	RqActive, RqTotal                   uint64
	SuccessRate, LocalOriginSuccessRate float64 // -1: none
}

// FailedChecks are the health flags one by one (Envoy: HostHealthStatus).
type FailedChecks struct {
	ActiveHealthCheck, OutlierCheck, ActiveDegraded, PendingDynamicRemoval bool
	PendingActiveHC, ExcludedViaImmediateHCFail, ActiveHCTimeout           bool
}

// Describe is the cluster now, its hosts in the order of priority.
func (c *Cluster) Describe() Description {
	d := Description{
		Name: c.cfg.Name, ObservabilityName: cmp.Or(c.cfg.AltStatName, c.cfg.Name), AddedViaAPI: c.addedViaAPI(),
		Added: c.added, Warm: c.isWarm(), Config: c.cfg,
		Thresholds: c.cfg.CircuitBreakers, Outlier: c.outlier != nil,
		SuccessRateAverage: -1, SuccessRateThreshold: -1, LocalSuccessRateAverage: -1, LocalSuccessRateEjection: -1,
	}
	if c.cfg.Type == config.EDSType {
		d.EDSServiceName = c.serviceName()
	}
	if o := c.outlier; o != nil {
		o.mu.Lock()
		d.SuccessRateAverage, d.SuccessRateThreshold = o.rates[0].average, o.rates[0].threshold
		d.LocalSuccessRateAverage, d.LocalSuccessRateEjection = o.rates[1].average, o.rates[1].threshold
		o.mu.Unlock()
	}
	for _, h := range c.currentHosts() {
		d.Hosts = append(d.Hosts, h.describe())
	}
	slices.SortStableFunc(d.Hosts, func(a, b HostDescription) int { return cmp.Compare(a.Priority, b.Priority) })
	return d
}

func (c *Cluster) addedViaAPI() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dynamic
}

// SetDynamic says that the cluster came by CDS (added_via_api).
func (c *Cluster) SetDynamic() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dynamic = true
}

// currentHosts are sorted where discovery gives no order.
func (c *Cluster) currentHosts() []*Host {
	if c.original == nil {
		return c.snap.Load().hosts
	}
	hosts := c.original.list()
	slices.SortFunc(hosts, func(a, b *Host) int { return cmp.Compare(a.key, b.key) })
	return hosts
}

func (h *Host) describe() HostDescription {
	s := h.spec.Load()
	d := HostDescription{
		Address: flowAddr(s.address), Hostname: s.hostname, Locality: s.locality.Locality,
		Weight: max(1, s.endpoint.Weight), Priority: s.priority(), Health: h.Health(), HealthFlags: h.Flags(),
		EDSStatus: s.endpoint.Health, Metadata: s.endpoint.Metadata, LocalityWeight: s.locality.Weight,
		Canary:   h.canary(),
		CxActive: uint64(max(0, h.count.cxActive.Load())), CxConnectFail: h.count.cxConnectFail.Load(), CxTotal: h.count.cxTotal.Load(),
		RqActive: uint64(max(0, h.count.rqActive.Load())), RqTotal: h.count.rqTotal.Load(),
		RqSuccess: h.count.rqSuccess.Load(), RqError: h.count.rqError.Load(), RqTimeout: h.count.rqTimeout.Load(),
		SuccessRate: h.eject.external.show(), LocalOriginSuccessRate: h.eject.local.show(),
	}
	for _, a := range s.additional {
		d.Additional = append(d.Additional, flowAddr(a))
	}
	d.Failed = FailedChecks{
		ActiveHealthCheck: h.has(failedActiveHC), OutlierCheck: h.has(failedOutlier), ActiveDegraded: h.has(degradedActiveHC),
		PendingDynamicRemoval: h.has(pendingRemoval), PendingActiveHC: h.has(pendingActiveHC),
		ExcludedViaImmediateHCFail: h.has(excludedByHC), ActiveHCTimeout: h.has(activeHCTimeout),
	}
	return d
}

// ConnectAttemptsExceeded counts that max_connect_attempts connections failed
// in a row, and the downstream connection with them.
func (c *Cluster) ConnectAttemptsExceeded() {
	c.scope.Counter("upstream_cx_connect_attempts_exceeded").Inc()
}
