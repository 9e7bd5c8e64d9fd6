package decode

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	upstreamproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"outrider/proxy/config"
)

// Defaults of cluster.proto.
const (
	defaultConnectTimeout = 5 * time.Second
	defaultDNSRefresh     = 5 * time.Second
)

func (d *decoder) cluster(c *clusterv3.Cluster, place at) *config.Cluster {
	out := &config.Cluster{
		Name:                     c.GetName(),
		AltStatName:              c.GetAltStatName(),
		Type:                     d.clusterType(c, place),
		ConnectTimeout:           duration(c.GetConnectTimeout(), defaultConnectTimeout, place.in("connect_timeout")),
		Bind:                     d.bindConfig(c.GetUpstreamBindConfig(), place.in("upstream_bind_config")),
		Keepalive:                d.keepalive(c.GetUpstreamConnectionOptions().GetTcpKeepalive(), place),
		Metadata:                 d.metadata(c.GetMetadata()),
		PerConnectionBufferLimit: u32(c.GetPerConnectionBufferLimitBytes(), defaultBufferLimit),
		CloseOnHealthFailure:     c.GetCloseConnectionsOnHostHealthFailure(),
		IgnoreHealthOnRemoval:    c.GetIgnoreHealthOnHostRemoval(),
		Digest:                   digest(c),
		Source:                   c,
	}
	d.discovery(c, out, place)
	d.loadBalancing(c, out, place)
	out.CircuitBreakers = d.circuitBreakers(c.GetCircuitBreakers(), place.in("circuit_breakers"))
	if o := c.GetOutlierDetection(); o != nil {
		out.Outlier = d.outlier(o, place.in("outlier_detection"))
	}
	d.transportSockets(c, out, place)
	d.peerTLVs(c, out, place)
	d.protocolOptions(c, out, place)
	d.healthChecks(c, out, place)
	for i, f := range c.GetFilters() {
		in := place.item("filters", i)
		one := d.networkFilterOf(f.GetName(), d.open(anyOf(f, in.in("typed_config")), in.in("typed_config")), in.in("typed_config"))
		if one.MetadataExchange == nil {
			in.in("typed_config").bad("extension %q is not supported by outrider as an upstream network filter", f.GetName())
		}
		out.Filters = append(out.Filters, one)
	}
	return out
}

func (d *decoder) clusterType(c *clusterv3.Cluster, place at) config.ClusterType {
	switch c.GetType() {
	case clusterv3.Cluster_STRICT_DNS:
		return config.StrictDNS
	case clusterv3.Cluster_LOGICAL_DNS:
		return config.LogicalDNS
	case clusterv3.Cluster_EDS:
		return config.EDSType
	case clusterv3.Cluster_ORIGINAL_DST:
		return config.OriginalDstType
	}
	return config.Static
}

// discovery is what belongs to the cluster's type: where its endpoints are.
func (d *decoder) discovery(c *clusterv3.Cluster, out *config.Cluster, place at) {
	byName := out.Type == config.StrictDNS || out.Type == config.LogicalDNS
	assignment := place.in("load_assignment")
	if a := c.GetLoadAssignment(); a != nil {
		out.Assignment = d.assignment(a, assignment, byName)
	}
	fixed := out.Type == config.Static || byName
	if !fixed && c.GetLoadAssignment() != nil {
		assignment.bad("cannot be set for a cluster of type %s", c.GetType())
	}
	if fixed && out.Assignment == nil {
		out.Assignment = &config.Assignment{ClusterName: c.GetName(), Overprovisioning: defaultOverprovisioning}
	}
	switch out.Type {
	case config.EDSType:
		out.EDS = d.eds(c, place)
	case config.OriginalDstType:
		d.originalDst(c, out, place)
	case config.LogicalDNS:
		d.logicalDNS(c.GetLoadAssignment(), assignment)
	}
	if c.GetEdsClusterConfig() != nil && out.Type != config.EDSType {
		place.in("eds_cluster_config").bad("is for clusters of type EDS, this one is %s", c.GetType())
	}
	d.dns(c, out, place)
}

func (d *decoder) eds(c *clusterv3.Cluster, place at) *config.EDS {
	in := place.in("eds_cluster_config")
	e := c.GetEdsClusterConfig()
	out := &config.EDS{ServiceName: e.GetServiceName()}
	if out.ServiceName == "" {
		out.ServiceName = c.GetName()
	}
	if e.GetEdsConfig() == nil {
		in.in("eds_config").bad("must be set for a cluster of type EDS")
		return out
	}
	out.Source = d.source(e.GetEdsConfig(), in.in("eds_config"))
	return out
}

func (d *decoder) originalDst(c *clusterv3.Cluster, out *config.Cluster, place at) {
	o, in := c.GetOriginalDstLbConfig(), place.in("original_dst_lb_config")
	if o.GetUpstreamPortOverride() != nil {
		out.OriginalDst.PortOverride = port(o.GetUpstreamPortOverride().GetValue(), in.in("upstream_port_override"))
	}
}

// logicalDNS demands the one name that such a cluster stands for.
func (d *decoder) logicalDNS(a *endpointv3.ClusterLoadAssignment, place at) {
	parts := a.GetEndpoints()
	if len(parts) != 1 || len(parts[0].GetLbEndpoints())+len(parts[0].GetLoadBalancerEndpoints().GetLbEndpoints()) != 1 {
		place.bad("must have one endpoint in one locality: the cluster is of type LOGICAL_DNS")
	}
}

