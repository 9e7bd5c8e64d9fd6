package admin

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"regexp"
	"slices"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrider/proxy/config"
)

func (a *handler) clusters(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var filter *regexp.Regexp
	if text := q.Get("filter"); text != "" {
		var err error
		if filter, err = regexp.Compile(text); err != nil {
			refuse(w, http.StatusBadRequest, "Invalid re2 regex: "+err.Error())
			return
		}
	}
	// What is refused or still warming has no hosts to show.
	all := slices.DeleteFunc(a.opts.Clusters(), func(c Cluster) bool {
		return c.Source == nil || c.Warming || filter != nil && !filter.MatchString(c.Name)
	})
	if q.Get("format") == "json" {
		out := &adminv3.Clusters{}
		for _, c := range all {
			out.ClusterStatuses = append(out.ClusterStatuses, clusterStatus(c))
		}
		answerJSON(w, out, false)
		return
	}
	for _, c := range all {
		writeCluster(w, c)
	}
}

func writeCluster(w io.Writer, c Cluster) {
	line := func(name string, v any) { fmt.Fprintf(w, "%s::%s::%v\n", c.Name, name, v) }
	line("observability_name", c.ObservabilityName)
	if c.Outlier {
		line("outlier::success_rate_average", rate(c.SuccessRateAverage))
		line("outlier::success_rate_ejection_threshold", rate(c.SuccessRateThreshold))
		line("outlier::local_origin_success_rate_average", rate(c.LocalSuccessRateAverage))
		line("outlier::local_origin_success_rate_ejection_threshold", rate(c.LocalRateThreshold))
	}
	for i, p := range []string{"default_priority::", "high_priority::"} {
		t := c.Thresholds[i]
		line(p+"max_connections", t.MaxConnections)
		line(p+"max_pending_requests", t.MaxPendingRequests)
		line(p+"max_requests", t.MaxRequests)
		line(p+"max_retries", t.MaxRetries)
	}
	line("added_via_api", c.Dynamic)
	if c.EDSService != "" {
		line("eds_service_name", c.EDSService)
	}
	for _, h := range c.Hosts {
		writeHost(w, c.Name, h)
	}
}

// rate is a success rate as C++'s streams print it: six digits, -1 for none.
func rate(f float64) string { return fmt.Sprintf("%.6g", f) }

func writeHost(w io.Writer, cluster string, h Host) {
	for _, line := range []struct {
		name  string
		value any
	}{
		{"cx_active", h.CxActive}, {"cx_connect_fail", h.CxConnectFail}, {"cx_total", h.CxTotal},
		{"rq_active", h.RqActive}, {"rq_error", h.RqError}, {"rq_pending_active", h.RqPendingActive},
		{"rq_success", h.RqSuccess}, {"rq_timeout", h.RqTimeout}, {"rq_total", h.RqTotal},
		{"hostname", h.Hostname}, {"health_flags", h.HealthFlags}, {"weight", h.Weight},
		{"region", h.Locality.Region}, {"zone", h.Locality.Zone}, {"sub_zone", h.Locality.SubZone},
		{"canary", h.Canary}, {"priority", h.Priority},
		{"success_rate", rate(h.SuccessRate)}, {"local_origin_success_rate", rate(h.LocalOriginSuccessRate)},
	} {
		fmt.Fprintf(w, "%s::%s::%s::%v\n", cluster, h.Address, line.name, line.value)
	}
}

func clusterStatus(c Cluster) *adminv3.ClusterStatus {
	out := &adminv3.ClusterStatus{
		Name: c.Name, AddedViaApi: c.Dynamic, ObservabilityName: c.ObservabilityName, EdsServiceName: c.EDSService,
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{
			thresholds(corev3.RoutingPriority_DEFAULT, c.Thresholds[0]), thresholds(corev3.RoutingPriority_HIGH, c.Thresholds[1]),
		}},
	}
	if c.Outlier && c.SuccessRateThreshold > 0 {
		out.SuccessRateEjectionThreshold = &typev3.Percent{Value: c.SuccessRateThreshold}
	}
	if c.Outlier && c.LocalRateThreshold > 0 {
		out.LocalOriginSuccessRateEjectionThreshold = &typev3.Percent{Value: c.LocalRateThreshold}
	}
	for _, h := range c.Hosts {
		out.HostStatuses = append(out.HostStatuses, hostStatus(h))
	}
	return out
}

func thresholds(p corev3.RoutingPriority, t config.Thresholds) *clusterv3.CircuitBreakers_Thresholds {
	return &clusterv3.CircuitBreakers_Thresholds{
		Priority: p, MaxConnections: wrapperspb.UInt32(t.MaxConnections), MaxPendingRequests: wrapperspb.UInt32(t.MaxPendingRequests),
		MaxRequests: wrapperspb.UInt32(t.MaxRequests), MaxRetries: wrapperspb.UInt32(t.MaxRetries),
	}
}

func hostStatus(h Host) *adminv3.HostStatus {
	s := &adminv3.HostStatus{
		Address: address(h.Address), Hostname: h.Hostname, Weight: h.Weight, Priority: h.Priority, Locality: locality(h.Locality),
		HealthStatus: &adminv3.HostHealthStatus{
			EdsHealthStatus:         corev3.HealthStatus(corev3.HealthStatus_value[h.EDSHealth]),
			FailedActiveHealthCheck: h.FailedHC, FailedOutlierCheck: h.FailedOutlier, FailedActiveDegradedCheck: h.FailedDegraded,
			PendingDynamicRemoval: h.PendingRemoval, PendingActiveHc: h.PendingActiveHC,
			ExcludedViaImmediateHcFail: h.ExcludedByHC, ActiveHcTimeout: h.HCTimeout,
		},
	}
	for _, m := range []struct {
		name  string
		value uint64
		typ   adminv3.SimpleMetric_Type
	}{
		{"cx_connect_fail", h.CxConnectFail, adminv3.SimpleMetric_COUNTER}, {"cx_total", h.CxTotal, adminv3.SimpleMetric_COUNTER},
		{"rq_error", h.RqError, adminv3.SimpleMetric_COUNTER}, {"rq_success", h.RqSuccess, adminv3.SimpleMetric_COUNTER},
		{"rq_timeout", h.RqTimeout, adminv3.SimpleMetric_COUNTER}, {"rq_total", h.RqTotal, adminv3.SimpleMetric_COUNTER},
		{"cx_active", h.CxActive, adminv3.SimpleMetric_GAUGE}, {"rq_active", h.RqActive, adminv3.SimpleMetric_GAUGE},
		{"rq_pending_active", h.RqPendingActive, adminv3.SimpleMetric_GAUGE},
	} {
		s.Stats = append(s.Stats, &adminv3.SimpleMetric{Name: m.name, Value: m.value, Type: m.typ})
	}
	if h.SuccessRate >= 0 {
		s.SuccessRate = &typev3.Percent{Value: h.SuccessRate}
	}
	if h.LocalOriginSuccessRate >= 0 {
		s.LocalOriginSuccessRate = &typev3.Percent{Value: h.LocalOriginSuccessRate}
	}
	return s
}

func locality(l config.Locality) *corev3.Locality {
	return &corev3.Locality{Region: l.Region, Zone: l.Zone, SubZone: l.SubZone}
}

// address is a host:port or a path as an Address.
func address(text string) *corev3.Address {
	ap, err := netip.ParseAddrPort(text)
	if err != nil {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: text}}}
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ap.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(ap.Port())},
	}}}
}
