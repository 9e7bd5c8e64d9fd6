package decode

import (
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	allowlistv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/internal_redirect/allow_listed_routes/v3"
	previousroutesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/internal_redirect/previous_routes/v3"
	crossschemev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/internal_redirect/safe_cross_scheme/v3"
	rewritev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/rewrite/uri_template/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"outrider/proxy/config"
)

// defaultRouteTimeout is RouteAction.timeout where it is not set (route
// components' proto).
const defaultRouteTimeout = 15 * time.Second

func (s *routeScope) action(r *routev3.RouteAction, match config.RouteMatch, place at) *config.RouteAction {
	d := s.d
	out := &config.RouteAction{
		NotFoundStatus: notFoundStatus(r.GetClusterNotFoundResponseCode()),
		AppendXFHost:   r.GetAppendXForwardedHost(),
		Timeout:        duration(r.GetTimeout(), defaultRouteTimeout, place.in("timeout")),
		IdleTimeout:    maybe(r.GetIdleTimeout(), place.in("idle_timeout")),
		FlushTimeout:   maybe(r.GetFlushTimeout(), place.in("flush_timeout")),
		GRPCTimeoutMax: maybe(r.GetMaxGrpcTimeout(), place.in("max_grpc_timeout")),
		GRPCTimeoutOff: duration(r.GetGrpcTimeoutOffset(), 0, place.in("grpc_timeout_offset")),
		MirrorPolicies: s.mirrors(r.GetRequestMirrorPolicies(), place),
		HighPriority:   r.GetPriority() == corev3.RoutingPriority_HIGH,
		HashPolicies:   d.hashPolicies(r.GetHashPolicy(), place),
		Upgrades:       d.routeUpgrades(r.GetUpgradeConfigs(), place),
		RateLimits:     d.rateLimits(r.GetRateLimits(), place),
	}
	out.IncludeHostRates = r.GetIncludeVhRateLimits().GetValue()
	s.clusters(r, out, place)
	d.pathRewrite(r, match, out, place)
	d.hostRewrite(r, out, place)
	if m := r.GetMaxStreamDuration(); m != nil {
		in := place.in("max_stream_duration")
		out.MaxStream = &config.MaxStreamDuration{
			Max:        maybe(m.GetMaxStreamDuration(), in.in("max_stream_duration")),
			GRPCMax:    maybe(m.GetGrpcTimeoutHeaderMax(), in.in("grpc_timeout_header_max")),
			GRPCOffset: duration(m.GetGrpcTimeoutHeaderOffset(), 0, in.in("grpc_timeout_header_offset")),
		}
	}
	if r.GetRetryPolicy() != nil {
		out.Retry = d.retryPolicy(r.GetRetryPolicy(), place.in("retry_policy"))
	}
	if r.GetCors() != nil {
		out.CORS = d.corsPolicy(r.GetCors(), place.in("cors"))
	}
	if r.GetInternalRedirectPolicy() != nil {
		out.InternalRedirect = d.internalRedirect(r.GetInternalRedirectPolicy(), place.in("internal_redirect_policy"))
	}
	return out
}

// maybe is v, nil if it is unset.
func maybe(v *durationpb.Duration, place at) *time.Duration {
	if v == nil {
		return nil
	}
	limit := duration(v, 0, place)
	return &limit
}

func notFoundStatus(c routev3.RouteAction_ClusterNotFoundResponseCode) int {
	switch c {
	case routev3.RouteAction_NOT_FOUND:
		return 404
	case routev3.RouteAction_INTERNAL_SERVER_ERROR:
		return 500
	}
	return 503
}

// clusters is where requests of the route go.
func (s *routeScope) clusters(r *routev3.RouteAction, out *config.RouteAction, place at) {
	switch v := r.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		out.Cluster = v.Cluster
		s.refer(v.Cluster, place.in("cluster"))
	case *routev3.RouteAction_ClusterHeader:
		out.ClusterHeader = strings.ToLower(v.ClusterHeader)
	case *routev3.RouteAction_WeightedClusters:
		out.Weighted = s.weighted(v.WeightedClusters, place.in("weighted_clusters"))
	default:
		place.bad("one of cluster, cluster_header, weighted_clusters must be set")
	}
}

