package cluster

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"outrider/proxy/flow"
)

// NoHostError says that a cluster has nobody to connect to.
type NoHostError struct {
	Cluster        string
	Hosts, Healthy int
	// Reason is why, where it is not that no host is healthy.
	Reason string
}

func (e *NoHostError) Error() string {
	if e.Reason != "" {
		return fmt.Sprintf("cluster %q: %s", e.Cluster, e.Reason)
	}
	return fmt.Sprintf("cluster %q: no healthy host among %d", e.Cluster, e.Hosts)
}

// OverflowError says that a circuit breaker is open.
type OverflowError struct {
	Cluster string
	Limit   string // max_connections, max_pending_requests, per_host_max_connections, drop_overload
	Max     uint64
}

func (e *OverflowError) Error() string {
	return fmt.Sprintf("cluster %q: circuit breaker: %s %d reached", e.Cluster, e.Limit, e.Max)
}

// ConnectError says that a host could not be reached, or that TLS with it did
// not come about.
type ConnectError struct {
	Cluster string
	Host    flow.Addr
	// Timeout says that connect_timeout passed.
	Timeout bool
	// Reason is Envoy's UPSTREAM_TRANSPORT_FAILURE_REASON.
	Reason string
	Err    error
}

func (e *ConnectError) Error() string {
	return fmt.Sprintf("cluster %q: connect to %s: %v", e.Cluster, e.Host, e.Err)
}

func (e *ConnectError) Unwrap() error { return e.Err }

// dialReason is Envoy's text for a connection that could not be made.
func dialReason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		text := errno.Error()
		return "delayed connect error: " + strings.ToUpper(text[:1]) + text[1:]
	}
	return err.Error()
}
