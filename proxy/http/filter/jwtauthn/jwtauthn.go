// Package jwtauthn is envoy.filters.http.jwt_authn: a request goes on if it has
// the JSON Web Tokens that the rules, or its route, require. Answers, details
// and stats are Envoy's.
package jwtauthn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/http/route"
	"outrider/proxy/stats"
)

// metadataNamespace is where Envoy puts payloads.
const metadataNamespace = "envoy.filters.http.jwt_authn"

// New makes the filter of a *config.JWTAuthn. Its factory is a filter.Runner
// that keeps the keys of providers with async_fetch fresh.
func New(cfg *config.HTTPFilter, d filter.Deps) (filter.Factory, error) {
	c, is := cfg.Config.(*config.JWTAuthn)
	if !is {
		return nil, fmt.Errorf("%T is no configuration of jwt_authn", cfg.Config)
	}
	scope := d.Scope.Scope("jwt_authn")
	if c.StatPrefix != "" {
		scope = scope.Scope(strings.Trim(c.StatPrefix, "."))
	}
	f := &factory{
		cfg: c, log: d.Log, providers: map[string]*provider{}, named: map[string]*requirement{}, byState: map[string]*requirement{},
		allowed: scope.Counter("allowed"), denied: scope.Counter("denied"), bypassed: scope.Counter("cors_preflight_bypassed"),
		misses: scope.Counter("jwt_cache_miss"),
	}
	fetches := &counters{fetched: scope.Counter("jwks_fetch_success"), failed: scope.Counter("jwks_fetch_failed")}
	scope.Counter("jwt_cache_hit") // there is no such cache here: as in Envoy without one, each token is a miss
	if err := f.makeProviders(d, fetches); err != nil {
		return nil, err
	}
	return f, f.makeRequirements()
}

// factory is what all requests share.
type factory struct {
	cfg       *config.JWTAuthn
	log       *slog.Logger
	providers map[string]*provider
	rules     []rule
	named     map[string]*requirement
	byState   map[string]*requirement

	allowed, denied, bypassed, misses *stats.Counter
}

// rule is what the requests that match it need; nil for nothing.
type rule struct {
	match    *route.Criteria
	requires *requirement
}

// provider is one issuer of tokens.
type provider struct {
	name   string
	cfg    *config.JWTProvider
	source *source
}

func (f *factory) makeProviders(d filter.Deps, fetches *counters) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(f.cfg.Providers)) {
		p := &provider{name: name, cfg: f.cfg.Providers[name], source: &source{remote: f.cfg.Providers[name].Remote, stats: fetches}}
		f.providers[name] = p
		if p.source.remote != nil {
			p.source.client = d.Upstream.HTTP(p.source.remote.Cluster)
			continue
		}
		ks, err := parseKeys(p.cfg.LocalJWKS)
		if err != nil && !errors.Is(err, errNoKeys) { // Envoy takes a set without a key of use, and refuses all tokens
			errs = append(errs, fmt.Errorf("providers[%q].local_jwks: %w", name, err))
		} else if err != nil {
			d.Log.Warn("no token of a JWT provider will be taken", "provider", name, "error", err)
		}
		p.source.keys = ks
	}
	return errors.Join(errs...)
}

func (f *factory) makeRequirements() error {
	var errs []error
	compile := func(place string, r *config.JWTRequirement) *requirement {
		out, err := f.compile(r, nil)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", place, err))
		}
		return out
	}
	for i := range f.cfg.Rules {
		r := &f.cfg.Rules[i]
		m, err := route.CompileCriteria(r.Match)
		if err != nil {
			errs = append(errs, fmt.Errorf("rules[%d].match: %w", i, err))
		}
		f.rules = append(f.rules, rule{m, compile(fmt.Sprintf("rules[%d]", i), r.Requires)})
	}
	for _, name := range slices.Sorted(maps.Keys(f.cfg.Requirements)) {
		f.named[name] = compile(fmt.Sprintf("requirement_map[%q]", name), f.cfg.Requirements[name])
	}
	for _, name := range slices.Sorted(maps.Keys(f.cfg.FilterStateRules)) {
		f.byState[name] = compile(fmt.Sprintf("filter_state_rules.requires[%q]", name), f.cfg.FilterStateRules[name])
	}
	return errors.Join(errs...)
}

// New is the filter of a request.
func (f *factory) New(s filter.Stream) filter.Filter { return &authn{f: f, s: s} }

// Run fetches the keys of async_fetch, again before they are too old, until ctx
// ends.
func (f *factory) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, p := range f.providers {
		if p.source.remote != nil && p.source.remote.AsyncFetch {
			all.Go(func() { p.source.run(ctx) })
		}
	}
	all.Wait()
	return nil
}

// authn is the filter of one request.
type authn struct {
	filter.Pass
	f     *factory
	s     filter.Stream
	realm string
}

