package decode

import (
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"outrider/certs"
	"outrider/proxy/config"
)

func (d *decoder) rbac(c *rbacfilterv3.RBAC, place at) *config.RBAC {
	out := &config.RBAC{
		StatPrefix:       c.GetStatPrefix(),
		ShadowStatPrefix: c.GetShadowRulesStatPrefix(),
		Continuous:       c.GetEnforcementType() == rbacfilterv3.RBAC_CONTINUOUS,
		DelayDeny:        duration(c.GetDelayDeny(), 0, place.in("delay_deny")),
	}
	if out.Continuous {
		place.in("enforcement_type").bad("CONTINUOUS is not supported by outrider: a connection is judged once")
	}
	scope := rbacScope{decoder: d}
	if c.GetRules() != nil {
		out.Rules = scope.rules(c.GetRules(), place.in("rules"))
	}
	if c.GetShadowRules() != nil {
		out.Shadow = scope.rules(c.GetShadowRules(), place.in("shadow_rules"))
	}
	return out
}

// httpRBAC is of the HTTP filter, and of a route's override of it.
func (d *decoder) httpRBAC(c *httprbacv3.RBAC, place at) *config.RBAC {
	out := &config.RBAC{
		StatPrefix: c.GetRulesStatPrefix(), ShadowStatPrefix: c.GetShadowRulesStatPrefix(), PerPolicy: c.GetTrackPerRuleStats(),
	}
	scope := rbacScope{decoder: d, http: true}
	if c.GetRules() != nil {
		out.Rules = scope.rules(c.GetRules(), place.in("rules"))
	}
	if c.GetShadowRules() != nil {
		out.Shadow = scope.rules(c.GetShadowRules(), place.in("shadow_rules"))
	}
	return out
}

// rbacScope is whose rules are decoded: only a request has headers and a path.
type rbacScope struct {
	*decoder
	http bool
}

func (d rbacScope) rules(r *rbacv3.RBAC, place at) *config.RBACRules {
	out := &config.RBACRules{}
	switch r.GetAction() {
	case rbacv3.RBAC_ALLOW:
		out.Action = config.Allow
	case rbacv3.RBAC_DENY:
		out.Action = config.Deny
	case rbacv3.RBAC_LOG:
		out.Action = config.LogOnly
	default:
		place.in("action").bad("%v is not an action", r.GetAction())
	}
	for _, name := range sortedKeys(r.GetPolicies()) {
		p, in := r.GetPolicies()[name], place.entry("policies", name)
		policy := config.RBACPolicy{Name: name}
		for i, one := range p.GetPermissions() {
			policy.Permissions = append(policy.Permissions, d.permission(one, in.item("permissions", i)))
		}
		for i, one := range p.GetPrincipals() {
			policy.Principals = append(policy.Principals, d.principal(one, in.item("principals", i)))
		}
		out.Policies = append(out.Policies, policy)
	}
	return out
}

// headerText is why a header is refused; Envoy refuses it in network RBAC too.
const headerText = "is of HTTP: a network filter has no headers"

func (d rbacScope) permission(p *rbacv3.Permission, place at) *config.Permission {
	out := &config.Permission{}
	switch v := p.GetRule().(type) {
	case *rbacv3.Permission_Any:
		out.Any = v.Any
	case *rbacv3.Permission_AndRules:
		out.And = d.permissions(v.AndRules, place.in("and_rules"))
	case *rbacv3.Permission_OrRules:
		out.Or = d.permissions(v.OrRules, place.in("or_rules"))
	case *rbacv3.Permission_NotRule:
		out.Not = d.permission(v.NotRule, place.in("not_rule"))
	case *rbacv3.Permission_DestinationIp:
		prefix := d.cidr(v.DestinationIp, place.in("destination_ip"))
		out.DestinationIP = &prefix
	case *rbacv3.Permission_DestinationPort:
		p := port(v.DestinationPort, place.in("destination_port"))
		out.DestinationPort = &p
	case *rbacv3.Permission_DestinationPortRange:
		r := v.DestinationPortRange
		out.PortRange = &config.PortRange{Start: r.GetStart(), End: r.GetEnd()}
		if r.GetStart() < 0 || r.GetEnd() > 65536 || r.GetStart() >= r.GetEnd() {
			place.in("destination_port_range").bad("[%d, %d) is not a range of ports", r.GetStart(), r.GetEnd())
		}
	case *rbacv3.Permission_RequestedServerName:
		out.RequestedServer = d.stringMatcher(v.RequestedServerName, place.in("requested_server_name"))
	case *rbacv3.Permission_Metadata:
		out.Metadata = d.metadataMatcher(v.Metadata, place.in("metadata"))
	case *rbacv3.Permission_SourcedMetadata:
		out.Metadata = d.sourcedMetadata(v.SourcedMetadata, place.in("sourced_metadata"))
	case *rbacv3.Permission_UrlPath:
		out.URLPath, out.HTTPOnly = d.urlPath(v.UrlPath, place.in("url_path"))
	case *rbacv3.Permission_Header:
		out.Header = d.header(v.Header, place.in("header"))
	case *rbacv3.Permission_UriTemplate:
		if out.Template = d.uriTemplate(v.UriTemplate, place.in("uri_template")); !d.http {
			place.in("uri_template").bad(headerText)
		}
	default:
		place.bad("has no rule that outrider supports")
	}
	return out
}

