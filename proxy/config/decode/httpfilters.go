package decode

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	bufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/buffer/v3"
	compressorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/compressor/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	healthcheckv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/health_check/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	localratev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	alpnv2 "istio.io/api/envoy/config/filter/http/alpn/v2alpha1"
	istiostats "istio.io/api/envoy/extensions/stats"

	"outrider/proxy/config"
)

// HTTPFilterDecoder makes the configuration of a filter from outside, which
// becomes HTTPFilter.Config or FilterOverride.Config, of its message. It is
// called after the rules that the message carries were checked. An error is a
// mistake in the message.
type HTTPFilterDecoder = func(proto.Message) (any, error)

// httpFilters are the filters in the list field name. The router, and only it,
// is the last.
func (d *decoder) httpFilters(list []*hcmv3.HttpFilter, name string, place at) []*config.HTTPFilter {
	var out []*config.HTTPFilter
	for i, f := range list {
		in := place.item(name, i)
		if s := f.GetConfigDiscovery(); s != nil {
			if i == len(list)-1 {
				in.in("config_discovery").bad("is not for the last filter: that is the router, which outrider does not take by discovery")
			}
			out = append(out, &config.HTTPFilter{Name: f.GetName(), Disabled: f.GetDisabled(), Discovery: d.filterDiscovery(f.GetName(), s, in.in("config_discovery"))})
			continue
		}
		if d.left[f.GetTypedConfig()] {
			continue
		}
		message := d.open(anyOf(f, in.in("typed_config")), in.in("typed_config"))
		one := &config.HTTPFilter{Name: f.GetName(), Disabled: f.GetDisabled()}
		one.Config = d.httpFilter(f.GetName(), message, in.in("typed_config"))
		_, isRouter := message.(*routerv3.Router)
		switch last := i == len(list)-1; {
		case isRouter && !last:
			in.bad("%s ends the chain: it must be the last filter", f.GetName())
		case isRouter && one.Disabled:
			in.in("disabled").bad("is not for the filter that ends the chain")
		case last && !isRouter:
			in.bad("%s does not end the chain: the last filter must be the router", f.GetName())
		}
		out = append(out, one)
	}
	if len(list) == 0 {
		place.in(name).bad("has no filter: the last one is the router")
	}
	return out
}

// httpFilter is the configuration of one filter, of a type of package config
// or what its own decoder makes.
func (d *decoder) httpFilter(name string, message proto.Message, place at) any {
	switch c := message.(type) {
	case nil:
	case *routerv3.Router:
		return d.router(c, place)
	case *corsv3.Cors:
		return &config.HTTPCORS{}
	case *httprbacv3.RBAC:
		return &config.HTTPRBAC{RBAC: d.httpRBAC(c, place)}
	case *faultv3.HTTPFault:
		return d.fault(c, place)
	case *healthcheckv3.HealthCheck:
		return d.healthFilter(c, place)
	case *localratev3.LocalRateLimit:
		return d.localRate(c, place)
	case *bufferv3.Buffer:
		return &config.HTTPBuffer{MaxBytes: c.GetMaxRequestBytes().GetValue()}
	case *grpcstatsv3.FilterConfig:
		return grpcStats(c)
	case *jwtv3.JwtAuthentication:
		return d.jwt(c, place)
	case *authzv3.ExtAuthz:
		return d.extAuthz(c, place)
	case *headermutationv3.HeaderMutation:
		out := d.headerMutation(c.GetMutations(), place.in("mutations"))
		out.MostSpecificWins = c.GetMostSpecificHeaderMutationsWins()
		return out
	case *compressorv3.Compressor:
		return d.compressor(c, place)
	case *setstatev3.Config:
		return d.setFilterState(c, place)
	case *alpnv2.FilterConfig:
		return istioALPN(c, place)
	case *istiostats.PluginConfig:
		return d.istioStats(c, place)
	default:
		if message.ProtoReflect().Descriptor().FullName() == peerMetadataType {
			return istioExchange(message.ProtoReflect())
		}
		if out, ok := d.foreign(message, place); ok {
			return out
		}
		place.bad("extension %q is not supported by outrider as an HTTP filter", shorten(name))
	}
	return nil
}