// RequestHead asks for keys that are not there, then judges the request.
func (a *authn) RequestHead(h *message.Head, _ bool) filter.Action {
	if a.f.cfg.BypassCORS && preflight(h) {
		a.f.bypassed.Inc()
		a.f.allowed.Inc()
		return filter.Continue
	}
	required, err := a.required(h)
	if err != nil {
		a.f.denied.Inc()
		a.refuse(403, "Failed JWT authentication: "+err.Error(), err.Error(), nil)
		return filter.Stop
	}
	if required == nil {
		a.f.allowed.Inc()
		return filter.Continue
	}
	a.realm = realm(h)
	missing := required.missing(h)
	if len(missing) == 0 {
		return a.judge(required, h, nil)
	}
	a.s.Async(func(ctx context.Context) func() {
		failed := a.f.fetch(ctx, missing)
		return func() {
			if a.judge(required, h, failed) == filter.Continue {
				a.s.ResumeRequest()
			}
		}
	})
	return filter.StopAll
}

// preflight is a CORS preflight request, which has no credentials.
func preflight(h *message.Head) bool {
	return h.Method == "OPTIONS" && h.Fields.Value("origin") != "" && h.Fields.Value("access-control-request-method") != ""
}

// fetch gets the keys of the providers, at once; it returns those of which
// there are none.
func (f *factory) fetch(ctx context.Context, missing []*provider) map[*provider]bool {
	var all sync.WaitGroup
	errs := make([]error, len(missing))
	for i, p := range missing {
		all.Go(func() { _, errs[i] = p.source.get(ctx) })
	}
	all.Wait()
	failed := map[*provider]bool{}
	for i, err := range errs {
		if err != nil {
			failed[missing[i]] = true
			f.log.Warn("the keys of a JWT provider could not be fetched", "provider", missing[i].name, "error", err)
		}
	}
	return failed
}

// required is what the request needs; nil for nothing.
func (a *authn) required(h *message.Head) (*requirement, error) {
	if o := a.s.Override(); o != nil && o.Config != nil {
		own, is := o.Config.(*config.JWTOverride)
		if !is {
			return nil, fmt.Errorf("a route has %T for jwt_authn", o.Config)
		}
		if own.Disabled {
			return nil, nil
		}
		if r, there := a.f.named[own.Requirement]; there {
			return r, nil
		}
		names := strings.Join(slices.Sorted(maps.Keys(a.f.named)), ",")
		return nil, fmt.Errorf("Wrong requirement_name: %s. It should be one of [%s]", own.Requirement, names)
	}
	of := route.Request{Head: h, Info: a.s.Info(), Random: a.s.Rand()}
	for _, r := range a.f.rules {
		if r.match.Match(&of) {
			return r.requires, nil
		}
	}
	if a.f.cfg.FilterStateName != "" {
		return a.f.byState[a.s.Info().FilterState[a.f.cfg.FilterStateName]], nil
	}
	return nil, nil
}

// judge verifies and lets the request go on, or answers it.
func (a *authn) judge(r *requirement, h *message.Head, failed map[*provider]bool) filter.Action {
	v := &verification{s: a.s, misses: a.f.misses, head: h, failed: failed, now: time.Now()}
	st := r.verify(v)
	v.store()
	if st == ok {
		a.f.allowed.Inc()
		return filter.Continue
	}
	a.f.denied.Inc()
	var fields message.Fields
	if !a.f.cfg.StripFailure {
		challenge := `Bearer realm="` + a.realm + `"`
		if st != missed {
			challenge += `, error="invalid_token"`
		}
		fields.Add("www-authenticate", challenge)
	}
	a.refuse(st.code(), st.String(), st.String(), fields)
	return filter.Stop
}

func (a *authn) refuse(code int, body, why string, fields message.Fields) {
	if a.f.cfg.StripFailure {
		body = ""
	}
	a.s.Reply(filter.Reply{
		Status: code, Body: body, Fields: fields,
		Details: "jwt_authn_access_denied{" + strings.Join(strings.Fields(why), "_") + "}",
	})
}

// maxRealm is how much of the path is in the challenge (Envoy:
// MaximumUriLength).
const maxRealm = 256

// realm is the request's URI, as the client had it.
func realm(h *message.Head) string {
	path := h.Fields.Value("x-envoy-original-path")
	if path == "" {
		path = h.Path
	}
	return h.Scheme + "://" + h.Authority + path[:min(len(path), maxRealm)]
}

// Check is filter.Checker. The name of a requirement is looked up when a
// request comes, as in Envoy.
func (f *factory) Check(o *config.FilterOverride) error {
	if _, is := o.Config.(*config.JWTOverride); !is && o.Config != nil {
		return fmt.Errorf("%T is not of jwt_authn", o.Config)
	}
	return nil
}
