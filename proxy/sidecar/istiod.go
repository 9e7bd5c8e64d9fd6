package sidecar

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	statsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// PrometheusPort is where the sidecar's own metrics are, for scrapers (Istio's).
const PrometheusPort = 15090

// ControlPlaneSocket is where Istio's agent passes on the control plane's
// stream, from the sidecar's working directory.
const ControlPlaneSocket = "./etc/istio/proxy/XDS"

// The clusters of Istio's bootstrap.
const (
	controlPlaneCluster = "xds-grpc"
	agentCluster        = "agent"
	prometheusCluster   = "prometheus_stats"
)

// IstiodBootstrap is the bootstrap of a sidecar that istiod configures, as
// Istio's agent would write it. The sockets that it names, the agent's, need not
// be there: what is behind them is in the sidecar's process. With all it has the
// listeners of the pages too, and Envoy runs it beside Istio's agent.
func IstiodBootstrap(node *corev3.Node, shown IstioStats, all bool) (*bootstrapv3.Bootstrap, error) {
	b := builder{cfg: &Config{}}
	ads := func() *corev3.ConfigSource {
		return &corev3.ConfigSource{
			ResourceApiVersion: corev3.ApiVersion_V3, InitialFetchTimeout: durationpb.New(0),
			ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		}
	}
	boot := &bootstrapv3.Bootstrap{
		Node:        node,
		Admin:       &bootstrapv3.Admin{Address: address(local(), AdminPort)},
		StatsConfig: shown.config(),
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{LdsConfig: ads(), CdsConfig: ads(), AdsConfig: &corev3.ApiConfigSource{
			ApiType: corev3.ApiConfigSource_DELTA_GRPC, TransportApiVersion: corev3.ApiVersion_V3, SetNodeOnFirstMessageOnly: true,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: controlPlaneCluster},
			}}},
		}},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{
			b.page(prometheusCluster, AdminPort), b.page(agentCluster, StatusPort), b.secrets(), b.controlPlane(),
		}},
	}
	if all {
		boot.StaticResources.Listeners = []*listenerv3.Listener{
			b.pageListener(PrometheusPort, "stats", "/stats/prometheus", prometheusCluster),
			b.pageListener(HealthPort, "agent", "/healthz/ready", agentCluster),
		}
	}
	for _, c := range boot.StaticResources.Clusters {
		c.AltStatName = c.Name + ";"
	}
	return boot, b.err
}

func local() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

// page is the cluster of a page on this host.
func (b *builder) page(name string, port uint16) *clusterv3.Cluster {
	c := b.single(name, address(local(), port))
	c.ConnectTimeout = durationpb.New(250 * time.Millisecond)
	return c
}

// controlPlane is the cluster of the stream that has everything: no limit holds
// for it.
func (b *builder) controlPlane() *clusterv3.Cluster {
	const unlimited = 100000
	c := b.overSocket(controlPlaneCluster, ControlPlaneSocket)
	limits := func(p corev3.RoutingPriority) *clusterv3.CircuitBreakers_Thresholds {
		return &clusterv3.CircuitBreakers_Thresholds{
			Priority: p, MaxConnections: wrapperspb.UInt32(unlimited), MaxPendingRequests: wrapperspb.UInt32(unlimited), MaxRequests: wrapperspb.UInt32(unlimited),
		}
	}
	c.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{
		limits(corev3.RoutingPriority_DEFAULT), limits(corev3.RoutingPriority_HIGH),
	}}
	return c
}

// pageListener passes one page on.
func (b *builder) pageListener(port uint16, prefix, path, cluster string) *listenerv3.Listener {
	at := netip.IPv4Unspecified()
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix: prefix,
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{{
			Name: "backend", Domains: []string{"*"}, Routes: []*routev3.Route{{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: path}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}},
			}},
		}}}},
		HttpFilters: []*hcmv3.HttpFilter{{
			Name:       "envoy.filters.http.router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.pack(&routerv3.Router{})},
		}},
	}
	return &listenerv3.Listener{
		Name: fmt.Sprintf("%s_%d", at, port), Address: address(at, port), IgnoreGlobalConnLimit: true,
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{b.filter("envoy.filters.network.http_connection_manager", manager)}}},
	}
}

// IstioStats are the metrics that are shown beside those that Istio shows, and
// the labels beside Istio's.
type IstioStats struct{ Prefixes, Suffixes, Regexps, Tags []string }

// config has the parts of metric names that Istio makes labels of, and the
// metrics that are shown: Istio's, outrider's own, and s.
func (s IstioStats) config() *statsv3.StatsConfig {
	out := &statsv3.StatsConfig{UseAllDefaultTags: wrapperspb.Bool(false)}
	for _, tag := range [][2]string{
		{"cluster_name", `^cluster(\.(.+);)`},
		{"http_conn_manager_prefix", `^http\.(((?:[_.[:digit:]\w]*|[_\[\]aAbBcCdDeEfF[:digit:]\w\:]*));\.)`},
		{"tcp_prefix", `^tcp\.((.*?)\.)\w+?$`},
		{"response_code", `_rq(_(\d{3}))$`},
		{"response_code_class", `_rq(_(\dxx))$`},
		{"listener_address", `^listener\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)`},
		{"component", `(component\.(.+?)\.)`},
		{"tag", `(tag\.(.+?);\.)`},
		{"authz_enforce_result", `rbac(\.(allowed|denied))`},
		{"authz_dry_run_action", `(\.istio_dry_run_(allow|deny)_)`},
		{"authz_dry_run_result", `(\.shadow_(allowed|denied))`},
	} {
		out.StatsTags = append(out.StatsTags, &statsv3.TagSpecifier{TagName: tag[0], TagValue: &statsv3.TagSpecifier_Regex{Regex: tag[1]}})
	}
	for _, name := range s.Tags {
		regex := "(" + regexp.QuoteMeta(name) + `=\.=(.*?);\.;)`
		out.StatsTags = append(out.StatsTags, &statsv3.TagSpecifier{TagName: name, TagValue: &statsv3.TagSpecifier_Regex{Regex: regex}})
	}
	kept := &matcherv3.ListStringMatcher{}
	prefixes := strings.Fields("reporter= cluster_manager listener_manager server cluster.xds-grpc component istio outrider")
	for _, prefix := range append(prefixes, s.Prefixes...) {
		kept.Patterns = append(kept.Patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}})
	}
	suffixes := strings.Fields("rbac.allowed rbac.denied shadow_allowed shadow_denied downstream_cx_active")
	for _, suffix := range append(suffixes, s.Suffixes...) {
		kept.Patterns = append(kept.Patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: suffix}})
	}
	for _, expression := range append([]string{`vhost\..*\.route\..*`}, s.Regexps...) {
		kept.Patterns = append(kept.Patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{
			SafeRegex: &matcherv3.RegexMatcher{Regex: expression},
		}})
	}
	out.StatsMatcher = &statsv3.StatsMatcher{StatsMatcher: &statsv3.StatsMatcher_InclusionList{InclusionList: kept}}
	return out
}
