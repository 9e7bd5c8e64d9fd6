package filter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
)

// rbacNamespace is where RBAC puts its dynamic metadata.
const rbacNamespace = "envoy.filters.network.rbac"

// rbac is the network RBAC filter. Addresses, server name and identity do not
// change while a connection lives, and nothing here decodes a protocol, so
// enforcement_type CONTINUOUS comes to the same as once.
//
// It decides before anything is dialled or read. Envoy waits for the first
// byte of the client, and has connected to the upstream by then: a server that
// speaks first gets its greeting through to a client that will be denied.
type rbac struct {
	name          string
	log           *slog.Logger
	rules, shadow *ruleSet // nil: none
	shadowPrefix  string
	delay         time.Duration

	allowed, denied, shadowAllowed, shadowDenied *stats.Counter
}

func newRBAC(name string, cfg *config.RBAC, d *Deps) (*rbac, error) {
	scope := d.Stats.Tagged("envoy_rbac_prefix", strings.TrimSuffix(cfg.StatPrefix, ".")).Scope("rbac")
	shadow := scope
	if p := strings.TrimSuffix(cfg.ShadowStatPrefix, "."); p != "" {
		shadow = scope.Scope(p)
	}
	f := &rbac{
		name: name, log: d.Log, shadowPrefix: cfg.ShadowStatPrefix, delay: cfg.DelayDeny,
		allowed: scope.Counter("allowed"), denied: scope.Counter("denied"),
		shadowAllowed: shadow.Counter("shadow_allowed"), shadowDenied: shadow.Counter("shadow_denied"),
	}
	var err, shadowErr error
	f.rules, err = compileRules("rules", cfg.Rules)
	f.shadow, shadowErr = compileRules("shadow_rules", cfg.Shadow)
	return f, errors.Join(err, shadowErr)
}

// admit evaluates the shadow rules, which only leave their traces, and then
// the rules.
func (f *rbac) admit(ctx context.Context, c *Conn) (func(), error) {
	facts := newFacts(c.Info)
	if f.shadow != nil {
		f.shadowed(c.Info, f.shadow.evaluate(facts))
	}
	if f.rules == nil {
		return nil, nil
	}
	d := f.rules.evaluate(facts)
	if f.rules.action == config.LogOnly {
		c.Info.SetMetadata("envoy.common", "access_log_hint", structpb.NewBoolValue(d.matched != nil))
	}
	if d.allowed {
		f.allowed.Inc()
		return nil, nil
	}
	f.denied.Inc()
	c.Info.TerminationDetails = denialDetails(d.policy())
	c.Info.LocalCloseReason = "rbac_deny_close"
	wait(ctx, f.delay)
	_ = c.CloseWrite() // the peer sees an end, not a truncation; it may be gone
	return nil, flow.End(flow.StageNetworkFilter, 0, errors.New(f.rules.reason(d, facts)))
}

func (f *rbac) shadowed(info *flow.Info, d decision) {
	result, counter := "allowed", f.shadowAllowed
	if !d.allowed {
		result, counter = "denied", f.shadowDenied
	}
	counter.Inc()
	if p := d.policy(); p != "" {
		info.SetMetadata(rbacNamespace, f.shadowPrefix+"shadow_effective_policy_id", structpb.NewStringValue(p))
	}
	info.SetMetadata(rbacNamespace, f.shadowPrefix+"shadow_engine_result", structpb.NewStringValue(result))
	f.log.Debug("rbac shadow rules evaluated", "connection_id", info.ID, "result", result, "policy", d.policy())
}

// denialDetails is Envoy's CONNECTION_TERMINATION_DETAILS: white space would
// break the columns of an access log.
func denialDetails(policy string) string {
	if policy == "" {
		policy = "none"
	}
	safe := strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return '_'
		}
		return r
	}, policy)
	return "rbac_access_denied_matched_policy[" + safe + "]"
}

func (f *rbac) explain(info *flow.Info) Verdict {
	facts := newFacts(info)
	v := Verdict{Filter: f.name, Type: "rbac", Reason: "no rules: allowed"}
	if f.rules != nil {
		v = f.rules.explain(facts)
		v.Filter, v.Type = f.name, "rbac"
	}
	if f.shadow != nil {
		shadow := f.shadow.explain(facts)
		shadow.Filter, shadow.Type = f.name, "rbac shadow rules"
		v.Shadow = &shadow
	}
	return v
}

