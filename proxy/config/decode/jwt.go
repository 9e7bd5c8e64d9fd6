package decode

import (
	"cmp"
	"encoding/json"
	"net/url"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"

	"outrider/proxy/config"
)

// Defaults of jwt_authn (its proto).
const (
	defaultClockSkew     = time.Minute
	defaultJWKSCache     = 10 * time.Minute
	defaultFailedRefetch = time.Second
	defaultFetchBackoff  = time.Second
)

func (d *decoder) jwt(c *jwtv3.JwtAuthentication, place at) *config.JWTAuthn {
	out := &config.JWTAuthn{
		BypassCORS:   c.GetBypassCorsPreflight(),
		StripFailure: c.GetStripFailureResponse(),
		StatPrefix:   c.GetStatPrefix(),
		Providers:    map[string]*config.JWTProvider{},
	}
	for _, name := range sortedKeys(c.GetProviders()) {
		out.Providers[name] = d.jwtProvider(c.GetProviders()[name], place.entry("providers", name))
	}
	scope := jwtScope{config: out}
	for _, name := range sortedKeys(c.GetRequirementMap()) {
		if out.Requirements == nil {
			out.Requirements = map[string]*config.JWTRequirement{}
		}
		out.Requirements[name] = scope.requirement(c.GetRequirementMap()[name], place.entry("requirement_map", name))
	}
	for i, r := range c.GetRules() {
		in := place.item("rules", i)
		rule := config.JWTRule{Match: d.routeMatch(r.GetMatch(), in.in("match"))}
		onlyPath(r.GetMatch(), in.in("match"))
		switch v := r.GetRequirementType().(type) {
		case *jwtv3.RequirementRule_Requires:
			rule.Requires = scope.requirement(v.Requires, in.in("requires"))
		case *jwtv3.RequirementRule_RequirementName:
			named := false
			if rule.Requires, named = out.Requirements[v.RequirementName]; !named {
				in.in("requirement_name").bad("%q is not in requirement_map", shorten(v.RequirementName))
			}
		}
		out.Rules = append(out.Rules, rule)
	}
	if f := c.GetFilterStateRules(); f != nil {
		in := place.in("filter_state_rules")
		out.FilterStateName, out.FilterStateRules = f.GetName(), map[string]*config.JWTRequirement{}
		for _, name := range sortedKeys(f.GetRequires()) {
			out.FilterStateRules[name] = scope.requirement(f.GetRequires()[name], in.entry("requires", name))
		}
	}
	return out
}

// onlyPath refuses what Envoy does not look at in the match of a rule.
func onlyPath(m *routev3.RouteMatch, place at) {
	for _, unused := range []struct {
		set  bool
		name string
	}{
		{m.GetGrpc() != nil, "grpc"},
		{m.GetTlsContext() != nil, "tls_context"},
		{m.GetRuntimeFraction() != nil, "runtime_fraction"},
		{len(m.GetCookies()) > 0, "cookies"},
		{len(m.GetDynamicMetadata()) > 0, "dynamic_metadata"},
		{len(m.GetFilterState()) > 0, "filter_state"},
	} {
		if unused.set {
			place.in(unused.name).bad("is without effect here: a rule looks at the path, the headers and the query parameters")
		}
	}
}

// jwtScope is the filter whose requirements are decoded.
type jwtScope struct{ config *config.JWTAuthn }

// requirement is nil for one that asks for nothing.
func (s jwtScope) requirement(r *jwtv3.JwtRequirement, place at) *config.JWTRequirement {
	out := &config.JWTRequirement{}
	switch v := r.GetRequiresType().(type) {
	case *jwtv3.JwtRequirement_ProviderName:
		out.Provider = s.provider(v.ProviderName, place.in("provider_name"))
	case *jwtv3.JwtRequirement_ProviderAndAudiences:
		out.Provider = s.provider(v.ProviderAndAudiences.GetProviderName(), place.in("provider_and_audiences").in("provider_name"))
		out.Audiences = v.ProviderAndAudiences.GetAudiences()
	case *jwtv3.JwtRequirement_RequiresAny:
		out.Any = s.requirements(v.RequiresAny.GetRequirements(), place.in("requires_any"))
	case *jwtv3.JwtRequirement_RequiresAll:
		out.All = s.requirements(v.RequiresAll.GetRequirements(), place.in("requires_all"))
	case *jwtv3.JwtRequirement_AllowMissing:
		out.AllowMissing = true
	case *jwtv3.JwtRequirement_AllowMissingOrFailed:
		out.AllowMissingOrFailed = true
	default:
		return nil
	}
	return out
}

func (s jwtScope) requirements(list []*jwtv3.JwtRequirement, place at) []*config.JWTRequirement {
	var out []*config.JWTRequirement
	for i, r := range list {
		in := place.item("requirements", i)
		one := s.requirement(r, in)
		if one == nil {
			in.bad("is empty: leave it out, or use allow_missing")
			continue
		}
		out = append(out, one)
	}
	return out
}

