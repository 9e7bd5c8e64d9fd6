package sidecar

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// rbac are the filters of the rules for one port, DENY first. Once there is any
// ALLOW rule, what none of them matches is refused, on every port.
func (b *builder) rbac(port uint16) []*listenerv3.Filter {
	var out []*listenerv3.Filter
	for _, action := range []rbacv3.RBAC_Action{rbacv3.RBAC_DENY, rbacv3.RBAC_ALLOW} {
		policies, needed := map[string]*rbacv3.Policy{}, false
		for _, r := range b.cfg.Authorization {
			if r.Action != action.String() {
				continue
			}
			needed = needed || action == rbacv3.RBAC_ALLOW
			if r.concerns(port) {
				policies[r.Name], needed = r.policy(port), true
			}
		}
		if needed {
			out = append(out, b.filter("envoy.filters.network.rbac", &rbacfilterv3.RBAC{
				StatPrefix: "tcp.", Rules: &rbacv3.RBAC{Action: action, Policies: policies},
			}))
		}
	}
	return out
}

// concerns reports whether r can match a connection to port; 0 is the ports
// that are not listed, which a rule for certain ports may name all the same.
func (r *Rule) concerns(port uint16) bool {
	return len(r.Ports) == 0 || port == 0 || slices.Contains(r.Ports, port)
}

func (r *Rule) policy(port uint16) *rbacv3.Policy {
	return &rbacv3.Policy{Permissions: r.permissions(port), Principals: []*rbacv3.Principal{allOf(r.conditions())}}
}

func (r *Rule) permissions(port uint16) []*rbacv3.Permission {
	if len(r.Ports) == 0 || port != 0 {
		return []*rbacv3.Permission{{Rule: &rbacv3.Permission_Any{Any: true}}}
	}
	var out []*rbacv3.Permission
	for _, p := range r.Ports {
		out = append(out, &rbacv3.Permission{Rule: &rbacv3.Permission_DestinationPort{DestinationPort: uint32(p)}})
	}
	return out
}

// conditions are what must all hold of the caller.
func (r *Rule) conditions() []*rbacv3.Principal {
	var out []*rbacv3.Principal
	var ids, blocks []*rbacv3.Principal
	for _, p := range r.Principals {
		ids = append(ids, principal(p))
	}
	for _, ns := range r.Namespaces {
		ids = append(ids, authenticated(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{
			SafeRegex: &matcherv3.RegexMatcher{Regex: ".*/ns/" + regexp.QuoteMeta(ns) + "/.*"},
		}}))
	}
	for _, b := range r.IPBlocks {
		blocks = append(blocks, sourceBlock(b))
	}
	for _, any := range [][]*rbacv3.Principal{ids, blocks} {
		if len(any) > 0 {
			out = append(out, &rbacv3.Principal{Identifier: &rbacv3.Principal_OrIds{OrIds: &rbacv3.Principal_Set{Ids: any}}})
		}
	}
	return out
}

func allOf(conditions []*rbacv3.Principal) *rbacv3.Principal {
	if len(conditions) == 0 {
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_Any{Any: true}}
	}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_AndIds{AndIds: &rbacv3.Principal_Set{Ids: conditions}}}
}

// principal is a SPIFFE ID, one with "*" at its end, or "*": any that is
// authenticated.
func principal(p string) *rbacv3.Principal {
	m := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: p}}
	switch prefix, wild := strings.CutSuffix(p, "*"); {
	case p == "*":
		m.MatchPattern = &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: ".+"}}
	case wild:
		m.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: prefix}
	}
	return authenticated(m)
}

func authenticated(m *matcherv3.StringMatcher) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_Authenticated_{Authenticated: &rbacv3.Principal_Authenticated{PrincipalName: m}}}
}

func sourceBlock(p netip.Prefix) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_DirectRemoteIp{DirectRemoteIp: &corev3.CidrRange{
		AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits())),
	}}}
}
