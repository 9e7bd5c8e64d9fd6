package cluster

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/stats"
)

// outlierDetection ejects hosts that fail more than the others. A TCP
// connection has one result, whether it could be made: without
// split_external_local_origin_errors a failure stands for the response 503 and
// a timeout for 504, with it both are local-origin failures.
type outlierDetection struct {
	c     *Cluster
	cfg   *config.Outlier
	stats outlierStats

	// mu guards every ejection's fields but its atomic ones.
	mu sync.Mutex
	// rates are what /clusters shows: external, local.
	rates [2]rateNumbers // guarded by mu
}

// ejection is one host's part.
type ejection struct {
	consecutive5xx, consecutiveGateway, consecutiveLocal atomic.Uint32
	external, local                                      rate

	ejected, unejected time.Time     // guarded by outlierDetection.mu; zero: never
	backoff            int           // guarded by outlierDetection.mu; how many base_ejection_times
	jitter             time.Duration // guarded by outlierDetection.mu
	count              int           // guarded by outlierDetection.mu
}

// rate counts results in the current interval; its success rate is of the one
// before.
type rate struct {
	total, success         atomic.Uint64
	lastTotal, lastSuccess uint64        // guarded by outlierDetection.mu
	shown                  atomic.Uint64 // Float64bits of the percentage + 1, 0 for none
}

func (r *rate) put(success bool) {
	r.total.Add(1)
	if success {
		r.success.Add(1)
	}
}

func (r *rate) turn() {
	r.lastTotal, r.lastSuccess = r.total.Swap(0), r.success.Swap(0)
	r.shown.Store(0)
}

func (r *rate) percent() float64 { return float64(r.lastSuccess) * 100 / float64(r.lastTotal) }

// show is the success rate for /clusters, -1 if there is none.
func (r *rate) show() float64 {
	if bits := r.shown.Load(); bits != 0 {
		return math.Float64frombits(bits) - 1
	}
	return -1
}

// rateNumbers are of the last interval, -1 where there were too few hosts.
type rateNumbers struct{ average, threshold float64 }

// ejectionType is Envoy's OutlierEjectionType, by its name in metrics.
type ejectionType int

const (
	byConsecutive5xx ejectionType = iota
	byConsecutiveGateway
	byConsecutiveLocal
	bySuccessRate
	byLocalSuccessRate
	byFailurePercentage
	byLocalFailurePercentage
	ejectionTypes
)

var ejectionNames = [ejectionTypes]string{
	"consecutive_5xx", "consecutive_gateway_failure", "consecutive_local_origin_failure", "success_rate",
	"local_origin_success_rate", "failure_percentage", "local_origin_failure_percentage",
}

type outlierStats struct {
	active                                      *stats.Gauge
	overflow, enforcedTotal                     *stats.Counter
	detected, enforced                          [ejectionTypes]*stats.Counter
	oldTotal, oldConsecutive5xx, oldSuccessRate *stats.Counter // deprecated, but still counted by Envoy
}

func newOutlierDetection(c *Cluster, cfg *config.Outlier) *outlierDetection {
	s := c.scope.Scope("outlier_detection")
	o := &outlierDetection{c: c, cfg: cfg, rates: [2]rateNumbers{{-1, -1}, {-1, -1}}}
	o.stats = outlierStats{
		active: s.Gauge("ejections_active"), overflow: s.Counter("ejections_overflow"),
		enforcedTotal: s.Counter("ejections_enforced_total"), oldTotal: s.Counter("ejections_total"),
		oldConsecutive5xx: s.Counter("ejections_consecutive_5xx"), oldSuccessRate: s.Counter("ejections_success_rate"),
	}
	for i, name := range ejectionNames {
		o.stats.detected[i] = s.Counter("ejections_detected_" + name)
		o.stats.enforced[i] = s.Counter("ejections_enforced_" + name)
	}
	return o
}

// run looks at success rates and takes hosts back at every interval.
func (o *outlierDetection) run(ctx context.Context) {
	tick := time.NewTicker(max(o.cfg.Interval, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			o.interval()
		}
	}
}

// connected takes in that a connection to h was made.
func (o *outlierDetection) connected(h *Host) {
	e := &h.eject
	if o.cfg.SplitExternalLocal {
		e.local.put(true)
		e.consecutiveLocal.Store(0)
		return
	}
	e.external.put(true)
	e.consecutive5xx.Store(0)
	e.consecutiveGateway.Store(0)
}

