package fault

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"outrider/proxy/config"
	"outrider/proxy/http/headers"
	"outrider/proxy/http/message"
)

// Headers by which a request asks for its own fault, where the configuration
// lets it.
const (
	delayHeader          = "x-envoy-fault-delay-request" // milliseconds
	delayPercentHeader   = "x-envoy-fault-delay-request-percentage"
	abortHeader          = "x-envoy-fault-abort-request"
	abortGRPCHeader      = "x-envoy-fault-abort-grpc-request"
	abortPercentHeader   = "x-envoy-fault-abort-request-percentage"
	throughputHeader     = "x-envoy-fault-throughput-response" // KiB/s
	throughputPercHeader = "x-envoy-fault-throughput-response-percentage"
)

// settings are a compiled config.HTTPFault.
type settings struct {
	cfg   config.HTTPFault // a copy: see filter.Overrides
	match headers.Matchers
}

func compile(cfg *config.HTTPFault) (*settings, error) {
	match, err := headers.Compile(cfg.Headers)
	if err != nil {
		return nil, fmt.Errorf("headers%w", err)
	}
	return &settings{*cfg, match}, nil
}

// wants reports whether a request to the cluster is one that faults are for.
func (c *settings) wants(h *message.Head, cluster string) bool {
	if c.cfg.UpstreamCluster != "" && c.cfg.UpstreamCluster != cluster {
		return false
	}
	if n := c.cfg.DownstreamNodes; len(n) > 0 {
		node, ok := h.Fields.Get("x-envoy-downstream-service-node")
		if !ok || !slices.Contains(n, node) {
			return false
		}
	}
	return c.match.Match(h)
}

// delay is how long a request with those headers is held, and how probable that
// is in a million; 0 for not at all.
func (c *settings) delay(h *message.Head) (time.Duration, uint32) {
	f := c.cfg.Delay
	switch {
	case f == nil:
		return 0, 0
	case !f.ByHeader:
		return f.Fixed, f.PPM
	}
	ms, ok := number(h, delayHeader)
	if !ok || ms > uint64(maxDelay/time.Millisecond) {
		return 0, 0
	}
	return time.Duration(ms) * time.Millisecond, lowered(h, delayPercentHeader, f.PPM, f.Unit)
}

// maxDelay is more than any request lives, and can be added to a time.
const maxDelay = 1000 * time.Hour

// abort is the status to answer with, and how probable that is in a million;
// status 0 for not at all.
func (c *settings) abort(h *message.Head) (status int, grpc *uint32, ppm uint32) {
	f := c.cfg.Abort
	switch {
	case f == nil:
		return 0, nil, 0
	case !f.ByHeader && f.GRPC != nil:
		return 200, f.GRPC, f.PPM
	case !f.ByHeader:
		return f.Status, nil, f.PPM
	}
	ppm = lowered(h, abortPercentHeader, f.PPM, f.Unit)
	if code, ok := number(h, abortGRPCHeader); ok && code <= 1<<31 {
		g := uint32(code)
		return 200, &g, ppm
	}
	if code, ok := number(h, abortHeader); ok && code >= 200 && code < 600 {
		return int(code), nil, ppm
	}
	return 0, nil, 0
}

// rate is how many bytes of the response a second may pass, and how probable
// that limit is in a million; 0 for no limit.
func (c *settings) rate(h *message.Head) (bytes uint64, ppm uint32) {
	kib, ppm := c.cfg.RateKBps, c.cfg.RatePPM
	if c.cfg.RateByHeader {
		kib, _ = number(h, throughputHeader)
		ppm = lowered(h, throughputPercHeader, ppm, c.cfg.RateUnit)
	}
	return min(kib, maxKiB) * 1024, ppm
}

// maxKiB is beyond any link; its bytes fit a uint64.
const maxKiB = 1 << 40

// lowered is ppm, or less if a header says so in the unit of the percentage.
func lowered(h *message.Head, name string, ppm, unit uint32) uint32 {
	n, ok := number(h, name)
	if !ok {
		return ppm
	}
	return uint32(min(uint64(ppm), min(n, 1e6)*uint64(max(unit, 1))))
}

// number is the first value of a header, if it is one.
func number(h *message.Head, name string) (uint64, bool) {
	n, err := strconv.ParseUint(h.Fields.Value(name), 10, 64)
	return n, err == nil
}
