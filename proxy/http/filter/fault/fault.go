// Package fault is envoy.filters.http.fault: it delays and aborts requests and
// slows responses down, to see how clients bear it.
package fault

import (
	"fmt"
	"math"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/http/filter"
	"outrider/proxy/http/message"
	"outrider/proxy/stats"
)

// New makes the filter of a *config.HTTPFault. A route's replaces it.
func New(cfg *config.HTTPFilter, d filter.Deps) (filter.Factory, error) {
	own, ok := cfg.Config.(*config.HTTPFault)
	if !ok {
		return nil, fmt.Errorf("%T is no configuration of fault", cfg.Config)
	}
	base, err := compile(own)
	if err != nil {
		return nil, err
	}
	scope := d.Scope.Scope("fault")
	c := &counts{
		scope: scope, active: scope.Gauge("active_faults"), overflow: scope.Counter("faults_overflow"),
		aborts: scope.Counter("aborts_injected"), delays: scope.Counter("delays_injected"),
		slowed: scope.Counter("response_rl_injected"),
	}
	routes := filter.NewOverrides(compile)
	return filter.Checked(filter.FactoryFunc(func(s filter.Stream) filter.Filter {
		return &injector{s: s, name: cfg.Name, base: base, routes: routes, counts: c}
	}), routes.Check), nil
}

// counts are the filter's metrics.
type counts struct {
	scope                            *stats.Scope
	active                           *stats.Gauge
	overflow, aborts, delays, slowed *stats.Counter
}

// injector is the filter of one request.
type injector struct {
	filter.Pass
	s      filter.Stream
	name   string
	base   *settings
	routes *filter.Overrides[config.HTTPFault, *settings]
	*counts

	use     *settings
	cluster string // the client's, to count by; "" none
	active1 bool   // this request is counted as an active fault
	pace    *pace  // nil: the response is not slowed down
}

// RequestHead injects what is configured: a delay, and an abort after it or
// alone.
func (f *injector) RequestHead(h *message.Head, _ bool) filter.Action {
	var err error
	if f.use, err = f.routes.Of(f.s.Override()); err != nil {
		return filter.Misconfigured(f.s, err)
	}
	if f.use == nil {
		f.use = f.base
	}
	if limit := f.use.cfg.MaxActive; limit != nil && f.counts.active.Value() >= int64(*limit) {
		f.overflow.Inc()
		return filter.Continue
	}
	if !f.use.wants(h, f.s.Cluster()) {
		return filter.Continue
	}
	if !f.use.cfg.NoStatsByCluster {
		f.cluster = h.Fields.Value("x-envoy-downstream-service-cluster")
	}
	if rate, ppm := f.use.rate(h); rate > 0 && f.s.PPM(ppm) {
		f.activate()
		f.slowed.Inc()
		f.pace = newPace(rate)
	}
	if d, ppm := f.use.delay(h); d >= time.Millisecond && f.s.PPM(ppm) {
		f.activate()
		f.delays.Inc()
		f.mark("delays_injected")
		f.s.Info().Flags.Set(flow.DelayInjected)
		f.s.After(d.Truncate(time.Millisecond), f.delayed)
		return filter.StopAll
	}
	if f.abort(h) {
		return filter.Stop
	}
	return filter.Continue
}

func (f *injector) delayed() {
	if !f.abort(f.s.Request()) {
		f.s.ResumeRequest()
	}
}

// abort answers the request, if it is to be aborted.
func (f *injector) abort(h *message.Head) bool {
	status, grpc, ppm := f.use.abort(h)
	if status == 0 || !f.s.PPM(ppm) {
		return false
	}
	f.activate()
	f.aborts.Inc()
	f.mark("aborts_injected")
	f.s.Reply(filter.Reply{
		Status: status, GRPC: grpc, Body: "fault filter abort", Details: "fault_filter_abort", Flags: flow.FaultInjected,
	})
	return true
}

// mark counts a fault for the client's cluster, and leaves the metadata.
func (f *injector) mark(name string) {
	for k, v := range f.use.cfg.Metadata.GetFields() {
		f.s.Info().SetMetadata(f.name, k, v)
	}
	if f.cluster != "" {
		f.scope.Tagged("envoy_fault_downstream_cluster", f.cluster).Counter(name).Inc()
	}
}

// activate counts the request once, whatever faults it has.
func (f *injector) activate() {
	if !f.active1 {
		f.active1 = true
		f.counts.active.Inc()
	}
}

// End counts the fault as gone.
func (f *injector) End() {
	if f.active1 {
		f.counts.active.Dec()
	}
}

// tick is how often a slowed response goes on (Envoy's fill interval).
const tick = 50 * time.Millisecond

// ResponseData lets so many bytes pass as there is allowance for. The rest is
// held, which slows the upstream down, and comes again after a tick.
func (f *injector) ResponseData(p []byte, end bool) ([]byte, filter.Action) {
	if f.pace == nil {
		return p, filter.Continue
	}
	n := f.pace.take(len(p))
	if n == len(p) {
		return p, filter.Continue
	}
	if n > 0 {
		f.s.InjectResponse(p[:n], false)
	}
	f.s.After(tick, f.s.ResumeResponse)
	return p[n:], filter.StopAll
}

// pace is a token bucket of bytes, for one response.
type pace struct {
	rate, tokens float64 // bytes a second; bytes
	at           time.Time
}

// newPace has what one tick allows at first.
func newPace(rate uint64) *pace {
	return &pace{rate: float64(rate), tokens: float64(rate) * tick.Seconds(), at: time.Now()}
}

// take takes n bytes, or as many as there are.
func (p *pace) take(n int) int {
	now := time.Now()
	p.tokens = min(p.rate, p.tokens+p.rate*now.Sub(p.at).Seconds())
	p.at = now
	n = min(n, int(math.Floor(p.tokens)))
	p.tokens -= float64(n)
	return n
}
