// Package localratelimit is envoy.filters.http.local_ratelimit: it refuses
// requests of which there are too many, by token buckets of this process.
package localratelimit

import (
	"errors"
	"fmt"
	"math"
	"strconv"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/edit"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

// New makes the filter of a *config.LocalRateLimit. A route's replaces it, with
// buckets of its own.
func New(cfg *config.HTTPFilter, d filter.Deps) (filter.Factory, error) {
	own, ok := cfg.Config.(*config.LocalRateLimit)
	if !ok {
		return nil, fmt.Errorf("%T is no configuration of local_ratelimit", cfg.Config)
	}
	base, err := compile(own, d)
	if err != nil {
		return nil, err
	}
	routes := filter.NewOverrides(func(c *config.LocalRateLimit) (*rules, error) {
		if c.Bucket == nil {
			return nil, errors.New("token_bucket: a route must have one")
		}
		return compile(c, d)
	})
	return filter.Checked(filter.FactoryFunc(func(s filter.Stream) filter.Filter {
		return &limited{s: s, base: base, routes: routes}
	}), routes.Check), nil
}

// rules are a compiled config.LocalRateLimit, with its buckets.
type rules struct {
	cfg         config.LocalRateLimit // a copy: see filter.Overrides
	shared      *limiter
	conns       filter.Attached[flow.Info, *limiter] // with PerConnection
	makers      []maker                              // nil: those of the route
	routeMakers *routeMakers
	requestAdd  []edit.Add
	responseAdd []edit.Add

	enabled, ok, limited, enforced, shadowed *stats.Counter
}

func compile(cfg *config.LocalRateLimit, d filter.Deps) (*rules, error) {
	scope := d.Stats.Tagged("envoy_local_http_ratelimit_prefix", cfg.StatPrefix).Scope("http_local_rate_limit")
	r := &rules{
		cfg: *cfg, routeMakers: newRouteMakers(d),
		enabled: scope.Counter("enabled"), ok: scope.Counter("ok"),
		limited: scope.Counter("rate_limited"), enforced: scope.Counter("enforced"), shadowed: scope.Counter("shadow_mode"),
	}
	err := check(cfg)
	var makersErr, requestErr, responseErr error
	r.makers, makersErr = compileMakers(cfg.RateLimits, d)
	r.requestAdd, requestErr = edit.CompileAdds(cfg.RequestAdd, d.Format)
	r.responseAdd, responseErr = edit.CompileAdds(cfg.ResponseAdd, d.Format)
	if err = errors.Join(err, at("rate_limits", makersErr), at("request_headers_to_add_when_not_enforced", requestErr), at("response_headers_to_add", responseErr)); err != nil {
		return nil, err
	}
	r.shared = newLimiter(cfg)
	return r, nil
}

// at says where err is; nil if there is none.
func at(field string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s%w", field, err)
}

// limiter is the buckets that count for a request of the connection.
func (r *rules) limiter(conn *flow.Info) *limiter {
	if !r.cfg.PerConnection || conn == nil {
		return r.shared
	}
	return r.conns.Of(conn, func() *limiter { return newLimiter(&r.cfg) })
}

// limited is the filter of one request.
type limited struct {
	filter.Pass
	s      filter.Stream
	base   *rules
	routes *filter.Overrides[config.LocalRateLimit, *rules]

	told *bucket // what the x-ratelimit headers are about; nil: there are none
}

// RequestHead takes the request's token, or refuses it.
func (f *limited) RequestHead(h *message.Head, _ bool) filter.Action {
	r, err := f.routes.Of(f.s.Override())
	if err != nil {
		return filter.Misconfigured(f.s, err)
	}
	if r == nil {
		r = f.base
	}
	if !f.s.PPM(r.cfg.EnabledPPM) {
		return filter.Continue
	}
	r.enabled.Inc()
	info := f.s.Info()
	var descriptors []descriptor
	if len(r.cfg.Descriptors) > 0 {
		if descriptors, err = r.descriptors(f.s, h); err != nil {
			return filter.Misconfigured(f.s, err)
		}
	}
	result, told := r.limiter(info.HTTP.Connection).allow(descriptors)
	if r.cfg.XRateLimitHeaders {
		f.told = told
	}
	if result == allowed {
		r.ok.Inc()
		return filter.Continue
	}
	r.limited.Inc()
	if result == shadowed {
		r.shadowed.Inc()
		return filter.Continue
	}
	if !f.s.PPM(r.cfg.EnforcedPPM) {
		for i := range r.requestAdd {
			r.requestAdd[i].Apply(h, info)
		}
		return filter.Continue
	}
	r.enforced.Inc()
	f.s.Reply(r.refusal(info, told))
	return filter.Stop
}

// grpcResourceExhausted is gRPC's RESOURCE_EXHAUSTED.
const grpcResourceExhausted = 8

// refusal is the answer to a request that is one too many.
func (r *rules) refusal(info *flow.Info, told *bucket) filter.Reply {
	out := filter.Reply{
		Status: r.cfg.Status, Body: "local_rate_limited", Details: "local_rate_limited", Flags: flow.RateLimited,
	}
	for i := range r.responseAdd {
		r.responseAdd[i].ApplyFields(&out.Fields, info)
	}
	if r.cfg.RetryAfter && r.cfg.Status == 429 && told != nil && !out.Fields.Has("retry-after") {
		out.Fields.Add("retry-after", strconv.FormatUint(max(told.seconds(), 1), 10))
	}
	if r.cfg.GRPCResourceExhausted {
		code := uint32(grpcResourceExhausted)
		out.GRPC = &code
	}
	return out
}

// ResponseHead tells the client of the limit.
func (f *limited) ResponseHead(h *message.Head, _ bool) filter.Action {
	if f.told != nil {
		h.Fields.Add("x-ratelimit-limit", strconv.FormatUint(uint64(f.told.max), 10))
		h.Fields.Add("x-ratelimit-remaining", strconv.FormatUint(f.told.remaining(), 10))
		h.Fields.Add("x-ratelimit-reset", strconv.FormatUint(f.told.seconds(), 10))
	}
	return filter.Continue
}

// seconds is wait in whole seconds, rounded up.
func (b *bucket) seconds() uint64 { return uint64(math.Ceil(b.wait().Seconds())) }
