// Package config is Envoy's configuration as immutable values, decoded and
// checked: dead data. What lives (endpoints, sockets, counters) is made from
// it elsewhere. Package decode is the only way in; no value here is changed
// after it was published.
//
// Each type names the Envoy v3 message that it stands for. Durations that are
// optional are 0 where unset, with their default noted; where 0 and unset
// differ, the decoder has already put the default in.
package config

import (
	"net/netip"
	"regexp"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/certs"
)

// Bootstrap is envoy.config.bootstrap.v3.Bootstrap.
type Bootstrap struct {
	Node      Node
	Admin     *Admin // nil: no admin interface
	Listeners []*Listener
	Clusters  []*Cluster
	Secrets   []*certs.Secret
	// LDS and CDS are dynamic_resources; nil if not dynamic.
	LDS, CDS *certs.Source
	// ADS is dynamic_resources.ads_config, for which Source.ADS stands; nil if
	// there is none.
	ADS *certs.Source
	// Runtime is layered_runtime's layers, in order, flattened to
	// "a.b.c" -> value; later layers win.
	Runtime []RuntimeLayer
	// ListenerConnectionLimits is runtime
	// envoy.resource_limits.listener.<name>.connection_limit by listener name.
	ListenerConnectionLimits map[string]uint64
	// GlobalConnectionLimit is the overload manager's
	// global_downstream_max_connections or runtime overload.global_...; 0: none.
	GlobalConnectionLimit uint64
	// Stats is stats_config.
	Stats StatsConfig
	// HTTPFilterDecoders are decode.Options.HTTPFilters, for what comes later.
	HTTPFilterDecoders map[protoreflect.FullName]func(proto.Message) (any, error)
	// Warnings are what was accepted with a remark.
	Warnings []string
	// Source is the bootstrap as given, for config_dump.
	Source proto.Message
}

// StatsConfig is envoy.config.metrics.v3.StatsConfig: what is shown of metrics,
// and what becomes a label of them.
type StatsConfig struct {
	// OwnTagsOnly is use_all_default_tags: false.
	OwnTagsOnly bool
	Tags        []StatsTag
	Matcher     StatsMatcher
	Buckets     []HistogramBuckets // the first that matches counts
}

// HistogramBuckets is HistogramBucketSettings; Bounds ascend.
type HistogramBuckets struct {
	Match  certs.StringMatcher
	Bounds []float64
}

// StatsTag is TagSpecifier: what the first group of an expression finds in a
// metric's name is taken out of it, and the second group (the first where there
// is none) is the label's value; or the value of a label of every metric.
type StatsTag struct {
	Name  string
	Regex *regexp.Regexp // nil: Fixed
	Fixed string
}

// StatsMatcher is StatsMatcher; the zero value shows all.
type StatsMatcher struct {
	RejectAll bool
	// Include, if not nil, shows only those that match; Exclude shows none
	// that match.
	Include, Exclude []certs.StringMatcher
}

// RuntimeLayer is one static layer of layered_runtime.
type RuntimeLayer struct {
	Name   string
	Values map[string]string
}

// Node is envoy.config.core.v3.Node.
type Node struct {
	ID, Cluster string
	Locality    Locality
	Metadata    *structpb.Struct
	// Source is what goes out in xDS requests, with our user agent.
	Source proto.Message
}

// Admin is envoy.config.bootstrap.v3.Admin.
type Admin struct {
	Address    Address
	AccessLogs []*AccessLog
}

// Locality is envoy.config.core.v3.Locality.
type Locality struct{ Region, Zone, SubZone string }

// Address is envoy.config.core.v3.Address: IP and port, a host name and port
// (clusters with DNS), or a unix socket.
type Address struct {
	AddrPort netip.AddrPort // valid for an IP address
	Host     string         // a host name that must be resolved; "" else
	Port     uint16         // of Host
	Pipe     string         // path; "@name" is the abstract namespace
	PipeMode uint32
	// IPv4Compat is ipv4_compat: an IPv6 listener takes IPv4 as well.
	IPv4Compat bool
}

// String is Envoy's text form: "10.0.0.1:80", "host:80" or the path.
func (a Address) String() string {
	switch {
	case a.Pipe != "":
		return a.Pipe
	case a.Host != "":
		return netJoin(a.Host, a.Port)
	default:
		return a.AddrPort.String()
	}
}

// Keepalive is envoy.config.core.v3.TcpKeepalive; a zero field is the
// system's default.
type Keepalive struct {
	Probes   uint32
	Time     time.Duration
	Interval time.Duration
}

// SocketOption is envoy.config.core.v3.SocketOption, in any state.
type SocketOption struct {
	Level, Name int
	Int         int
	Buf         []byte // nil: Int is meant
	State       SocketState
}

// SocketState is SocketOption.SocketState.
type SocketState int

const (
	StatePrebind SocketState = iota
	StateBound
	StateListening
)

// BindConfig is envoy.config.core.v3.BindConfig; the zero value binds nothing.
type BindConfig struct {
	Source   netip.AddrPort
	Extra    []netip.AddrPort // extra_source_addresses, for the other family
	Options  []SocketOption
	Freebind bool
}

// TransportSocket is envoy.config.core.v3.TransportSocket on the way up:
// TLS nil is raw_buffer.
type TransportSocket struct {
	Name string
	TLS  *UpstreamTLS
	// ProxyProtocol is sent before anything else; nil for none.
	ProxyProtocol *UpstreamProxyProtocol
}
