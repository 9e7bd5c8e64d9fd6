// Package cors is envoy.filters.http.cors: it answers preflight requests and
// says in responses which origins may read them, by the policies of routes.
package cors

import (
	"fmt"
	"slices"

	"outrider/certs"
	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

// New makes the filter of a *config.HTTPCORS.
func New(cfg *config.HTTPFilter, d filter.Deps) (filter.Factory, error) {
	if _, ok := cfg.Config.(*config.HTTPCORS); !ok {
		return nil, fmt.Errorf("%T is no configuration of cors", cfg.Config)
	}
	scope := d.Scope.Scope("cors")
	valid, invalid := scope.Counter("origin_valid"), scope.Counter("origin_invalid")
	return filter.Checked(filter.FactoryFunc(func(s filter.Stream) filter.Filter {
		return &cors{s: s, valid: valid, invalid: invalid}
	}), check), nil
}

// check refuses what is no policy.
func check(o *config.FilterOverride) error {
	if _, ok := o.Config.(*config.CORSPolicy); !ok && o.Config != nil {
		return fmt.Errorf("a route has %T for cors", o.Config)
	}
	return nil
}

// cors is the filter of one request.
type cors struct {
	filter.Pass
	s              filter.Stream
	valid, invalid *stats.Counter

	policies policies
	origin   string // an allowed one of a request that is enforced
}

// RequestHead finds out whether the origin is allowed, and answers a preflight
// request.
func (c *cors) RequestHead(h *message.Head, _ bool) filter.Action {
	if err := c.find(); err != nil {
		return filter.Misconfigured(c.s, err)
	}
	if len(c.policies) == 0 {
		return filter.Continue
	}
	first := c.policies[0]
	enabled := c.s.PPM(first.EnabledPPM)
	origin := h.Fields.Value("origin")
	if origin == "" || !enabled && !c.s.PPM(first.ShadowPPM) {
		return filter.Continue
	}
	allowed := c.policies.allows(origin)
	if allowed {
		c.valid.Inc()
	} else {
		c.invalid.Inc()
	}
	if !enabled {
		return filter.Continue
	}
	if allowed {
		c.origin = origin
	}
	if h.Method != "OPTIONS" || h.Fields.Value("access-control-request-method") == "" {
		return filter.Continue
	}
	if !allowed && c.policies.truth(true, func(p *config.CORSPolicy) *bool { return p.ForwardPreflights }) {
		return filter.Continue
	}
	c.s.Reply(filter.Reply{Status: 200, Fields: c.preflight(h), Details: "cors_response"})
	return filter.Stop
}

// preflight are the fields of the answer to a preflight request.
func (c *cors) preflight(h *message.Head) message.Fields {
	var f message.Fields
	add := func(name, value string) {
		if value != "" {
			f.Add(name, value)
		}
	}
	// What was not asked for is echoed as empty.
	echo := func(name, configured, requested string) {
		if configured == "*" {
			f.Add(name, h.Fields.Value(requested))
			return
		}
		add(name, configured)
	}
	add("access-control-allow-origin", c.origin)
	if c.policies.credentials() {
		add("access-control-allow-credentials", "true")
	}
	methods := c.policies.text(func(p *config.CORSPolicy) string { return p.AllowMethods })
	echo("access-control-allow-methods", methods, "access-control-request-method")
	headers := c.policies.text(func(p *config.CORSPolicy) string { return p.AllowHeaders })
	echo("access-control-allow-headers", headers, "access-control-request-headers")
	add("access-control-max-age", c.policies.text(func(p *config.CORSPolicy) string { return p.MaxAge }))
	private := c.policies.truth(false, func(p *config.CORSPolicy) *bool { return p.PrivateNetwork })
	if private && h.Fields.Value("access-control-request-private-network") == "true" {
		add("access-control-allow-private-network", "true")
	}
	return f
}

// ResponseHead tells the client that its origin may read the response.
func (c *cors) ResponseHead(h *message.Head, _ bool) filter.Action {
	if c.origin == "" {
		return filter.Continue
	}
	h.Fields.Set("access-control-allow-origin", c.origin)
	if c.policies.credentials() {
		h.Fields.Set("access-control-allow-credentials", "true")
	}
	if exposed := c.policies.text(func(p *config.CORSPolicy) string { return p.ExposeHeaders }); exposed != "" {
		h.Fields.Set("access-control-expose-headers", exposed)
	}
	return filter.Continue
}

// find sets the policies: those of this filter's overrides; without any, those
// that are fields of the route and of the virtual host. A request that is not
// forwarded has none.
func (c *cors) find() error {
	r := c.s.Route()
	if r == nil || r.Action == nil {
		return nil
	}
	for _, o := range slices.Backward(c.s.Overrides()) {
		if err := check(o); err != nil {
			return err
		}
		if p, ok := o.Config.(*config.CORSPolicy); ok {
			c.policies = append(c.policies, p)
		}
	}
	if len(c.policies) > 0 {
		return nil
	}
	if r.Action.CORS != nil {
		c.policies = append(c.policies, r.Action.CORS)
	}
	if v := c.s.VirtualHost(); v != nil && v.CORS != nil {
		c.policies = append(c.policies, v.CORS)
	}
	return nil
}

// policies are from the most specific to the least. Of each field the first
// that is set counts, but whether they are enabled is for the first to say.
type policies []*config.CORSPolicy

// allows reports whether the origin is one of those allowed; the pattern that
// matches "*" allows all.
func (l policies) allows(origin string) bool {
	for _, p := range l {
		if len(p.Origins) > 0 {
			return slices.ContainsFunc(p.Origins, func(m certs.StringMatcher) bool { return m.Match("*") || m.Match(origin) })
		}
	}
	return false
}

func (l policies) credentials() bool {
	return l.truth(false, func(p *config.CORSPolicy) *bool { return p.Credentials })
}

func (l policies) text(of func(*config.CORSPolicy) string) string {
	for _, p := range l {
		if v := of(p); v != "" {
			return v
		}
	}
	return ""
}

func (l policies) truth(def bool, of func(*config.CORSPolicy) *bool) bool {
	for _, p := range l {
		if v := of(p); v != nil {
			return *v
		}
	}
	return def
}
