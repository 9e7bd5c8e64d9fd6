// Package healthcheck is envoy.filters.http.health_check: it answers health
// checks in the place of the upstream.
package healthcheck

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/headers"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

// New makes the filter of a *config.HTTPHealthCheckFilter. Routes have nothing
// for it.
func New(cfg *config.HTTPFilter, d filter.Deps) (filter.Factory, error) {
	own, ok := cfg.Config.(*config.HTTPHealthCheckFilter)
	if !ok {
		return nil, fmt.Errorf("%T is no configuration of health_check", cfg.Config)
	}
	match, err := headers.Compile(own.Headers)
	if err != nil {
		return nil, fmt.Errorf("headers%w", err)
	}
	c := &checks{
		match: match, passThrough: own.PassThrough, d: d,
		clusters: slices.Sorted(maps.Keys(own.MinHealthy)), minHealthy: own.MinHealthy,
		counts: newCounts(d.Scope.Scope("health_check")),
	}
	if own.CacheTime > 0 {
		c.cache = &cache{made: time.Now(), each: own.CacheTime}
	}
	return filter.FactoryFunc(func(s filter.Stream) filter.Filter { return &check{s: s, c: c} }), nil
}

// checks is what all requests share.
type checks struct {
	match       headers.Matchers
	passThrough bool
	cache       *cache   // nil: answers are not kept
	clusters    []string // in the order in which they are looked at
	minHealthy  map[string]float64
	d           filter.Deps
	*counts
}

// counts are the metrics of the health checks that were answered.
type counts struct {
	total, ok, failed, cached, degraded, noCluster, empty, unhealthy *stats.Counter
}

func newCounts(s *stats.Scope) *counts {
	return &counts{
		total: s.Counter("request_total"), ok: s.Counter("ok"), failed: s.Counter("failed"),
		cached: s.Counter("cached_response"), degraded: s.Counter("degraded"),
		noCluster: s.Counter("failed_cluster_not_found"), empty: s.Counter("failed_cluster_empty"),
		unhealthy: s.Counter("failed_cluster_unhealthy"),
	}
}

func (c *checks) failing() bool { return c.d.Failing != nil && c.d.Failing() }

// cache keeps the last answer to the end of the interval in which it came.
type cache struct {
	made time.Time
	each time.Duration
	last atomic.Pointer[answer]
}

type answer struct {
	interval int64
	status   int
	degraded bool
}

func (c *cache) interval() int64 { return int64(time.Since(c.made) / c.each) }

func (c *cache) keep(status int, degraded bool) {
	c.last.Store(&answer{c.interval(), status, degraded})
}

// current is the answer to give now; nil if the upstream must be asked.
func (c *cache) current() *answer {
	if a := c.last.Load(); a != nil && a.interval == c.interval() {
		return a
	}
	return nil
}

// check is the filter of one request.
type check struct {
	filter.Pass
	s filter.Stream
	c *checks

	is     bool // the request is a health check
	ours   bool // and it is ours to answer
	cached *answer
}

// RequestHead finds out whether the request is a health check, and whose.
func (f *check) RequestHead(h *message.Head, end bool) filter.Action {
	if f.is = f.c.match.Match(h); !f.is {
		return filter.Continue
	}
	f.s.Info().HTTP.HealthCheck = true
	if f.c.cache != nil {
		f.cached = f.c.cache.current()
	}
	f.ours = !f.c.passThrough || f.c.failing() || f.cached != nil
	if !f.ours {
		return filter.Continue
	}
	if end {
		f.answer()
	}
	return filter.Stop
}

// RequestData drops the body of a health check that is ours.
func (f *check) RequestData(p []byte, end bool) ([]byte, filter.Action) {
	if !f.ours {
		return p, filter.Continue
	}
	if end {
		f.answer()
	}
	return nil, filter.Stop
}

// RequestTrailers ends a health check.
func (f *check) RequestTrailers(*message.Fields) filter.Action {
	if !f.ours {
		return filter.Continue
	}
	f.answer()
	return filter.Stop
}

// answer says how we are.
func (f *check) answer() {
	r := filter.Reply{Status: 200, Details: "health_check_ok"}
	switch {
	case f.c.failing():
		r.Status, r.Details = 503, "health_check_failed"
	case f.cached != nil:
		r.Status, r.Details = f.cached.status, "health_check_cached"
		f.c.cached.Inc()
		if f.cached.degraded {
			f.c.degraded.Inc()
			r.Fields.Add("x-envoy-degraded", "")
		}
	case len(f.c.clusters) > 0:
		r.Status, r.Details = f.c.clustersHealthy()
	}
	f.c.total.Inc()
	if r.Status >= 200 && r.Status <= 299 {
		f.c.ok.Inc()
	} else {
		f.c.failed.Inc()
		r.Flags = flow.FailedLocalHealthCheck
	}
	f.s.Reply(r)
}

// clustersHealthy is the status by the shares of healthy hosts.
func (c *checks) clustersHealthy() (status int, details string) {
	for _, name := range c.clusters {
		least := c.minHealthy[name]
		cl := c.d.Clusters.Get(name)
		if cl == nil {
			c.noCluster.Inc()
			return 503, "health_check_failed_no_cluster_found"
		}
		stat := cl.Config().AltStatName
		if stat == "" {
			stat = name
		}
		scope := c.d.Stats.Scope("cluster").Tagged("envoy_cluster_name", stat)
		total := scope.Gauge("membership_total").Value()
		if total == 0 && least > 0 {
			c.empty.Inc()
			return 503, "health_check_failed_cluster_empty"
		}
		if float64(scope.Gauge("membership_healthy").Value()) < float64(total)*least/100 {
			c.unhealthy.Inc()
			return 503, "health_check_failed_cluster_unhealthy"
		}
	}
	return 200, "health_check_ok_cluster_healthy"
}

// ResponseHead keeps the upstream's answer to a health check, and tells the
// client to take us out at once if we are told to fail.
func (f *check) ResponseHead(h *message.Head, _ bool) filter.Action {
	if f.is {
		if f.c.cache != nil {
			f.c.cache.keep(h.Status, h.Fields.Has("x-envoy-degraded"))
		}
		h.Fields.Set("x-envoy-upstream-healthchecked-cluster", f.c.d.Node.Cluster)
	}
	if f.c.failing() {
		h.Fields.Set("x-envoy-immediate-health-check-fail", "true")
	}
	return filter.Continue
}
