package flow

import (
	"slices"
	"strings"
)

// ResponseFlags are Envoy's response flags (RESPONSE_FLAGS).
type ResponseFlags uint64

// The flags that a connection or a request can have, in the order in which Envoy
// prints them; source: Envoy's access log documentation, %RESPONSE_FLAGS%.
const (
	FailedLocalHealthCheck           ResponseFlags = 1 << iota // LH
	NoHealthyUpstream                                          // UH
	UpstreamRequestTimeout                                     // UT
	LocalReset                                                 // LR
	UpstreamRemoteReset                                        // UR
	UpstreamConnectionFailure                                  // UF
	UpstreamConnectionTermination                              // UC
	UpstreamOverflow                                           // UO
	NoRouteFound                                               // NR: no filter chain, route or cluster for it
	DelayInjected                                              // DI
	FaultInjected                                              // FI
	RateLimited                                                // RL
	UnauthorizedExternalService                                // UAEX
	RateLimitServiceError                                      // RLSE
	DownstreamConnectionTermination                            // DC
	UpstreamRetryLimitExceeded                                 // URX
	StreamIdleTimeout                                          // SI
	InvalidEnvoyRequestHeaders                                 // IH
	DownstreamProtocolError                                    // DPE
	UpstreamMaxStreamDurationReached                           // UMSDR
	NoFilterConfigFound                                        // NFCF
	DurationTimeout                                            // DT
	UpstreamProtocolError                                      // UPE
	NoClusterFound                                             // NC
	OverloadManager                                            // OM
	DNSResolutionFailed                                        // DF
	DropOverload                                               // DO
	DownstreamRemoteReset                                      // DR
)

var flagNames = []string{"LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX", "SI", "IH", "DPE", "UMSDR", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR"}
var flagLongNames = []string{
	"FailedLocalHealthCheck", "NoHealthyUpstream", "UpstreamRequestTimeout", "LocalReset",
	"UpstreamRemoteReset", "UpstreamConnectionFailure", "UpstreamConnectionTermination", "UpstreamOverflow",
	"NoRouteFound", "DelayInjected", "FaultInjected", "RateLimited",
	"UnauthorizedExternalService", "RateLimitServiceError", "DownstreamConnectionTermination", "UpstreamRetryLimitExceeded",
	"StreamIdleTimeout", "InvalidEnvoyRequestHeaders", "DownstreamProtocolError", "UpstreamMaxStreamDurationReached",
	"NoFilterConfigFound", "DurationTimeout", "UpstreamProtocolError", "NoClusterFound",
	"OverloadManagerTerminated", "DnsResolutionFailed", "DropOverload", "DownstreamRemoteReset",
}

// Set adds flags.
func (f *ResponseFlags) Set(flags ResponseFlags) { *f |= flags }

// Bits are the flags as the number that Envoy makes of them, which has a place
// (20) for one that there is none of here.
func (f ResponseFlags) Bits() int64 {
	const before = 20
	return int64(f&(1<<before-1) | f>>before<<(before+1))
}

// Has reports whether any of flags is set.
func (f ResponseFlags) Has(flags ResponseFlags) bool { return f&flags != 0 }

// String is %RESPONSE_FLAGS%: short names joined by commas, "" for none.
func (f ResponseFlags) String() string { return f.join(flagNames) }

// Long is %RESPONSE_FLAGS_LONG%.
func (f ResponseFlags) Long() string { return f.join(flagLongNames) }

func (f ResponseFlags) join(names []string) string {
	var out []string
	for i, n := range names {
		if f&(1<<i) != 0 {
			out = append(out, n)
		}
	}
	return strings.Join(out, ",")
}

// HasAny reports whether any of the flags with those short names is set.
func (f ResponseFlags) HasAny(names []string) bool {
	for _, name := range names {
		if i := slices.Index(flagNames, name); i >= 0 && f&(1<<i) != 0 {
			return true
		}
	}
	return false
}
