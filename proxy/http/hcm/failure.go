package hcm

import (
	"errors"
	"strings"

	"outrider/proxy/cluster"
	"outrider/proxy/flow"
	"outrider/proxy/http/codec"
)

// failure is why an attempt failed, in Envoy's words (StreamResetReason).
type failure struct {
	reason string
	flags  flow.ResponseFlags
	// transport is UPSTREAM_TRANSPORT_FAILURE_REASON, "" for none.
	transport string
	// Kinds that retries ask for.
	connect, refused, overloaded bool
	outcome                      cluster.Outcome
	// downstream is what the client's stream is reset with where the answer
	// has begun.
	downstream codec.Reason
}

// resetFailure is a stream that the upstream, or its connection, has ended.
func resetFailure(r codec.Reset) failure {
	f := failure{outcome: cluster.Reset, downstream: codec.InternalError}
	switch r.Reason {
	case codec.Closed:
		f.reason, f.flags, f.outcome = "connection termination", flow.UpstreamConnectionTermination, cluster.Ended
	case codec.Refused:
		f.reason, f.flags, f.refused = "remote refused stream reset", flow.UpstreamRemoteReset, true
	case codec.ConnectError:
		f.reason, f.flags = "remote error with CONNECT request", flow.UpstreamRemoteReset
	case codec.ProtocolError:
		f.reason, f.flags = "protocol error", flow.UpstreamProtocolError
		f.outcome = cluster.ProtocolError
		if r.Remote {
			f.reason, f.flags, f.outcome = "remote reset", flow.UpstreamRemoteReset, cluster.Reset
		}
	case codec.Overload:
		f.reason, f.flags = "overflow", flow.UpstreamOverflow
	default:
		f.reason, f.flags = "remote reset", flow.UpstreamRemoteReset
		if !r.Remote {
			f.reason, f.flags = "local reset", flow.LocalReset
		}
	}
	return f
}

// connectFailure is a connection that did not come about.
func connectFailure(end *flow.EndError, err error, transport string) failure {
	f := failure{flags: end.Flags, transport: transport, connect: true, downstream: codec.InternalError}
	var overflow *cluster.OverflowError
	var connect *cluster.ConnectError
	switch {
	case errors.As(err, &overflow):
		f.reason, f.connect, f.overloaded = "overflow", false, true
		f.flags = flow.UpstreamOverflow
	case errors.As(err, &connect) && connect.Timeout:
		f.reason, f.flags = "connection timeout", flow.UpstreamConnectionFailure
	default:
		f.reason = "remote connection failure"
	}
	return f
}

// details are response code details: the reason stands in braces.
func details(what string, f failure) string {
	text := f.reason
	if f.transport != "" {
		text += "|" + f.transport
	}
	return what + "{" + strings.ReplaceAll(text, " ", "_") + "}"
}