// foreign is what a decoder of Options.HTTPFilters makes of message, false if
// there is none for it.
func (d *decoder) foreign(message proto.Message, place at) (any, bool) {
	decode := d.opts.HTTPFilters[message.ProtoReflect().Descriptor().FullName()]
	if decode == nil {
		return nil, false
	}
	out, err := decode(message)
	if err != nil {
		place.bad("%v", err)
	}
	return out, true
}

func (d *decoder) router(c *routerv3.Router, place at) *config.HTTPRouter {
	logs := make([]*config.AccessLog, 0, len(c.GetUpstreamLog()))
	for i, l := range c.GetUpstreamLog() {
		logs = append(logs, d.accessLog(l, place.item("upstream_log", i)))
	}
	return &config.HTTPRouter{
		NoDynamicStats:        !truth(c.GetDynamicStats(), true),
		StartChildSpan:        c.GetStartChildSpan(),
		SuppressEnvoyHeaders:  c.GetSuppressEnvoyHeaders(),
		StrictCheckHeaders:    lowered(c.GetStrictCheckHeaders()),
		RespectExpectedRq:     c.GetRespectExpectedRqTimeout(),
		NoGRPCRequestFailures: c.GetSuppressGrpcRequestFailureCodeStats(),
		UpstreamLogs:          logs,
	}
}

// perFilter is typed_per_filter_config of one level: by the name of the
// filter, its override.
func (d *decoder) perFilter(m map[string]*anypb.Any, place at) map[string]*config.FilterOverride {
	if len(m) == 0 {
		return nil
	}
	out := map[string]*config.FilterOverride{}
	for _, name := range sortedKeys(m) {
		in := place.entry("typed_per_filter_config", name)
		if d.left[m[name]] {
			continue
		}
		switch c := d.open(m[name], in).(type) {
		case nil:
		case *routev3.FilterConfig:
			if one := d.wrapped(c, name, in); one != nil {
				out[name] = one
			}
		default:
			out[name] = d.override(name, c, in)
		}
	}
	return out
}

// wrapped is a FilterConfig: an override that can be left out, or switches the
// filter on and off.
func (d *decoder) wrapped(c *routev3.FilterConfig, name string, place at) *config.FilterOverride {
	inner := c.GetConfig()
	switch {
	case d.left[inner] && inner != nil:
		return nil
	case inner == nil || inner.GetTypeUrl() == "":
		if !c.GetDisabled() {
			place.in("config").bad("must be set, for disabled is false")
		}
		return &config.FilterOverride{Disabled: c.GetDisabled()}
	case c.GetDisabled():
		return &config.FilterOverride{Disabled: true}
	}
	message := d.open(inner, place.in("config"))
	if message == nil {
		return nil
	}
	return d.override(name, message, place.in("config"))
}

// override is what message, of a route or above, says to the filter name.
func (d *decoder) override(name string, message proto.Message, place at) *config.FilterOverride {
	out := &config.FilterOverride{}
	switch c := message.(type) {
	case *corsv3.CorsPolicy:
		out.Config = d.corsPolicy(c, place)
	case *httprbacv3.RBACPerRoute:
		own := &config.HTTPRBAC{}
		if c.GetRbac() != nil {
			own.RBAC = d.httpRBAC(c.GetRbac(), place.in("rbac"))
		}
		out.Config = own
	case *faultv3.HTTPFault:
		out.Config = d.fault(c, place)
	case *localratev3.LocalRateLimit:
		if c.GetTokenBucket() == nil {
			place.in("token_bucket").bad("must be set for a route")
		}
		out.Config = d.localRate(c, place)
	case *bufferv3.BufferPerRoute:
		return bufferOverride(c)
	case *jwtv3.PerRouteConfig:
		out.Config = &config.JWTOverride{Disabled: c.GetDisabled(), Requirement: c.GetRequirementName()}
	case *authzv3.ExtAuthzPerRoute:
		out.Config = d.extAuthzOverride(c, place)
	case *headermutationv3.HeaderMutationPerRoute:
		out.Config = d.headerMutation(c.GetMutations(), place.in("mutations"))
	case *compressorv3.CompressorPerRoute:
		out.Config = compressorOverride(c)
	case *setstatev3.Config:
		out.Config = d.setFilterState(c, place)
	default:
		made, ok := d.foreign(message, place)
		if !ok {
			place.bad("%s is not supported by outrider as configuration of filter %q for a route", message.ProtoReflect().Descriptor().FullName(), shorten(name))
		}
		out.Config = made
	}
	return out
}
