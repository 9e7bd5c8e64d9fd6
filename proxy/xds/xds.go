// Package xds is the client of Envoy's discovery services: one Client for each
// stream, aggregated (ADS) or of one type, state of the world or incremental.
// It knows the protocol and nothing of what it carries: each Type has an Apply
// that takes resources and says which ones it refuses.
package xds

import (
	"time"

	"google.golang.org/protobuf/types/known/anypb"
)

// The type URLs of Envoy's resources, and of Istio's table of names.
const (
	ClusterType   = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType  = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType     = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	SecretType    = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	ExtensionType = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
	NameTableType = "type.googleapis.com/istio.networking.nds.v1.NameTable"
)

// Wildcard subscribes to every resource of a type.
const Wildcard = "*"

// Resource is one resource as it came.
type Resource struct {
	Name string
	// Version is the resource's own (delta), or that of the whole answer.
	Version string
	Body    *anypb.Any
	// TTL is for how long the resource is good unless it is sent again; 0 for
	// ever.
	TTL time.Duration
}

// Update is what changed of one type. Resources whose bytes are those of the
// accepted version are not in it; all of it may be empty, when an answer
// brought nothing but a new Version.
type Update struct {
	// Version is version_info of the answer (delta: system_version_info).
	Version string
	Updated []Resource
	Removed []string
	// Cached says that it is from the disk: no server has said it now.
	Cached bool
}

// Type is one kind of resource, and who takes it.
type Type struct {
	URL string
	// Apply takes an update. Each resource stands for itself: those that it
	// does not name are in use afterwards, those that it names are refused, with
	// the reason, and their version before goes on. A removal cannot be refused.
	// A Client calls it for one update at a time; it may subscribe and
	// unsubscribe.
	Apply func(Update) (refused map[string]error)
	// Failed is told that a stream ended, or could not be opened; nil: nobody is.
	Failed func(error)
	// Whole says that a state-of-the-world answer has all resources, so that
	// one which is not in it is removed (LDS, CDS).
	Whole bool
	// Rank orders the requests of types that are due together; lower ones go
	// first.
	Rank int
	// Holds are types whose requests wait while Apply runs, so that what it
	// subscribes to is asked for in one request.
	Holds []string
	// Name is a resource's name; nil reads field 1, where all of Envoy's have
	// it. Delta streams say it themselves.
	Name func(*anypb.Any) (string, error)
	// FetchTimeout is initial_fetch_timeout: for how long after the
	// subscription First waits for an answer; 0 is for ever.
	FetchTimeout time.Duration
	// Stats count the updates; nil does not.
	Stats *Stats
	// Private resources are never written to disk.
	Private bool
}

// Nameless is the Name of types of which there is one resource, without a name
// (NameTableType).
func Nameless(*anypb.Any) (string, error) { return "", nil }

// Refusal is the last update of a resource that was not taken. The version
// before it, if there is one, is still in use.
type Refusal struct {
	Name    string
	Version string
	When    time.Time
	Err     error
	Body    *anypb.Any // nil if what was refused is no resource at all
}
