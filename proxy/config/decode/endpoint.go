package decode

import (
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"outrider/proxy/config"
)

// defaultOverprovisioning is in percent (endpoint.proto).
const defaultOverprovisioning = 140

// assignment decodes endpoints; byName says that their addresses may be names
// for DNS.
func (d *decoder) assignment(a *endpointv3.ClusterLoadAssignment, place at, byName bool) *config.Assignment {
	policy, in := a.GetPolicy(), place.in("policy")
	out := &config.Assignment{
		ClusterName:      a.GetClusterName(),
		Overprovisioning: u32(policy.GetOverprovisioningFactor(), defaultOverprovisioning),
		WeightedHealth:   policy.GetWeightedPriorityHealth(),
		StaleAfter:       duration(policy.GetEndpointStaleAfter(), 0, in.in("endpoint_stale_after")),
	}
	for _, drop := range policy.GetDropOverloads() {
		out.DropOverload = append(out.DropOverload, config.Drop{Category: drop.GetCategory(), PPM: ppm(drop.GetDropPercentage())})
	}
	for i, l := range a.GetEndpoints() {
		one := d.localityEndpoints(l, place.item("endpoints", i), byName)
		if before := sameLocality(out.Localities, one); before != nil {
			before.Endpoints = append(before.Endpoints, one.Endpoints...)
			before.Weight = one.Weight // the last one counts, as in Envoy
			continue
		}
		out.Localities = append(out.Localities, one)
	}
	d.priorities(out, place)
	return out
}

// sameLocality is the one of list that l is a part of; nil if there is none.
func sameLocality(list []*config.LocalityEndpoints, l *config.LocalityEndpoints) *config.LocalityEndpoints {
	for _, one := range list {
		if one.Locality == l.Locality && one.Priority == l.Priority && len(one.Metadata)+len(l.Metadata) == 0 {
			return one
		}
	}
	return nil
}

// priorities must count from 0 without a gap.
func (d *decoder) priorities(a *config.Assignment, place at) {
	has := map[uint32]bool{}
	highest := uint32(0)
	for _, l := range a.Localities {
		has[l.Priority] = true
		highest = max(highest, l.Priority)
	}
	if len(a.Localities) > 0 && uint64(len(has)) != uint64(highest)+1 {
		d.warn(place.in("endpoints"), "priorities should count from 0 without a gap")
	}
}

func (d *decoder) localityEndpoints(l *endpointv3.LocalityLbEndpoints, place at, byName bool) *config.LocalityEndpoints {
	out := &config.LocalityEndpoints{
		Locality: locality(l.GetLocality()), Priority: l.GetPriority(),
		Weight: l.GetLoadBalancingWeight().GetValue(), Metadata: d.metadata(l.GetMetadata()),
	}
	list, in := l.GetLbEndpoints(), place
	if other := l.GetLoadBalancerEndpoints(); other != nil {
		list, in = other.GetLbEndpoints(), place.in("load_balancer_endpoints")
	}
	for i, e := range list {
		out.Endpoints = append(out.Endpoints, d.endpoint(e, in.item("lb_endpoints", i), byName))
	}
	return out
}

func (d *decoder) endpoint(e *endpointv3.LbEndpoint, place at, byName bool) *config.Endpoint {
	use := ipOrPipe
	if byName {
		use = ipOrPipeOrName
	}
	host, in := e.GetEndpoint(), place.in("endpoint")
	out := &config.Endpoint{
		Hostname: host.GetHostname(), Health: config.HealthStatus(e.GetHealthStatus()),
		Weight: u32(e.GetLoadBalancingWeight(), 1), Metadata: d.metadata(e.GetMetadata()),
		TLVs: d.hostTLVs(e.GetMetadata(), place.in("metadata")),
	}
	if host.GetAddress() == nil {
		in.in("address").bad("must be set")
	} else {
		out.Address = d.address(host.GetAddress(), use, in.in("address"))
	}
	for i, a := range host.GetAdditionalAddresses() {
		out.Additional = append(out.Additional, d.address(a.GetAddress(), ipOnly, in.item("additional_addresses", i).in("address")))
	}
	if h := host.GetHealthCheckConfig(); h != nil {
		in := in.in("health_check_config")
		out.HealthCheckPort = port(h.GetPortValue(), in.in("port_value"))
		out.HealthCheckHost = h.GetHostname()
		out.DisableHealthCheck = h.GetDisableActiveHealthCheck()
		if h.GetAddress() != nil {
			a := d.address(h.GetAddress(), ipOrPipe, in.in("address"))
			out.HealthCheckAddress = &a
		}
	}
	return out
}
