package decode

import (
	"strconv"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/certs"
	"outrider/proxy/config"
)

func (d *decoder) bootstrap(b *bootstrapv3.Bootstrap, place at) *config.Bootstrap {
	out := &config.Bootstrap{Source: b}
	node := b.GetNode()
	out.Node = config.Node{ID: node.GetId(), Cluster: node.GetCluster(), Locality: locality(node.GetLocality()), Metadata: node.GetMetadata()}
	if node != nil {
		out.Node.Source = node
	}
	d.layers(b.GetLayeredRuntime(), out, place.in("layered_runtime"))
	d.limits(b, out, place)
	d.extensions(b, place)
	out.Stats = d.stats(b.GetStatsConfig(), place.in("stats_config"))
	out.Admin = d.admin(b.GetAdmin(), place.in("admin"))
	static := place.in("static_resources")
	d.secrets(b, out, static)
	d.clusters(b, out, static)
	d.listeners(b, out, static)
	d.dynamic(b.GetDynamicResources(), out, place.in("dynamic_resources"))
	if d.sourced && (out.Node.ID == "" || out.Node.Cluster == "") {
		place.in("node").bad("must have an id and a cluster, for there are resources to ask for (see --service-node, --service-cluster)")
	}
	return out
}

func (d *decoder) secrets(b *bootstrapv3.Bootstrap, out *config.Bootstrap, place at) {
	seen := map[string]bool{}
	for i, s := range b.GetStaticResources().GetSecrets() {
		in := place.item("secrets", i)
		switch {
		case s.GetName() == "":
			in.in("name").bad("is empty: a static secret is referred to by its name")
		case seen[s.GetName()]:
			in.in("name").bad("%q is the name of another secret", s.GetName())
		}
		seen[s.GetName()] = true
		secret := d.secret(s, "static", in)
		d.statics[secret.Name] = secret
		out.Secrets = append(out.Secrets, secret)
	}
}

func (d *decoder) clusters(b *bootstrapv3.Bootstrap, out *config.Bootstrap, place at) {
	seen := map[string]bool{}
	for i, c := range b.GetStaticResources().GetClusters() {
		in := place.item("clusters", i)
		if seen[c.GetName()] && c.GetName() != "" {
			in.in("name").bad("%q is the name of another cluster", c.GetName())
		}
		seen[c.GetName()] = true
		out.Clusters = append(out.Clusters, d.cluster(c, in))
	}
}

func (d *decoder) listeners(b *bootstrapv3.Bootstrap, out *config.Bootstrap, place at) {
	seen, taken := map[string]bool{}, map[config.Address]string{}
	for i, l := range b.GetStaticResources().GetListeners() {
		in := place.item("listeners", i)
		one := d.listener(l, in)
		if seen[one.Name] {
			in.in("name").bad("%q is the name of another listener", one.Name)
		}
		seen[one.Name] = true
		claimAddresses(one, taken, in)
		out.Listeners = append(out.Listeners, one)
	}
}

// claimAddresses reports an address that another listener has. Port 0 is a free
// one each time.
func claimAddresses(l *config.Listener, taken map[config.Address]string, place at) {
	for i, a := range append([]config.Address{l.Address}, l.Additional...) {
		key := config.Address{AddrPort: a.AddrPort, Pipe: a.Pipe}
		if key == (config.Address{}) || key.Pipe == "" && key.AddrPort.Port() == 0 {
			continue
		}
		in := place.in("address")
		if i > 0 {
			in = place.item("additional_addresses", i-1).in("address")
		}
		if other, ok := taken[key]; ok {
			in.bad("%s is the address of listener %q", key, other)
		}
		taken[key] = l.Name
	}
}

func (d *decoder) admin(a *bootstrapv3.Admin, place at) *config.Admin {
	if a.GetAddress() == nil {
		return nil
	}
	out := &config.Admin{Address: d.address(a.GetAddress(), ipOrPipe, place.in("address"))}
	out.AccessLogs = d.accessLogs(a.GetAccessLog(), place)
	if path := a.GetAccessLogPath(); path != "" {
		out.AccessLogs = append(out.AccessLogs, &config.AccessLog{Path: path, Format: defaultLogFormat})
	}
	return out
}

// dynamic decodes where listeners and clusters come from.
func (d *decoder) dynamic(r *bootstrapv3.Bootstrap_DynamicResources, out *config.Bootstrap, place at) {
	if r.GetLdsConfig() != nil {
		out.LDS = d.source(r.GetLdsConfig(), place.in("lds_config"))
	}
	if r.GetCdsConfig() != nil {
		out.CDS = d.source(r.GetCdsConfig(), place.in("cds_config"))
	}
	if r.GetAdsConfig() != nil {
		d.sourced = true
		out.ADS = &certs.Source{}
		d.grpcSource(r.GetAdsConfig(), out.ADS, place.in("ads_config"))
	}
}

