package filter

import (
	"log/slog"
	"net/http"

	"google.golang.org/grpc"

	"outrider/proxy/cluster"
	"outrider/proxy/config"
	"outrider/proxy/flow"
	"outrider/proxy/stats"
)

// Deps is what filters are made with.
type Deps struct {
	Stats *stats.Registry
	// Scope is http.<stat_prefix> of the connection manager, where most
	// filters count.
	Scope *stats.Scope
	Log   *slog.Logger
	Node  *config.Node
	// Direction is the listener's.
	Direction config.Direction
	// Clusters finds clusters by name; nil if there is none of that name.
	Clusters interface {
		Get(name string) *cluster.Cluster
	}
	// Format compiles a text in the language of access logs.
	Format func(text string, omitEmpty bool) (func(*flow.Info) string, error)
	// Upstream makes calls of the filter's own to clusters.
	Upstream Upstream
	// AccessLogs makes an access log.
	AccessLogs func(*config.AccessLog) (AccessLogger, error)
	// RuntimePPM is the value of a runtime key, or the given default.
	RuntimePPM func(key string, ppm uint32) uint32
	// Failing reports whether the proxy was told to fail health checks (admin:
	// /healthcheck/fail); nil is never.
	Failing func() bool
}

// AccessLogger writes one entry of an access log.
type AccessLogger interface {
	Log(info *flow.Info, event string)
}

// Upstream makes calls to clusters, for filters that ask somebody.
type Upstream interface {
	// HTTP sends requests to a cluster, whatever the URL's host is; it closes
	// nothing that is not closed by the caller, like any http.RoundTripper.
	HTTP(cluster string) http.RoundTripper
	// GRPC is a channel to a cluster or a target. It lives as long as the
	// Upstream; equal services share one.
	GRPC(s *config.GRPCService) (grpc.ClientConnInterface, error)
}