// failed takes in that a connection to h could not be made.
func (o *outlierDetection) failed(h *Host) {
	e := &h.eject
	if o.cfg.SplitExternalLocal {
		e.local.put(false)
		if e.consecutiveLocal.Add(1) == o.cfg.ConsecutiveLocal {
			o.consecutive(h, byConsecutiveLocal)
		}
		return
	}
	// 503 and 504 are both gateway errors.
	e.external.put(false)
	if e.consecutiveGateway.Add(1) == o.cfg.ConsecutiveGateway {
		o.consecutive(h, byConsecutiveGateway)
	}
	if e.consecutive5xx.Add(1) == o.cfg.Consecutive5xx {
		o.consecutive(h, byConsecutive5xx)
	}
}

// response takes in the status of an answer of h (Envoy:
// putHttpResponseCode).
func (o *outlierDetection) response(h *Host, status int) {
	e := &h.eject
	if status < 500 {
		e.external.put(true)
		e.consecutive5xx.Store(0)
		e.consecutiveGateway.Store(0)
		return
	}
	e.external.put(false)
	if status >= 502 && status <= 504 {
		if e.consecutiveGateway.Add(1) == o.cfg.ConsecutiveGateway {
			o.consecutive(h, byConsecutiveGateway)
		}
	} else {
		e.consecutiveGateway.Store(0)
	}
	if e.consecutive5xx.Add(1) == o.cfg.Consecutive5xx {
		o.consecutive(h, byConsecutive5xx)
	}
}

func (o *outlierDetection) consecutive(h *Host, why ejectionType) {
	o.mu.Lock()
	changed := o.onConsecutive(h, why)
	o.mu.Unlock()
	if changed {
		o.c.healthChanged(h)
	}
}

// onConsecutive needs mu.
func (o *outlierDetection) onConsecutive(h *Host, why ejectionType) bool {
	if h.has(failedOutlier) || !o.c.member(h) {
		return false
	}
	o.stats.detected[why].Inc()
	changed := o.ejectHost(h, why)
	switch why {
	case byConsecutive5xx:
		o.stats.oldConsecutive5xx.Inc()
		h.eject.consecutive5xx.Store(0)
	case byConsecutiveGateway:
		h.eject.consecutiveGateway.Store(0)
	default:
		h.eject.consecutiveLocal.Store(0)
	}
	return changed
}

// ejectHost ejects h unless too many are ejected, or the enforcing percentage
// says not this time. It needs mu.
func (o *outlierDetection) ejectHost(h *Host, why ejectionType) bool {
	if h.has(failedOutlier) {
		return false
	}
	hosts := o.c.snap.Load().hosts
	ejected := 0
	for _, other := range hosts {
		if other.has(failedOutlier) {
			ejected++
		}
	}
	// Over the whole cluster, not by priority, as in Envoy.
	fits := 100*float64(ejected+1)/float64(max(1, len(hosts))) <= float64(min(100, o.cfg.MaxEjectionPercent))
	if !fits && (!o.cfg.AlwaysEjectOne || ejected > 0) {
		o.stats.overflow.Inc()
		return false
	}
	if why == byConsecutive5xx || why == bySuccessRate {
		o.stats.oldTotal.Inc()
	}
	if uint32(o.c.opts.Rand()%100) >= o.enforcing(why) {
		return false
	}
	o.stats.enforcedTotal.Inc()
	o.stats.enforced[why].Inc()
	e := &h.eject
	e.ejected = o.c.opts.Now()
	e.count++
	e.jitter = 0
	if j := o.cfg.EjectionJitter; j > 0 {
		e.jitter = time.Duration(o.c.opts.Rand() % uint64(j+1))
	}
	if time.Duration(e.backoff)*o.cfg.BaseEjection < o.longest()+o.cfg.BaseEjection {
		e.backoff++
	}
	h.set(failedOutlier)
	o.stats.active.Set(int64(ejected + 1))
	o.c.opts.Log.Info("host ejected", "cluster", o.c.cfg.Name, "host", h.String(), "reason", ejectionNames[why])
	return true
}

// longest is max_ejection_time; its default is the larger of 300 s and
// base_ejection_time.
func (o *outlierDetection) longest() time.Duration {
	return or(o.cfg.MaxEjection, max(300*time.Second, o.cfg.BaseEjection))
}

func (o *outlierDetection) enforcing(why ejectionType) uint32 {
	c := o.cfg
	return [ejectionTypes]uint32{
		c.EnforcingConsecutive5xx, c.EnforcingConsecutiveGateway, c.EnforcingConsecutiveLocal, c.EnforcingSuccessRate,
		c.EnforcingLocalSuccessRate, c.EnforcingFailurePercentage, c.EnforcingFailurePercentageLocal,
	}[why]
}

