// Package rbac is envoy.filters.http.rbac: it refuses requests by rules on who
// asks for what. The rules themselves are package proxy/rbac's, as those of
// connections.
package rbac

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/rbac"
	"outrider/proxy/stats"
)

// namespace is where the filter puts its dynamic metadata.
const namespace = "envoy.filters.http.rbac"

// New makes the filter of a *config.HTTPRBAC. A route's replaces its rules, but
// what is counted is counted under the filter's own prefixes, as in Envoy.
func New(cfg *config.HTTPFilter, d filter.Deps) (filter.Factory, error) {
	own, ok := cfg.Config.(*config.HTTPRBAC)
	if !ok {
		return nil, fmt.Errorf("%T is no configuration of rbac", cfg.Config)
	}
	var prefix, shadowPrefix string
	if own.RBAC != nil {
		prefix, shadowPrefix = own.RBAC.StatPrefix, own.RBAC.ShadowStatPrefix
	}
	build := func(c *config.HTTPRBAC) (*policies, error) { return compile(c, prefix, shadowPrefix) }
	base, err := build(own)
	if err != nil {
		return nil, err
	}
	return &Factory{
		base: base, routes: filter.NewOverrides(build),
		rules:  newCounts(d.Scope, prefix, "allowed", "denied"),
		shadow: newCounts(d.Scope, shadowPrefix, "shadow_allowed", "shadow_denied"),
	}, nil
}

// Factory is the filter of a connection manager.
type Factory struct {
	base          *policies
	routes        *filter.Overrides[config.HTTPRBAC, *policies]
	rules, shadow *counts
}

// policies are a compiled config.HTTPRBAC.
type policies struct {
	rules, shadow          *rbac.Rules // nil: none
	ruleNotes, shadowNotes *notes
	each                   bool // count by policy
}

// compile has the prefixes of metadata keys that count where a route has none.
func compile(cfg *config.HTTPRBAC, prefix, shadowPrefix string) (*policies, error) {
	c := cfg.RBAC
	if c == nil {
		return &policies{}, nil
	}
	p := &policies{
		ruleNotes:   newNotes(cmp.Or(c.StatPrefix, prefix)+"enforced_", c.Rules),
		shadowNotes: newNotes(cmp.Or(c.ShadowStatPrefix, shadowPrefix)+"shadow_", c.Shadow),
		each:        c.PerPolicy,
	}
	var err, shadowErr error
	p.rules, err = rbac.Compile("rules", c.Rules)
	p.shadow, shadowErr = rbac.Compile("shadow_rules", c.Shadow)
	return p, errors.Join(err, shadowErr)
}

// notes are what goes into the dynamic metadata, made once.
type notes struct {
	policyKey, resultKey string
	policies             map[string]*structpb.Value
	allowed, denied      *structpb.Value
}

func newNotes(prefix string, rules *config.RBACRules) *notes {
	n := &notes{
		policyKey: prefix + "effective_policy_id", resultKey: prefix + "engine_result",
		allowed: structpb.NewStringValue("allowed"), denied: structpb.NewStringValue("denied"),
	}
	if rules == nil {
		return n
	}
	n.policies = map[string]*structpb.Value{}
	for _, p := range rules.Policies {
		n.policies[p.Name] = structpb.NewStringValue(p.Name)
	}
	return n
}

// leave leaves the traces of a decision.
func (n *notes) leave(info *flow.Info, d rbac.Decision) {
	if p := d.Policy(); p != "" {
		info.SetMetadata(namespace, n.policyKey, n.policies[p])
	}
	result := n.allowed
	if !d.Allowed {
		result = n.denied
	}
	info.SetMetadata(namespace, n.resultKey, result)
}

// counts are the metrics of the rules, or of the shadow rules.
type counts struct {
	scope           *stats.Scope
	allowed, denied *stats.Counter
	names           [2]string // of allowed and denied
}

func newCounts(s *stats.Scope, prefix, allowed, denied string) *counts {
	s = s.Scope("rbac")
	if p := strings.TrimSuffix(prefix, "."); p != "" {
		s = s.Tagged("envoy_rbac_http_prefix", p)
	}
	return &counts{s, s.Counter(allowed), s.Counter(denied), [2]string{allowed, denied}}
}

// add counts a decision; with each, by its policy too.
func (c *counts) add(d rbac.Decision, each bool) {
	counter, name := c.allowed, c.names[0]
	if !d.Allowed {
		counter, name = c.denied, c.names[1]
	}
	counter.Inc()
	if each && d.Policy() != "" {
		c.scope.Scope("policy").Tagged("envoy_rbac_policy_name", d.Policy()).Counter(name).Inc()
	}
}

// New is the filter of a request.
func (f *Factory) New(s filter.Stream) filter.Filter { return &judge{s: s, f: f} }

// Check is filter.Checker.
func (f *Factory) Check(o *config.FilterOverride) error { return f.routes.Check(o) }

// use are the policies for a request with that override.
func (f *Factory) use(o *config.FilterOverride) (*policies, error) {
	p, err := f.routes.Of(o)
	if p == nil {
		p = f.base
	}
	return p, err
}

// Explain is the decision of RequestHead (filter.Explainer).
func (f *Factory) Explain(info *flow.Info, o *config.FilterOverride) filter.Explanation {
	p, err := f.use(o)
	if err != nil {
		return filter.Explanation{Denied: true, Reason: "rbac: " + err.Error()}
	}
	out := filter.Explanation{Reason: "rbac: no rules: allowed"}
	if p.shadow != nil {
		v := p.shadow.Explain(info)
		out.Shadow = &v
	}
	if p.rules != nil {
		v := p.rules.Explain(info)
		out.Rules, out.Denied, out.Reason = &v, !v.Allowed, v.Reason
	}
	return out
}

// judge is the filter of one request.
type judge struct {
	filter.Pass
	s filter.Stream
	f *Factory
}

// RequestHead evaluates the shadow rules, which only leave their traces, and
// then the rules.
func (j *judge) RequestHead(*message.Head, bool) filter.Action {
	p, err := j.f.use(j.s.Override())
	if err != nil {
		return filter.Misconfigured(j.s, err)
	}
	info := j.s.Info()
	if p.shadow != nil {
		d := p.shadow.Evaluate(info)
		j.f.shadow.add(d, p.each)
		p.shadowNotes.leave(info, d)
	}
	if p.rules == nil {
		return filter.Continue
	}
	d := p.rules.Evaluate(info)
	j.f.rules.add(d, p.each)
	p.ruleNotes.leave(info, d)
	if p.rules.Action() == config.LogOnly {
		info.SetMetadata("envoy.common", "access_log_hint", structpb.NewBoolValue(d.Matched()))
	}
	if d.Allowed {
		return filter.Continue
	}
	j.s.Reply(filter.Reply{Status: 403, Body: "RBAC: access denied", Details: rbac.Details(d.Policy())})
	return filter.Stop
}
