// Package rbac evaluates Envoy's role based access control on a connection or
// on a request. It only decides and explains; the network filter and the HTTP
// filter do what follows.
package rbac

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"outrider/proxy/config"
	"outrider/proxy/flow"
)

// Rules are a compiled config.RBACRules, safe for concurrent use.
type Rules struct {
	action   config.RBACAction
	policies []policy
}

// policy matches if any of its permissions and any of its principals does.
type policy struct {
	name                    string
	permissions, principals []rule
}

// Compile makes Rules; nil for nil. Errors begin with field, and all of them are
// told.
func Compile(field string, cfg *config.RBACRules) (*Rules, error) {
	if cfg == nil {
		return nil, nil
	}
	set := &Rules{action: cfg.Action}
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

// Decision is what Rules say of a connection or a request.
type Decision struct {
	Allowed bool
	matched *policy // the first that matched; nil if none did
}

// Matched reports whether a policy matched.
func (d Decision) Matched() bool { return d.matched != nil }

// Policy is the name of the first policy that matched, "" if none did.
func (d Decision) Policy() string {
	if d.matched == nil {
		return ""
	}
	return d.matched.name
}

// Action is what the rules are for.
func (s *Rules) Action() config.RBACAction { return s.action }

// Evaluate finds the first policy that matches. ALLOW lets only what matches
// pass, DENY only what does not, LOG all.
func (s *Rules) Evaluate(info *flow.Info) Decision {
	f, d := (*facts)(info), Decision{}
	for i := range s.policies {
		if s.policies[i].matches(f) {
			d.matched = &s.policies[i]
			break
		}
	}
	switch s.action {
	case config.Allow:
		d.Allowed = d.matched != nil
	case config.Deny:
		d.Allowed = d.matched == nil
	case config.LogOnly:
		d.Allowed = true
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

// Reason says why d is as it is, in one line.
func (s *Rules) Reason(d Decision, info *flow.Info) string {
	f := (*facts)(info)
	action := [...]string{"ALLOW", "DENY", "LOG"}[s.action]
	switch {
	case d.matched != nil && d.Allowed:
		return fmt.Sprintf("rbac: allowed: %s policy %q matches", action, d.matched.name)
	case d.matched != nil:
		return fmt.Sprintf("rbac: denied: %s policy %q matches %s", action, d.matched.name, f)
	case d.Allowed:
		return fmt.Sprintf("rbac: allowed: no %s policy matches", action)
	default:
		return fmt.Sprintf("rbac: denied: none of %d ALLOW policies matches %s", len(s.policies), f)
	}
}

// Verdict is a Decision explained.
type Verdict struct {
	Decision
	Reason string
	// Policies is why policies did not match, in the order of their
	// evaluation; the last one is the one that did.
	Policies []PolicyResult
}

// PolicyResult is how one policy was evaluated.
type PolicyResult struct {
	Policy  string `json:"policy"`
	Matched bool   `json:"matched"`
	// Failed is what did not match, "" if it matched: for every permission, or
	// if one matched for every principal, the first criterion that failed.
	Failed []string `json:"failed,omitempty"`
}

// Explain evaluates info and tells of every policy why it did not match.
func (s *Rules) Explain(info *flow.Info) Verdict {
	d := s.Evaluate(info)
	v := Verdict{Decision: d, Reason: s.Reason(d, info)}
	for i := range s.policies {
		p := &s.policies[i]
		if p == d.matched {
			v.Policies = append(v.Policies, PolicyResult{Policy: p.name, Matched: true})
			break // the ones behind it are not evaluated
		}
		v.Policies = append(v.Policies, PolicyResult{Policy: p.name, Failed: p.why((*facts)(info))})
	}
	return v
}

// Details are Envoy's CONNECTION_TERMINATION_DETAILS or RESPONSE_CODE_DETAILS of
// a denial; policy is "" if none matched. White space, which would break the
// columns of an access log, becomes "_".
func Details(policy string) string {
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