// header is a criterion of requests alone.
func (d rbacScope) header(m *routev3.HeaderMatcher, place at) *config.HeaderMatcher {
	if !d.http {
		place.bad(headerText)
		return nil
	}
	out := d.headerMatcher(m, place)
	return &out
}

// urlPath is a criterion of requests, which no connection meets: then it is
// never.
func (d rbacScope) urlPath(m *matcherv3.PathMatcher, place at) (path *certs.StringMatcher, never bool) {
	if !d.http {
		return nil, true
	}
	return d.stringMatcher(m.GetPath(), place.in("path")), false
}

func (d rbacScope) permissions(s *rbacv3.Permission_Set, place at) []*config.Permission {
	var out []*config.Permission
	for i, p := range s.GetRules() {
		out = append(out, d.permission(p, place.item("rules", i)))
	}
	return out
}

func (d rbacScope) principal(p *rbacv3.Principal, place at) *config.Principal {
	out := &config.Principal{}
	switch v := p.GetIdentifier().(type) {
	case *rbacv3.Principal_Any:
		out.Any = v.Any
	case *rbacv3.Principal_AndIds:
		out.And = d.principals(v.AndIds, place.in("and_ids"))
	case *rbacv3.Principal_OrIds:
		out.Or = d.principals(v.OrIds, place.in("or_ids"))
	case *rbacv3.Principal_NotId:
		out.Not = d.principal(v.NotId, place.in("not_id"))
	case *rbacv3.Principal_Authenticated_:
		out.Authenticated = &config.Authenticated{}
		if m := v.Authenticated.GetPrincipalName(); m != nil {
			out.Authenticated.Name = d.stringMatcher(m, place.in("authenticated").in("principal_name"))
		}
	case *rbacv3.Principal_SourceIp:
		prefix := d.cidr(v.SourceIp, place.in("source_ip"))
		out.SourceIP = &prefix
	case *rbacv3.Principal_RemoteIp:
		prefix := d.cidr(v.RemoteIp, place.in("remote_ip"))
		out.SourceIP, out.Forwarded = &prefix, d.http
	case *rbacv3.Principal_DirectRemoteIp:
		prefix := d.cidr(v.DirectRemoteIp, place.in("direct_remote_ip"))
		out.DirectRemoteIP = &prefix
	case *rbacv3.Principal_Metadata:
		out.Metadata = d.metadataMatcher(v.Metadata, place.in("metadata"))
	case *rbacv3.Principal_SourcedMetadata:
		out.Metadata = d.sourcedMetadata(v.SourcedMetadata, place.in("sourced_metadata"))
	case *rbacv3.Principal_FilterState:
		out.FilterState = d.filterState(v.FilterState, place.in("filter_state"))
	case *rbacv3.Principal_UrlPath:
		out.URLPath, out.HTTPOnly = d.urlPath(v.UrlPath, place.in("url_path"))
	case *rbacv3.Principal_Header:
		out.Header = d.header(v.Header, place.in("header"))
	default:
		place.bad("has no identifier that outrider supports")
	}
	return out
}

func (d rbacScope) principals(s *rbacv3.Principal_Set, place at) []*config.Principal {
	var out []*config.Principal
	for i, p := range s.GetIds() {
		out = append(out, d.principal(p, place.item("ids", i)))
	}
	return out
}

// sourcedMetadata is dynamic metadata: what a route has is not told to rbac.
func (d *decoder) sourcedMetadata(s *rbacv3.SourcedMetadata, place at) *config.MetadataMatcher {
	if s.GetMetadataSource() != rbacv3.MetadataSource_DYNAMIC {
		place.in("metadata_source").bad("%s is not supported by outrider: use DYNAMIC", s.GetMetadataSource())
	}
	return d.metadataMatcher(s.GetMetadataMatcher(), place.in("metadata_matcher"))
}

func (d *decoder) filterState(m *matcherv3.FilterStateMatcher, place at) *config.FilterStateMatcher {
	out := &config.FilterStateMatcher{Key: m.GetKey()}
	if v, ok := m.GetMatcher().(*matcherv3.FilterStateMatcher_StringMatch); ok {
		out.String = d.stringMatcher(v.StringMatch, place.in("string_match"))
	} else {
		place.bad("string_match must be set")
	}
	return out
}
