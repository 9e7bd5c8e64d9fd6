package decode

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrider/proxy/config"
)

// corsFields is what the CORS policies of the route and of the filter share.
type corsFields interface {
	GetAllowOriginStringMatch() []*matcherv3.StringMatcher
	GetAllowMethods() string
	GetAllowHeaders() string
	GetExposeHeaders() string
	GetMaxAge() string
	GetAllowCredentials() *wrapperspb.BoolValue
	GetAllowPrivateNetworkAccess() *wrapperspb.BoolValue
	GetForwardNotMatchingPreflights() *wrapperspb.BoolValue
	GetFilterEnabled() *corev3.RuntimeFractionalPercent
	GetShadowEnabled() *corev3.RuntimeFractionalPercent
}

// corsPolicy is the policy of a route or virtual host: a field of its own, or
// typed_per_filter_config.
func (d *decoder) corsPolicy(c corsFields, place at) *config.CORSPolicy {
	out := &config.CORSPolicy{
		Origins:        d.stringMatchers(c.GetAllowOriginStringMatch(), "allow_origin_string_match", place),
		AllowMethods:   c.GetAllowMethods(),
		AllowHeaders:   c.GetAllowHeaders(),
		ExposeHeaders:  c.GetExposeHeaders(),
		MaxAge:         c.GetMaxAge(),
		Credentials:    maybeTruth(c.GetAllowCredentials()),
		PrivateNetwork: maybeTruth(c.GetAllowPrivateNetworkAccess()),

		ForwardPreflights: maybeTruth(c.GetForwardNotMatchingPreflights()),

		EnabledPPM: allPPM,
	}
	if f := c.GetFilterEnabled(); f != nil {
		out.EnabledPPM = *d.fraction(f)
	}
	if f := c.GetShadowEnabled(); f != nil {
		out.ShadowPPM = *d.fraction(f)
	}
	return out
}

// allPPM is every request.
const allPPM = 1_000_000