func (s jwtScope) provider(name string, place at) string {
	if s.config.Providers[name] == nil {
		place.bad("%q is not among the providers", shorten(name))
	}
	return name
}

func (d *decoder) jwtProvider(p *jwtv3.JwtProvider, place at) *config.JWTProvider {
	out := &config.JWTProvider{
		Issuer:                 p.GetIssuer(),
		Audiences:              p.GetAudiences(),
		MaxLifetime:            duration(p.GetMaxLifetime(), 0, place.in("max_lifetime")),
		RequireExpiration:      p.GetRequireExpiration(),
		Forward:                p.GetForward(),
		FromParams:             p.GetFromParams(),
		FromCookies:            p.GetFromCookies(),
		ForwardPayloadHeader:   strings.ToLower(p.GetForwardPayloadHeader()),
		PadPayloadHeader:       p.GetPadForwardPayloadHeader(),
		PayloadInMetadata:      p.GetPayloadInMetadata(),
		HeaderInMetadata:       p.GetHeaderInMetadata(),
		FailedStatusInMetadata: p.GetFailedStatusInMetadata(),
		ClockSkew:              cmp.Or(time.Duration(p.GetClockSkewSeconds())*time.Second, defaultClockSkew),
		NormalizeSpaces:        p.GetNormalizePayloadInMetadata().GetSpaceDelimitedClaims(),
		ClearRouteCache:        p.GetClearRouteCache(),
	}
	if p.GetSubjects() != nil {
		out.Subjects = d.stringMatcher(p.GetSubjects(), place.in("subjects"))
	}
	for _, h := range p.GetFromHeaders() {
		out.FromHeaders = append(out.FromHeaders, config.JWTHeader{Name: strings.ToLower(h.GetName()), Prefix: h.GetValuePrefix()})
	}
	for i, c := range p.GetClaimToHeaders() {
		if c.GetClaimName() == "" {
			place.item("claim_to_headers", i).in("claim_name").bad("must be set")
		}
		out.ClaimToHeaders = append(out.ClaimToHeaders, [2]string{strings.ToLower(c.GetHeaderName()), c.GetClaimName()})
	}
	switch v := p.GetJwksSourceSpecifier().(type) {
	case *jwtv3.JwtProvider_LocalJwks:
		out.LocalJWKS = d.localJWKS(v.LocalJwks, place.in("local_jwks"))
	case *jwtv3.JwtProvider_RemoteJwks:
		out.Remote = d.remoteJWKS(v.RemoteJwks, place.in("remote_jwks"))
	default:
		place.bad("one of remote_jwks, local_jwks must be set")
	}
	return out
}

// localJWKS must at least be what is called a JWK set.
func (d *decoder) localJWKS(s *corev3.DataSource, place at) []byte {
	content, _, ok := d.data(s, place)
	if !ok {
		return nil
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(content, &set); err != nil {
		contentOf(s, place).bad("not a JWK set: %v", err)
	} else if len(set.Keys) == 0 {
		contentOf(s, place).bad("has no keys: no token would be taken")
	}
	return content
}

func (d *decoder) remoteJWKS(r *jwtv3.RemoteJwks, place at) *config.RemoteJWKS {
	in := place.in("http_uri")
	out := &config.RemoteJWKS{
		URI:           r.GetHttpUri().GetUri(),
		Cluster:       r.GetHttpUri().GetCluster(),
		Timeout:       duration(r.GetHttpUri().GetTimeout(), 0, in.in("timeout")),
		CacheTime:     duration(r.GetCacheDuration(), defaultJWKSCache, place.in("cache_duration")),
		AsyncFetch:    r.GetAsyncFetch() != nil,
		FastListener:  r.GetAsyncFetch().GetFastListener(),
		FailedRefetch: duration(r.GetAsyncFetch().GetFailedRefetchDuration(), defaultFailedRefetch, place.in("async_fetch").in("failed_refetch_duration")),
	}
	if u, err := url.Parse(out.URI); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		in.in("uri").bad("%q is not an http or https URL", shorten(out.URI))
	}
	d.refer(toCluster, out.Cluster, in.in("cluster"))
	p := r.GetRetryPolicy()
	if p == nil {
		return out
	}
	in = place.in("retry_policy").in("retry_back_off")
	out.Retries = u32(p.GetNumRetries(), 1)
	out.BackoffBase = duration(p.GetRetryBackOff().GetBaseInterval(), defaultFetchBackoff, in.in("base_interval"))
	out.BackoffMax = duration(p.GetRetryBackOff().GetMaxInterval(), retryMaxFactor*out.BackoffBase, in.in("max_interval"))
	if out.BackoffMax < out.BackoffBase {
		in.in("max_interval").bad("%s is below base_interval, %s", out.BackoffMax, out.BackoffBase)
	}
	return out
}
