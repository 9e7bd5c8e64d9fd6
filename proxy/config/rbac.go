package config

import (
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"outrider/certs"
)

// RBAC is envoy.extensions.filters.network.rbac.v3.RBAC.
type RBAC struct {
	StatPrefix       string
	ShadowStatPrefix string // shadow_rules_stat_prefix
	Rules, Shadow    *RBACRules
	// PerPolicy is track_per_rule_stats, of HTTP.
	PerPolicy bool
	// Continuous is enforcement_type CONTINUOUS.
	Continuous bool
	// DelayDeny is delay_deny.
	DelayDeny time.Duration
}

// RBACRules is envoy.config.rbac.v3.RBAC. Policies are in the order of their
// names, as Envoy evaluates them.
type RBACRules struct {
	Action   RBACAction
	Policies []RBACPolicy
}

// RBACAction is RBAC.Action.
type RBACAction int

const (
	Allow RBACAction = iota
	Deny
	LogOnly
)

// RBACPolicy is envoy.config.rbac.v3.Policy: any permission and any principal.
type RBACPolicy struct {
	Name        string
	Permissions []*Permission
	Principals  []*Principal
}

// Permission is envoy.config.rbac.v3.Permission: exactly one field is set.
// HTTP criteria (header, url_path) never match a connection.
type Permission struct {
	Any             bool
	And, Or         []*Permission
	Not             *Permission
	DestinationIP   *netip.Prefix
	DestinationPort *uint16
	PortRange       *PortRange
	RequestedServer *certs.StringMatcher
	Metadata        *MetadataMatcher
	Header          *HeaderMatcher
	URLPath         *certs.StringMatcher // path without query
	Template        string               // uri_template
	HTTPOnly        bool                 // header, url_path: never matches a connection
}

// PortRange is envoy.type.v3.Int32Range: [Start, End).
type PortRange struct{ Start, End int32 }

// Principal is envoy.config.rbac.v3.Principal: exactly one field is set.
type Principal struct {
	Any           bool
	And, Or       []*Principal
	Not           *Principal
	Authenticated *Authenticated
	SourceIP      *netip.Prefix // source_ip, remote_ip
	// Forwarded says that SourceIP is of a request's client, as
	// x-forwarded-for tells it, not of the connection: remote_ip of HTTP.
	Forwarded      bool
	DirectRemoteIP *netip.Prefix
	FilterState    *FilterStateMatcher
	Metadata       *MetadataMatcher
	Header         *HeaderMatcher
	URLPath        *certs.StringMatcher
	HTTPOnly       bool
}

// Authenticated is Principal.Authenticated: the peer presented a certificate
// that was verified and, if Name is set, its URI SAN, else its DNS SAN, else
// its subject matches.
type Authenticated struct{ Name *certs.StringMatcher }

// MetadataMatcher is envoy.type.matcher.v3.MetadataMatcher on dynamic
// metadata.
type MetadataMatcher struct {
	Filter string
	Path   []string
	Value  ValueMatcher
	Invert bool
}

// ValueMatcher is envoy.type.matcher.v3.ValueMatcher.
type ValueMatcher struct {
	Null    bool
	Number  *NumberMatcher
	String  *certs.StringMatcher
	Bool    *bool
	Present *bool
	ListOne *ValueMatcher // list_match.one_of
	Or      []ValueMatcher
}

// NumberMatcher is envoy.type.matcher.v3.DoubleMatcher.
type NumberMatcher struct {
	Exact      *float64
	Start, End float64
}

// FilterStateMatcher is envoy.type.matcher.v3.FilterStateMatcher.
type FilterStateMatcher struct {
	Key    string
	String *certs.StringMatcher
}

// AccessLog is envoy.config.accesslog.v3.AccessLog: to a file, stdout or
// stderr.
type AccessLog struct {
	Name string
	// Path is the file; "/dev/stdout" and "/dev/stderr" are those streams.
	Path string
	// Format is a text format; JSON, if not nil, is json_format.
	Format    string // with its trailing newline, if it has one
	JSON      *structpb.Struct
	OmitEmpty bool
	SortJSON  bool // sort_properties
	Filter    *AccessLogFilter
}

// AccessLogFilter is envoy.config.accesslog.v3.AccessLogFilter: exactly one
// field is set.
type AccessLogFilter struct {
	And, Or      []*AccessLogFilter
	Flags        []string // response_flag_filter; empty list: any flag
	IsFlags      bool
	DurationGE   *time.Duration // duration_filter, with Op
	Status       bool           // status_code_filter: a TCP connection has status 0
	Op           string         // EQ, GE, LE, NE
	Value        uint32
	RuntimePPM   *uint32  // runtime_filter's percent_sampled, per million
	RuntimeUnit  uint32   // 1 of the percentage in a million: 10000, 100 or 1
	Independent  bool     // use_independent_randomness: not by the request's ID
	NotHealth    bool     // not_health_check_filter: always true for TCP
	LogTypes     []string // log_type_filter
	ExcludeTypes bool
	Header       *HeaderMatcher    // header_filter, of the request
	GRPC         *GRPCStatusFilter // grpc_status_filter
	Expression   string            // extension_filter: cel.v3.ExpressionFilter
}

// GRPCStatusFilter is GrpcStatusFilter: the gRPC status is one of these, or, if
// Exclude, none of them.
type GRPCStatusFilter struct {
	Statuses []uint32
	Exclude  bool
}
