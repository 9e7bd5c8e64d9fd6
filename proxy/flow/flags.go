package flow

import (
	"slices"
	"strings"
)

// ResponseFlags are Envoy's response flags (RESPONSE_FLAGS).
type ResponseFlags uint64

// The flags that a TCP connection can have; source: Envoy's access log
// documentation, %RESPONSE_FLAGS%.
const (
	NoHealthyUpstream               ResponseFlags = 1 << iota // UH
	UpstreamConnectionFailure                                 // UF
	UpstreamConnectionTermination                             // UC
	UpstreamOverflow                                          // UO
	NoRouteFound                                              // NR: no filter chain or no cluster for it
	UpstreamRetryLimitExceeded                                // URX
	NoClusterFound                                            // NC
	DownstreamConnectionTermination                           // DC
	UnauthorizedExternalService                               // UAEX
	DurationTimeout                                           // DT
	StreamIdleTimeout                                         // SI
	OverloadManager                                           // OM
	DNSResolutionFailed                                       // DF
	LocalReset                                                // LR
	UpstreamRemoteReset                                       // UR
)

var flagNames = []string{"UH", "UF", "UC", "UO", "NR", "URX", "NC", "DC", "UAEX", "DT", "SI", "OM", "DF", "LR", "UR"}
var flagLongNames = []string{
	"NoHealthyUpstream", "UpstreamConnectionFailure", "UpstreamConnectionTermination",
	"UpstreamOverflow", "NoRouteFound", "UpstreamRetryLimitExceeded", "NoClusterFound",
	"DownstreamConnectionTermination", "UnauthorizedExternalService", "DurationTimeout",
	"StreamIdleTimeout", "OverloadManagerTerminated", "DnsResolutionFailed", "LocalReset",
	"UpstreamRemoteReset",
}

// Set adds flags.
func (f *ResponseFlags) Set(flags ResponseFlags) { *f |= flags }

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
