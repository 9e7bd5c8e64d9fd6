package decode

import (
	"encoding/json"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
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

// istioStats are of HTTP and of TCP. Who reports is the side of the listener,
// unless it is a gateway that reports as a server.
func (d *decoder) istioStats(c *istiostats.PluginConfig, place at) *config.IstioStats {
	out := &config.IstioStats{
		Raw:                       rawStruct(c),
		Inbound:                   c.GetReporter() == istiostats.Reporter_SERVER_GATEWAY || d.direction == config.Inbound,
		DisableHostHeaderFallback: c.GetDisableHostHeaderFallback(),
		ReportDuration:            duration(c.GetTcpReportingDuration(), defaultReportDuration, place.in("tcp_reporting_duration")),
	}
	for _, m := range c.GetMetrics() {
		out.Metrics = append(out.Metrics, config.IstioMetric{
			Name: m.GetName(), Dimensions: m.GetDimensions(), Remove: m.GetTagsToRemove(), Match: m.GetMatch(), Drop: m.GetDrop(),
		})
	}
	return out
}

// rawStruct is m as a Struct.
func rawStruct(m proto.Message) *structpb.Struct {
	out := &structpb.Struct{}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil || json.Unmarshal(text, out) != nil {
		return nil // cannot be: m was just decoded
	}
	return out
}

// istioExchange reads io.istio.http.peer_metadata.Config, which no Go package
// has.
func istioExchange(m protoreflect.Message) *config.IstioHTTPExchange {
	out := &config.IstioHTTPExchange{SharedWithUpstream: m.Get(m.Descriptor().Fields().ByName("shared_with_upstream")).Bool()}
	out.DownstreamDiscovery = methods(m, "downstream_discovery", out)
	out.UpstreamDiscovery = methods(m, "upstream_discovery", out)
	out.DownstreamPropagation = methods(m, "downstream_propagation", out)
	out.UpstreamPropagation = methods(m, "upstream_propagation", out)
	labels := m.Get(m.Descriptor().Fields().ByName("additional_labels")).List()
	for i := range labels.Len() {
		out.AdditionalLabels = append(out.AdditionalLabels, labels.Get(i).String())
	}
	return out
}

// methods are the names of the methods that are set in the list field name.
func methods(m protoreflect.Message, name protoreflect.Name, out *config.IstioHTTPExchange) []string {
	var list []string
	elements := m.Get(m.Descriptor().Fields().ByName(name)).List()
	for i := range elements.Len() {
		for _, fd := range populated(elements.Get(i).Message()) {
			list = append(list, string(fd.Name()))
			inner := elements.Get(i).Message().Get(fd).Message()
			if skip := inner.Descriptor().Fields().ByName("skip_external_clusters"); skip != nil {
				out.SkipExternal = out.SkipExternal || inner.Get(skip).Bool()
			}
		}
	}
	return list
}
