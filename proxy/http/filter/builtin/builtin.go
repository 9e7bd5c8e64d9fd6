// Package builtin lists the HTTP filters that outrider has.
package builtin

import (
	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/filter/buffer"
	"outrider/proxy/http/filter/compressor"
	"outrider/proxy/http/filter/cors"
	"outrider/proxy/http/filter/extauthz"
	"outrider/proxy/http/filter/fault"
	"outrider/proxy/http/filter/grpcstats"
	"outrider/proxy/http/filter/headermutation"
	"outrider/proxy/http/filter/healthcheck"
	"outrider/proxy/http/filter/istioalpn"
	"outrider/proxy/http/filter/istiostats"
	"outrider/proxy/http/filter/jwtauthn"
	"outrider/proxy/http/filter/localratelimit"
	"outrider/proxy/http/filter/peermetadata"
	"outrider/proxy/http/filter/rbac"
	"outrider/proxy/http/filter/setfilterstate"
)

// Makers are outrider's own filters, but the router, which is the connection
// manager's. The map is the caller's, who may add filters to it, or put others
// in their place.
func Makers() filter.Makers {
	l := filter.Makers{}
	l.Add((*config.Compressor)(nil), compressor.New)
	l.Add((*config.ExtAuthz)(nil), extauthz.New)
	l.Add((*config.GRPCStats)(nil), grpcstats.New)
	l.Add((*config.HeaderMutation)(nil), headermutation.New)
	l.Add((*config.HTTPBuffer)(nil), buffer.New)
	l.Add((*config.HTTPCORS)(nil), cors.New)
	l.Add((*config.HTTPFault)(nil), fault.New)
	l.Add((*config.HTTPHealthCheckFilter)(nil), healthcheck.New)
	l.Add((*config.HTTPRBAC)(nil), rbac.New)
	l.Add((*config.IstioALPN)(nil), istioalpn.New)
	l.Add((*config.IstioHTTPExchange)(nil), peermetadata.New)
	l.Add((*config.IstioStats)(nil), istiostats.New)
	l.Add((*config.JWTAuthn)(nil), jwtauthn.New)
	l.Add((*config.LocalRateLimit)(nil), localratelimit.New)
	l.Add((*config.SetFilterState)(nil), setfilterstate.New)
	return l
}