// interval is one turn: take back whom it is time for, eject who fell behind.
func (o *outlierDetection) interval() {
	o.mu.Lock()
	hosts := o.c.snap.Load().hosts
	now := o.c.opts.Now()
	var changed []*Host
	for _, h := range hosts {
		if o.served(h, now) {
			o.takeBack(h, now)
			changed = append(changed, h)
		}
		h.eject.external.turn()
		h.eject.local.turn()
	}
	changed = append(changed, o.byRate(hosts, false)...)
	changed = append(changed, o.byRate(hosts, true)...)
	for _, h := range hosts {
		e := &h.eject
		if !h.has(failedOutlier) && !e.unejected.IsZero() && now.Sub(e.unejected) >= o.cfg.Interval && e.backoff > 0 {
			e.backoff--
		}
	}
	o.countActive()
	o.mu.Unlock()
	for _, h := range changed {
		o.c.healthChanged(h)
	}
}

// served reports whether h has been out for long enough. It needs mu.
func (o *outlierDetection) served(h *Host, now time.Time) bool {
	if !h.has(failedOutlier) {
		return false
	}
	e := &h.eject
	return now.Sub(e.ejected) >= min(time.Duration(e.backoff)*o.cfg.BaseEjection, o.longest())+e.jitter
}

// takeBack needs mu.
func (o *outlierDetection) takeBack(h *Host, now time.Time) {
	e := &h.eject
	h.clear(failedOutlier)
	e.unejected = now
	e.consecutive5xx.Store(0)
	e.consecutiveGateway.Store(0)
	e.consecutiveLocal.Store(0)
	o.c.opts.Log.Info("host taken back", "cluster", o.c.cfg.Name, "host", h.String())
}

// countActive needs mu.
func (o *outlierDetection) countActive() {
	n := int64(0)
	for _, h := range o.c.snap.Load().hosts {
		if h.has(failedOutlier) {
			n++
		}
	}
	o.stats.active.Set(n)
}

// checkedHealthy takes h back early because an active health check succeeded.
func (o *outlierDetection) checkedHealthy(h *Host) {
	if !o.cfg.SuccessfulCheckUnejects || !h.has(failedOutlier) {
		return
	}
	o.mu.Lock()
	o.takeBack(h, o.c.opts.Now())
	o.countActive()
	o.mu.Unlock()
	o.c.healthChanged(h)
}

// byRate ejects by success rate and by failure percentage; local is about
// local-origin results. It needs mu.
func (o *outlierDetection) byRate(hosts []*Host, local bool) []*Host {
	of := func(h *Host) *rate {
		if local {
			return &h.eject.local
		}
		return &h.eject.external
	}
	rateType, percentType, numbers := bySuccessRate, byFailurePercentage, &o.rates[0]
	if local {
		rateType, percentType, numbers = byLocalSuccessRate, byLocalFailurePercentage, &o.rates[1]
	}
	*numbers = rateNumbers{-1, -1}
	var rated, measured, changed []*Host
	for _, h := range hosts {
		r := of(h)
		if h.has(failedOutlier) || r.lastTotal == 0 {
			continue
		}
		enough, enoughToo := r.lastTotal >= uint64(o.cfg.SuccessRateRequestVolume), r.lastTotal >= uint64(o.cfg.FailurePercentageVolume)
		if enough || enoughToo {
			r.shown.Store(math.Float64bits(r.percent() + 1))
		}
		if enough {
			rated = append(rated, h)
		}
		if enoughToo {
			measured = append(measured, h)
		}
	}
	if len(rated) > 0 && len(rated) >= int(o.cfg.SuccessRateMinHosts) {
		*numbers = threshold(rated, of, float64(o.cfg.SuccessRateStdevFactor)/1000)
		for _, h := range rated {
			if of(h).percent() < numbers.threshold {
				o.stats.oldSuccessRate.Inc()
				o.stats.detected[rateType].Inc()
				if o.ejectHost(h, rateType) {
					changed = append(changed, h)
				}
			}
		}
	}
	if len(measured) > 0 && len(measured) >= int(o.cfg.FailurePercentageMinHosts) {
		for _, h := range measured {
			if 100-of(h).percent() >= float64(o.cfg.FailurePercentageThreshold) {
				o.stats.detected[percentType].Inc()
				if o.ejectHost(h, percentType) {
					changed = append(changed, h)
				}
			}
		}
	}
	return changed
}

// threshold is the mean less a number of standard deviations.
func threshold(hosts []*Host, of func(*Host) *rate, factor float64) rateNumbers {
	var sum, variance float64
	for _, h := range hosts {
		sum += of(h).percent()
	}
	mean := sum / float64(len(hosts))
	for _, h := range hosts {
		variance += math.Pow(of(h).percent()-mean, 2)
	}
	stdev := math.Sqrt(variance / float64(len(hosts)))
	return rateNumbers{mean, mean - factor*stdev}
}

// member reports whether h is still one of the cluster's hosts.
func (c *Cluster) member(h *Host) bool {
	for _, other := range c.snap.Load().hosts {
		if other == h {
			return true
		}
	}
	return false
}
