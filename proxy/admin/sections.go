package admin

import (
	"cmp"
	"slices"
	"strings"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrider/certs"
)

// sections are the parts of the dump in Envoy's order. All of it is a copy.
func (a *handler) sections(eds bool) []proto.Message {
	out := []proto.Message{a.bootstrapDump(), a.clustersDump()}
	if a.opts.Extensions != nil {
		if all := a.opts.Extensions(); len(all) > 0 {
			out = append(out, extensionsDump(all))
		}
	}
	if eds {
		out = append(out, a.endpointsDump())
	}
	out = append(out, a.listenersDump())
	if a.opts.Routes != nil {
		if routes := a.opts.Routes(); len(routes) > 0 {
			out = append(out, &adminv3.ScopedRoutesConfigDump{}, routesDump(routes))
		}
	}
	return append(out, a.secretsDump())
}

func extensionsDump(all []Extension) proto.Message {
	out := &adminv3.EcdsConfigDump{}
	for _, e := range all {
		out.EcdsFilters = append(out.EcdsFilters, &adminv3.EcdsConfigDump_EcdsFilterConfig{
			VersionInfo: e.Version, EcdsFilter: pack(e.Source), LastUpdated: stamp(e.Updated), ErrorState: e.Refused.state(),
		})
	}
	return out
}

// routesDump shows inline routes as static, in Envoy's words, and those of RDS
// as dynamic.
func routesDump(all []Route) proto.Message {
	out := &adminv3.RoutesConfigDump{}
	for _, r := range all {
		if !r.Dynamic {
			out.StaticRouteConfigs = append(out.StaticRouteConfigs, &adminv3.RoutesConfigDump_StaticRouteConfig{
				RouteConfig: pack(r.Source), LastUpdated: stamp(r.Updated),
			})
			continue
		}
		out.DynamicRouteConfigs = append(out.DynamicRouteConfigs, &adminv3.RoutesConfigDump_DynamicRouteConfig{
			VersionInfo: r.Version, RouteConfig: pack(r.Source), LastUpdated: stamp(r.Updated), ErrorState: r.Refused.state(),
		})
	}
	return out
}

// stamp is t with Envoy's resolution; nil for the zero time.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t.Truncate(time.Millisecond))
}

func version(f func() string) string {
	if f == nil {
		return ""
	}
	return f()
}

func (a *handler) bootstrapDump() proto.Message {
	out := &adminv3.BootstrapConfigDump{LastUpdated: stamp(a.opts.Start)}
	if b, ok := a.opts.Bootstrap.Source.(*bootstrapv3.Bootstrap); ok {
		out.Bootstrap = proto.CloneOf(b)
		if node := a.node(); node != nil {
			out.Bootstrap.Node = proto.CloneOf(node)
		}
	}
	return out
}

func (a *handler) clustersDump() proto.Message {
	out := &adminv3.ClustersConfigDump{VersionInfo: version(a.opts.ClustersVersion)}
	for _, c := range a.opts.Clusters() {
		if !c.Dynamic {
			out.StaticClusters = append(out.StaticClusters, &adminv3.ClustersConfigDump_StaticCluster{
				Cluster: pack(c.Source), LastUpdated: stamp(c.Updated),
			})
			continue
		}
		d := &adminv3.ClustersConfigDump_DynamicCluster{
			VersionInfo: c.Version, Cluster: pack(c.Source), LastUpdated: stamp(c.Updated), ErrorState: c.Refused.state(),
		}
		if c.Warming || c.Source == nil {
			out.DynamicWarmingClusters = append(out.DynamicWarmingClusters, d)
		} else {
			out.DynamicActiveClusters = append(out.DynamicActiveClusters, d)
		}
	}
	return out
}

// state is r as error_state; nil for nil.
func (r *Refused) state() *adminv3.UpdateFailureState {
	if r == nil {
		return nil
	}
	return &adminv3.UpdateFailureState{
		FailedConfiguration: pack(r.Source), LastUpdateAttempt: stamp(r.When), Details: r.Details, VersionInfo: r.Version,
	}
}

// endpointsDump shows the hosts that there are, of all kinds of clusters, as
// Envoy does: "dynamic" are those of clusters that came by CDS.
func (a *handler) endpointsDump() proto.Message {
	out := &adminv3.EndpointsConfigDump{}
	for _, c := range a.opts.Clusters() {
		switch {
		case c.Source == nil || c.Warming:
		case c.Dynamic:
			out.DynamicEndpointConfigs = append(out.DynamicEndpointConfigs, &adminv3.EndpointsConfigDump_DynamicEndpointConfig{EndpointConfig: pack(assignment(c))})
		default:
			out.StaticEndpointConfigs = append(out.StaticEndpointConfigs, &adminv3.EndpointsConfigDump_StaticEndpointConfig{EndpointConfig: pack(assignment(c))})
		}
	}
	return out
}