func (d *decoder) dns(c *clusterv3.Cluster, out *config.Cluster, place at) {
	d.resolver(c, place)
	refresh := duration(c.GetDnsRefreshRate(), defaultDNSRefresh, place.in("dns_refresh_rate"))
	in := place.in("dns_failure_refresh_rate")
	f := c.GetDnsFailureRefreshRate()
	out.DNS = config.DNS{
		RefreshRate:        refresh,
		FailureRefreshBase: duration(f.GetBaseInterval(), refresh, in.in("base_interval")),
		Jitter:             duration(c.GetDnsJitter(), 0, place.in("dns_jitter")),
		RespectTTL:         c.GetRespectDnsTtl(),
	}
	out.DNS.FailureRefreshMax = refresh
	if f != nil {
		out.DNS.FailureRefreshMax = duration(f.GetMaxInterval(), 10*out.DNS.FailureRefreshBase, in.in("max_interval"))
	}
	if f != nil && out.DNS.FailureRefreshMax < out.DNS.FailureRefreshBase {
		in.in("max_interval").bad("%s is below base_interval, %s", out.DNS.FailureRefreshMax, out.DNS.FailureRefreshBase)
	}
	switch c.GetDnsLookupFamily() {
	case clusterv3.Cluster_V4_ONLY:
		out.DNS.Family = config.DNSV4Only
	case clusterv3.Cluster_V6_ONLY:
		out.DNS.Family = config.DNSV6Only
	case clusterv3.Cluster_V4_PREFERRED:
		out.DNS.Family = config.DNSV4Preferred
	case clusterv3.Cluster_ALL:
		out.DNS.Family = config.DNSAll
	}
}

// Defaults of circuit_breaker.proto.
const (
	defaultMaxConnections = 1024
	defaultMaxPending     = 1024
	defaultMaxRequests    = 1024
	defaultMaxRetries     = 3
	unlimited             = 1<<32 - 1
)

func (d *decoder) circuitBreakers(c *clusterv3.CircuitBreakers, place at) [2]config.Thresholds {
	var out [2]config.Thresholds
	for p := range out {
		out[p] = thresholds(nil)
	}
	var seen [2]bool
	for i, t := range c.GetThresholds() {
		p := t.GetPriority()
		if p < 0 || int(p) >= len(out) {
			continue // broken rule of the proto, reported before
		}
		if !seen[p] { // the first one counts, as in Envoy
			out[p] = thresholds(t)
			out[p].RetryBudget = retryBudget(t.GetRetryBudget())
		} else {
			place.item("thresholds", i).bad("are the second for priority %s", p)
		}
		seen[p] = true
	}
	for i, t := range c.GetPerHostThresholds() {
		in, p := place.item("per_host_thresholds", i), t.GetPriority()
		if t.GetMaxPendingRequests() != nil || t.GetMaxRequests() != nil || t.GetMaxRetries() != nil || t.GetMaxConnectionPools() != nil || t.GetTrackRemaining() {
			in.bad("may only have priority and max_connections")
		}
		if p >= 0 && int(p) < len(out) {
			out[p].PerHostMaxConnections = t.GetMaxConnections().GetValue()
		}
	}
	return out
}

// Defaults of RetryBudget (circuit_breaker.proto).
const (
	defaultBudget    = 20 // percent
	defaultBudgetMin = 3
)

func retryBudget(b *clusterv3.CircuitBreakers_Thresholds_RetryBudget) *config.RetryBudget {
	if b == nil {
		return nil
	}
	out := &config.RetryBudget{Percent: defaultBudget, Min: u32(b.GetMinRetryConcurrency(), defaultBudgetMin)}
	if b.GetBudgetPercent() != nil {
		out.Percent = b.GetBudgetPercent().GetValue()
	}
	return out
}

func thresholds(t *clusterv3.CircuitBreakers_Thresholds) config.Thresholds {
	return config.Thresholds{
		MaxConnections:     u32(t.GetMaxConnections(), defaultMaxConnections),
		MaxPendingRequests: u32(t.GetMaxPendingRequests(), defaultMaxPending),
		MaxRequests:        u32(t.GetMaxRequests(), defaultMaxRequests),
		MaxRetries:         u32(t.GetMaxRetries(), defaultMaxRetries),
		MaxPools:           u32(t.GetMaxConnectionPools(), unlimited),
		TrackRemaining:     t.GetTrackRemaining(),
	}
}

func (d *decoder) transportSockets(c *clusterv3.Cluster, out *config.Cluster, place at) {
	if s := c.GetTransportSocket(); s != nil {
		out.TransportSocket = d.clientSocket(s, place.in("transport_socket"))
	}
	names := map[string]bool{}
	for i, m := range c.GetTransportSocketMatches() {
		in := place.item("transport_socket_matches", i)
		if names[m.GetName()] {
			in.in("name").bad("%q is the name of another match", m.GetName())
		}
		names[m.GetName()] = true
		match := config.TransportSocketMatch{Name: m.GetName(), Match: m.GetMatch()}
		if m.GetTransportSocket() != nil {
			match.Socket = d.clientSocket(m.GetTransportSocket(), in.in("transport_socket"))
		} else {
			in.in("transport_socket").bad("must be set")
		}
		out.SocketMatches = append(out.SocketMatches, match)
	}
}

func (d *decoder) clientSocket(s *corev3.TransportSocket, place at) config.TransportSocket {
	out := config.TransportSocket{Name: s.GetName()}
	in := place.in("typed_config")
	switch c := d.open(anyOf(s, in), in).(type) {
	case *tlsv3.UpstreamTlsContext:
		out.TLS = d.clientTLS(c, in)
	case *rawv3.RawBuffer:
	case *upstreamproxyv3.ProxyProtocolUpstreamTransport:
		return d.proxySocket(c, s.GetName(), in)
	default:
		in.bad("extension %q is not supported by outrider as a transport socket of a cluster", s.GetName())
	}
	return out
}
