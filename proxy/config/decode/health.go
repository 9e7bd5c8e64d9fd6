package decode

import (
	"encoding/hex"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	eventfilev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/health_check/event_sinks/file/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"outrider/proxy/config"
)

// defaultNoTraffic is HealthCheck.no_traffic_interval (health_check.proto).
const defaultNoTraffic = 60 * time.Second

// healthChecks are told apart by their names where there are several.
func (d *decoder) healthChecks(c *clusterv3.Cluster, out *config.Cluster, place at) {
	names := map[string]bool{}
	for i, h := range c.GetHealthChecks() {
		in := place.item("health_checks", i)
		one := d.healthCheck(h, in)
		out.HealthChecks = append(out.HealthChecks, one)
		switch {
		case len(c.GetHealthChecks()) > 1 && h.GetName() == "":
			in.in("name").bad("is empty: each of several health checks needs one")
		case names[h.GetName()]:
			in.in("name").bad("%q is the name of another health check", h.GetName())
		}
		names[h.GetName()] = true
		if one.GRPC != nil && !out.HTTP2 {
			in.in("grpc_health_check").bad("needs a cluster that speaks HTTP/2 (explicit_http_config.http2_protocol_options)")
		}
	}
}

func (d *decoder) healthCheck(h *corev3.HealthCheck, place at) *config.HealthCheck {
	span := func(v *durationpb.Duration, def time.Duration, name string) time.Duration {
		return duration(v, def, place.in(name))
	}
	interval := span(h.GetInterval(), 0, "interval")
	noTraffic := span(h.GetNoTrafficInterval(), defaultNoTraffic, "no_traffic_interval")
	unhealthy := span(h.GetUnhealthyInterval(), interval, "unhealthy_interval")
	out := &config.HealthCheck{
		Timeout: span(h.GetTimeout(), 0, "timeout"), Interval: interval,
		InitialJitter: span(h.GetInitialJitter(), 0, "initial_jitter"), IntervalJitter: span(h.GetIntervalJitter(), 0, "interval_jitter"),
		IntervalJitterPercent: h.GetIntervalJitterPercent(),
		UnhealthyThreshold:    h.GetUnhealthyThreshold().GetValue(), HealthyThreshold: h.GetHealthyThreshold().GetValue(),
		NoTrafficInterval:        noTraffic,
		NoTrafficHealthyInterval: span(h.GetNoTrafficHealthyInterval(), noTraffic, "no_traffic_healthy_interval"),
		UnhealthyInterval:        unhealthy,
		UnhealthyEdge:            span(h.GetUnhealthyEdgeInterval(), unhealthy, "unhealthy_edge_interval"),
		HealthyEdge:              span(h.GetHealthyEdgeInterval(), interval, "healthy_edge_interval"),
		ReuseConnection:          truth(h.GetReuseConnection(), true),
		AltPort:                  port(h.GetAltPort().GetValue(), place.in("alt_port")),
		EventLogPath:             h.GetEventLogPath(),
		AlwaysLogFailures:        h.GetAlwaysLogHealthCheckFailures(),
		TLSALPN:                  h.GetTlsOptions().GetAlpnProtocols(),
		SocketMatch:              h.GetTransportSocketMatchCriteria(),
	}
	for i, l := range h.GetEventLogger() {
		in := place.item("event_logger", i).in("typed_config")
		sink, ok := d.open(anyOf(l, in), in).(*eventfilev3.HealthCheckEventFileSink)
		if !ok || out.EventLogPath != "" {
			in.bad("extension %q is not supported by outrider as a second event log or of this type", l.GetName())
			continue
		}
		out.EventLogPath = sink.GetEventLogPath()
	}
	switch v := h.GetHealthChecker().(type) {
	case *corev3.HealthCheck_TcpHealthCheck_:
		in := place.in("tcp_health_check")
		out.TCP = &config.TCPHealthCheck{Receive: d.payloads(v.TcpHealthCheck.GetReceive(), in)}
		if v.TcpHealthCheck.GetSend() != nil {
			out.TCP.Send = d.payload(v.TcpHealthCheck.GetSend(), in.in("send"))
		}
	case *corev3.HealthCheck_HttpHealthCheck_:
		out.HTTP = d.httpCheck(v.HttpHealthCheck, place.in("http_health_check"))
	case *corev3.HealthCheck_GrpcHealthCheck_:
		out.GRPC = &config.GRPCHealthCheck{
			Service: v.GrpcHealthCheck.GetServiceName(), Authority: v.GrpcHealthCheck.GetAuthority(),
			Metadata: headers(v.GrpcHealthCheck.GetInitialMetadata(), "initial_metadata", place.in("grpc_health_check")),
		}
	default:
		place.bad("one of http_health_check, tcp_health_check, grpc_health_check must be set")
	}
	return out
}

// payload is hexadecimal text, or bytes.
func (d *decoder) payload(p *corev3.HealthCheck_Payload, place at) []byte {
	if v, ok := p.GetPayload().(*corev3.HealthCheck_Payload_Binary); ok {
		return v.Binary
	}
	b, err := hex.DecodeString(p.GetText())
	if err != nil {
		place.in("text").bad("%q is not hexadecimal", shorten(p.GetText()))
	}
	return b
}

func (d *decoder) payloads(list []*corev3.HealthCheck_Payload, place at) [][]byte {
	var out [][]byte
	for i, p := range list {
		out = append(out, d.payload(p, place.item("receive", i)))
	}
	return out
}

