package config

import (
	"net"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/certs"
	"outrider/tlsmux"
)

// UpstreamTLS is the UpstreamTlsContext of a transport socket.
type UpstreamTLS = tlsmux.ClientConfig

// Cluster is envoy.config.cluster.v3.Cluster.
type Cluster struct {
	Name        string
	AltStatName string // "": Name
	Type        ClusterType
	// ConnectTimeout defaults to 5 s.
	ConnectTimeout time.Duration
	// Assignment is load_assignment: for STATIC and the DNS types.
	Assignment *Assignment
	// EDS is for Type EDS.
	EDS *EDS
	DNS DNS

	LB           LBPolicy
	LeastRequest LeastRequest
	RingHash     RingHash
	Maglev       Maglev
	LBCommon     LBCommon
	// SlowStart is for RoundRobin and LeastRequestLB.
	SlowStart SlowStart
	// OriginalDst is for Type OriginalDst.
	OriginalDst OriginalDstLB

	CircuitBreakers [2]Thresholds // by Priority: DEFAULT, HIGH
	HealthChecks    []*HealthCheck
	Outlier         *Outlier // nil: none
	Bind            BindConfig
	Keepalive       *Keepalive
	// SocketMatches are tried in order on the endpoint's, then on its
	// locality's metadata; TransportSocket is the fallback.
	SocketMatches   []TransportSocketMatch
	TransportSocket TransportSocket
	// HTTP2 says that the cluster speaks HTTP/2 (explicit_http_config).
	HTTP2 bool
	// HTTP is how requests are sent to the cluster's hosts.
	HTTP UpstreamHTTP
	// Filters are the upstream network filters.
	Filters  []*NetworkFilter
	Metadata map[string]*structpb.Struct
	// PerConnectionBufferLimit in bytes; default 1 MiB.
	PerConnectionBufferLimit uint32
	// CloseOnHealthFailure is close_connections_on_host_health_failure.
	CloseOnHealthFailure bool
	// IgnoreHealthOnRemoval is ignore_health_on_host_removal.
	IgnoreHealthOnRemoval bool

	// Digest tells equal clusters from changed ones.
	Digest string
	Source proto.Message
}

// ClusterType is Cluster.DiscoveryType.
type ClusterType int

const (
	Static ClusterType = iota
	StrictDNS
	LogicalDNS
	EDSType
	OriginalDstType
)

// EDS is Cluster.EdsClusterConfig.
type EDS struct {
	ServiceName string // the cluster's name if not set
	Source      *certs.Source
}

// DNS is the DNS part of a STRICT_DNS or LOGICAL_DNS cluster.
type DNS struct {
	RefreshRate        time.Duration // default 5 s
	FailureRefreshBase time.Duration // default RefreshRate
	FailureRefreshMax  time.Duration
	Jitter             time.Duration
	RespectTTL         bool
	Family             DNSFamily
}

// DNSFamily is Cluster.DnsLookupFamily.
type DNSFamily int

const (
	DNSAuto DNSFamily = iota // IPv6, if none IPv4
	DNSV4Only
	DNSV6Only
	DNSV4Preferred
	DNSAll
)

// Assignment is envoy.config.endpoint.v3.ClusterLoadAssignment.
type Assignment struct {
	ClusterName string
	Localities  []*LocalityEndpoints
	// Overprovisioning is overprovisioning_factor in percent; default 140.
	Overprovisioning uint32
	WeightedHealth   bool // weighted_priority_health
	// DropOverload are drop_overloads by category: parts per million.
	DropOverload []Drop
	// StaleAfter is endpoint_stale_after; 0: never.
	StaleAfter time.Duration
}

// Drop is Policy.DropOverload.
type Drop struct {
	Category string
	PPM      uint32
}

// LocalityEndpoints is envoy.config.endpoint.v3.LocalityLbEndpoints.
type LocalityEndpoints struct {
	Locality  Locality
	Priority  uint32
	Weight    uint32 // 0: unset
	Metadata  map[string]*structpb.Struct
	Endpoints []*Endpoint
}

// Endpoint is envoy.config.endpoint.v3.LbEndpoint.
type Endpoint struct {
	Address    Address
	Additional []Address // additional_addresses
	Hostname   string
	Health     HealthStatus
	Weight     uint32 // default 1
	Metadata   map[string]*structpb.Struct
	// TLVs are of metadata.typed_filter_metadata
	// ["envoy.transport_sockets.proxy_protocol"].
	TLVs []TLV
	// HealthCheckPort and HealthCheckAddress are health_check_config.
	HealthCheckPort    uint16
	HealthCheckAddress *Address
	HealthCheckHost    string
	DisableHealthCheck bool
}

// HealthStatus is envoy.config.core.v3.HealthStatus.
type HealthStatus int

const (
	HealthUnknown HealthStatus = iota // counts as healthy
	Healthy
	Unhealthy
	Draining // counts as unhealthy
	HealthTimeout
	Degraded
)

// LBPolicy is Cluster.LbPolicy, or the same by load_balancing_policy.
type LBPolicy int

const (
	RoundRobin LBPolicy = iota
	LeastRequestLB
	Random
	RingHashLB
	MaglevLB
	ClusterProvided // ORIGINAL_DST
)

// LeastRequest is Cluster.LeastRequestLbConfig.
type LeastRequest struct {
	Choices uint32 // default 2
	Bias    float64
}

// SlowStart is Cluster.SlowStartConfig: for Window after it has become healthy a
// host has weight * max(MinWeight, (time healthy / Window) ^ (1 / Aggression)).
type SlowStart struct {
	Window     time.Duration // 0: there is none
	Aggression float64       // above 0; default 1
	MinWeight  float64       // 0 to 1; default 0.1
}

