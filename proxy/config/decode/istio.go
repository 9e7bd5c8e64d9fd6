package decode

import (
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	alpnv2 "istio.io/api/envoy/config/filter/http/alpn/v2alpha1"
	istiostats "istio.io/api/envoy/extensions/stats"

	"outrider/proxy/config"
)

// defaultReportDuration is tcp_reporting_duration where it is not set (Istio's
// stats filter).
const defaultReportDuration = 5 * time.Second

func istioALPN(c *alpnv2.FilterConfig, place at) *config.IstioALPN {
	out := &config.IstioALPN{Override: map[config.IstioALPNProtocol][]string{}}
	for i, o := range c.GetAlpnOverride() {
		in := place.item("alpn_override", i)
		protocol := config.IstioALPNProtocol(o.GetUpstreamProtocol())
		if _, taken := out.Override[protocol]; taken {
			in.in("upstream_protocol").bad("%s is of another override too", o.GetUpstreamProtocol())
		}
		for j, name := range o.GetAlpnOverride() {
			if name == "" || len(name) > 255 { // RFC 7301, section 3.1
				in.item("alpn_override", j).bad("%q is not a protocol name", shorten(name))
			}
		}
		out.Override[protocol] = o.GetAlpnOverride()
	}
	return out
}

// defaultGracefulDeletion is graceful_deletion_interval where it is not set
// (stats.proto).
const defaultGracefulDeletion = 5 * time.Minute

// istioStats are of HTTP and of TCP. Who reports is the side of the listener,
// unless it is a gateway that reports as a server.
func (d *decoder) istioStats(c *istiostats.PluginConfig, place at) *config.IstioStats {
	out := &config.IstioStats{
		DisableHostHeaderFallback: c.GetDisableHostHeaderFallback(),
		ReportDuration:            duration(c.GetTcpReportingDuration(), defaultReportDuration, place.in("tcp_reporting_duration")),
		Rotation:                  duration(c.GetRotationInterval(), 0, place.in("rotation_interval")),
		GracefulDeletion:          duration(c.GetGracefulDeletionInterval(), defaultGracefulDeletion, place.in("graceful_deletion_interval")),
	}
	if out.GracefulDeletion < time.Second {
		place.in("graceful_deletion_interval").bad("%s is less than 1s", out.GracefulDeletion)
	}
	switch {
	case c.GetReporter() == istiostats.Reporter_SERVER_GATEWAY:
		out.Reporter = config.IstioWaypoint
	case d.direction == config.Inbound:
		out.Reporter = config.IstioDestination
	}
	for _, m := range c.GetMetrics() {
		out.Metrics = append(out.Metrics, config.IstioMetric{
			Name: m.GetName(), Dimensions: m.GetDimensions(), Remove: m.GetTagsToRemove(), Drop: m.GetDrop(),
		})
	}
	for _, m := range c.GetDefinitions() {
		out.Definitions = append(out.Definitions, config.IstioDefinition{
			Name: m.GetName(), Value: m.GetValue(), Kind: config.IstioMetricKind(m.GetType()),
		})
	}
	return out
}

// istioExchange reads io.istio.http.peer_metadata.Config, which no Go package
// has.
func istioExchange(m protoreflect.Message) *config.IstioHTTPExchange {
	out := &config.IstioHTTPExchange{
		DownstreamDiscovery:   methods(m, "downstream_discovery"),
		UpstreamDiscovery:     methods(m, "upstream_discovery"),
		DownstreamPropagation: methods(m, "downstream_propagation"),
		UpstreamPropagation:   methods(m, "upstream_propagation"),
	}
	labels := m.Get(m.Descriptor().Fields().ByName("additional_labels")).List()
	for i := range labels.Len() {
		out.AdditionalLabels = append(out.AdditionalLabels, labels.Get(i).String())
	}
	return out
}

// methods are those that are set in the list field name.
func methods(m protoreflect.Message, name protoreflect.Name) []config.IstioExchangeMethod {
	var list []config.IstioExchangeMethod
	elements := m.Get(m.Descriptor().Fields().ByName(name)).List()
	for i := range elements.Len() {
		for _, fd := range populated(elements.Get(i).Message()) {
			one := config.IstioExchangeMethod{Name: string(fd.Name())}
			inner := elements.Get(i).Message().Get(fd).Message()
			if skip := inner.Descriptor().Fields().ByName("skip_external_clusters"); skip != nil {
				one.SkipExternal = inner.Get(skip).Bool()
			}
			list = append(list, one)
		}
	}
	return list
}
