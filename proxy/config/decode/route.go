package decode

import (
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrider/proxy/config"
)

// defaultDirectBody is max_direct_response_body_size_bytes where it is not set
// (route.proto).
const defaultDirectBody = 4096

// RouteConfiguration decodes one route configuration that arrived by itself.
// Paths in the error, which is Errors, begin at the configuration.
func RouteConfiguration(r *routev3.RouteConfiguration, opts Options) (*config.RouteConfig, error) {
	d := newDecoder(opts.dynamic())
	if !d.check(r, at{d: d}) {
		return nil, d.result()
	}
	out := d.routeConfig(r, false, at{d: d})
	return out, d.finish()
}

// routeConfig decodes r. inline says that it stands in a listener: then its
// clusters must be known, unless it says otherwise.
func (d *decoder) routeConfig(r *routev3.RouteConfiguration, inline bool, place at) *config.RouteConfig {
	out := &config.RouteConfig{
		Name:                   r.GetName(),
		Headers:                d.headerOps(r, place),
		InternalOnly:           lowered(r.GetInternalOnlyHeaders()),
		MostSpecificWins:       r.GetMostSpecificHeaderMutationsWins(),
		ValidateClusters:       truth(r.GetValidateClusters(), inline),
		MaxDirectResponseBytes: u32(r.GetMaxDirectResponseBodySizeBytes(), defaultDirectBody),
		IgnorePortInHost:       r.GetIgnorePortInHostMatching(),
		IgnorePathParameters:   r.GetIgnorePathParametersInPathMatching(),
		PerFilter:              d.perFilter(r.GetTypedPerFilterConfig(), place),
		Digest:                 digest(r),
		Source:                 r,
	}
	scope := &routeScope{d: d, config: out}
	out.MirrorPolicies = scope.mirrors(r.GetRequestMirrorPolicies(), place)
	domains := map[string]string{}
	for i, v := range r.GetVirtualHosts() {
		in := place.item("virtual_hosts", i)
		host := scope.virtualHost(v, in)
		for j, domain := range host.Domains {
			vetDomain(domain, in.item("domains", j))
			if before, taken := domains[domain]; taken {
				in.item("domains", j).bad("%q is a domain of virtual host %q too", domain, before)
			}
			domains[domain] = host.Name
		}
		out.VirtualHosts = append(out.VirtualHosts, host)
	}
	return out
}

// vetDomain refuses a star that Envoy takes for itself, for nobody has such a
// host.
func vetDomain(domain string, place at) {
	if domain == "*" {
		return
	}
	rest := strings.TrimPrefix(domain, "*")
	if rest == domain {
		rest = strings.TrimSuffix(domain, "*")
	}
	if rest == "" || strings.Contains(rest, "*") {
		place.bad("%q is not a wildcard: a star stands alone, at the beginning or at the end", shorten(domain))
	}
}

// routeScope is what the parts of one route configuration share.
type routeScope struct {
	d      *decoder
	config *config.RouteConfig
}

// refer demands the cluster name if the configuration does.
func (s *routeScope) refer(name string, place at) {
	if s.config.ValidateClusters {
		s.d.refer(toCluster, name, place)
	}
}

func (s *routeScope) virtualHost(v *routev3.VirtualHost, place at) *config.VirtualHost {
	out := &config.VirtualHost{
		Name:            v.GetName(),
		Domains:         lower(v.GetDomains()),
		RequireTLS:      config.RequireTLS(v.GetRequireTls()),
		Headers:         s.d.headerOps(v, place),
		PerFilter:       s.d.perFilter(v.GetTypedPerFilterConfig(), place),
		MirrorPolicies:  s.mirrors(v.GetRequestMirrorPolicies(), place),
		IncludeAttempts: v.GetIncludeRequestAttemptCount(),
		AttemptsInReply: v.GetIncludeAttemptCountInResponse(),
		TimeoutHeader:   v.GetIncludeIsTimeoutRetryHeader(),
		BufferLimit:     bufferLimit(v, place),
		RateLimits:      s.d.rateLimits(v.GetRateLimits(), place),
	}
	if v.GetRetryPolicy() != nil {
		out.Retry = s.d.retryPolicy(v.GetRetryPolicy(), place.in("retry_policy"))
	}
	if v.GetCors() != nil {
		out.CORS = s.d.corsPolicy(v.GetCors(), place.in("cors"))
	}
	for i, c := range v.GetVirtualClusters() {
		in := place.item("virtual_clusters", i)
		if len(c.GetHeaders()) == 0 {
			in.in("headers").bad("is empty: a virtual cluster is told by headers")
		}
		out.VirtualClusters = append(out.VirtualClusters, config.VirtualCluster{
			Name: c.GetName(), Headers: s.d.headerMatchers(c.GetHeaders(), "headers", in),
		})
	}
	for i, r := range v.GetRoutes() {
		out.Routes = append(out.Routes, s.route(r, place.item("routes", i)))
	}
	return out
}