// layers flattens the static layers of the runtime.
func (d *decoder) layers(r *bootstrapv3.LayeredRuntime, out *config.Bootstrap, place at) {
	seen := map[string]bool{}
	for i, l := range r.GetLayers() {
		in := place.item("layers", i)
		if seen[l.GetName()] {
			in.in("name").bad("%q is the name of another layer", l.GetName())
		}
		seen[l.GetName()] = true
		layer := config.RuntimeLayer{Name: l.GetName(), Values: map[string]string{}}
		flatten("", structpb.NewStructValue(l.GetStaticLayer()), layer.Values, in.in("static_layer"))
		out.Runtime = append(out.Runtime, layer)
	}
	d.runtime = flattened(out.Runtime)
}

// flatten puts the leaves of v into out under their dotted names. An object
// with a numerator or denominator is a FractionalPercent, and a leaf.
func flatten(name string, v *structpb.Value, out map[string]string, place at) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		fields := k.StructValue.GetFields()
		if n, d := fields["numerator"], fields["denominator"]; name != "" && (n != nil || d != nil) {
			text, _ := v.GetStructValue().MarshalJSON()
			out[name] = string(text)
			return
		}
		for _, key := range sortedKeys(fields) {
			full := key
			if name != "" {
				full = name + "." + key
			}
			flatten(full, fields[key], out, place.in(key))
		}
	case *structpb.Value_NumberValue:
		out[name] = strconv.FormatFloat(k.NumberValue, 'f', -1, 64)
	case *structpb.Value_StringValue:
		out[name] = k.StringValue
	case *structpb.Value_BoolValue:
		out[name] = strconv.FormatBool(k.BoolValue)
	default:
		place.bad("is not a value that the runtime can hold")
	}
}

// flattened is what counts of layers: the last value of each key.
func flattened(layers []config.RuntimeLayer) map[string]string {
	out := map[string]string{}
	for _, l := range layers {
		for k, v := range l.Values {
			out[k] = v
		}
	}
	return out
}

// runtimeShare is what the runtime says of a share under key: a
// FractionalPercent, or a number in the denominator of def.
func (d *decoder) runtimeShare(key string, def *typev3.FractionalPercent, otherwise uint32) uint32 {
	text, ok := d.runtime[key]
	if !ok {
		return otherwise
	}
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return ppm(&typev3.FractionalPercent{Numerator: uint32(n), Denominator: def.GetDenominator()})
	}
	share := &typev3.FractionalPercent{}
	scratch := newDecoder(Options{})
	scratch.parse([]byte(text), share, at{d: scratch})
	if len(scratch.found) > 0 {
		return otherwise
	}
	return ppm(share)
}

// Runtime keys of connection limits; source: Envoy's documentation,
// "Limiting active connections".
const (
	globalLimitKey      = "overload.global_downstream_max_connections"
	listenerLimitPrefix = "envoy.resource_limits.listener."
	listenerLimitSuffix = ".connection_limit"
)

func (d *decoder) limits(b *bootstrapv3.Bootstrap, out *config.Bootstrap, place at) {
	out.ListenerConnectionLimits = map[string]uint64{}
	for _, key := range sortedKeys(d.runtime) {
		name, isLimit := strings.CutPrefix(key, listenerLimitPrefix)
		if name, ok := strings.CutSuffix(name, listenerLimitSuffix); isLimit && ok {
			out.ListenerConnectionLimits[name] = d.limit(key, place)
		}
	}
	if _, ok := d.runtime[globalLimitKey]; ok {
		out.GlobalConnectionLimit = d.limit(globalLimitKey, place)
	}
	d.monitors(b.GetOverloadManager(), out, place.in("overload_manager"))
}

func (d *decoder) limit(key string, place at) uint64 {
	n, err := strconv.ParseUint(d.runtime[key], 10, 64)
	if err != nil {
		place.in("layered_runtime").bad("%s: %q is not a number of connections", key, d.runtime[key])
	}
	return n
}

func (d *decoder) monitors(m *overloadv3.OverloadManager, out *config.Bootstrap, place at) {
	seen := map[string]bool{}
	for i, r := range m.GetResourceMonitors() {
		in := place.item("resource_monitors", i)
		if seen[r.GetName()] {
			in.in("name").bad("%q is the name of another monitor", r.GetName())
		}
		seen[r.GetName()] = true
		in = in.in("typed_config")
		c, ok := d.open(anyOf(r, in), in).(*connectionsv3.DownstreamConnectionsConfig)
		if !ok {
			in.bad("extension %q is not supported by outrider as a resource monitor", r.GetName())
			continue
		}
		out.GlobalConnectionLimit = uint64(max(c.GetMaxActiveDownstreamConnections(), 0))
	}
}