// ruleSet is a compiled config.RBACRules.
type ruleSet struct {
	action   config.RBACAction
	policies []policy
}

// policy matches if any of its permissions and any of its principals does.
type policy struct {
	name                    string
	permissions, principals []rule
}

func compileRules(field string, cfg *config.RBACRules) (*ruleSet, error) {
	if cfg == nil {
		return nil, nil
	}
	set := &ruleSet{action: cfg.Action}
	var errs []error
	if cfg.Action < config.Allow || cfg.Action > config.LogOnly {
		return nil, fmt.Errorf("%s.action: %d is not an action", field, cfg.Action)
	}
	for _, p := range cfg.Policies {
		out := policy{name: p.Name}
		for i, perm := range p.Permissions {
			r, err := compilePermission(perm)
			errs = append(errs, at(err, "%s.policies[%q].permissions[%d]", field, p.Name, i))
			out.permissions = append(out.permissions, r)
		}
		for i, pr := range p.Principals {
			r, err := compilePrincipal(pr)
			errs = append(errs, at(err, "%s.policies[%q].principals[%d]", field, p.Name, i))
			out.principals = append(out.principals, r)
		}
		set.policies = append(set.policies, out)
	}
	return set, errors.Join(errs...)
}

// at says where err is; nil if there is none.
func at(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// decision is what a ruleSet says of a connection.
type decision struct {
	allowed bool
	matched *policy // the first that matched; nil if none did
}

func (d decision) policy() string {
	if d.matched == nil {
		return ""
	}
	return d.matched.name
}

// evaluate finds the first policy that matches. ALLOW lets only what matches
// pass, DENY only what does not, LOG all.
func (s *ruleSet) evaluate(f *facts) decision {
	var d decision
	for i := range s.policies {
		if s.policies[i].matches(f) {
			d.matched = &s.policies[i]
			break
		}
	}
	switch s.action {
	case config.Allow:
		d.allowed = d.matched != nil
	case config.Deny:
		d.allowed = d.matched == nil
	case config.LogOnly:
		d.allowed = true
	}
	return d
}

func (p *policy) matches(f *facts) bool {
	return anyMatches(p.permissions, f) && anyMatches(p.principals, f)
}

// why is the first criterion that failed in each permission or, if one
// matched, in each principal.
func (p *policy) why(f *facts) []string {
	kind, rules := "permission", p.permissions
	if anyMatches(rules, f) {
		kind, rules = "principal", p.principals
	}
	if len(rules) == 0 {
		return []string{"the policy has no " + kind}
	}
	var out []string
	for _, r := range rules {
		out = append(out, kind+" "+r.why(f))
	}
	return out
}

// reason says why d is as it is, in one line.
func (s *ruleSet) reason(d decision, f *facts) string {
	action := [...]string{"ALLOW", "DENY", "LOG"}[s.action]
	switch {
	case d.matched != nil && d.allowed:
		return fmt.Sprintf("rbac: allowed: %s policy %q matches", action, d.matched.name)
	case d.matched != nil:
		return fmt.Sprintf("rbac: denied: %s policy %q matches %s", action, d.matched.name, f)
	case d.allowed:
		return fmt.Sprintf("rbac: allowed: no %s policy matches", action)
	default:
		return fmt.Sprintf("rbac: denied: none of %d ALLOW policies matches %s", len(s.policies), f)
	}
}

func (s *ruleSet) explain(f *facts) Verdict {
	d := s.evaluate(f)
	v := Verdict{Denied: !d.allowed, Reason: s.reason(d, f), Policy: d.policy()}
	for i := range s.policies {
		p := &s.policies[i]
		if p == d.matched {
			v.Policies = append(v.Policies, PolicyResult{Policy: p.name, Matched: true})
			break // the ones behind it are not evaluated
		}
		v.Policies = append(v.Policies, PolicyResult{Policy: p.name, Failed: p.why(f)})
	}
	return v
}
