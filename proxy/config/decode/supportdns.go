package decode

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	caresv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/cares/v3"
	getaddrinfov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/getaddrinfo/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// asTheSystem is why a cluster cannot choose how names are resolved.
const (
	asTheSystem    = "names are resolved as the system does"
	resolverTuning = "tunes Envoy's resolver; names are resolved as the system does"
)

// dnsSupport are Envoy's resolvers, which a cluster of DNS names may have named:
// istiod names c-ares for each.
var dnsSupport = map[protoreflect.FullName]fields{
	"envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig": {
		ignored: map[string]string{
			"udp_max_queries":            resolverTuning,
			"query_timeout_seconds":      resolverTuning,
			"query_tries":                resolverTuning,
			"rotate_nameservers":         resolverTuning,
			"edns0_max_payload_size":     resolverTuning,
			"max_udp_channel_duration":   resolverTuning,
			"reinit_channel_on_timeout":  resolverTuning,
			"qcache_max_ttl":             resolverTuning,
			"filter_unroutable_families": resolverTuning,
		},
		refused: map[string]string{
			"resolvers":                 asTheSystem,
			"use_resolvers_as_fallback": asTheSystem,
			"dns_resolver_options":      asTheSystem,
		},
	},
	"envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig": {
		ignored: map[string]string{"num_retries": resolverTuning, "num_resolver_threads": resolverTuning},
	},
}

// resolver checks typed_dns_resolver_config, if there is one.
func (d *decoder) resolver(c *clusterv3.Cluster, place at) {
	r := c.GetTypedDnsResolverConfig()
	if r == nil {
		return
	}
	in := place.in("typed_dns_resolver_config").in("typed_config")
	switch d.open(anyOf(r, in), in).(type) {
	case *caresv3.CaresDnsResolverConfig, *getaddrinfov3.GetAddrInfoDnsResolverConfig, nil:
	default:
		in.bad("extension %q is not supported by outrider as a resolver of names: %s", shorten(r.GetName()), asTheSystem)
	}
}