// assignment is c's hosts, grouped by priority and locality in their order.
func assignment(c Cluster) *endpointv3.ClusterLoadAssignment {
	out := &endpointv3.ClusterLoadAssignment{
		ClusterName: cmp.Or(c.EDSService, c.Name),
		Policy: &endpointv3.ClusterLoadAssignment_Policy{
			OverprovisioningFactor: wrapperspb.UInt32(cmp.Or(c.Overprovisioning, 140)), // Envoy's default, in percent
		},
	}
	type group struct {
		priority uint32
		region   string
	}
	groups := map[group]*endpointv3.LocalityLbEndpoints{}
	for _, h := range c.Hosts {
		id := group{h.Priority, strings.Join([]string{h.Locality.Region, h.Locality.Zone, h.Locality.SubZone}, "\x00")}
		g := groups[id]
		if g == nil {
			g = &endpointv3.LocalityLbEndpoints{
				Locality: locality(h.Locality), Priority: h.Priority, LoadBalancingWeight: wrapperspb.UInt32(h.LocalityWeight),
			}
			groups[id] = g
			out.Endpoints = append(out.Endpoints, g)
		}
		g.LbEndpoints = append(g.LbEndpoints, endpoint(h))
	}
	slices.SortStableFunc(out.Endpoints, func(a, b *endpointv3.LocalityLbEndpoints) int { return cmp.Compare(a.Priority, b.Priority) })
	return out
}

func endpoint(h Host) *endpointv3.LbEndpoint {
	out := &endpointv3.LbEndpoint{
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
			Address: address(h.Address), Hostname: h.Hostname, HealthCheckConfig: &endpointv3.Endpoint_HealthCheckConfig{},
		}},
		HealthStatus:        corev3.HealthStatus(corev3.HealthStatus_value[cmp.Or(h.Health, healthOf(h.HealthFlags))]),
		LoadBalancingWeight: wrapperspb.UInt32(h.Weight),
	}
	if len(h.Metadata) > 0 {
		out.Metadata = &corev3.Metadata{FilterMetadata: h.Metadata}
	}
	return out
}

// healthOf is what Envoy's flags come to.
func healthOf(flags string) string {
	switch {
	case flags == "healthy" || flags == "":
		return "HEALTHY"
	case strings.Contains(flags, "/failed_"):
		return "UNHEALTHY"
	case strings.Contains(flags, "/degraded_"):
		return "DEGRADED"
	}
	return "HEALTHY"
}

func (a *handler) listenersDump() proto.Message {
	out := &adminv3.ListenersConfigDump{VersionInfo: version(a.opts.ListenersVersion)}
	for _, l := range a.opts.Listeners() {
		if !l.Dynamic {
			if v := cmp.Or(l.Active, l.Warming); v != nil {
				out.StaticListeners = append(out.StaticListeners, &adminv3.ListenersConfigDump_StaticListener{
					Listener: pack(v.Source), LastUpdated: stamp(v.Updated),
				})
			}
			continue
		}
		out.DynamicListeners = append(out.DynamicListeners, &adminv3.ListenersConfigDump_DynamicListener{
			Name: l.Name, ActiveState: l.Active.state(), WarmingState: l.Warming.state(), DrainingState: l.Draining.state(),
			ErrorState: l.Refused.state(),
		})
	}
	return out
}

// state is v as active_state and the like; nil for nil.
func (v *Version) state() *adminv3.ListenersConfigDump_DynamicListenerState {
	if v == nil {
		return nil
	}
	return &adminv3.ListenersConfigDump_DynamicListenerState{
		VersionInfo: v.Info, Listener: pack(v.Source), LastUpdated: stamp(v.Updated),
	}
}

func (a *handler) secretsDump() proto.Message {
	out := &adminv3.SecretsConfigDump{}
	for _, h := range a.opts.Secrets() {
		secret, err := h.Current()
		switch {
		case h.Ref().Source == nil && err == nil:
			out.StaticSecrets = append(out.StaticSecrets, &adminv3.SecretsConfigDump_StaticSecret{
				Name: secret.Name, LastUpdated: stamp(secret.Updated), Secret: pack(secret.Source),
			})
		case h.Ref().Source == nil:
		case err != nil:
			out.DynamicWarmingSecrets = append(out.DynamicWarmingSecrets, dynamicSecret(h, nil))
		default:
			out.DynamicActiveSecrets = append(out.DynamicActiveSecrets, dynamicSecret(h, secret))
		}
	}
	return out
}

// dynamicSecret shows h; secret is nil before the first version.
func dynamicSecret(h *certs.Handle, secret *certs.Secret) *adminv3.SecretsConfigDump_DynamicSecret {
	d := &adminv3.SecretsConfigDump_DynamicSecret{Name: h.Ref().Name}
	if secret != nil {
		d.VersionInfo, _, _ = strings.Cut(secret.Version, " ")
		d.LastUpdated, d.Secret = stamp(secret.Updated), pack(secret.Source)
	} else {
		d.VersionInfo, d.Secret = "uninitialized", pack(&tlsv3.Secret{Name: h.Ref().Name})
	}
	if err, when := h.LastFailure(); err != nil {
		d.ErrorState = &adminv3.UpdateFailureState{LastUpdateAttempt: stamp(when), Details: err.Error()}
	}
	return d
}