// bufferLimit is how much of a request is held for retries. There are two
// fields for it.
func bufferLimit(m interface {
	GetPerRequestBufferLimitBytes() *wrapperspb.UInt32Value
	GetRequestBodyBufferLimit() *wrapperspb.UInt64Value
}, place at) *uint32 {
	old, now := m.GetPerRequestBufferLimitBytes(), m.GetRequestBodyBufferLimit()
	switch {
	case old != nil && now != nil:
		place.in("request_body_buffer_limit").bad("cannot be set together with per_request_buffer_limit_bytes")
	case old != nil:
		limit := old.GetValue()
		return &limit
	case now != nil:
		limit := uint32(min(now.GetValue(), unlimited))
		return &limit
	}
	return nil
}

func (s *routeScope) route(r *routev3.Route, place at) *config.Route {
	out := &config.Route{
		Name:        r.GetName(),
		Match:       s.d.routeMatch(r.GetMatch(), place.in("match")),
		Headers:     s.d.headerOps(r, place),
		PerFilter:   s.d.perFilter(r.GetTypedPerFilterConfig(), place),
		BufferLimit: bufferLimit(r, place),
		StatPrefix:  r.GetStatPrefix(),
		Decorator:   r.GetDecorator().GetOperation(),
	}
	if r.GetMetadata() != nil {
		out.Metadata = r.GetMetadata()
	}
	switch v := r.GetAction().(type) {
	case *routev3.Route_Route:
		out.Action = s.action(v.Route, out.Match, place.in("route"))
	case *routev3.Route_Redirect:
		out.Redirect = s.d.redirect(v.Redirect, place.in("redirect"))
	case *routev3.Route_DirectResponse:
		out.Direct = s.directReply(v.DirectResponse, place.in("direct_response"))
	case *routev3.Route_NonForwardingAction:
		out.NonForwarding = true
	default:
		place.bad("one of route, redirect, direct_response, non_forwarding_action must be set")
	}
	return out
}

// redirectStatus is the status code of c.
func redirectStatus(c routev3.RedirectAction_RedirectResponseCode) int {
	switch c {
	case routev3.RedirectAction_FOUND:
		return 302
	case routev3.RedirectAction_SEE_OTHER:
		return 303
	case routev3.RedirectAction_TEMPORARY_REDIRECT:
		return 307
	case routev3.RedirectAction_PERMANENT_REDIRECT:
		return 308
	}
	return 301
}

func (d *decoder) redirect(r *routev3.RedirectAction, place at) *config.Redirect {
	out := &config.Redirect{
		HTTPS:      r.GetHttpsRedirect(),
		Scheme:     strings.ToLower(r.GetSchemeRedirect()),
		Host:       r.GetHostRedirect(),
		Port:       r.GetPortRedirect(),
		Path:       r.GetPathRedirect(),
		Status:     redirectStatus(r.GetResponseCode()),
		StripQuery: r.GetStripQuery(),
	}
	switch v := r.GetPathRewriteSpecifier().(type) {
	case *routev3.RedirectAction_PrefixRewrite:
		out.PrefixRewrite = &v.PrefixRewrite
	case *routev3.RedirectAction_RegexRewrite:
		out.RegexRewrite = d.regexRewrite(v.RegexRewrite, place.in("regex_rewrite"))
	}
	return out
}

func (s *routeScope) directReply(r *routev3.DirectResponseAction, place at) *config.DirectReply {
	out := &config.DirectReply{Status: int(r.GetStatus())}
	if r.GetBody() != nil {
		in := place.in("body")
		out.Body, _, _ = s.d.data(r.GetBody(), in)
		if limit := s.config.MaxDirectResponseBytes; limit > 0 && uint64(len(out.Body)) > uint64(limit) {
			contentOf(r.GetBody(), in).bad("has %d bytes: max_direct_response_body_size_bytes is %d", len(out.Body), limit)
		}
	}
	if r.GetBodyFormat() != nil {
		out.Format = s.d.bodyFormat(r.GetBodyFormat(), place.in("body_format"))
	}
	return out
}