// RingHash is Cluster.RingHashLbConfig.
type RingHash struct {
	Min, Max   uint64 // defaults 1024 and 8388608
	MurmurHash bool   // hash_function MURMUR_HASH_2
}

// Maglev is Cluster.MaglevLbConfig.
type Maglev struct{ TableSize uint64 } // prime; default 65537

// LBCommon is Cluster.CommonLbConfig.
type LBCommon struct {
	PanicThreshold   float64 // percent; default 50
	LocalityWeighted bool    // locality_weighted_lb_config
	// FailOnPanic is zone_aware_lb_config.fail_traffic_on_panic.
	FailOnPanic bool
	// UpdateMergeWindow is accepted and has no effect on choices.
	IgnoreNewHostsUntilFirstHC bool
	CloseOnHostSetChange       bool
	HashByHostname             bool           // consistent_hashing_lb_config.use_hostname_for_hashing
	HashBalanceFactor          uint32         // hash_balance_factor, percent; 0: none
	OverrideHealthy            []HealthStatus // override_host_status; nil: default
}

// OriginalDstLB is Cluster.OriginalDstLbConfig.
type OriginalDstLB struct {
	PortOverride uint16 // upstream_port_override; 0: none
}

// Thresholds is CircuitBreakers.Thresholds for one priority.
type Thresholds struct {
	MaxConnections     uint32 // default 1024
	MaxPendingRequests uint32 // default 1024
	MaxRequests        uint32 // default 1024
	MaxRetries         uint32 // default 3
	MaxPools           uint32 // default: no limit
	TrackRemaining     bool
	// RetryBudget is in place of MaxRetries; nil: there is none.
	RetryBudget *RetryBudget
	// PerHostMaxConnections is per_host_thresholds; 0: no limit.
	PerHostMaxConnections uint32
}

// TransportSocketMatch is Cluster.TransportSocketMatch. An empty Match
// matches everything.
type TransportSocketMatch struct {
	Name   string
	Match  *structpb.Struct
	Socket TransportSocket
}

// RetryBudget is CircuitBreakers.Thresholds.RetryBudget: how many retries there
// may be at a time, as a share of the requests that are active or wait.
type RetryBudget struct {
	Percent float64 // default 20
	Min     uint32  // min_retry_concurrency, which is always allowed; default 3
}

// HealthCheck is envoy.config.core.v3.HealthCheck: exactly one of TCP, HTTP
// and GRPC is set.
type HealthCheck struct {
	Timeout, Interval                             time.Duration
	InitialJitter, IntervalJitter                 time.Duration
	IntervalJitterPercent                         uint32
	UnhealthyThreshold, HealthyThreshold          uint32
	NoTrafficInterval, NoTrafficHealthyInterval   time.Duration // default 60 s; NoTrafficInterval
	UnhealthyInterval, UnhealthyEdge, HealthyEdge time.Duration // default Interval
	ReuseConnection                               bool          // default true
	AltPort                                       uint16
	EventLogPath                                  string
	AlwaysLogFailures                             bool
	TLSALPN                                       []string         // tls_options.alpn_protocols
	SocketMatch                                   *structpb.Struct // transport_socket_match_criteria

	TCP  *TCPHealthCheck
	HTTP *HTTPHealthCheck
	GRPC *GRPCHealthCheck
}

// TCPHealthCheck is HealthCheck.TcpHealthCheck: send Send, and expect Receive
// in order; both nil only connects.
type TCPHealthCheck struct {
	Send    []byte
	Receive [][]byte
}

// HTTPHealthCheck is HealthCheck.HttpHealthCheck.
type HTTPHealthCheck struct {
	Host, Path, Method string // Method "" is GET
	HTTP2              bool
	Headers            [][2]string
	RemoveHeaders      []string
	Expected           []StatusRange // default 200
	Retriable          []StatusRange
	ServiceName        *certs.StringMatcher // x-envoy-upstream-healthchecked-cluster
	Send               []byte
	Receive            [][]byte
}

// StatusRange is an Int64Range of HTTP status codes: [From, To).
type StatusRange struct{ From, To int }

// GRPCHealthCheck is HealthCheck.GrpcHealthCheck.
type GRPCHealthCheck struct {
	Service, Authority string
	Metadata           [][2]string
}

// Outlier is envoy.config.cluster.v3.OutlierDetection, defaults put in.
// Enforcing values are percentages.
type Outlier struct {
	Consecutive5xx, ConsecutiveGateway, ConsecutiveLocal uint32 // 5, 5, 5
	EnforcingConsecutive5xx                              uint32 // 100
	EnforcingConsecutiveGateway                          uint32 // 0
	EnforcingConsecutiveLocal                            uint32 // 100
	Interval, BaseEjection, MaxEjection, EjectionJitter  time.Duration
	MaxEjectionPercent                                   uint32 // 10
	EnforcingSuccessRate                                 uint32 // 100
	SuccessRateMinHosts, SuccessRateRequestVolume        uint32 // 5, 100
	SuccessRateStdevFactor                               uint32 // 1900 (per mille)
	EnforcingFailurePercentage                           uint32 // 0
	FailurePercentageThreshold                           uint32 // 85
	FailurePercentageMinHosts, FailurePercentageVolume   uint32 // 5, 50
	EnforcingLocalSuccessRate                            uint32 // 100
	EnforcingFailurePercentageLocal                      uint32 // 0
	SplitExternalLocal                                   bool
	SuccessfulCheckUnejects                              bool // successful_active_health_check_uneject_host, default true
	AlwaysEjectOne                                       bool
}

func netJoin(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}
