package filter

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/rbac"
	"outrider/proxy/stats"
)

// rbacNamespace is where RBAC puts its dynamic metadata.
const rbacNamespace = "envoy.filters.network.rbac"

// rbacFilter is the network RBAC filter. Addresses, server name and identity do not
// change while a connection lives, and nothing here decodes a protocol, so
// enforcement_type CONTINUOUS comes to the same as once.
//
// It decides before anything is dialled or read. Envoy waits for the first
// byte of the client, and has connected to the upstream by then: a server that
// speaks first gets its greeting through to a client that will be denied.
type rbacFilter struct {
	name          string
	log           *slog.Logger
	rules, shadow *rbac.Rules // nil: none
	shadowPrefix  string
	delay         time.Duration

	allowed, denied, shadowAllowed, shadowDenied *stats.Counter
}

func newRBAC(name string, cfg *config.RBAC, d *Deps) (*rbacFilter, error) {
	scope := d.Stats.Tagged("envoy_rbac_prefix", strings.TrimSuffix(cfg.StatPrefix, ".")).Scope("rbac")
	shadow := scope
	if p := strings.TrimSuffix(cfg.ShadowStatPrefix, "."); p != "" {
		shadow = scope.Scope(p)
	}
	f := &rbacFilter{
		name: name, log: d.Log, shadowPrefix: cfg.ShadowStatPrefix, delay: cfg.DelayDeny,
		allowed: scope.Counter("allowed"), denied: scope.Counter("denied"),
		shadowAllowed: shadow.Counter("shadow_allowed"), shadowDenied: shadow.Counter("shadow_denied"),
	}
	var err, shadowErr error
	f.rules, err = rbac.Compile("rules", cfg.Rules)
	f.shadow, shadowErr = rbac.Compile("shadow_rules", cfg.Shadow)
	return f, errors.Join(err, shadowErr)
}

// admit evaluates the shadow rules, which only leave their traces, and then
// the rules.
func (f *rbacFilter) admit(ctx context.Context, c *Conn) (func(), error) {
	if f.shadow != nil {
		f.shadowed(c.Info, f.shadow.Evaluate(c.Info))
	}
	if f.rules == nil {
		return nil, nil
	}
	d := f.rules.Evaluate(c.Info)
	if f.rules.Action() == config.LogOnly {
		c.Info.SetMetadata("envoy.common", "access_log_hint", structpb.NewBoolValue(d.Matched()))
	}
	if d.Allowed {
		f.allowed.Inc()
		return nil, nil
	}
	f.denied.Inc()
	c.Info.TerminationDetails = rbac.Details(d.Policy())
	c.Info.LocalCloseReason = "rbac_deny_close"
	wait(ctx, f.delay)
	_ = c.CloseWrite() // the peer sees an end, not a truncation; it may be gone
	return nil, flow.End(flow.StageNetworkFilter, 0, errors.New(f.rules.Reason(d, c.Info)))
}

func (f *rbacFilter) shadowed(info *flow.Info, d rbac.Decision) {
	result, counter := "allowed", f.shadowAllowed
	if !d.Allowed {
		result, counter = "denied", f.shadowDenied
	}
	counter.Inc()
	if p := d.Policy(); p != "" {
		info.SetMetadata(rbacNamespace, f.shadowPrefix+"shadow_effective_policy_id", structpb.NewStringValue(p))
	}
	info.SetMetadata(rbacNamespace, f.shadowPrefix+"shadow_engine_result", structpb.NewStringValue(result))
	f.log.Debug("rbac shadow rules evaluated", "connection_id", info.ID, "result", result, "policy", d.Policy())
}

func (f *rbacFilter) explain(info *flow.Info) Verdict {
	v := Verdict{Filter: f.name, Type: "rbac", Reason: "no rules: allowed"}
	if f.rules != nil {
		v = f.verdict("rbac", f.rules.Explain(info))
	}
	if f.shadow != nil {
		shadow := f.verdict("rbac shadow rules", f.shadow.Explain(info))
		v.Shadow = &shadow
	}
	return v
}

func (f *rbacFilter) verdict(kind string, v rbac.Verdict) Verdict {
	return Verdict{Filter: f.name, Type: kind, Denied: !v.Allowed, Reason: v.Reason, Policy: v.Policy(), Policies: v.Policies}
}
