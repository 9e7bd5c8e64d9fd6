package decode

import (
	"time"

	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	httpfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"outrider/proxy/config"
)

// Keys of the runtime that change faults where the filter names no others
// (Envoy's documentation of the fault filter).
const (
	faultDelayShare = "fault.http.delay.fixed_delay_percent"
	faultDelayTime  = "fault.http.delay.fixed_duration_ms"
	faultAbortShare = "fault.http.abort.abort_percent"
	faultAbortHTTP  = "fault.http.abort.http_status"
	faultAbortGRPC  = "fault.http.abort.grpc_status"
	faultMaxActive  = "fault.http.max_active_faults"
	faultRateShare  = "fault.http.rate_limit.response_percent"
)

func (d *decoder) fault(c *httpfaultv3.HTTPFault, place at) *config.HTTPFault {
	out := &config.HTTPFault{
		UpstreamCluster:  c.GetUpstreamCluster(),
		Headers:          d.headerMatchers(c.GetHeaders(), "headers", place),
		DownstreamNodes:  c.GetDownstreamNodes(),
		NoStatsByCluster: c.GetDisableDownstreamClusterStats(),
		Metadata:         c.GetFilterMetadata(),
		Delay:            d.faultDelay(c, place.in("delay")),
		Abort:            d.faultAbort(c),
	}
	limit := d.runtimeNumber(orKey(c.GetMaxActiveFaultsRuntime(), faultMaxActive), u32(c.GetMaxActiveFaults(), unlimited))
	if limit != unlimited {
		out.MaxActive = &limit
	}
	if r := c.GetResponseRateLimit(); r != nil {
		out.RatePPM = d.faultShare(orKey(c.GetResponseRateLimitPercentRuntime(), faultRateShare), r.GetPercentage())
		out.RateUnit = perUnit(r.GetPercentage())
		out.RateKBps = r.GetFixedLimit().GetLimitKbps()
		out.RateByHeader = r.GetHeaderLimit() != nil
	}
	return out
}

func orKey(key, def string) string {
	if key == "" {
		return def
	}
	return key
}

// faultShare is how many requests get a fault, per million: none if nothing is
// said.
func (d *decoder) faultShare(key string, p *typev3.FractionalPercent) uint32 {
	return d.runtimeShare(key, p, ppm(p))
}

func (d *decoder) faultDelay(c *httpfaultv3.HTTPFault, place at) *config.FaultDelay {
	f := c.GetDelay()
	if f == nil {
		return nil
	}
	out := &config.FaultDelay{PPM: d.faultShare(orKey(c.GetDelayPercentRuntime(), faultDelayShare), f.GetPercentage()), Unit: perUnit(f.GetPercentage())}
	switch v := f.GetFaultDelaySecifier().(type) {
	case *faultv3.FaultDelay_FixedDelay:
		fixed := duration(v.FixedDelay, 0, place.in("fixed_delay"))
		ms := d.runtimeNumber(orKey(c.GetDelayDurationRuntime(), faultDelayTime), unlimited)
		if out.Fixed = fixed; ms != unlimited {
			out.Fixed = time.Duration(ms) * time.Millisecond
		}
	case *faultv3.FaultDelay_HeaderDelay_:
		out.ByHeader = true
	}
	return out
}

func (d *decoder) faultAbort(c *httpfaultv3.HTTPFault) *config.FaultAbort {
	f := c.GetAbort()
	if f == nil {
		return nil
	}
	out := &config.FaultAbort{PPM: d.faultShare(orKey(c.GetAbortPercentRuntime(), faultAbortShare), f.GetPercentage()), Unit: perUnit(f.GetPercentage())}
	switch v := f.GetErrorType().(type) {
	case *httpfaultv3.FaultAbort_HttpStatus:
		out.Status = int(d.runtimeNumber(orKey(c.GetAbortHttpStatusRuntime(), faultAbortHTTP), v.HttpStatus))
	case *httpfaultv3.FaultAbort_GrpcStatus:
		status := d.runtimeNumber(orKey(c.GetAbortGrpcStatusRuntime(), faultAbortGRPC), v.GrpcStatus)
		out.GRPC = &status
	case *httpfaultv3.FaultAbort_HeaderAbort_:
		out.ByHeader = true
	}
	return out
}
