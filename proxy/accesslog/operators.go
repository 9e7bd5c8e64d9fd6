package accesslog

import (
	"crypto/rand"
	"os"
	"strconv"
	"strings"
	"time"

	"outrider/proxy/flow"
	"outrider/tlsmux"
)

// spec is what an operator takes, and how it is made.
type spec struct {
	argument argumentRule
	length   bool // :LENGTH is allowed
	make     func(argument string) (operator, error)
	refused  string // why, if Envoy has it and we cannot
}

type argumentRule int

const (
	noArgument argumentRule = iota // nor a length
	mayHaveArgument
	needsArgument
)

// operators are all there are, by name; source: Envoy 1.40, substitution
// formatter.
func operators() map[string]spec {
	all := map[string]spec{}
	for _, add := range []func(map[string]spec){
		addCounts, addNames, addAddresses, addHTTP, addTimes, addLookups, addTLS, addCEL, addRefused,
	} {
		add(all)
	}
	return all
}

// plain is an operator without an argument.
func plain(op operator) spec {
	return spec{make: func(string) (operator, error) { return op, nil }}
}

// text is an operator of text; "" is no value.
func text(f func(*flow.Info) string) operator {
	return operator{text: func(b []byte, e *entry) ([]byte, bool) {
		s := f(e.info)
		return append(b, s...), s != ""
	}}
}

// number is an operator of a number, which JSON does not quote.
func number(f func(e *entry) (uint64, bool)) operator {
	print := func(b []byte, e *entry) ([]byte, bool) {
		n, ok := f(e)
		if !ok {
			return b, false
		}
		return strconv.AppendUint(b, n, 10), true
	}
	return operator{text: print, json: print}
}

// constant is the same text in each line.
func constant(s string) operator {
	return operator{text: func(b []byte, _ *entry) ([]byte, bool) { return append(b, s...), true }}
}

// none is of what a TCP connection does not have.
func none() operator {
	return operator{text: func(b []byte, _ *entry) ([]byte, bool) { return b, false }}
}

func addNames(all map[string]spec) {
	for name, f := range map[string]func(*flow.Info) string{
		"RESPONSE_FLAGS":                 func(i *flow.Info) string { return orDash(i.Flags.String()) },
		"RESPONSE_FLAGS_LONG":            func(i *flow.Info) string { return orDash(i.Flags.Long()) },
		"CONNECTION_TERMINATION_DETAILS": func(i *flow.Info) string { return i.TerminationDetails },
		"DOWNSTREAM_LOCAL_CLOSE_REASON":  func(i *flow.Info) string { return i.LocalCloseReason },
		"DOWNSTREAM_DETECTED_CLOSE_TYPE": func(i *flow.Info) string { return i.DownstreamReset.String() },
		"UPSTREAM_DETECTED_CLOSE_TYPE":   upstreamCloseType,
		"UPSTREAM_CLUSTER_RAW":           func(i *flow.Info) string { return i.UpstreamCluster },
		"UPSTREAM_CLUSTER":               clusterName,
		"UPSTREAM_HOST_NAME":             hostName,
		"UPSTREAM_HOST_NAME_WITHOUT_PORT": func(i *flow.Info) string {
			return withoutPort(hostName(i))
		},
		"UPSTREAM_SERVER_NAME":                upstreamServerName,
		"UPSTREAM_TRANSPORT_FAILURE_REASON":   func(i *flow.Info) string { return oneWord(i.UpstreamFailure) },
		"DOWNSTREAM_TRANSPORT_FAILURE_REASON": func(i *flow.Info) string { return oneWord(i.DownstreamFailure) },
		"REQUESTED_SERVER_NAME":               func(i *flow.Info) string { return safeHost(i.SNI) },
		"ROUTE_NAME":                          routeName,
		"FILTER_CHAIN_NAME":                   func(i *flow.Info) string { return i.FilterChain },
	} {
		all[name] = plain(text(f))
	}
	hostname, err := os.Hostname()
	all["HOSTNAME"] = plain(constant(hostname))
	if err != nil {
		all["HOSTNAME"] = plain(none())
	}
	all["ACCESS_LOG_TYPE"] = plain(operator{text: func(b []byte, e *entry) ([]byte, bool) {
		return append(b, e.event...), e.event != ""
	}})
	all["UNIQUE_ID"] = plain(operator{text: func(b []byte, _ *entry) ([]byte, bool) { return appendUUID(b), true }})
	all["CUSTOM_FLAGS"] = plain(constant(""))
}

// orDash is of values that Envoy has as "-" where JSON has null for others.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// upstreamCloseType is nothing for a request that had no upstream.
func upstreamCloseType(i *flow.Info) string {
	if i.HTTP != nil && i.HTTP.Attempts == 0 && i.HTTP.Upstream == 0 {
		return ""
	}
	return i.UpstreamReset.String()
}

// routeName is of the request's route, or of tcp_proxy's.
func routeName(i *flow.Info) string {
	if i.HTTP != nil {
		return i.HTTP.RouteName
	}
	return i.Route
}

func clusterName(i *flow.Info) string {
	if i.UpstreamClusterStat != "" {
		return i.UpstreamClusterStat
	}
	return i.UpstreamCluster
}

func hostName(i *flow.Info) string {
	if i.UpstreamHostname != "" {
		return i.UpstreamHostname
	}
	return i.UpstreamHost.String()
}

// withoutPort cuts the port off host:port and [IPv6]:port.
func withoutPort(s string) string {
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 || strings.IndexByte(s, ':') != colon && !strings.HasSuffix(s[:colon], "]") {
		return s
	}
	if _, err := strconv.ParseUint(s[colon+1:], 10, 16); err != nil {
		return s
	}
	return s[:colon]
}

func upstreamServerName(i *flow.Info) string { return stateOf(i.Upstream).SNI }

// stateOf is s, or the zero State for plaintext.
func stateOf(s *tlsmux.State) *tlsmux.State {
	if s == nil {
		return &tlsmux.State{}
	}
	return s
}

// oneWord has no spaces, for the default formats are split at them.
func oneWord(s string) string { return strings.ReplaceAll(s, " ", "_") }

// safeHost marks and repairs a server name that is none, as Envoy does it.
func safeHost(s string) string {
	out := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '.', r == '_':
			return r
		}
		return '_'
	}, s)
	if out == s {
		return s
	}
	return "invalid:" + out
}

// appendUUID is a random UUID.
func appendUUID(b []byte) []byte {
	var id [16]byte
	_, _ = rand.Read(id[:]) // it never fails
	return appendUUIDOf(b, id)
}

// ended is when the connection ended, or now.
func (e *entry) ended() time.Time {
	if e.info.End.IsZero() {
		return e.now
	}
	return e.info.End
}

// addRefused are what Envoy has of a TCP connection and we do not: a "-" would
// say that there is nothing.
func addRefused(all map[string]spec) {
	for name, why := range map[string]string{
		"UPSTREAM_CONNECTION_IDS_ATTEMPTED":          "only the last attempt is kept",
		"UPSTREAM_HOSTS_ATTEMPTED":                   "only the last attempt is kept",
		"UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT":      "only the last attempt is kept",
		"UPSTREAM_HOST_NAMES_ATTEMPTED":              "only the last attempt is kept",
		"UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT": "only the last attempt is kept",
		"UPSTREAM_LOCAL_CLOSE_REASON":                "why we closed the upstream connection is not kept",
		"DOWNSTREAM_CX_RTT":                          "the round trip time is not measured",
	} {
		all[name] = spec{refused: why}
	}
}