// headers are those of a check's request, which has none before.
func headers(list []*corev3.HeaderValueOption, name string, place at) [][2]string {
	var out [][2]string
	for i, h := range list {
		if h.GetAppend() != nil || h.GetAppendAction() != 0 || h.GetKeepEmptyValue() {
			place.item(name, i).bad("may only have header: there is nothing to append to")
		}
		one := header(h.GetHeader(), place.item(name, i).in("header"))
		out = append(out, [2]string{h.GetHeader().GetKey(), one[1]})
	}
	return out
}

func (d *decoder) httpCheck(h *corev3.HealthCheck_HttpHealthCheck, place at) *config.HTTPHealthCheck {
	out := &config.HTTPHealthCheck{
		Host: h.GetHost(), Path: h.GetPath(),
		HTTP2:         h.GetCodecClientType() == typev3.CodecClientType_HTTP2,
		Headers:       headers(h.GetRequestHeadersToAdd(), "request_headers_to_add", place),
		RemoveHeaders: h.GetRequestHeadersToRemove(),
		Expected:      d.statusRanges(h.GetExpectedStatuses(), "expected_statuses", place),
		Retriable:     d.statusRanges(h.GetRetriableStatuses(), "retriable_statuses", place),
		Receive:       d.payloads(h.GetReceive(), place),
	}
	if len(out.Expected) == 0 {
		out.Expected = []config.StatusRange{{From: 200, To: 201}}
	}
	if h.GetCodecClientType() == typev3.CodecClientType_HTTP3 {
		place.in("codec_client_type").bad("HTTP3 is not supported by outrider")
	}
	if m := h.GetMethod(); m != corev3.RequestMethod_METHOD_UNSPECIFIED {
		out.Method = m.String()
	}
	if h.GetSend() != nil {
		out.Send = d.payload(h.GetSend(), place.in("send"))
	}
	if m := h.GetServiceNameMatcher(); m != nil {
		out.ServiceName = d.stringMatcher(m, place.in("service_name_matcher"))
	}
	return out
}

func (d *decoder) statusRanges(list []*typev3.Int64Range, name string, place at) []config.StatusRange {
	var out []config.StatusRange
	for i, r := range list {
		if r.GetStart() < 100 || r.GetEnd() > 600 || r.GetStart() >= r.GetEnd() {
			place.item(name, i).bad("[%d, %d) is not a range of HTTP status codes: they go from 100 to 599", r.GetStart(), r.GetEnd())
			continue
		}
		out = append(out, config.StatusRange{From: int(r.GetStart()), To: int(r.GetEnd())})
	}
	return out
}

// Defaults of outlier_detection.proto.
const (
	defaultOutlierInterval = 10 * time.Second
	defaultBaseEjection    = 30 * time.Second
	defaultMaxEjection     = 300 * time.Second
)

func (d *decoder) outlier(o *clusterv3.OutlierDetection, place at) *config.Outlier {
	span := func(v *durationpb.Duration, def time.Duration, name string) time.Duration {
		return duration(v, def, place.in(name))
	}
	base := span(o.GetBaseEjectionTime(), defaultBaseEjection, "base_ejection_time")
	out := &config.Outlier{
		Consecutive5xx:                  u32(o.GetConsecutive_5Xx(), 5),
		ConsecutiveGateway:              u32(o.GetConsecutiveGatewayFailure(), 5),
		ConsecutiveLocal:                u32(o.GetConsecutiveLocalOriginFailure(), 5),
		EnforcingConsecutive5xx:         u32(o.GetEnforcingConsecutive_5Xx(), 100),
		EnforcingConsecutiveGateway:     u32(o.GetEnforcingConsecutiveGatewayFailure(), 0),
		EnforcingConsecutiveLocal:       u32(o.GetEnforcingConsecutiveLocalOriginFailure(), 100),
		Interval:                        span(o.GetInterval(), defaultOutlierInterval, "interval"),
		BaseEjection:                    base,
		MaxEjection:                     span(o.GetMaxEjectionTime(), max(base, defaultMaxEjection), "max_ejection_time"),
		EjectionJitter:                  span(o.GetMaxEjectionTimeJitter(), 0, "max_ejection_time_jitter"),
		MaxEjectionPercent:              u32(o.GetMaxEjectionPercent(), 10),
		EnforcingSuccessRate:            u32(o.GetEnforcingSuccessRate(), 100),
		SuccessRateMinHosts:             u32(o.GetSuccessRateMinimumHosts(), 5),
		SuccessRateRequestVolume:        u32(o.GetSuccessRateRequestVolume(), 100),
		SuccessRateStdevFactor:          u32(o.GetSuccessRateStdevFactor(), 1900),
		EnforcingFailurePercentage:      u32(o.GetEnforcingFailurePercentage(), 0),
		FailurePercentageThreshold:      u32(o.GetFailurePercentageThreshold(), 85),
		FailurePercentageMinHosts:       u32(o.GetFailurePercentageMinimumHosts(), 5),
		FailurePercentageVolume:         u32(o.GetFailurePercentageRequestVolume(), 50),
		EnforcingLocalSuccessRate:       u32(o.GetEnforcingLocalOriginSuccessRate(), 100),
		EnforcingFailurePercentageLocal: u32(o.GetEnforcingFailurePercentageLocalOrigin(), 0),
		SplitExternalLocal:              o.GetSplitExternalLocalOriginErrors(),
		SuccessfulCheckUnejects:         truth(o.GetSuccessfulActiveHealthCheckUnejectHost(), true),
		AlwaysEjectOne:                  o.GetAlwaysEjectOneHost().GetValue(),
	}
	if out.MaxEjection < out.BaseEjection {
		place.in("max_ejection_time").bad("%s is below base_ejection_time, %s", out.MaxEjection, out.BaseEjection)
	}
	return out
}