func (s *routeScope) weighted(w *routev3.WeightedCluster, place at) *config.WeightedClusters {
	out := &config.WeightedClusters{RandomHeader: strings.ToLower(w.GetHeaderName()), UseHash: w.GetUseHashPolicy().GetValue()}
	for i, c := range w.GetClusters() {
		in := place.item("clusters", i)
		one := config.WeightedHTTPCluster{
			Name:        c.GetName(),
			Header:      strings.ToLower(c.GetClusterHeader()),
			Weight:      c.GetWeight().GetValue(),
			Headers:     s.d.headerOps(c, in),
			HostRewrite: c.GetHostRewriteLiteral(),
			PerFilter:   s.d.perFilter(c.GetTypedPerFilterConfig(), in),
		}
		if c.GetWeight() == nil {
			in.in("weight").bad("must be set")
		}
		switch {
		case one.Name != "" && one.Header != "":
			in.in("cluster_header").bad("cannot be set together with name")
		case one.Name == "" && one.Header == "":
			in.bad("one of name, cluster_header must be set")
		}
		if prefix := w.GetRuntimeKeyPrefix(); prefix != "" {
			one.Weight = s.d.runtimeNumber(prefix+"."+one.Name, one.Weight)
		}
		s.refer(one.Name, in.in("name"))
		out.Total += uint64(one.Weight)
		out.Clusters = append(out.Clusters, one)
	}
	switch {
	case out.Total == 0:
		place.bad("weights sum to 0")
	case out.Total > unlimited:
		place.bad("weights sum to %d, which is more than 4294967295", out.Total)
	}
	return out
}

// pathRewrite takes the one way that is set.
func (d *decoder) pathRewrite(r *routev3.RouteAction, match config.RouteMatch, out *config.RouteAction, place at) {
	out.PrefixRewrite = r.GetPrefixRewrite()
	var set []string
	if out.PrefixRewrite != "" {
		set = append(set, "prefix_rewrite")
	}
	if r.GetRegexRewrite() != nil {
		set = append(set, "regex_rewrite")
		out.RegexRewrite = d.regexRewrite(r.GetRegexRewrite(), place.in("regex_rewrite"))
	}
	if r.GetPathRewritePolicy() != nil {
		set = append(set, "path_rewrite_policy")
		out.PathTemplateRewrite = d.templateRewrite(r.GetPathRewritePolicy(), match, place.in("path_rewrite_policy"))
	}
	if out.PathFormatRewrite = d.format(r.GetPathRewrite(), place.in("path_rewrite")); out.PathFormatRewrite != "" {
		set = append(set, "path_rewrite")
	}
	if len(set) > 1 {
		place.in(set[1]).bad("cannot be set together with %s", set[0])
	}
}

// templateRewrite is checked against the variables of the template that the
// route matches by.
func (d *decoder) templateRewrite(e *corev3.TypedExtensionConfig, match config.RouteMatch, place at) string {
	in := place.in("typed_config")
	c, ok := d.open(anyOf(e, in), in).(*rewritev3.UriTemplateRewriteConfig)
	if !ok {
		in.bad("extension %q is not supported by outrider for rewriting paths", shorten(e.GetName()))
		return ""
	}
	in = in.in("path_template_rewrite")
	text := c.GetPathTemplateRewrite()
	if match.Template == "" {
		in.bad("needs a route that matches by a path template")
		return text
	}
	known, err := templateVariables(match.Template)
	if err != nil {
		return text // reported where it stands
	}
	names, err := rewriteVariables(text)
	if err != nil {
		in.bad("%q: %v", shorten(text), err)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			in.bad("%q: the template that is matched has no variable %q", shorten(text), name)
		}
	}
	return text
}

func (d *decoder) hostRewrite(r *routev3.RouteAction, out *config.RouteAction, place at) {
	switch v := r.GetHostRewriteSpecifier().(type) {
	case *routev3.RouteAction_HostRewriteLiteral:
		out.HostRewrite = v.HostRewriteLiteral
	case *routev3.RouteAction_AutoHostRewrite:
		out.AutoHostRewrite = v.AutoHostRewrite.GetValue()
	case *routev3.RouteAction_HostRewriteHeader:
		out.HostRewriteHeader = strings.ToLower(v.HostRewriteHeader)
	case *routev3.RouteAction_HostRewritePathRegex:
		out.HostRewritePath = d.regexRewrite(v.HostRewritePathRegex, place.in("host_rewrite_path_regex"))
	case *routev3.RouteAction_HostRewrite:
		out.HostRewriteFormat = d.format(v.HostRewrite, place.in("host_rewrite"))
	}
}

