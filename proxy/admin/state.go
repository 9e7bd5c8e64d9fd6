package admin

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"outrider/certs"
)

// levels are Envoy's log levels as slog's.
var levels = []struct { //nolint:gochecknoglobals // a table
	name  string
	level slog.Level
}{
	{"trace", slog.LevelDebug - 4}, {"debug", slog.LevelDebug}, {"info", slog.LevelInfo},
	{"warning", slog.LevelWarn}, {"warn", slog.LevelWarn}, {"error", slog.LevelError},
	{"critical", slog.LevelError + 4}, {"off", slog.LevelError + 100},
}

// LogLevel is one of Envoy's log levels.
func LogLevel(name string) (slog.Level, bool) {
	for _, l := range levels {
		if l.name == name {
			return l.level, true
		}
	}
	return 0, false
}

func levelName(level slog.Level) string {
	for _, l := range levels {
		if l.level == level {
			return l.name
		}
	}
	return level.String()
}

// commandLine makes the message of the options that are known to it.
func commandLine(options map[string]any) *adminv3.CommandLineOptions {
	out := &adminv3.CommandLineOptions{}
	for name, v := range options {
		switch name {
		case "concurrency":
			out.Concurrency, _ = v.(uint32)
		case "config_path":
			out.ConfigPath, _ = v.(string)
		case "config_yaml":
			out.ConfigYaml, _ = v.(string)
		case "allow_unknown_static_fields":
			out.AllowUnknownStaticFields, _ = v.(bool)
		case "log_level":
			out.LogLevel, _ = v.(string)
		case "log_path":
			out.LogPath, _ = v.(string)
		case "service_cluster":
			out.ServiceCluster, _ = v.(string)
		case "service_node":
			out.ServiceNode, _ = v.(string)
		case "service_zone":
			out.ServiceZone, _ = v.(string)
		case "drain_time_s":
			if s, ok := v.(uint32); ok {
				out.DrainTime = durationpb.New(time.Duration(s) * time.Second)
			}
		case "drain_strategy":
			if v == "immediate" {
				out.DrainStrategy = adminv3.CommandLineOptions_Immediate
			}
		case "disable_hot_restart":
			out.DisableHotRestart, _ = v.(bool)
		case "file_flush_interval_msec":
			if ms, ok := v.(uint32); ok {
				out.FileFlushInterval = durationpb.New(time.Duration(ms) * time.Millisecond)
			}
		}
	}
	return out
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

func (a *handler) listeners(w http.ResponseWriter, r *http.Request) {
	all := a.opts.Listeners()
	if r.URL.Query().Get("format") != "json" {
		for _, l := range all {
			if len(l.Addresses) > 0 {
				fmt.Fprintf(w, "%s::%s\n", l.Name, l.Addresses[0])
			}
		}
		return
	}
	out := &adminv3.Listeners{}
	for _, l := range all {
		if len(l.Addresses) == 0 {
			continue
		}
		s := &adminv3.ListenerStatus{Name: l.Name, LocalAddress: address(l.Addresses[0])}
		for _, more := range l.Addresses[1:] {
			s.AdditionalLocalAddresses = append(s.AdditionalLocalAddresses, address(more))
		}
		out.ListenerStatuses = append(out.ListenerStatuses, s)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(encode(out))
}

func (a *handler) clusters(w http.ResponseWriter, r *http.Request) {
	all := a.opts.Clusters()
	if r.URL.Query().Get("format") == "json" {
		a.clustersJSON(w, all)
		return
	}
	for _, c := range all {
		fmt.Fprintf(w, "%s::observability_name::%s\n", c.Name, c.ObservabilityName)
		for i, p := range []string{"default_priority", "high_priority"} {
			t := c.Thresholds[i]
			fmt.Fprintf(w, "%[1]s::%[2]s::max_connections::%[3]d\n%[1]s::%[2]s::max_pending_requests::%[4]d\n%[1]s::%[2]s::max_requests::%[5]d\n%[1]s::%[2]s::max_retries::%[6]d\n",
				c.Name, p, t.MaxConnections, t.MaxPendingRequests, t.MaxRequests, t.MaxRetries)
		}
		fmt.Fprintf(w, "%s::added_via_api::%v\n", c.Name, c.Dynamic)
		if c.EDSService != "" {
			fmt.Fprintf(w, "%s::eds_service_name::%s\n", c.Name, c.EDSService)
		}
		for _, h := range c.Hosts {
			writeHost(w, c.Name, h)
		}
	}
}

func writeHost(w http.ResponseWriter, cluster string, h Host) {
	for _, line := range []struct {
		name  string
		value any
	}{
		{"cx_active", h.CxActive}, {"cx_connect_fail", h.CxConnectFail}, {"cx_total", h.CxTotal},
		{"rq_active", h.RqActive}, {"rq_error", h.RqError}, {"rq_success", h.RqSuccess}, {"rq_timeout", h.RqTimeout}, {"rq_total", h.RqTotal},
		{"hostname", h.Hostname}, {"health_flags", h.HealthFlags}, {"weight", h.Weight},
		{"region", h.Locality.Region}, {"zone", h.Locality.Zone}, {"sub_zone", h.Locality.SubZone},
		{"canary", false}, {"priority", h.Priority}, {"success_rate", fmt.Sprintf("%.1f", h.SuccessRate)}, {"local_origin_success_rate", "-1.0"},
	} {
		text := strings.TrimSuffix(fmt.Sprint(line.value), ".0")
		fmt.Fprintf(w, "%s::%s::%s::%s\n", cluster, h.Address, line.name, text)
	}
}

func (a *handler) clustersJSON(w http.ResponseWriter, all []Cluster) {
	out := &adminv3.Clusters{}
	for _, c := range all {
		s := &adminv3.ClusterStatus{
			Name: c.Name, AddedViaApi: c.Dynamic, ObservabilityName: c.ObservabilityName, EdsServiceName: c.EDSService,
			CircuitBreakers: &clusterv3.CircuitBreakers{},
		}
		for _, h := range c.Hosts {
			s.HostStatuses = append(s.HostStatuses, hostStatus(h))
		}
		out.ClusterStatuses = append(out.ClusterStatuses, s)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(encode(out))
}

func hostStatus(h Host) *adminv3.HostStatus {
	metric := func(name string, v uint64, gauge bool) *adminv3.SimpleMetric {
		m := &adminv3.SimpleMetric{Name: name, Value: v}
		if gauge {
			m.Type = adminv3.SimpleMetric_GAUGE
		}
		return m
	}
	s := &adminv3.HostStatus{
		Address: address(h.Address), Hostname: h.Hostname, Weight: h.Weight, Priority: h.Priority,
		Locality: &corev3.Locality{Region: h.Locality.Region, Zone: h.Locality.Zone, SubZone: h.Locality.SubZone},
		HealthStatus: &adminv3.HostHealthStatus{
			EdsHealthStatus:         corev3.HealthStatus(corev3.HealthStatus_value[h.EDSHealth]),
			FailedActiveHealthCheck: h.FailedHC, FailedOutlierCheck: h.FailedOutlier,
		},
		Stats: []*adminv3.SimpleMetric{
			metric("cx_connect_fail", h.CxConnectFail, false), metric("cx_total", h.CxTotal, false), metric("rq_error", h.RqError, false),
			metric("rq_success", h.RqSuccess, false), metric("rq_timeout", h.RqTimeout, false), metric("rq_total", h.RqTotal, false),
			metric("cx_active", h.CxActive, true), metric("rq_active", h.RqActive, true),
		},
	}
	if h.SuccessRate >= 0 {
		s.SuccessRate = &typev3.Percent{Value: h.SuccessRate}
	}
	return s
}

func (a *handler) certs(w http.ResponseWriter, _ *http.Request) {
	out := &adminv3.Certificates{}
	for _, h := range append(a.opts.Inline(), a.opts.Secrets()...) {
		secret, err := h.Current()
		if err != nil {
			continue
		}
		if one := certificate(secret); one != nil {
			out.Certificates = append(out.Certificates, one)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(encode(out))
}

func certificate(s *certs.Secret) *adminv3.Certificate {
	out := &adminv3.Certificate{}
	if k := s.KeyPair; k != nil {
		out.CertChain = append(out.CertChain, details(k.TLS.Leaf, k.CertPath))
	}
	if v := s.Validation; v != nil {
		for _, root := range v.Roots {
			out.CaCert = append(out.CaCert, details(root, v.RootsPath))
		}
	}
	if out.CertChain == nil && out.CaCert == nil {
		return nil
	}
	return out
}

func details(c *x509.Certificate, path string) *adminv3.CertificateDetails {
	out := &adminv3.CertificateDetails{
		Path: path, SerialNumber: fmt.Sprintf("%x", c.SerialNumber),
		DaysUntilExpiration: uint64(max(time.Until(c.NotAfter)/(24*time.Hour), 0)),
		ValidFrom:           timestamppb.New(c.NotBefore), ExpirationTime: timestamppb.New(c.NotAfter),
	}
	for _, d := range c.DNSNames {
		out.SubjectAltNames = append(out.SubjectAltNames, &adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_Dns{Dns: d}})
	}
	for _, u := range c.URIs {
		out.SubjectAltNames = append(out.SubjectAltNames, &adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_Uri{Uri: u.String()}})
	}
	for _, ip := range c.IPAddresses {
		out.SubjectAltNames = append(out.SubjectAltNames, &adminv3.SubjectAlternateName{Name: &adminv3.SubjectAlternateName_IpAddress{IpAddress: ip.String()}})
	}
	return out
}