func (d *decoder) hashPolicies(list []*routev3.RouteAction_HashPolicy, place at) []config.HashPolicy {
	var out []config.HashPolicy
	for i, p := range list {
		in := place.item("hash_policy", i)
		one := config.HashPolicy{Terminal: p.GetTerminal()}
		switch v := p.GetPolicySpecifier().(type) {
		case *routev3.RouteAction_HashPolicy_Header_:
			one.Header = strings.ToLower(v.Header.GetHeaderName())
			if v.Header.GetRegexRewrite() != nil {
				one.HeaderRegex = d.regexRewrite(v.Header.GetRegexRewrite(), in.in("header").in("regex_rewrite"))
			}
		case *routev3.RouteAction_HashPolicy_Cookie_:
			one.Cookie = &config.HashCookie{
				Name: v.Cookie.GetName(), Path: v.Cookie.GetPath(),
				TTL: maybe(v.Cookie.GetTtl(), in.in("cookie").in("ttl")),
			}
			for _, a := range v.Cookie.GetAttributes() {
				one.Cookie.Attributes = append(one.Cookie.Attributes, [2]string{a.GetName(), a.GetValue()})
			}
		case *routev3.RouteAction_HashPolicy_ConnectionProperties_:
			if !v.ConnectionProperties.GetSourceIp() {
				continue // hashes nothing, as in Envoy
			}
			one.SourceIP = true
		case *routev3.RouteAction_HashPolicy_QueryParameter_:
			one.Query = v.QueryParameter.GetName()
		case *routev3.RouteAction_HashPolicy_FilterState_:
			one.FilterState = v.FilterState.GetKey()
		}
		out = append(out, one)
	}
	return out
}

func (d *decoder) routeUpgrades(list []*routev3.RouteAction_UpgradeConfig, place at) []config.UpgradeConfig {
	var out []config.UpgradeConfig
	seen := map[string]bool{}
	for i, u := range list {
		in := place.item("upgrade_configs", i)
		one := config.UpgradeConfig{
			Type:    strings.ToLower(u.GetUpgradeType()),
			Enabled: truth(u.GetEnabled(), true),
		}
		if seen[one.Type] {
			in.in("upgrade_type").bad("%q is the type of another upgrade", shorten(u.GetUpgradeType()))
		}
		seen[one.Type] = true
		out = append(out, one)
	}
	return out
}

// mirrors are request_mirror_policies, of any level.
func (s *routeScope) mirrors(list []*routev3.RouteAction_RequestMirrorPolicy, place at) []config.MirrorPolicy {
	var out []config.MirrorPolicy
	for i, m := range list {
		in := place.item("request_mirror_policies", i)
		one := config.MirrorPolicy{
			Cluster: m.GetCluster(), ClusterHeader: strings.ToLower(m.GetClusterHeader()),
			NoShadowSuffix: m.GetDisableShadowHostSuffixAppend(),
			HostRewrite:    m.GetHostRewriteLiteral(),
			Mutations:      s.d.mutations(m.GetRequestHeadersMutations(), "request_headers_mutations", in),
		}
		if f := m.GetRuntimeFraction(); f != nil {
			one.RuntimePPM, one.RuntimeKey = s.d.fraction(f), f.GetRuntimeKey()
		}
		switch {
		case one.Cluster != "" && one.ClusterHeader != "":
			in.in("cluster_header").bad("cannot be set together with cluster")
		case one.Cluster == "" && one.ClusterHeader == "":
			in.bad("one of cluster, cluster_header must be set")
		}
		s.refer(one.Cluster, in.in("cluster"))
		out = append(out, one)
	}
	return out
}

// internalRedirect refuses codes that are no redirects; Envoy leaves them out.
func (d *decoder) internalRedirect(r *routev3.InternalRedirectPolicy, place at) *config.InternalRedirect {
	out := &config.InternalRedirect{
		Max:              u32(r.GetMaxInternalRedirects(), 1),
		Codes:            r.GetRedirectResponseCodes(),
		AllowCrossScheme: r.GetAllowCrossSchemeRedirect(),
		CopyHeaders:      lowered(r.GetResponseHeadersToCopy()),
	}
	if len(out.Codes) == 0 {
		out.Codes = []uint32{302}
	}
	for i, c := range out.Codes {
		if !slices.Contains([]uint32{301, 302, 303, 307, 308}, c) {
			place.item("redirect_response_codes", i).bad("%d is not one of 301, 302, 303, 307, 308", c)
		}
	}
	for i, h := range out.CopyHeaders {
		if !changeable(h) {
			place.item("response_headers_to_copy", i).bad("%q: pseudo-headers and host may not be copied", shorten(h))
		}
	}
	for i, p := range r.GetPredicates() {
		in := place.item("predicates", i).in("typed_config")
		switch c := d.open(anyOf(p, in), in).(type) {
		case *previousroutesv3.PreviousRoutesConfig:
			out.PreviousRoutes = true
		case *crossschemev3.SafeCrossSchemeConfig:
			out.SafeCrossScheme = true
		case *allowlistv3.AllowListedRoutesConfig:
			out.AllowedRoutes = append([]string{}, c.GetAllowedRouteNames()...)
		default:
			in.bad("extension %q is not supported by outrider as a predicate of internal redirects", shorten(p.GetName()))
		}
	}
	return out
}
